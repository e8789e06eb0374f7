//! Requests that are answered here: the bridge between a caller's HTTP/1.1 connection and those who speak in [`http`]
//! types, which are the management API, invokes, agents' sockets and every error answer of the gateway.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tower::Service;

use super::{
    conn::CallerConn,
    forward::After,
    framing::BodyReader,
    head::{write_map, write_status_line},
};
use crate::{
    body::ResponseBody,
    caller_body::{BrokenBody, CallerBody, Feeder},
    fields::Headers,
    gateway::{BoxError, Shared},
    headers::header_has_token,
    outgoing::{write_chunk, write_last_chunk},
    rewound::Rewound,
    route::{Means, handle},
};

/// Bytes that are gathered before they are written.
const GATHER: usize = 16 << 10;

/// What of a request its answer depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    is_head: bool,
    version: Version,
    /// Whether the caller wants to send another request.
    lasts: bool,
}

impl Exchange {
    pub(super) fn of(method: &Method, version: Version, headers: &impl Headers) -> Self {
        let says = |token| header_has_token(headers, &header::CONNECTION, token);
        // What follows the wish for another protocol is no next request.
        let lasts = wants_to_last(version, headers) && !says("upgrade");
        Self { is_head: *method == Method::HEAD, version, lasts }
    }

    /// The answer is the last one of its connection.
    pub(super) const fn last() -> Self {
        Self { is_head: false, version: Version::HTTP_11, lasts: false }
    }
}

/// Whether the caller would send another request on the connection (RFC 9112 §9.3).
pub(super) fn wants_to_last(version: Version, headers: &impl Headers) -> bool {
    let says = |token| header_has_token(headers, &header::CONNECTION, token);
    !says("close") && (version == Version::HTTP_11 || says("keep-alive"))
}

/// Answers a request that is not for a service's container as it stands.
pub(super) async fn other<S, B>(
    shared: &Arc<Shared>,
    conn: &mut CallerConn,
    request: Request<()>,
    mut body: BodyReader,
    api: S,
) -> After
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let exchange = Exchange::of(request.method(), request.version(), request.headers());
    let active = conn.caller.begin(!body.is_over());
    let (mut feed, caller_body) = Feed::begin(&request, &mut body);
    let request = request.map(|()| caller_body);
    let mut handler = pin!(handle(Arc::clone(shared), active, request, (api, Means::Nothing)));
    let answer = poll_fn(|cx| {
        loop {
            if let Poll::Ready(answer) = handler.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            if !feed.go_on(conn, cx) {
                return conn.poll_gone(cx, feed.body.is_over()).map(|()| None);
            }
        }
    })
    .await;
    match answer {
        Some(answer) => write_while_fed(conn, answer, exchange, feed).await,
        None => After::Drop,
    }
}

/// Answers an agent that wants the connection for itself. The connection comes back when it does not get it.
pub(super) async fn agent<S, B>(
    shared: &Arc<Shared>,
    mut conn: CallerConn,
    request: Request<()>,
    api: S,
) -> Option<(CallerConn, After)>
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let exchange = Exchange::of(request.method(), request.version(), request.headers());
    let active = conn.caller.begin(false);
    let (hand_over, handover) = oneshot::channel();
    let request = request.map(|()| CallerBody::empty());
    let answer = handle(Arc::clone(shared), active, request, (api, Means::Handover(handover))).await;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let after = write(&mut conn, answer, exchange, &mut BodyReader::Over).await;
        return Some((conn, after));
    }
    write_status_line(&mut conn.out, answer.status(), b"Switching Protocols");
    write_map(&mut conn.out, answer.headers());
    drop(answer);
    if poll_fn(|cx| conn.poll_flush(cx)).await.is_ok() {
        // Whoever does not wait any more has let it go.
        let _ = hand_over.send(Rewound::new(conn.inbox.bytes, conn.io));
    }
    None
}

/// Writes an answer, to a request of which `body` was not read yet.
pub(super) async fn write(
    conn: &mut CallerConn,
    answer: Response<ResponseBody>,
    exchange: Exchange,
    body: &mut BodyReader,
) -> After {
    let feed = Feed { feeder: None, body, says_continue: false };
    write_while_fed(conn, answer, exchange, feed).await
}

async fn write_while_fed(
    conn: &mut CallerConn,
    answer: Response<ResponseBody>,
    exchange: Exchange,
    mut feed: Feed<'_>,
) -> After {
    let (parts, mut body) = answer.into_parts();
    // A request that was read, or that is here, leaves the connection fit for the next one.
    let lasts = exchange.lasts
        && !conn.caller.is_draining()
        && (feed.feeder.is_some() && feed.body.is_over() || feed.feeder.is_none() && conn.skip(feed.body));
    let mut framing = Framing::of(&parts, &body, exchange);
    let is_framed = framing != Framing::UntilClose;
    let lasts = lasts && is_framed;
    write_head(conn, parts, framing, (exchange, lasts));
    let written = poll_fn(|cx| {
        loop {
            if body.is_cut() && !conn.out.is_empty() && conn.poll_flush(cx).is_pending() {
                // Nobody waits for one that does not read.
                return Poll::Ready(Written::Gone);
            }
            match framing.poll_frame(conn, &mut body, cx) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) if conn.out.is_empty() => return Poll::Ready(Written::Whole),
                Poll::Ready(Err(Broken)) if conn.out.is_empty() => return Poll::Ready(Written::Cut),
                _ => {}
            }
            if !conn.out.is_empty() {
                match conn.poll_flush(cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(Written::Gone),
                    Poll::Pending => {}
                }
            }
            if !feed.go_on(conn, cx) {
                return conn.poll_gone(cx, feed.body.is_over()).map(|()| Written::Gone);
            }
        }
    })
    .await;
    match written {
        Written::Whole if lasts => After::Keep,
        Written::Whole => After::Close,
        Written::Cut if is_framed => After::Close,
        Written::Cut | Written::Gone => {
            conn.caller.abort_on_close();
            After::Drop
        }
    }
}

