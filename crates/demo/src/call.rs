//! One request on its way through a handler, and the ways in which a handler ends.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::body::{Body, ErrorBody};
use crate::heads::RawHead;
use crate::query::Query;
use crate::state::Demo;
use crate::tap::{Conn, ConnGone};

/// What a handler gets.
pub struct Call {
    /// The server.
    pub demo: Arc<Demo>,
    /// The connection, as far as handlers may touch it.
    pub conn: Conn,
    /// The head as it came in. `None` on HTTP/2, which has no such thing.
    pub head: Option<RawHead>,
    /// The decoded query string.
    pub query: Query,
    /// The rest of the path, for endpoints that take one.
    pub rest: String,
    /// The request as hyper understood it.
    pub request: Request<Incoming>,
}

/// How a handler ends.
pub type Reply = Result<Response<Body>, Stop>;

/// How a handler ends without an answer of its own.
#[derive(Debug)]
pub enum Stop {
    /// With an error that tells the caller what to change.
    Refused(Box<ErrorBody>),
    /// By closing the connection, as was asked for.
    Cut,
    /// The caller went away or broke its own request.
    CallerGone,
}

impl Stop {
    /// A 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        ErrorBody::new(StatusCode::BAD_REQUEST, message).into()
    }
}

impl From<ErrorBody> for Stop {
    fn from(error: ErrorBody) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<ConnGone> for Stop {
    fn from(_: ConnGone) -> Self {
        Self::CallerGone
    }
}

impl Call {
    /// Whether the connection has one request at a time, so that [`Conn`] may write on it.
    pub fn is_http1(&self) -> bool {
        self.request.version() <= Version::HTTP_11
    }

    /// The whole body, for the endpoints that need it at once.
    ///
    /// # Errors
    /// A 413 when it is longer than `limit` bytes; [`Stop::CallerGone`] when it does not arrive.
    pub async fn collect(self, limit: usize) -> Result<Bytes, Stop> {
        match Limited::new(self.request.into_body(), limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                let message = format!("the body is longer than {limit} bytes");
                Err(ErrorBody::new(StatusCode::PAYLOAD_TOO_LARGE, message).into())
            }
            Err(_) => Err(Stop::CallerGone),
        }
    }
}
