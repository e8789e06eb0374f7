//! Watches one request from its arrival to the end of its answer, to tell an answer that ended from a caller that went away.
//!
//! "Ended" means that hyper took the whole answer, not that the caller has read it: bytes in the operating system's buffers count as sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{Body, Cut};
use crate::state::Demo;

/// Lives as long as the request does. Dropped before [`Exchange::end`], it counts a caller that went away.
pub struct Exchange {
    demo: Arc<Demo>,
    key: String,
    ended: bool,
}

impl Exchange {
    /// A request has arrived. `key` names it in `/disconnects`.
    pub fn begin(demo: &Arc<Demo>, key: String) -> Self {
        demo.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { demo: demo.clone(), key, ended: false }
    }

    /// The answer is complete, or was cut on purpose.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Watches the body of the answer until it ends.
    pub fn watch(mut self, response: Response<Body>, is_head: bool) -> Response<Body> {
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let no_body = is_head || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if no_body || length == Some(0) || response.body().is_end_stream() {
            self.end();
            return response;
        }
        response.map(|body| Watched { body, exchange: self, left: length }.boxed_unsync())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.demo.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.demo.disconnects.add(&self.key);
        }
    }
}

struct Watched {
    body: Body,
    exchange: Exchange,
    /// Bytes still to come, when the answer declared a length: hyper asks for no more than those.
    left: Option<u64>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            None | Some(Err(Cut)) => true,
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                frame.is_trailers() || self.left == Some(0) || self.body.is_end_stream()
            }
        };
        if ended {
            self.exchange.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
