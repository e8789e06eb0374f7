//! The body of an answer: ours, the control plane's, or a container's on its way to the caller.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{caller::Active, error::ExchangeFailure, gateway::BoxError, service::InFlight, upstream::Connection};

/// An answer that has streamed for so long counts as long-lived when streams are placed.
const LONG_LIVED: Duration = Duration::from_secs(10);

/// The body of an answer.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    active: Option<Active>,
}

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    /// There is no body, but the head tells how long it would be (RFC 9110 §8.6: a `304`).
    Told(u64),
    Container(Box<ContainerBody>),
    Api(UnsyncBoxBody<Bytes, BoxError>),
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

    /// Nothing, of a length that the head tells.
    pub(crate) const fn told(length: u64) -> Self {
        Self::of(Kind::Told(length))
    }

    /// What a container sends.
    pub(crate) fn container(body: ContainerBody) -> Self {
        Self::of(Kind::Container(Box::new(body)))
    }

    /// What the control plane sends.
    pub(crate) fn api<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::of(Kind::Api(UnsyncBoxBody::new(http_body_util::BodyExt::map_err(body, Into::into))))
    }

    /// Keeps the connection's request open until the body has ended.
    pub(crate) fn with_active(mut self, active: Active) -> Self {
        self.active = Some(active);
        self
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
            Kind::Told(_) => Poll::Ready(None),
            Kind::Container(body) => body.poll_frame(cx).map_err(Into::into),
            Kind::Api(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Told(_) => false,
            Kind::Container(body) => body.is_end_stream(),
            Kind::Api(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Told(length) => SizeHint::with_exact(*length),
            Kind::Container(body) => body.incoming.size_hint(),
            Kind::Api(body) => body.size_hint(),
        }
    }
}

/// Why a container's answer was cut off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// It broke off behind us.
    #[error("{0}")]
    Exchange(ExchangeFailure),
    /// The caller's key was revoked.
    #[error("the caller's key was revoked")]
    Revoked,
}

/// A container's answer on its way. It holds everything that the request occupies, and gives it back when it is dropped:
/// a connection whose answer was read to its end goes to the pool, any other is reset.
#[derive(Debug)]
pub(crate) struct ContainerBody {
    incoming: Incoming,
    connection: Option<Connection>,
    in_flight: InFlight,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    revoked: Option<CancellationToken>,
    revocation: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// A caller's connection on which only a reset shows that the answer was cut.
    reset_on_cut: Option<Arc<crate::caller::Caller>>,
    /// Why it breaks off, from the moment that this is known until it is told.
    pending_cut: Option<Cut>,
    began: Instant,
    ended: bool,
}

/// The limits that an answer is under.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    /// When the service's time for the request is over, and how long that is.
    pub deadline: Option<(Instant, Duration)>,
    /// Cancelled when the caller's key is revoked.
    pub revoked: Option<CancellationToken>,
}

impl ContainerBody {
    pub(crate) fn new(incoming: Incoming, connection: Connection, in_flight: InFlight, terms: Terms) -> Self {
        Self {
            incoming,
            connection: Some(connection),
            in_flight,
            deadline: terms.deadline.map(|(at, length)| (Box::pin(tokio::time::sleep_until(at)), length)),
            revoked: terms.revoked,
            revocation: None,
            reset_on_cut: None,
            pending_cut: None,
            began: Instant::now(),
            ended: false,
        }
    }

    /// When this answer is cut, the caller's connection is reset.
    pub(crate) fn reset_on_cut(&mut self, active: &Active) {
        self.reset_on_cut = Some(Arc::clone(active.caller()));
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(cut) = self.pending_cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if let Some((sleep, length)) = &mut self.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            let cut = Cut::Exchange(ExchangeFailure::Timeout(*length));
            return self.cut(cut, cx);
        }
        if let Some(connection) = &mut self.connection {
            let _ = connection.drive(cx);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.note_frame(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let failure = self.connection.as_ref().map_or(ExchangeFailure::Incomplete, |c| c.body_failure(&error));
                self.cut(Cut::Exchange(failure), cx)
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_revocation(cx),
        }
    }

    /// Only an answer that makes its caller wait is worth watching for the end of its caller's key.
    fn poll_revocation(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(token) = self.revoked.take() {
            self.revocation = Some(Box::pin(token.cancelled_owned()));
        }
        let revoked = self.revocation.as_mut().is_some_and(|revocation| revocation.as_mut().poll(cx).is_ready());
        if revoked { self.cut(Cut::Revoked, cx) } else { Poll::Pending }
    }

    fn note_frame(&mut self, frame: &Frame<Bytes>) {
        if frame.is_trailers() {
            self.ended = true;
        }
        if self.began.elapsed() >= LONG_LIVED
            && let Some(connection) = &mut self.connection
        {
            connection.mark_long_lived();
        }
    }

    /// Breaks the answer off. hyper forgets what it has not written yet as soon as it is told, so it gets one turn to
    /// write what the container did send: the caller sees as much of a cut answer as there is.
    fn cut(&mut self, cut: Cut, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        tracing::debug!(instance = %self.in_flight.instance().id, reason = %cut, "an answer was cut off");
        self.connection = None;
        if let Some(caller) = &self.reset_on_cut {
            caller.abort_on_close();
        }
        self.pending_cut = Some(cut);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for ContainerBody {
    fn drop(&mut self) {
        let complete = self.ended || self.incoming.is_end_stream();
        if let Some(mut connection) = self.connection.take()
            && complete
            && connection.rest()
        {
            self.in_flight.instance().pool.put(connection, Instant::now());
        }
    }
}