/// How the writing of an answer ended.
enum Written {
    Whole,
    /// Its body broke off.
    Cut,
    /// Nobody is there any more.
    Gone,
}

/// The answer's body broke off.
struct Broken;

/// How an answer's body is told apart from what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is none, or it is not sent.
    Nothing,
    Length(u64),
    Chunked,
    UntilClose,
    /// It broke off, and what came before is still being written.
    Broken,
    Over,
}

impl Framing {
    fn of(parts: &http::response::Parts, body: &ResponseBody, exchange: Exchange) -> Self {
        if exchange.is_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Self::Nothing;
        }
        match body.size_hint().exact() {
            Some(length) => Self::Length(length),
            None if exchange.version == Version::HTTP_11 => Self::Chunked,
            None => Self::UntilClose,
        }
    }

    /// Adds more of the body to what is to be written. `false` at its end.
    fn poll_frame(
        &mut self,
        conn: &mut CallerConn,
        body: &mut ResponseBody,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Broken>> {
        match self {
            Self::Nothing | Self::Over => return Poll::Ready(Ok(false)),
            Self::Broken => return Poll::Ready(Err(Broken)),
            _ if conn.out.len() >= GATHER => return Poll::Pending,
            _ => {}
        }
        match std::task::ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => self.write(conn, frame),
            Some(Err(error)) => {
                tracing::debug!(%error, "an answer broke off");
                *self = Self::Broken;
            }
            None => {
                match self {
                    Self::Length(1..) => {
                        *self = Self::Broken;
                        return Poll::Ready(Ok(true));
                    }
                    Self::Chunked => write_last_chunk(&mut conn.out, &http::HeaderMap::new()),
                    _ => {}
                }
                *self = Self::Over;
            }
        }
        Poll::Ready(Ok(true))
    }

    fn write(&mut self, conn: &mut CallerConn, frame: Frame<Bytes>) {
        match (frame.into_data(), &mut *self) {
            (Ok(data), Self::Chunked) => write_chunk(&mut conn.out, &data),
            (Ok(data), Self::Length(left)) => {
                // No more than was said.
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                conn.out.put_slice(&data[..count]);
            }
            (Ok(data), _) => conn.out.put_slice(&data),
            (Err(frame), Self::Chunked) => {
                write_last_chunk(&mut conn.out, &frame.into_trailers().unwrap_or_default());
                *self = Self::Over;
            }
            (Err(_), _) => {}
        }
    }
}

fn write_head(
    conn: &mut CallerConn,
    mut parts: http::response::Parts,
    framing: Framing,
    (exchange, lasts): (Exchange, bool),
) {
    let headers = &mut parts.headers;
    match framing {
        Framing::Length(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Framing::Chunked => {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        _ => {}
    }
    if !lasts {
        headers.insert(header::CONNECTION, close_and(headers.get(header::CONNECTION)));
    } else if exchange.version == Version::HTTP_10 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    let reason = parts.status.canonical_reason().unwrap_or_default();
    write_status_line(&mut conn.out, parts.status, reason.as_bytes());
    write_map(&mut conn.out, headers);
}

/// `close`, beside what `Connection` says already: a `426` names the protocol that is wanted.
fn close_and(said: Option<&HeaderValue>) -> HeaderValue {
    let said = said.and_then(|said| HeaderValue::from_bytes(&[said.as_bytes(), b", close"].concat()).ok());
    said.unwrap_or_else(|| HeaderValue::from_static("close"))
}

/// Reads a request's body for those who take it frame by frame.
struct Feed<'a> {
    feeder: Option<Feeder>,
    body: &'a mut BodyReader,
    /// Whether the caller waits to be asked for it.
    says_continue: bool,
}

impl<'a> Feed<'a> {
    fn begin(request: &Request<()>, body: &'a mut BodyReader) -> (Self, CallerBody) {
        let length = match body {
            _ if body.is_over() => {
                return (Self { feeder: None, body, says_continue: false }, CallerBody::empty());
            }
            BodyReader::Length(length) => Some(*length),
            _ => None,
        };
        let (feeder, caller_body) = CallerBody::piped(length);
        let says_continue = request.version() == Version::HTTP_11
            && header_has_token(request.headers(), &header::EXPECT, "100-continue");
        (Self { feeder: Some(feeder), body, says_continue }, caller_body)
    }

    /// Hands over what is waited for, if it is here; says whether anything has changed.
    fn go_on(&mut self, conn: &mut CallerConn, cx: &mut Context<'_>) -> bool {
        let Some(feeder) = &self.feeder else { return false };
        if feeder.poll_wanted(cx).is_pending() {
            return false;
        }
        let end = match conn.poll_frame(cx, self.body) {
            Poll::Ready(Ok(Some(frame))) => {
                self.says_continue = false;
                feeder.put(frame);
                return true;
            }
            Poll::Ready(Ok(None)) => Ok(()),
            Poll::Ready(Err(_)) => Err(BrokenBody),
            Poll::Pending => {
                if std::mem::take(&mut self.says_continue) {
                    conn.out.put_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                // A failure is noticed by whoever writes the answer.
                let _ = conn.poll_flush(cx);
                return false;
            }
        };
        if let Some(feeder) = self.feeder.take() {
            feeder.finish(end);
        }
        true
    }
}
