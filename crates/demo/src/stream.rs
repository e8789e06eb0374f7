//! Bodies that take time: `/bytes`, `/upload`, `/sse`, `/trailers`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::body::{Body, full, json_ok, response, streamed};
use crate::call::{Call, Reply};
use crate::digest::{count, digest};
use crate::query::pause;
use crate::state::unix_micros;

/// The pattern repeats after this many bytes: a prime, so that no power of two hides a shifted copy.
const PERIOD: u64 = 251;

/// Largest piece that `/bytes` sends at once.
const MAX_CHUNK: u64 = 1 << 20;

/// The bytes that `/bytes` and `/close` send: byte `i` of an answer is `i % 251`.
#[derive(Clone)]
pub struct Pattern(Bytes);

impl Pattern {
    /// A source of pieces of at most `chunk` bytes.
    pub fn new(chunk: u64) -> Self {
        Self((0..chunk + PERIOD).map(|position| (position % PERIOD) as u8).collect())
    }

    /// The piece of `length` bytes that begins at `offset`.
    pub fn piece(&self, offset: u64, length: u64) -> Bytes {
        let start = (offset % PERIOD) as usize;
        self.0.slice(start..start + length as usize)
    }
}

/// `GET /bytes?n=&chunk=&delay_ms=&chunked=`.
pub async fn bytes(call: Call) -> Reply {
    let total = call.query.number("n", 1024, 0..=u64::MAX)?;
    let chunk = call.query.number("chunk", 64 * 1024, 1..=MAX_CHUNK)?;
    let delay = call.query.millis("delay_ms", Duration::ZERO)?;
    let pattern = Pattern::new(chunk.min(total));
    let frames = stream::unfold(0, move |sent| {
        let pattern = pattern.clone();
        async move {
            if sent >= total {
                return None;
            }
            if sent > 0 {
                pause(delay).await;
            }
            let length = chunk.min(total - sent);
            Some((Ok(Frame::data(pattern.piece(sent, length))), sent + length))
        }
    });
    let body = if total == 0 { full(Bytes::new()) } else { streamed(frames) };
    let mut answer = response(StatusCode::OK, "application/octet-stream", body);
    if !call.query.flag("chunked") {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(total));
    }
    Ok(answer)
}

/// `PUT|POST /upload?delay_ms=&digest=`. With `digest=0` it only counts, so that it holds up nobody who measures a proxy.
pub async fn upload(call: Call) -> Reply {
    if call.query.get("digest") == Some("0") {
        return Ok(json_ok(&json!({ "body_length": count(call.request.into_body()).await? })));
    }
    let delay = call.query.millis("delay_ms", Duration::ZERO)?;
    Ok(json_ok(&digest(call.request.into_body(), delay).await?))
}

/// `GET /sse?n=&interval_ms=`. An `EventSource` that comes back continues where it was; at the end it is told to stay away (204).
pub async fn sse(call: Call) -> Reply {
    let total = call.query.number("n", 10, 0..=u64::MAX)?;
    let interval = call.query.millis("interval_ms", Duration::from_millis(200))?;
    let seen = call.request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let last = if total == 0 { u64::MAX } else { total };
    let seen = seen.unwrap_or_default();
    if seen >= last {
        let mut done = Response::new(full(Bytes::new()));
        *done.status_mut() = StatusCode::NO_CONTENT;
        return Ok(done);
    }
    // Only an endless stream is ended by the shutdown: one that has an end is work in flight.
    let shutdown = (total == 0).then(|| call.demo.shutdown.clone());
    let frames = stream::unfold(seen, move |sent| {
        let shutdown = shutdown.clone();
        async move {
            if sent >= last {
                return None;
            }
            if sent > seen {
                match shutdown {
                    Some(shutdown) => shutdown.run_until_cancelled(pause(interval)).await?,
                    None => pause(interval).await,
                }
            }
            Some((Ok(Frame::data(event(sent + 1))), sent + 1))
        }
    });
    Ok(event_stream(streamed(frames)))
}

fn event(id: u64) -> Bytes {
    let data = json!({ "n": id, "sent_at_us": unix_micros() });
    format!("id: {id}\nevent: tick\ndata: {data}\n\n").into()
}

/// 200 with Server-Sent Events.
pub fn event_stream(body: Body) -> Response<Body> {
    let mut answer = response(StatusCode::OK, "text/event-stream; charset=utf-8", body);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// `GET /trailers?n=`. hyper sends trailers on HTTP/1 only to a caller that asked for them with `TE: trailers`.
pub async fn trailers(call: Call) -> Reply {
    let total = call.query.number("n", 100, 0..=MAX_CHUNK)?;
    let data = Pattern::new(total).piece(0, total);
    let digest = format!("sha-256=:{}:", BASE64.encode(Sha256::digest(&data)));
    let mut fields = HeaderMap::new();
    fields.insert("content-digest", HeaderValue::from_str(&digest).expect("base64 is ASCII"));
    fields.insert("x-demo-trailer", HeaderValue::from_static("done"));
    let frames = [Ok(Frame::data(data)), Ok(Frame::trailers(fields))];
    let mut answer = response(StatusCode::OK, "application/octet-stream", streamed(stream::iter(frames)));
    answer.headers_mut().insert(TRAILER, HeaderValue::from_static("content-digest, x-demo-trailer"));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_does_not_depend_on_the_pieces() {
        let whole: Vec<u8> = (0..10_000u64).map(|position| (position % PERIOD) as u8).collect();
        for chunk in [1, 7, 250, 251, 252, 4096] {
            let pattern = Pattern::new(chunk);
            let offsets = (0..10_000).step_by(chunk as usize);
            let joined: Vec<u8> =
                offsets.flat_map(|offset| pattern.piece(offset, chunk.min(10_000 - offset))).collect();
            assert_eq!(joined, whole, "in pieces of {chunk}");
        }
    }
}
