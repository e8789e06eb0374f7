//! The body of a request on its way to a container.
//!
//! It is passed on frame by frame as it comes. Its first 64 KiB are remembered until the container answers, so that a
//! request whose stream was refused can be sent again elsewhere. With `Expect: 100-continue` the caller is only asked
//! for it once the container has asked for it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

/// Bytes of a body that are remembered.
const REPLAY_LIMIT: usize = 64 << 10;
/// How long a container may take to say `100 Continue` before the body is sent all the same (RFC 9110 §10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// The body of one attempt to send a request.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// All of it is here.
    Full(Option<Bytes>),
    /// It comes from the caller.
    Relayed(RelayedBody),
}

/// A caller's body, as seen by one attempt.
#[derive(Debug)]
pub(crate) struct RelayedBody {
    source: Arc<Source>,
    /// Remembered frames that this attempt has sent already.
    sent: usize,
    trailers_sent: bool,
    wait: Option<Pin<Box<Sleep>>>,
}

/// The caller's side of a body, shared by the attempts to send it.
#[derive(Debug)]
pub(crate) struct Source(Mutex<SourceState>);

#[derive(Debug)]
struct SourceState {
    incoming: Incoming,
    remembered: Vec<Bytes>,
    remembered_bytes: usize,
    trailers: Option<HeaderMap>,
    /// Whether everything that was read is still remembered.
    replayable: bool,
    progress: Progress,
    gate: Gate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Going,
    Ended,
    /// The caller went away or broke the framing.
    Failed,
}

/// Whether the caller may be asked for its body.
#[derive(Debug)]
enum Gate {
    Open,
    /// Not before the container says so.
    Closed(Option<Waker>),
}

/// The body of a request, from which the bodies of attempts are made.
#[derive(Debug, Clone)]
pub(crate) enum BodySource {
    Empty,
    Full(Bytes),
    Relayed(Arc<Source>),
}

impl BodySource {
    /// The body that comes with a caller's request. `expects_continue`: it waits to be asked for.
    pub(crate) fn of(incoming: Incoming, expects_continue: bool) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Relayed(Arc::new(Source(Mutex::new(SourceState {
            incoming,
            remembered: Vec::new(),
            remembered_bytes: 0,
            trailers: None,
            replayable: true,
            progress: Progress::Going,
            gate: if expects_continue { Gate::Closed(None) } else { Gate::Open },
        }))))
    }

    /// A body for one attempt. Only one attempt may be under way at a time.
    pub(crate) fn attempt(&self) -> RequestBody {
        match self {
            Self::Empty => RequestBody::Empty,
            Self::Full(bytes) => RequestBody::Full(Some(bytes.clone())),
            Self::Relayed(source) => {
                let wait = source.state().gate.is_closed().then(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
                RequestBody::Relayed(RelayedBody { source: Arc::clone(source), sent: 0, trailers_sent: false, wait })
            }
        }
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) fn can_replay(&self) -> bool {
        match self {
            Self::Empty | Self::Full(_) => true,
            Self::Relayed(source) => {
                let state = source.state();
                state.replayable && state.progress != Progress::Failed
            }
        }
    }

    /// Whether all of it has been read from the caller.
    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::Empty | Self::Full(_) => true,
            Self::Relayed(source) => source.state().progress == Progress::Ended,
        }
    }

    /// Whether the caller broke it off.
    pub(crate) fn has_failed(&self) -> bool {
        match self {
            Self::Empty | Self::Full(_) => false,
            Self::Relayed(source) => source.state().progress == Progress::Failed,
        }
    }

    /// There will be no other attempt: nothing needs to be remembered any more.
    pub(crate) fn forget(&self) {
        if let Self::Relayed(source) = self {
            let mut state = source.state();
            state.replayable = false;
            state.remembered = Vec::new();
        }
    }
}

impl Source {
    /// The container wants the body.
    pub(crate) fn open_gate(&self) {
        let mut state = self.state();
        if let Gate::Closed(waker) = std::mem::replace(&mut state.gate, Gate::Open) {
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, SourceState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl SourceState {
    fn remember(&mut self, data: &Bytes, sent: &mut usize) {
        if !self.replayable {
            return;
        }
        self.remembered_bytes += data.len();
        if self.remembered_bytes > REPLAY_LIMIT {
            self.replayable = false;
            self.remembered = Vec::new();
        } else {
            self.remembered.push(data.clone());
            *sent += 1;
        }
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
        sent: &mut usize,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.progress = Progress::Failed;
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                self.progress = Progress::Ended;
                return Poll::Ready(None);
            }
        };
        if let Some(data) = frame.data_ref() {
            self.remember(data, sent);
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.progress = Progress::Ended;
        }
        if self.incoming.is_end_stream() {
            self.progress = Progress::Ended;
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl RelayedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let source = Arc::clone(&self.source);
        let mut state = source.state();
        if let Gate::Closed(waker) = &mut state.gate {
            match self.wait.as_mut().map(|sleep| sleep.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => state.gate = Gate::Open,
                _ => {
                    *waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        self.wait = None;
        if let Some(data) = state.remembered.get(self.sent) {
            self.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if state.progress == Progress::Ended {
            let trailers = if self.trailers_sent { None } else { state.trailers.clone() };
            self.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(state.poll_incoming(cx, &mut self.sent));
        self.trailers_sent = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        Poll::Ready(frame)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b)))),
            Self::Relayed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            // How long it is stands in the request's own Content-Length or Transfer-Encoding.
            Self::Relayed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Relayed(_) => SizeHint::new(),
        }
    }
}
