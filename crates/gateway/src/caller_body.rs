//! The body of a caller's request, for those who take it as a stream of frames: the management API, invokes, and everything
//! that came over HTTP/2.
//!
//! Over HTTP/1.1 the connection's own task reads it, and only as fast as it is asked for ([`Feeder`]).

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use crate::{caller_http2::reply::Reply, gateway::BoxError, h1::framing::content_length};

/// The body of a caller's request.
#[derive(Debug)]
pub struct CallerBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Http2(StreamBody),
    Piped { pipe: Arc<Pipe>, left: Option<u64> },
}

/// A body that comes on a stream of HTTP/2.
#[derive(Debug)]
struct StreamBody {
    stream: RecvStream,
    /// How many bytes are still to come, when that is known.
    left: Option<u64>,
    /// Who waits to be asked for it.
    expects: Option<Reply>,
}

/// The caller went away before its request was complete, or broke its framing.
#[derive(Debug, thiserror::Error)]
#[error("the request body ended early or its framing is broken")]
pub struct BrokenBody;

/// What the connection's task and the reader of a body share.
#[derive(Debug, Default)]
struct Pipe(Mutex<PipeState>);

#[derive(Debug, Default)]
struct PipeState {
    frame: Option<Frame<Bytes>>,
    end: Option<Result<(), BrokenBody>>,
    wanted: bool,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

/// The connection's side of a body. Dropped before the end, it breaks the body.
#[derive(Debug)]
pub(crate) struct Feeder(Arc<Pipe>);

impl CallerBody {
    /// No body.
    pub(crate) const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// What comes on a stream of HTTP/2, behind a head with these fields. That it is as long as they say is seen to by `h2`
    /// (RFC 9113 §8.1.1).
    pub(crate) fn http2(stream: RecvStream, headers: &HeaderMap) -> Self {
        let left = content_length(headers).unwrap_or_default();
        Self(Kind::Http2(StreamBody { stream, left, expects: None }))
    }

    /// Lets the caller be told to go on (RFC 9110 §10.1.1) as soon as its body is waited for.
    pub(crate) fn ask_for(&mut self, reply: Reply) {
        if let Kind::Http2(body) = &mut self.0 {
            body.expects = Some(reply);
        }
    }

    /// A body that is fed, and how long it is when that is known.
    pub(crate) fn piped(length: Option<u64>) -> (Feeder, Self) {
        let pipe = Arc::new(Pipe::default());
        (Feeder(Arc::clone(&pipe)), Self(Kind::Piped { pipe, left: length }))
    }
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, PipeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feeder {
    /// Ready when a frame is waited for.
    pub(crate) fn poll_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.wanted {
            return Poll::Ready(());
        }
        state.feeder = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Hands over what is waited for.
    pub(crate) fn put(&self, frame: Frame<Bytes>) {
        let mut state = self.0.state();
        state.frame = Some(frame);
        state.wanted = false;
        wake(state);
    }

    /// There is nothing more.
    pub(crate) fn finish(self, end: Result<(), BrokenBody>) {
        let mut state = self.0.state();
        state.end.get_or_insert(end);
        wake(state);
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.end.get_or_insert(Err(BrokenBody));
        wake(state);
    }
}

fn wake(mut state: MutexGuard<'_, PipeState>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl StreamBody {
    /// The next frame. Only what is asked for is taken, so that a slow reader slows the caller down.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let data = match self.stream.poll_data(cx) {
            Poll::Ready(data) => data,
            Poll::Pending => {
                if let Some(reply) = self.expects.take() {
                    reply.interim(StatusCode::CONTINUE, HeaderMap::new());
                }
                return Poll::Pending;
            }
        };
        match data {
            Some(Ok(data)) => {
                // It fails only when the stream is over.
                let _ = self.stream.flow_control().release_capacity(data.len());
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                self.expects = None;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => match ready!(self.stream.poll_trailers(cx)) {
                Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
                Err(error) => Poll::Ready(Some(Err(error.into()))),
            },
        }
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (pipe, left) = match &mut self.0 {
            Kind::Empty => return Poll::Ready(None),
            Kind::Http2(body) => return body.poll_frame(cx),
            Kind::Piped { pipe, left } => (pipe, left),
        };
        let mut state = pipe.state();
        if let Some(frame) = state.frame.take() {
            if let (Some(left), Some(data)) = (left, frame.data_ref()) {
                *left = left.saturating_sub(data.len() as u64);
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        match &state.end {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(BrokenBody)) => return Poll::Ready(Some(Err(BrokenBody.into()))),
            None => {}
        }
        state.wanted = true;
        state.reader = Some(cx.waker().clone());
        let feeder = state.feeder.take();
        drop(state);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Http2(body) => body.stream.is_end_stream(),
            Kind::Piped { pipe, .. } => {
                let state = pipe.state();
                state.frame.is_none() && matches!(state.end, Some(Ok(())))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Http2(StreamBody { left, .. }) | Kind::Piped { left, .. } => {
                left.map_or_else(SizeHint::new, SizeHint::with_exact)
            }
        }
    }
}
