//! A caller's HTTP/1.1 connection: what was read from it and not used, what is to be written to it, and whether anybody
//! is still there.
//!
//! A caller that closes its side has either finished sending, and waits for its answer, or it has gone: TCP does not tell
//! which. So what is sent within [`DOUBT`] is sent to it. If it has gone, its machine answers that with a reset; if it
//! has not, it is believed from then on. A caller to which there was nothing to send for so long has gone.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    time::Sleep,
};
use towline_tunnel::wait;

use super::{
    chunked::Piece,
    framing::BodyReader,
    head::{HeadFault, HeadParser, RequestHead, ResponseHead, write_status_line},
};
use crate::{
    caller::{Caller, Signal},
    caller_stream::CallerStream,
    headers::take_response_hops,
    inbox::Inbox,
    outgoing::{Interrupt, More, Source, SourceFault},
    standing::Standing,
};

/// How long a caller that has closed its side, and that nothing was sent to since, is waited for.
const DOUBT: Duration = Duration::from_secs(2);
/// Bytes that are read ahead of the request in progress, or that wait to be written, before either stops.
const MAX_AHEAD: usize = 64 << 10;
/// Bytes of the buffer for what is written that an idle connection keeps.
const KEPT_OUT: usize = 4 << 10;

/// A caller's connection.
pub(crate) struct CallerConn {
    pub io: CallerStream,
    pub caller: Arc<Caller>,
    pub inbox: Inbox,
    /// What is to be written next.
    pub out: BytesMut,
    parser: HeadParser,
    input: Input,
    /// The task that the caller's signal wakes, since it was first looked at.
    task: Option<Waker>,
    /// Whether the socket wakes it as soon as there is something to be read: nobody has read since one found nothing.
    socket_wakes: bool,
}

/// Whether anything more can come from the caller.
enum Input {
    Open,
    /// The caller has closed its side.
    Closed(Option<Doubt>),
    /// Nobody is there.
    Broken,
}

/// Whether a caller that has closed its side is still there.
struct Doubt {
    over: Pin<Box<Sleep>>,
    /// Whether something was sent to it since.
    tried: bool,
}

/// What comes next on a connection.
pub(crate) enum Next {
    Request(RequestHead),
    /// Something that is no request.
    Fault(HeadFault),
    /// Nothing.
    End,
}

impl CallerConn {
    /// The head of each request may have `head_limit` bytes.
    pub(crate) fn new(io: CallerStream, caller: Arc<Caller>, head_limit: usize) -> Self {
        let (inbox, out) = (Inbox::new(), BytesMut::new());
        let parser = HeadParser::request().of_at_most(head_limit);
        Self { io, caller, inbox, out, parser, input: Input::Open, task: None, socket_wakes: false }
    }

    /// Whether nobody is there to be answered.
    pub(crate) const fn is_broken(&self) -> bool {
        matches!(self.input, Input::Broken)
    }

