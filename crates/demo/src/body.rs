//! Response bodies, and the few shapes of response that the handlers use.

use bytes::Bytes;
use futures_util::Stream;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde::Serialize;
use serde_json::json;
use thiserror::Error;

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, Cut>;

/// The answer ends here, and the connection with it. hyper drops the socket when a body or a handler fails with it.
#[derive(Debug, Error)]
#[error("the answer was cut off on purpose")]
pub struct Cut;

/// A body that is there at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is made as it is read.
pub fn streamed(frames: impl Stream<Item = Result<Frame<Bytes>, Cut>> + Send + 'static) -> Body {
    StreamBody::new(frames).boxed_unsync()
}

/// A response of the given type.
pub fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// 200 with JSON.
pub fn json_ok(value: &impl Serialize) -> Response<Body> {
    json_response(StatusCode::OK, value)
}

/// JSON with a status.
pub fn json_response(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("answers have string keys and serialise without fail");
    response(status, "application/json", full(text))
}

/// An error in the shape that OpenAI gave it, which the SDKs print. All endpoints use this one.
#[derive(Debug)]
pub struct ErrorBody {
    /// The status of the answer.
    pub status: StatusCode,
    /// What to change.
    pub message: String,
    /// The field at fault, when there is one.
    pub param: Option<String>,
    /// A stable word, when there is one.
    pub code: Option<&'static str>,
}

impl ErrorBody {
    /// An error that no field and no code belong to.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let error = json!({ "message": self.message, "type": kind, "param": self.param, "code": self.code });
        json_response(self.status, &json!({ "error": error }))
    }
}

/// 405, with the methods that are allowed.
pub fn method_not_allowed(allowed: &[&str]) -> Response<Body> {
    let allowed = allowed.join(", ");
    let message = format!("this endpoint takes {allowed}");
    let mut response = ErrorBody::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response();
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}
