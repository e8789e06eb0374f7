//! What a container should not do, on request: odd statuses, late answers, cut answers, broken HTTP, a crash.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use hyper::ext::ReasonPhrase;
use serde_json::json;

use crate::body::{Cut, full, json_ok, json_response, response, streamed};
use crate::call::{Call, Reply, Stop};
use crate::digest::digest;
use crate::query::pause;
use crate::stream::Pattern;
use crate::tap::Conn;

/// Largest answer that `/raw` takes.
const MAX_RAW: usize = 1 << 20;

/// `/status/{code}?reason=`. 204, 205 and 304 have no body.
pub async fn status(call: Call) -> Reply {
    let parsed = call.rest.parse().ok().filter(|code| (200..=999).contains(code));
    let Some(status) = parsed.and_then(|code: u16| StatusCode::from_u16(code).ok()) else {
        return Err(Stop::bad_request("the status must be a number from 200 to 999"));
    };
    let mut answer = match status {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
            Response::new(full(Bytes::new()))
        }
        _ => json_response(status, &json!({ "status": status.as_u16() })),
    };
    *answer.status_mut() = status;
    if let Some(reason) = call.query.get("reason") {
        let reason = ReasonPhrase::try_from(reason.as_bytes().to_vec())
            .map_err(|_| Stop::bad_request("`reason` holds a character that no reason phrase may have"))?;
        answer.extensions_mut().insert(reason);
    }
    Ok(answer)
}

/// `/slow?ms=`.
pub async fn slow(call: Call) -> Reply {
    let delay = call.query.millis("ms", Duration::from_secs(1))?;
    tokio::time::sleep(delay).await;
    Ok(json_ok(&json!({ "slept_ms": delay.as_millis() as u64 })))
}

/// `/close?mode=&after=&delay_ms=&reset=`: dies in the middle of its answer.
///
/// `mode=length` (the default) has declared a longer body than it sends, `mode=chunked` leaves out the last chunk, `mode=head` closes before
/// any byte. Before it dies, `after` bytes have left for the caller, and `delay_ms` have passed. With `reset` it dies by a TCP reset.
pub async fn close(call: Call) -> Reply {
    let after = call.query.number("after", 10, 0..=1 << 20)?;
    let delay = call.query.millis("delay_ms", Duration::ZERO)?;
    let mode = call.query.get("mode").unwrap_or("length").to_owned();
    if !matches!(mode.as_str(), "length" | "chunked" | "head") {
        return Err(Stop::bad_request("`mode` must be length, chunked or head"));
    }
    let conn = call.is_http1().then(|| call.conn.clone());
    if let Some(conn) = conn.as_ref().filter(|_| call.query.flag("reset")) {
        conn.reset_on_close();
    }
    // A socket that is closed with unread bytes is reset by the operating system, which would take the answer with it.
    digest(call.request.into_body(), Duration::ZERO).await?;
    if mode == "head" {
        pause(delay).await;
        return Err(Stop::Cut);
    }
    let data = Pattern::new(after).piece(0, after);
    let frames = stream::unfold(Some(data), move |data| {
        let conn = conn.clone();
        async move {
            if let Some(data) = data.filter(|data| !data.is_empty()) {
                return Some((Ok(Frame::data(data)), None));
            }
            deliver(conn).await;
            pause(delay).await;
            Some((Err(Cut), None))
        }
    });
    let mut answer = response(StatusCode::OK, "application/octet-stream", streamed(frames));
    if mode == "length" {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(after + 1000));
    }
    Ok(answer)
}

/// Waits until what was answered so far has left. HTTP/2 cannot tell, and gets a moment instead.
async fn deliver(conn: Option<Conn>) {
    match conn {
        // An error means that the caller has gone, and the answer is cut in any case.
        Some(conn) => drop(conn.flushed().await),
        None => tokio::time::sleep(Duration::from_millis(20)).await,
    }
}

/// `POST /raw?reset=`: the body of the request goes out as the answer, byte for byte, and the connection ends.
pub async fn raw(call: Call) -> Reply {
    if !call.is_http1() {
        return Err(Stop::bad_request("raw answers need HTTP/1.1"));
    }
    let conn = call.conn.clone();
    if call.query.flag("reset") {
        conn.reset_on_close();
    }
    let bytes = call.collect(MAX_RAW).await?;
    conn.send_verbatim(bytes).await?;
    Err(Stop::Cut)
}

/// `POST /exit?code=`: the process ends at once, with all that it was doing. There is no answer.
pub async fn exit(call: Call) -> Reply {
    let code = call.query.number("code", 1, 0..=255)?;
    call.demo.exit_code.store(u16::try_from(code).unwrap_or(1), Ordering::Relaxed);
    call.demo.exit.cancel();
    Err(Stop::Cut)
}

/// `/health`: 503 while the server starts, then the status that was set. `PUT /health?status=` sets another.
pub async fn health(call: Call) -> Reply {
    if call.request.method() == http::Method::PUT {
        let status = call.query.number("status", 200, 200..=999)?;
        call.demo.health_status.store(u16::try_from(status).unwrap_or(200), Ordering::Relaxed);
        return Ok(json_ok(&json!({ "status": status })));
    }
    let (status, word) = if call.demo.started.elapsed() < call.demo.config.health_delay {
        (503, "starting")
    } else {
        match call.demo.health_status.load(Ordering::Relaxed) {
            status @ 200..300 => (status, "ok"),
            status => (status, "unhealthy"),
        }
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok(response(status, "text/plain; charset=utf-8", full(word)))
}
