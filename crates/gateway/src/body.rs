//! The body of an answer: ours, the control plane's, or a container's on its way to the caller.
//!
//! One that comes piece by piece may have to end while nobody asks for the next piece: its caller does not read, and
//! whoever drives the caller's connection does not look at the body before it does. So from its first pause on such a body
//! has a watcher, which lets go of everything behind it when its terms are over.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;
use towline_model::InstanceId;

use crate::{
    caller::Active,
    error::ExchangeFailure,
    gateway::BoxError,
    h1::{chunked::Piece, framing::BodyReader},
    patience::Patience,
    service::InFlight,
    standing::Standing,
    upstream::Connection,
};

/// An answer that has streamed for so long counts as long-lived when streams are placed.
pub(crate) const LONG_LIVED: Duration = Duration::from_secs(10);

/// The body of an answer.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    active: Option<Active>,
}

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Streamed(Streamed),
}

impl ResponseBody {
    /// Nothing.
    pub(crate) const fn empty() -> Self {
        Self::of(Kind::Full(None))
    }

    /// Bytes that are here.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Kind::Full(Some(bytes.into())))
    }

    /// What a container sends.
    pub(crate) fn container(body: ContainerBody, terms: Terms, tasks: &TaskTracker) -> Self {
        Self::of(Kind::Streamed(Streamed::new(Origin::Container(Box::new(body)), terms, tasks)))
    }

    /// What the control plane sends.
    pub(crate) fn api<B>(body: B, standing: Option<Standing>, tasks: &TaskTracker) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = UnsyncBoxBody::new(http_body_util::BodyExt::map_err(body, Into::into));
        Self::of(Kind::Streamed(Streamed::new(Origin::Api(body), Terms { standing, ..Terms::default() }, tasks)))
    }

    /// Keeps the connection's request open until the body has ended.
    pub(crate) fn with_active(mut self, active: Active) -> Self {
        self.active = Some(active);
        self
    }

    /// Whether it was ended before its end, also when nobody has asked for more of it since.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(&self.kind, Kind::Streamed(streamed) if matches!(*streamed.source.origin(), Origin::Cut(_)))
    }

    const fn of(kind: Kind) -> Self {
        Self { kind, active: None }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Streamed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Streamed(body) => body.source.origin().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Streamed(body) => body.source.origin().size_hint(),
        }
    }
}

/// Why an answer was cut off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// It broke off behind us.
    #[error("{0}")]
    Exchange(ExchangeFailure),
    /// The caller's key, membership or sign-in ended.
    #[error("the caller's key, membership or sign-in ended")]
    Revoked,
}

/// The limits that an answer is under.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// When the service's time for the request is over, and how long that is.
    pub deadline: Option<(Instant, Duration)>,
    /// How long the container may pause.
    pub idle: Option<Duration>,
    /// What the request lives by.
    pub standing: Option<Standing>,
}

impl Terms {
    /// Waits until the answer has to end, and says why.
    pub(crate) async fn over(&self) -> Cut {
        let late = async {
            match self.deadline {
                Some((at, length)) => {
                    sleep_until(at).await;
                    ExchangeFailure::Timeout(length)
                }
                None => std::future::pending().await,
            }
        };
        let lost = async {
            match &self.standing {
                Some(standing) => standing.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = lost => Cut::Revoked,
            failure = late => Cut::Exchange(failure),
        }
    }

    const fn are_limits(&self) -> bool {
        self.deadline.is_some() || self.standing.is_some()
    }
}

/// A body that comes piece by piece.
#[derive(Debug)]
struct Streamed {
    source: Arc<SharedOrigin>,
    /// Until a watcher has them.
    terms: Option<Terms>,
    watcher: Option<AbortHandle>,
    tasks: TaskTracker,
}

/// Where a body comes from; the watcher lets go of it.
#[derive(Debug)]
struct SharedOrigin {
    origin: Mutex<Origin>,
    waker: AtomicWaker,
}

#[derive(Debug)]
enum Origin {
    Container(Box<ContainerBody>),
    Api(UnsyncBoxBody<Bytes, BoxError>),
    /// It broke off; why is there until it is told.
    Cut(Option<Cut>),
    /// Nobody wants it any more.
    Dropped,
}

impl Streamed {
    fn new(origin: Origin, terms: Terms, tasks: &TaskTracker) -> Self {
        let source = SharedOrigin { origin: Mutex::new(origin), waker: AtomicWaker::new() };
        let terms = terms.are_limits().then_some(terms);
        Self { source: Arc::new(source), terms, watcher: None, tasks: tasks.clone() }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.source.waker.register(cx.waker());
        let mut origin = self.source.origin();
        let polled = origin.poll_frame(cx);
        let goes_on = !matches!(polled, Poll::Ready(None | Some(Err(_)))) && !origin.is_end_stream();
        drop(origin);
        if goes_on && let Some(terms) = self.terms.take() {
            let source = Arc::downgrade(&self.source);
            self.watcher = Some(self.tasks.spawn(watch(source, terms)).abort_handle());
        }
        polled
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        // At once, also when the watcher is just looking.
        self.source.replace(Origin::Dropped);
    }
}

/// Ends a body when its terms are over.
async fn watch(source: Weak<SharedOrigin>, terms: Terms) {
    let cut = terms.over().await;
    if let Some(source) = source.upgrade() {
        tracing::debug!(reason = %cut, "an answer is cut off");
        source.replace(Origin::Cut(Some(cut)));
        source.waker.wake();
    }
}

impl SharedOrigin {
    fn origin(&self) -> MutexGuard<'_, Origin> {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of what the body came from.
    fn replace(&self, next: Origin) {
        let mut origin = self.origin();
        if matches!(*origin, Origin::Dropped) || matches!(next, Origin::Cut(_)) && origin.is_end_stream() {
            return;
        }
        let before = std::mem::replace(&mut *origin, next);
        drop(origin);
        drop(before);
    }
}

impl Origin {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Container(body) => match ready!(body.poll_frame(cx)) {
                Some(Err(failure)) => {
                    tracing::debug!(instance = %body.instance(), reason = %failure, "an answer was cut off");
                    *self = Self::Cut(Some(Cut::Exchange(failure)));
                    // A stream of HTTP/2 forgets what it has not written yet when it is reset, so it gets one turn to write what
                    // the container did send: the caller sees as much of a cut answer as there is.
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                frame => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            },
            Self::Api(body) => Pin::new(body).poll_frame(cx),
            Self::Cut(why) => Poll::Ready(why.take().map(|cut| Err(cut.into()))),
            Self::Dropped => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Container(body) => body.is_end_stream(),
            Self::Api(body) => body.is_end_stream(),
            Self::Cut(why) => why.is_none(),
            Self::Dropped => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Container(body) => body.size_hint(),
            Self::Api(body) => body.size_hint(),
            Self::Cut(_) | Self::Dropped => SizeHint::new(),
        }
    }
}

