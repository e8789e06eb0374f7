//! Entity tags (RFC 9110 §8.8.3 and §13): a GET that brings nothing new, and a change that would undo somebody else's.
//!
//! Every JSON answer of a GET has a strong tag, made from its bytes. The tag of a thing that can be changed begins with the
//! version of its row, and `If-Match` looks at that part only: what is merely observed, such as the number of instances
//! that are ready, does not stand in the way of a change.

use std::{convert::Infallible, fmt::Display, str::FromStr};

use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::{FromRequestParts, Request},
    middleware::Next,
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use sha2::{Digest, Sha256};

use super::{extract::PathParam, problem::ApiError};
use crate::app::precondition::{AsRead, Precondition};

/// A longer answer, of which there is none, gets no tag.
const MAX_TAGGED_BYTES: u64 = 4 << 20;
/// So many bytes of the hash tell the answers of one URL apart.
const HASH_BYTES: usize = 16;

/// The version of the thing that an answer shows; a handler makes it a part of its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThingVersion(pub(super) i64);

impl IntoResponseParts for ThingVersion {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}

/// Gives the answer to a GET its tag, and answers 304 when the caller has it already.
pub(super) async fn tag(request: Request, next: Next) -> Response {
    let is_get = request.method() == Method::GET;
    let known = list(request.headers(), &header::IF_NONE_MATCH);
    let response = next.run(request).await;
    if !is_get || response.status() != StatusCode::OK || !is_whole_json(&response) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, usize::MAX).await else { return ApiError::internal().into_response() };
    let tag = entity_tag(parts.extensions.remove(), &bytes);
    // If-None-Match compares weakly (RFC 9110 §13.1.2).
    let is_known = known.iter().any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag);
    parts.headers.insert(header::ETAG, HeaderValue::try_from(tag).expect("digits and quotes are visible ASCII"));
    if !is_known {
        return Response::from_parts(parts, Body::from(bytes));
    }
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    Response::from_parts(parts, Body::empty())
}

fn is_whole_json(response: &Response) -> bool {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    is_json && response.body().size_hint().exact().is_some_and(|length| length <= MAX_TAGGED_BYTES)
}

fn entity_tag(version: Option<ThingVersion>, bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hash: String = digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    match version {
        Some(ThingVersion(version)) => format!("\"{version}-{hash}\""),
        None => format!("\"{hash}\""),
    }
}

/// The version that a tag of ours begins with. `None` for weak ones, and for those that we did not make.
fn version_of(tag: &str) -> Option<i64> {
    let (version, hash) = tag.strip_prefix('"')?.strip_suffix('"')?.split_once('-')?;
    let is_ours = hash.len() == 2 * HASH_BYTES && version.bytes().all(|byte| byte.is_ascii_digit());
    if is_ours { version.parse().ok() } else { None }
}

/// The members of a list of tags, all lines of the header together. Tags of ours hold no comma, so others may be torn.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let members = values.flat_map(|value| value.split(',')).map(|member| member.trim().to_owned());
    members.filter(|member| !member.is_empty()).collect()
}

/// For handlers that change one thing: what the caller takes for granted.
impl<S: Sync> FromRequestParts<S> for Precondition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if !parts.headers.contains_key(header::IF_MATCH) {
            return Ok(Self::None);
        }
        let tags = list(&parts.headers, &header::IF_MATCH);
        if tags.iter().any(|tag| tag == "*") {
            return Ok(Self::Exists);
        }
        let is_tag = |tag: &String| tag.strip_prefix("W/").unwrap_or(tag).starts_with('"');
        if tags.is_empty() || !tags.iter().all(is_tag) {
            let advice = "it must be the ETag of an earlier answer, with its quotes, or *";
            return Err(ApiError::invalid_parameter("If-Match", advice));
        }
        Ok(Self::Versions(tags.iter().filter_map(|tag| version_of(tag)).collect()))
    }
}

impl<T, S> FromRequestParts<S> for AsRead<T>
where
    T: FromStr + Send,
    T::Err: Display,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathParam(id) = PathParam::from_request_parts(parts, state).await?;
        Ok(Self { id, precondition: Precondition::from_request_parts(parts, state).await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_tells_its_version_and_others_tell_none() {
        let tag = entity_tag(Some(ThingVersion(7)), b"{}");
        assert_eq!(version_of(&tag), Some(7));
        assert_ne!(tag, entity_tag(Some(ThingVersion(7)), b"{ }"));
        for other in [&entity_tag(None, b"{}"), &format!("W/{tag}"), "\"7\"", "\"7-abc\"", "7", "", "\"", "\"\""] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_list_may_have_several_lines() {
        let mut headers = HeaderMap::new();
        headers.append(header::IF_MATCH, HeaderValue::from_static("\"1-a\" , \"2-b\""));
        headers.append(header::IF_MATCH, HeaderValue::from_static(",\"3-c\""));
        assert_eq!(list(&headers, &header::IF_MATCH), ["\"1-a\"", "\"2-b\"", "\"3-c\""]);
    }
}
