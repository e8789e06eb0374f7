//! One HTTP/1.1 connection to a container, over one stream of the tunnel, or one request on an HTTP/2 connection, which
//! looks the same from here ([`http2`](crate::http2)).
//!
//! The connection has no task of its own: whoever waits for its answer drives it. So a request costs no hand-over
//! between tasks, and dropping the connection at any point resets the stream at once, which is how everything that
//! waits for it is cancelled. Only when the answer goes to a caller of HTTP/2 while its request is still coming does a task
//! see to the request, because then both directions must go on independently.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, StatusCode, Version, header};
use tokio::{
    io::{AsyncWriteExt, copy, sink},
    task::AbortHandle,
    time::timeout,
};
use tokio_util::task::TaskTracker;
use towline_tunnel::{ResetCode, StreamEnd, StreamMonitor, TunnelStream};

use crate::{
    agents::link::{CarrierLink, LinkUse},
    error::ExchangeFailure,
    external::{Socket, TlsFailure, tls_failure},
    h1::{
        chunked::ChunkFault,
        framing::{BodyReader, response_body},
        head::{HeadParser, ResponseHead},
    },
    headers::header_has_token,
    http2::{connection::Lease, exchange::Exchange},
    inbox::Inbox,
    outgoing::{Outgoing, Source},
};

/// Bytes of an answer that is too large to share a carrier with small ones.
const LARGE: u64 = 256 << 10;
/// How long a container may take to close its side of a connection that is not needed any more.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A connection to a container.
pub(crate) struct Connection {
    socket: Arc<Socket>,
    monitor: StreamMonitor,
    parser: HeadParser,
    /// What the container has sent and nobody has used yet.
    pub inbox: Inbox,
    /// The rest of the answer's body.
    pub body: BodyReader,
    /// The carrier that it runs on.
    carrier: LinkUse,
    reused: bool,
    /// Whether the answer leaves the connection fit for another request.
    lasts: bool,
    /// Bytes of earlier requests.
    sent_before: u64,
    /// Bytes that the container has sent, in all.
    received: u64,
    /// The same, before the present answer.
    received_before: u64,
    /// A task that sends the rest of the request; it ends with this handle.
    sending: Option<Sending>,
    /// How long it may be kept idle.
    pub keep_for: Duration,
    /// How long it was idle before its present use, if it was.
    pub idle_for: Option<Duration>,
}

/// The task that sends the rest of a request.
struct Sending {
    task: AbortHandle,
    socket: Arc<Socket>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.task.is_finished() {
            self.socket.abort(ResetCode::Cancelled);
            self.task.abort();
        }
    }
}

/// An attempt that brought no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub reason: FailureReason,
    /// Whether not one byte of the request reached the container: none was handed to a carrier, or the agent says that it
    /// passed none on.
    pub untouched: bool,
    /// Whether the connection had served a request before.
    pub reused: bool,
}

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(crate) enum FailureReason {
    /// The agent did not open the stream.
    Refused(towline_tunnel::Refused),
    /// The container's connection ended without an answer.
    Closed,
    /// The carrier, or the agent's end of the stream, failed.
    TunnelLost,
    /// A connection was not there in time.
    ConnectTimeout(Duration),
    /// TLS with a server elsewhere failed.
    Tls(TlsFailure),
    /// What came back is not HTTP.
    BrokeHttp(String),
    /// It speaks HTTP/2, and takes no WebSockets there.
    NoWebSockets,
    /// The container took too long.
    Late(ExchangeFailure),
    /// The caller's body could not be read to its end, or the caller has gone.
    CallerBody,
    /// The caller's key, membership or sign-in ended.
    Revoked,
}