/// A container's answer on its way. It holds everything that the request occupies, and gives it back when it is dropped:
/// a connection whose answer was read to its end goes to the pool, any other is reset.
#[derive(Debug)]
pub(crate) struct ContainerBody {
    connection: Option<Box<Connection>>,
    /// Whether all of the request was sent before the answer came.
    is_sent: bool,
    in_flight: InFlight,
    patience: Patience,
    began: Instant,
    ended: bool,
}

impl ContainerBody {
    pub(crate) fn new(connection: Box<Connection>, is_sent: bool, in_flight: InFlight, terms: &Terms) -> Self {
        Self {
            ended: connection.body.is_over(),
            connection: Some(connection),
            is_sent,
            in_flight,
            patience: Patience::new(terms.idle),
            began: Instant::now(),
        }
    }

    pub(crate) const fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.connection.as_ref().map(|connection| &connection.body) {
            _ if self.ended => SizeHint::with_exact(0),
            Some(BodyReader::Length(left)) => SizeHint::with_exact(*left),
            _ => SizeHint::new(),
        }
    }

    fn instance(&self) -> InstanceId {
        self.in_flight.instance().id
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExchangeFailure>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        match poll_piece(connection, cx) {
            Poll::Ready(Ok(frame)) => {
                self.patience.pause();
                self.ended = connection.body.is_over();
                if self.began.elapsed() >= LONG_LIVED {
                    connection.mark_long_lived();
                }
                Poll::Ready(frame.map(Ok))
            }
            Poll::Ready(Err(failure)) => {
                self.connection = None;
                Poll::Ready(Some(Err(failure)))
            }
            Poll::Pending => {
                let limit = ready!(poll_patience(&mut self.patience, connection, cx));
                self.connection = None;
                Poll::Ready(Some(Err(ExchangeFailure::Paused(limit))))
            }
        }
    }
}

/// Whether a container that is waited for has paused for too long. While its request is still being sent, it is not waited
/// for alone.
fn poll_patience(patience: &mut Patience, connection: &Connection, cx: &mut Context<'_>) -> Poll<Duration> {
    let limit = ready!(patience.poll_waiting(cx, connection.received()));
    if !connection.is_sending() {
        return Poll::Ready(limit);
    }
    patience.pause();
    patience.poll_waiting(cx, connection.received())
}

/// The next piece of an answer's body as a frame; `None` at its end.
fn poll_piece(
    connection: &mut Connection,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, ExchangeFailure>> {
    loop {
        match connection.body.next(&connection.inbox.bytes)? {
            Piece::Data(count) => {
                let data = connection.inbox.bytes.split_to(count).freeze();
                return Poll::Ready(Ok(Some(Frame::data(data))));
            }
            Piece::Framing(count) | Piece::Extension(count) => connection.inbox.bytes.advance(count),
            Piece::Trailers(count) => {
                let trailers = connection.body.take_trailers(&connection.inbox.bytes[..count]);
                connection.inbox.bytes.advance(count);
                return Poll::Ready(Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers.into_map()))));
            }
            Piece::End => return Poll::Ready(Ok(None)),
            Piece::NeedMore => match ready!(connection.poll_fill(cx)) {
                Ok(0) if matches!(connection.body, BodyReader::UntilClose) => {
                    connection.body = BodyReader::Over;
                    return Poll::Ready(Ok(None));
                }
                Ok(0) => return Poll::Ready(Err(ExchangeFailure::Incomplete)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(connection.body_failure(&error))),
            },
        }
    }
}

impl Drop for ContainerBody {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && self.ended
            && connection.rest(self.is_sent)
        {
            self.in_flight.instance().pool.put(connection, Instant::now());
        }
    }
}