    /// Waits for the next request's head.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            match self.parser.advance(&self.inbox.bytes) {
                Err(fault) => return Poll::Ready(Next::Fault(fault)),
                Ok(Some(length)) => {
                    let head = self.parser.finish_request(&self.inbox.bytes, length);
                    self.inbox.bytes.advance(length);
                    return Poll::Ready(head.map_or_else(Next::Fault, Next::Request));
                }
                Ok(None) => {}
            }
            if self.caller.signal() == Signal::Cut || !matches!(self.input, Input::Open) {
                return Poll::Ready(Next::End);
            }
            let waits = self.inbox.bytes.is_empty();
            match self.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Next::End),
                // Only now: a request that has come before the drain is still answered.
                Poll::Pending => match self.poll_signal(cx) {
                    Signal::Run => return Poll::Pending,
                    Signal::Drain if !waits => return Poll::Pending,
                    Signal::Drain | Signal::Cut => return Poll::Ready(Next::End),
                },
            }
        }
    }

    /// Gives memory back while nothing goes on.
    pub(crate) fn rest(&mut self) {
        self.inbox.rest();
        if self.out.capacity() > KEPT_OUT {
            self.out = BytesMut::new();
        }
    }

    /// What the connection was told, with a wake-up when that changes.
    fn poll_signal(&mut self, cx: &Context<'_>) -> Signal {
        self.look_after(cx);
        self.caller.signal()
    }

    /// This task is the one to be woken from now on. A connection is polled by one and the same, most often; for another one
    /// nothing is noted yet.
    fn look_after(&mut self, cx: &Context<'_>) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            self.socket_wakes = false;
            self.caller.wakes(cx.waker());
        }
    }

    /// Reads more; 0 when the caller has closed its side.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.look_after(cx);
        // To be told once more that there is nothing costs locks.
        if self.socket_wakes && self.io.is_quiet() {
            return Poll::Pending;
        }
        let read = self.inbox.poll_read(&mut self.io, cx);
        self.socket_wakes = wait::is_noted(&read);
        let read = ready!(read);
        match read {
            Ok(0) => {
                let over = Box::pin(tokio::time::sleep(DOUBT));
                self.input = Input::Closed(Some(Doubt { over, tried: false }));
            }
            Ok(_) => {}
            Err(_) => self.input = Input::Broken,
        }
        Poll::Ready(read)
    }

    /// Writes what is to be written, then these bytes, then those; says how many of the last two. Ready with none when
    /// there is nothing left.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8], suffix: &[u8]) -> Poll<io::Result<usize>> {
        while !self.out.is_empty() || !data.is_empty() || !suffix.is_empty() {
            let waiting = self.out.len();
            let slices = [IoSlice::new(&self.out), IoSlice::new(data), IoSlice::new(suffix)];
            let written = match (waiting, data.len(), suffix.len()) {
                (_, 0, 0) => Pin::new(&mut self.io).poll_write(cx, &self.out),
                (0, _, 0) => Pin::new(&mut self.io).poll_write(cx, data),
                _ => Pin::new(&mut self.io).poll_write_vectored(cx, &slices),
            };
            let count = match ready!(written) {
                Ok(count) if count > 0 => count,
                written => {
                    self.input = Input::Broken;
                    return Poll::Ready(Err(written.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into())));
                }
            };
            if let Input::Closed(Some(doubt)) = &mut self.input {
                doubt.tried = true;
            }
            self.out.advance(count.min(waiting));
            if count > waiting {
                return Poll::Ready(Ok(count - waiting));
            }
        }
        ready!(self.poll_sent(cx))?;
        Poll::Ready(Ok(0))
    }

    /// Sends what TLS has taken and its socket has not.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = ready!(Pin::new(&mut self.io).poll_flush(cx));
        if sent.is_err() {
            self.input = Input::Broken;
        }
        Poll::Ready(sent)
    }

    /// Writes what is to be written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write(cx, &[], &[]).map_ok(drop)
    }

    /// Looks after the caller while its answer is made: reads ahead, when its request is over, so that its end is
    /// noticed. Ready when it has gone, or is told to.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>, request_is_over: bool) -> Poll<()> {
        if self.poll_signal(cx) == Signal::Cut {
            self.input = Input::Broken;
        }
        let _ = self.poll_sent(cx);
        while request_is_over && matches!(self.input, Input::Open) && self.inbox.bytes.len() < MAX_AHEAD {
            if self.poll_fill(cx).is_pending() {
                break;
            }
        }
        match &mut self.input {
            Input::Broken => Poll::Ready(()),
            Input::Closed(Some(doubt)) => {
                ready!(doubt.over.as_mut().poll(cx));
                if doubt.tried && self.io.has_no_error() {
                    self.input = Input::Closed(None);
                    return Poll::Pending;
                }
                self.input = Input::Broken;
                Poll::Ready(())
            }
            Input::Open | Input::Closed(None) => Poll::Pending,
        }
    }

    /// Adds what is here of a request's body to `out`, as it was framed but for its chunk extensions, and reads more
    /// when nothing is here.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut BodyReader,
        out: &mut BytesMut,
    ) -> Poll<Result<More, SourceFault>> {
        let before = out.len();
        loop {
            match body.next(&self.inbox.bytes).map_err(|_| SourceFault)? {
                Piece::Data(count) | Piece::Framing(count) => {
                    out.extend_from_slice(&self.inbox.bytes[..count]);
                    self.inbox.bytes.advance(count);
                }
                Piece::Extension(count) => self.inbox.bytes.advance(count),
                Piece::Trailers(count) => {
                    let trailers = body.take_trailers(&self.inbox.bytes[..count]);
                    self.inbox.bytes.advance(count);
                    trailers.write(out);
                    return Poll::Ready(Ok(More::End));
                }
                Piece::End => return Poll::Ready(Ok(More::End)),
                Piece::NeedMore if out.len() > before => return Poll::Ready(Ok(More::Some)),
                Piece::NeedMore => ready!(self.poll_more_body(cx))?,
            }
        }
    }

    /// The next frame of a request's body; `None` at its end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut BodyReader,
    ) -> Poll<Result<Option<Frame<Bytes>>, SourceFault>> {
        loop {
            match body.next(&self.inbox.bytes).map_err(|_| SourceFault)? {
                Piece::Data(count) => {
                    return Poll::Ready(Ok(Some(Frame::data(self.inbox.bytes.split_to(count).freeze()))));
                }
                Piece::Framing(count) | Piece::Extension(count) => self.inbox.bytes.advance(count),
                Piece::Trailers(count) => {
                    let trailers = body.take_trailers(&self.inbox.bytes[..count]);
                    self.inbox.bytes.advance(count);
                    return Poll::Ready(Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers.into_map()))));
                }
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::NeedMore => ready!(self.poll_more_body(cx))?,
            }
        }
    }

    fn poll_more_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SourceFault>> {
        if !matches!(self.input, Input::Open) {
            return Poll::Ready(Err(SourceFault));
        }
        Poll::Ready(if matches!(ready!(self.poll_fill(cx)), Ok(1..)) { Ok(()) } else { Err(SourceFault) })
    }

    /// Reads over what is here of a request's body; says whether that was the rest of it.
    pub(crate) fn skip(&mut self, body: &mut BodyReader) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while !body.is_over() {
            match self.poll_frame(&mut cx, body) {
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(Ok(None)) => break,
                _ => return false,
            }
        }
        true
    }

    /// Ends the connection: in order, after everything that was written.
    pub(crate) async fn close(mut self) {
        if self.is_broken() {
            return;
        }
        let flushed = std::future::poll_fn(|cx| {
            if self.poll_signal(cx) == Signal::Cut {
                return Poll::Ready(false);
            }
            self.poll_flush(cx).map(|flushed| flushed.is_ok())
        });
        if flushed.await {
            let _ = self.io.shutdown().await;
        }
    }
}