impl Connection {
    /// Speaks HTTP over a new stream, whose monitor comes with it. Nothing is sent before the first request. The head of an
    /// answer may have `head_limit` bytes.
    pub(crate) fn new(socket: Socket, monitor: StreamMonitor, carrier: LinkUse, head_limit: usize) -> Self {
        Self {
            // A handshake is no part of a request.
            sent_before: monitor.bytes_sent(),
            monitor,
            socket: Arc::new(socket),
            parser: HeadParser::response().of_at_most(head_limit),
            inbox: Inbox::new(),
            body: BodyReader::Over,
            carrier,
            reused: false,
            lasts: false,
            sending: None,
            received: 0,
            received_before: 0,
            keep_for: Duration::ZERO,
            idle_for: None,
        }
    }

    /// A request's own part of an HTTP/2 connection, which has a limit of heads itself. It serves no other one.
    pub(crate) fn http2(lease: Lease) -> Self {
        let (monitor, carrier, reused) = (lease.monitor(), lease.link().begin(), lease.reused);
        let socket = Socket::Http2(Box::new(Exchange::new(lease)));
        Self { reused, ..Self::new(socket, monitor, carrier, usize::MAX) }
    }

    /// What a new connection without TLS runs on.
    pub(crate) fn into_stream(self) -> Option<(TunnelStream, StreamMonitor, LinkUse)> {
        let Self { socket, monitor, carrier, .. } = self;
        match Arc::into_inner(socket)? {
            Socket::Plain(stream) => Some((stream, monitor, carrier)),
            Socket::Tls(_) | Socket::Http2(_) => None,
        }
    }

    /// The carrier that it runs on.
    pub(crate) const fn link(&self) -> &Arc<CarrierLink> {
        self.carrier.link()
    }

    /// What it runs on, to write to it.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Takes it out of idleness.
    pub(crate) fn begin_use(&mut self) {
        self.carrier.begin();
        self.reused = true;
        self.lasts = false;
        self.sent_before = self.monitor.bytes_sent();
        self.received_before = self.received;
    }

    /// Its request lasts, or its answer is large.
    pub(crate) fn mark_long_lived(&mut self) {
        self.carrier.mark_long_lived();
    }

