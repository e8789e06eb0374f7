//! `/echo` and everything below it: the request, as it was received.
//!
//! On HTTP/1 the target and the fields are the bytes of the socket: exact case, exact order, repeats, nothing decoded. On HTTP/2 there is no
//! such text: fields are listed by hyper (lower-case; repeats of one name stand together), `:authority` first, and the target is `:path`.

use std::time::Duration;

use http::{Request, StatusCode};
use serde::Serialize;

use crate::body::{ErrorBody, json_ok};
use crate::call::{Call, Reply};
use crate::digest::{BodyDigest, digest};
use crate::heads;

#[derive(Serialize)]
struct Echo {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    #[serde(flatten)]
    body: BodyDigest,
}

/// Any method.
pub async fn echo(call: Call) -> Reply {
    let (method, target, headers) = match &call.head {
        Some(head) => {
            let fields = head.fields.iter();
            let fields = fields.map(|(name, value)| (heads::text(name), heads::text(value)));
            (heads::text(&head.method), heads::text(&head.target), fields.collect())
        }
        // Better no answer than one that looks exact and is not.
        None if call.is_http1() => {
            let message = "the head of this request was not captured";
            return Err(ErrorBody::new(StatusCode::INTERNAL_SERVER_ERROR, message).into());
        }
        None => parsed(&call.request),
    };
    let body = digest(call.request.into_body(), Duration::ZERO).await?;
    Ok(json_ok(&Echo { method, target, headers, body }))
}

fn parsed<B>(request: &Request<B>) -> (String, String, Vec<(String, String)>) {
    let uri = request.uri();
    let authority = uri.authority().map(|authority| (":authority".to_owned(), authority.to_string()));
    let fields = request.headers().iter().map(|(name, value)| (name.to_string(), heads::text(value.as_bytes())));
    let target = uri.path_and_query().map_or_else(|| uri.to_string(), ToString::to_string);
    (request.method().to_string(), target, authority.into_iter().chain(fields).collect())
}
