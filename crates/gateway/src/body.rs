//! The body of an answer: ours, the control plane's, or a container's on its way to the caller.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    caller::Active,
    error::ExchangeFailure,
    gateway::BoxError,
    h1::{chunked::Piece, framing::BodyReader},
    service::InFlight,
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
            Kind::Container(body) => body.poll_frame(cx).map_err(Into::into),
            Kind::Api(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Container(body) => body.is_end_stream(),
            Kind::Api(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Container(body) => body.size_hint(),
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
    connection: Option<Connection>,
    /// Whether all of the request was sent before the answer came.
    is_sent: bool,
    in_flight: InFlight,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    revoked: Option<CancellationToken>,
    revocation: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
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
    pub(crate) fn new(connection: Connection, is_sent: bool, in_flight: InFlight, terms: Terms) -> Self {
        Self {
            ended: connection.body.is_over(),
            connection: Some(connection),
            is_sent,
            in_flight,
            deadline: terms.deadline.map(|(at, length)| (Box::pin(tokio::time::sleep_until(at)), length)),
            revoked: terms.revoked,
            revocation: None,
            pending_cut: None,
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
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        match poll_piece(connection, cx) {
            Poll::Ready(Ok(frame)) => {
                self.ended = connection.body.is_over();
                if self.began.elapsed() >= LONG_LIVED {
                    connection.mark_long_lived();
                }
                Poll::Ready(frame.map(Ok))
            }
            Poll::Ready(Err(failure)) => self.cut(Cut::Exchange(failure), cx),
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

    /// Breaks the answer off. hyper forgets what it has not written yet as soon as it is told, so it gets one turn to
    /// write what the container did send: the caller sees as much of a cut answer as there is.
    fn cut(&mut self, cut: Cut, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        tracing::debug!(instance = %self.in_flight.instance().id, reason = %cut, "an answer was cut off");
        self.connection = None;
        self.pending_cut = Some(cut);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
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
                let (trailers, _) = connection.body.take_trailers(&connection.inbox.bytes[..count])?;
                connection.inbox.bytes.advance(count);
                return Poll::Ready(Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers))));
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