    /// Whether the container has neither closed it nor said something unasked, as far as is known here.
    pub(crate) fn is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.inbox.bytes.is_empty() && (self.socket.is_quiet() || self.poll_fill(cx).is_pending())
    }

    /// Puts it to rest after an answer that was read to its end, to a request that was sent to its end. `false` when it
    /// cannot be used again. Whether the container has closed it is asked when it is used again, not now as well.
    pub(crate) fn rest(&mut self, is_sent: bool) -> bool {
        self.carrier.end();
        let is_sent = is_sent || self.sending.take().is_some_and(|sending| sending.task.is_finished());
        let fit = is_sent && self.lasts && self.body.is_over() && self.inbox.bytes.is_empty();
        self.inbox.rest();
        fit
    }

    /// Closes it in order: no container should have to log a reset because a connection was idle.
    pub(crate) async fn close(self) {
        let mut socket = &*self.socket;
        let goodbye = async {
            socket.shutdown().await?;
            copy(&mut socket, &mut sink()).await
        };
        let _ = timeout(CLOSE_WAIT, goodbye).await;
    }

    /// Lets a task send the rest of the request, so that it goes on while nobody reads the answer.
    pub(crate) fn hand_over<S: Source + Send + 'static>(&mut self, tasks: &TaskTracker, mut rest: Outgoing<S>) {
        let socket = Arc::clone(&self.socket);
        let task = tasks.spawn(async move {
            // A caller that breaks off its body has broken off the request.
            if std::future::poll_fn(|cx| rest.poll_send(cx, &socket)).await.is_err() {
                socket.abort(ResetCode::Cancelled);
            }
        });
        self.sending = Some(Sending { task: task.abort_handle(), socket: Arc::clone(&self.socket) });
    }

    /// Reads more of what the container sends; 0 at its end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = ready!(self.inbox.poll_read(&mut &*self.socket, cx));
        if let Ok(count) = read {
            self.received += count as u64;
            if self.received - self.received_before >= LARGE {
                self.mark_long_lived();
            }
        }
        Poll::Ready(read)
    }

    /// Bytes that the container has sent, in all.
    pub(crate) const fn received(&self) -> u64 {
        self.received
    }

    /// Whether a task still sends the request.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.as_ref().is_some_and(|sending| !sending.task.is_finished())
    }

    /// Reads the head of the next answer, an interim one or the last, to a request with this method.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<ResponseHead, FailureReason>> {
        if let Socket::Http2(exchange) = &*self.socket {
            let (head, body) = ready!(exchange.poll_head(cx, method))?;
            self.body = body;
            return Poll::Ready(Ok(head));
        }
        loop {
            match self.take_head(method) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(why) => return Poll::Ready(Err(FailureReason::BrokeHttp(why))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(FailureReason::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(self.failure_reason(&error))),
            }
        }
    }

    fn take_head(&mut self, method: &Method) -> Result<Option<ResponseHead>, String> {
        let text = |fault: crate::h1::head::HeadFault| fault.to_string();
        let Some(length) = self.parser.advance(&self.inbox.bytes).map_err(text)? else { return Ok(None) };
        let head = self.parser.finish_response(&self.inbox.bytes, length).map_err(text)?;
        bytes::Buf::advance(&mut self.inbox.bytes, length);
        self.body = response_body(&head, method).map_err(text)?;
        let says = |token| header_has_token(&head.headers, &header::CONNECTION, token);
        self.lasts = head.status != StatusCode::SWITCHING_PROTOCOLS
            && !matches!(self.body, BodyReader::UntilClose)
            && if head.version == Version::HTTP_11 { !says("close") } else { says("keep-alive") };
        Ok(Some(head))
    }

    /// What it means that an attempt ended without an answer.
    pub(crate) fn failure(&self, reason: FailureReason) -> Failure {
        let nothing_sent = match &*self.socket {
            // HTTP/2 says by itself which requests were not looked at.
            Socket::Http2(exchange) => exchange.is_untouched() || self.monitor.bytes_sent() == self.sent_before,
            _ => self.monitor.bytes_sent() == self.sent_before,
        };
        // A new connection that its container closes at once is not idle, it is broken.
        let nothing_arrived = self.reused && self.monitor.delivered().is_some_and(|bytes| bytes <= self.sent_before);
        Failure { reason, untouched: nothing_sent || nothing_arrived, reused: self.reused }
    }

    fn failure_reason(&self, error: &io::Error) -> FailureReason {
        if let Some(failure) = tls_failure(error) {
            return FailureReason::Tls(failure);
        }
        match self.stream_end(error) {
            Some(StreamEnd::Refused(refused)) => FailureReason::Refused(refused),
            Some(StreamEnd::Reset { code: ResetCode::ConnectionReset | ResetCode::ConnectFailed, .. }) => {
                FailureReason::Closed
            }
            Some(StreamEnd::Reset { .. } | StreamEnd::CarrierLost(_)) => FailureReason::TunnelLost,
            Some(StreamEnd::Finished | StreamEnd::LocalReset(_)) | None => FailureReason::Closed,
        }
    }

    /// Why an answer's body broke off, when reading on failed.
    pub(crate) fn body_failure(&self, error: &io::Error) -> ExchangeFailure {
        match self.stream_end(error) {
            Some(StreamEnd::CarrierLost(_)) => ExchangeFailure::TunnelLost,
            _ => ExchangeFailure::Incomplete,
        }
    }

    /// How the stream ended. A reset of our own is only the consequence of a failure.
    fn stream_end(&self, error: &io::Error) -> Option<StreamEnd> {
        StreamEnd::of(error).cloned().or_else(|| self.monitor.end())
    }
}

impl From<ChunkFault> for ExchangeFailure {
    fn from(fault: ChunkFault) -> Self {
        Self::BrokeHttp(fault.to_string())
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("reused", &self.reused).finish_non_exhaustive()
    }
}
