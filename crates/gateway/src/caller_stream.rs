//! A caller's socket, under hyper.
//!
//! * Closing it leaves a caller that is still sending the time to read our answer; aborting it leaves no doubt that
//!   something was cut.
//! * hyper answers a request that it cannot read by itself, with a bare status. Such an answer is recognised here, byte
//!   for byte, and the problem body that all other errors have is sent in its place.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};
use towline_model::{Clock, ErrorCode, Problem, problem};

use crate::{
    caller::{Caller, CallerGuard},
    error::{PROXY_STATUS, proxy_status},
    request_id::RequestIdText,
    route::date,
};

/// How long a closing connection reads on.
const LINGER: Duration = Duration::from_secs(2);
/// What hyper's own answers end with.
const BARE_END: &[u8] = b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A caller's socket.
pub(crate) struct CallerStream {
    socket: TcpStream,
    caller: Arc<Caller>,
    clock: Arc<dyn Clock>,
    closing: Option<Pin<Box<Sleep>>>,
    replacing: Option<Replacement>,
    /// Its place among the connections, for as long as it is open, upgraded or not.
    _place: (CallerGuard, OwnedSemaphorePermit),
}

/// An answer that is sent instead of another.
#[derive(Debug)]
struct Replacement {
    bytes: Bytes,
    /// Bytes of the answer that it stands for.
    stands_for: usize,
}

impl CallerStream {
    pub(crate) fn new(
        socket: TcpStream,
        caller: Arc<Caller>,
        clock: Arc<dyn Clock>,
        place: (CallerGuard, OwnedSemaphorePermit),
    ) -> Self {
        Self { socket, caller, clock, closing: None, replacing: None, _place: place }
    }

    /// Sends the replacement of a bare answer, if this is one. `None` when it is not.
    fn poll_replace(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.replacing.is_none() {
            // While a request is in progress, what is written is its answer.
            if self.caller.is_active() {
                return None;
            }
            let code = code_of_bare_answer(data)?;
            self.caller.note_nonsense();
            self.replacing = Some(Replacement { bytes: answer(code, &*self.clock), stands_for: data.len() });
        }
        let replacing = self.replacing.as_mut()?;
        while replacing.bytes.has_remaining() {
            match Pin::new(&mut self.socket).poll_write(cx, &replacing.bytes) {
                Poll::Ready(Ok(count)) if count > 0 => replacing.bytes.advance(count),
                Poll::Ready(Ok(_)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        let stands_for = replacing.stands_for;
        self.replacing = None;
        Some(Poll::Ready(Ok(stands_for)))
    }

    /// Reads and forgets what still comes, until the caller closes or the time is over.
    ///
    /// A close with unread bytes in the socket is a reset, which would take our last answer from a caller that is still
    /// sending (RFC 9112 §9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0_u8; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
            if self.closing.as_ref().is_some_and(|sleep| sleep.deadline() <= Instant::now()) {
                return Poll::Ready(());
            }
        }
        self.closing.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

/// The kind of a bare answer of hyper; `None` for anything else. No other answer can be mistaken for one, because every
/// other answer carries an id.
fn code_of_bare_answer(data: &[u8]) -> Option<ErrorCode> {
    match data.strip_suffix(BARE_END)? {
        b"HTTP/1.1 400 Bad Request" | b"HTTP/1.1 414 URI Too Long" => Some(ErrorCode::MalformedRequest),
        b"HTTP/1.1 431 Request Header Fields Too Large" => Some(ErrorCode::HeadersTooLarge),
        _ => None,
    }
}

/// The answer to a request of which not even the path is known: as on the runtime routes, where callers' libraries look
/// for these fields.
fn answer(code: ErrorCode, clock: &dyn Clock) -> Bytes {
    let message = match code {
        ErrorCode::HeadersTooLarge => "the request has more than 64 KiB or 128 fields in its head",
        _ => "the request is not well-formed HTTP/1.1; its method, target, header fields or framing break RFC 9112",
    };
    let id = RequestIdText::generate();
    let body = Problem::new(code, message).with_request_id(id.as_str()).with_vendor_error();
    let body = serde_json::to_string(&body).unwrap_or_default();
    let (status, reason) = match code {
        ErrorCode::HeadersTooLarge => (431, "Request Header Fields Too Large"),
        _ => (400, "Bad Request"),
    };
    let fields = [
        ("connection", "close".as_bytes()),
        ("content-type", problem::CONTENT_TYPE.as_bytes()),
        ("x-request-id", id.as_str().as_bytes()),
        (PROXY_STATUS.as_str(), proxy_status("http_request_error", message).as_bytes()),
        ("date", date(clock).as_bytes()),
        ("content-length", body.len().to_string().as_bytes()),
    ]
    .map(|(name, value)| [name.as_bytes(), b": ", value, b"\r\n"].concat())
    .concat();
    Bytes::from([format!("HTTP/1.1 {status} {reason}\r\n").as_bytes(), &fields, b"\r\n", body.as_bytes()].concat())
}

impl AsyncRead for CallerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(replaced) = self.poll_replace(cx, data) {
            return replaced;
        }
        Pin::new(&mut self.socket).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices
            && let Some(replaced) = self.poll_replace(cx, only)
        {
            return replaced;
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.caller.is_aborted() {
            return Poll::Ready(Ok(()));
        }
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            if !this.caller.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
            this.closing = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        this.poll_linger(cx).map(Ok)
    }
}

impl Drop for CallerStream {
    fn drop(&mut self) {
        if self.caller.is_aborted() {
            // Fails only on a socket that is already gone.
            let _ = self.socket.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use towline_model::SystemClock;

    use super::*;

    #[test]
    fn only_hypers_own_answers_are_replaced() {
        let bare = |status: &str| [format!("HTTP/1.1 {status}").as_bytes(), BARE_END].concat();
        assert_eq!(code_of_bare_answer(&bare("400 Bad Request")), Some(ErrorCode::MalformedRequest));
        let large = bare("431 Request Header Fields Too Large");
        assert_eq!(code_of_bare_answer(&large), Some(ErrorCode::HeadersTooLarge));
        assert_eq!(code_of_bare_answer(&bare("404 Not Found")), None);
        assert_eq!(code_of_bare_answer(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"), None);
        assert_eq!(code_of_bare_answer(b""), None);
    }

    #[test]
    fn a_replacement_is_a_whole_answer() {
        let text = String::from_utf8(answer(ErrorCode::MalformedRequest, &SystemClock).to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error_code"], "malformed_request");
        assert_eq!(body["error"]["code"], "malformed_request");
        assert!(head.contains("\r\nproxy-status: towline; error=http_request_error; details=\"the request"), "{head}");
        assert!(head.contains("\r\ndate: "), "{head}");
        assert!(head.contains(&format!("x-request-id: {}", body["request_id"].as_str().unwrap())));
    }
}
