//! One HTTP/1.1 connection to a container, over one stream of the tunnel.
//!
//! The connection has no task of its own: whoever waits for its answer drives it. So a request costs no hand-over
//! between tasks, and dropping the connection at any point resets the stream at once, which is how everything that
//! waits for it is cancelled. Only when the answer begins before the request is through does a task take over, because
//! then both directions must go on independently.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, task::AbortHandle};
use tokio_util::task::TaskTracker;
use towline_tunnel::{ResetCode, StreamEnd, StreamMonitor};

use crate::{
    agents::link::{Busy, CarrierLink},
    error::ExchangeFailure,
    external::{Socket, TlsFailure, tls_failure},
    request_body::RequestBody,
};

/// Header fields that a container's answer may have.
const MAX_RESPONSE_FIELDS: usize = 256;
/// Bytes that the head of a container's answer may have, and that are read ahead of a slow caller.
const MAX_BUFFER: usize = 64 << 10;
/// How long a container may take to close its side of a connection that is not needed any more.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

type Plain = http1::Connection<TokioIo<Socket>, RequestBody>;

/// A connection to a container.
pub(crate) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    monitor: StreamMonitor,
    link: Arc<CarrierLink>,
    busy: Option<Busy>,
    reused: bool,
    /// How long it may be kept idle.
    pub keep_for: Duration,
}

enum Driver {
    Plain(Box<Plain>),
    /// May be switched to another protocol.
    Upgradable(Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>),
    /// A task has it; it ends with this handle.
    Task {
        _task: AbortOnDrop,
    },
    Done,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An attempt that brought no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub reason: FailureReason,
    /// The request, when it was never begun.
    pub unsent: Option<Box<Request<RequestBody>>>,
    /// Whether not one byte of it was handed to a carrier.
    pub nothing_sent: bool,
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
    /// TLS with a server elsewhere failed.
    Tls(TlsFailure),
    /// What came back is not HTTP.
    BrokeHttp(String),
    /// The caller's body could not be read to its end.
    CallerBody,
}

impl Connection {
    /// Speaks HTTP over a new stream, whose monitor comes with it. Nothing is sent before the first request.
    pub(crate) async fn new(stream: Socket, monitor: StreamMonitor, busy: Busy) -> Result<Self, hyper::Error> {
        let (sender, driver) = http1::Builder::new()
            .max_headers(MAX_RESPONSE_FIELDS)
            .max_buf_size(MAX_BUFFER)
            .max_header_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self {
            sender,
            driver: Driver::Plain(Box::new(driver)),
            monitor,
            link: Arc::clone(busy.link()),
            busy: Some(busy),
            reused: false,
            keep_for: Duration::ZERO,
        })
    }

    /// The carrier that it runs on.
    pub(crate) const fn link(&self) -> &Arc<CarrierLink> {
        &self.link
    }

    /// Whether it has served a request before.
    pub(crate) const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Takes it out of idleness.
    pub(crate) fn begin_use(&mut self) {
        self.busy = Some(self.link.begin());
        self.reused = true;
    }

    /// Its request lasts.
    pub(crate) fn mark_long_lived(&mut self) {
        if let Some(busy) = &mut self.busy {
            busy.mark_long_lived();
        }
    }

    /// Whether the container has not closed it yet, as far as is known here.
    pub(crate) fn is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx).is_pending() && self.sender.is_ready()
    }

    /// Puts it to rest after an answer that was read to its end. `false` when it cannot be used again.
    pub(crate) fn rest(&mut self) -> bool {
        self.busy = None;
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.driver, Driver::Plain(_)) && self.is_alive(&mut cx)
    }

    /// Closes it in order: no container should have to log a reset because a connection was idle.
    pub(crate) async fn close(self) {
        let Self { sender, driver: Driver::Plain(plain), .. } = self else { return };
        drop(sender);
        let goodbye = async {
            let mut stream = plain.without_shutdown().await.map_err(io::Error::other)?.io.into_inner();
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        let _ = tokio::time::timeout(CLOSE_WAIT, goodbye).await;
    }

    /// Allows the connection to be switched to another protocol by the next answer.
    pub(crate) fn allow_upgrade(&mut self) {
        if let Driver::Plain(plain) = std::mem::replace(&mut self.driver, Driver::Done) {
            self.driver = Driver::Upgradable(Box::pin(plain.with_upgrades()));
        }
    }

    /// Lets a task drive it from now on, so that the request goes on while nobody reads the answer.
    pub(crate) fn hand_over(&mut self, tasks: &TaskTracker) {
        let task = match std::mem::replace(&mut self.driver, Driver::Done) {
            Driver::Plain(plain) => tasks.spawn(async { drop(plain.await) }),
            Driver::Upgradable(upgradable) => tasks.spawn(async { drop(upgradable.await) }),
            other => {
                self.driver = other;
                return;
            }
        };
        self.driver = Driver::Task { _task: AbortOnDrop(task.abort_handle()) };
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// Dropped before that, it leaves a connection that must be dropped too.
    pub(crate) async fn exchange(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, Failure> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let result = std::future::poll_fn(|cx| {
            let _ = self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        result.map_err(|mut error| {
            let unsent = error.take_message().map(Box::new);
            Failure {
                reason: self.failure_reason(&error.into_error()),
                nothing_sent: unsent.is_some() || self.monitor.bytes_sent() == 0,
                unsent,
                reused: self.reused,
            }
        })
    }

    /// Drives it as far as it goes now. Ready when it has ended.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let done = match &mut self.driver {
            Driver::Plain(plain) => Pin::new(plain).poll(cx).is_ready(),
            Driver::Upgradable(upgradable) => upgradable.as_mut().poll(cx).is_ready(),
            Driver::Task { .. } => return Poll::Pending,
            Driver::Done => return Poll::Ready(()),
        };
        if done {
            // Dropping it tells everybody who still waits for it.
            self.driver = Driver::Done;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn failure_reason(&self, error: &hyper::Error) -> FailureReason {
        if error.is_user() {
            return FailureReason::CallerBody;
        }
        if error.is_parse() {
            return FailureReason::BrokeHttp(describe(error));
        }
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

    /// Why an answer's body broke off.
    pub(crate) fn body_failure(&self, error: &hyper::Error) -> ExchangeFailure {
        match self.stream_end(error) {
            Some(StreamEnd::CarrierLost(_)) => ExchangeFailure::TunnelLost,
            Some(StreamEnd::Reset { .. } | StreamEnd::Refused(_)) => ExchangeFailure::Incomplete,
            _ if error.is_incomplete_message() || is_early_end(error) => ExchangeFailure::Incomplete,
            _ => ExchangeFailure::BrokeHttp(describe(error)),
        }
    }

    /// How the stream ended. A reset of our own is only the consequence of a failure.
    fn stream_end(&self, error: &hyper::Error) -> Option<StreamEnd> {
        StreamEnd::of(error).cloned().or_else(|| self.monitor.end())
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("reused", &self.reused).finish_non_exhaustive()
    }
}

/// What is wrong with a container's answer, with the cause that hyper keeps inside.
fn describe(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn is_early_end(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof) {
            return true;
        }
        source = error.source();
    }
    false
}