/// A caller that sends a request and waits for its answer.
pub(crate) struct CallerSource<'a> {
    pub conn: &'a mut CallerConn,
    pub body: &'a mut BodyReader,
    /// Whether it understands interim answers (RFC 9110 §15.2: not in HTTP/1.0).
    pub interims: bool,
    /// What the request lives by. Whenever any is lost, every connection is woken.
    pub standing: &'a Standing,
}

impl Source for CallerSource<'_> {
    fn poll_more(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<More, SourceFault>> {
        self.conn.poll_body(cx, self.body, out)
    }

    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if !self.conn.out.is_empty() {
            // Interim answers. A failure is noticed below.
            let _ = self.conn.poll_flush(cx);
        }
        let gone = self.conn.poll_gone(cx, self.body.is_over());
        // Only now: the wake-up that tells of a loss finds this connection from here on.
        if self.standing.is_lost() {
            return Poll::Ready(Interrupt::Revoked);
        }
        gone.map(|()| Interrupt::Gone)
    }

    fn takes_interim(&self) -> bool {
        self.conn.out.len() < MAX_AHEAD
    }

    fn interim(&mut self, mut head: ResponseHead) {
        if !self.interims {
            return;
        }
        take_response_hops(&mut head.headers);
        write_status_line(&mut self.conn.out, head.status, &head.reason);
        head.headers.write(&mut self.conn.out);
    }
}
