//! `Idempotency-Key`: a POST that may be sent again, and is carried out once.
//!
//! It works for every POST whose caller is known, whatever the handler. An answer is kept only when it holds nothing but an
//! id or a success, so that a key or a token that is shown once is stored nowhere: such a request, sent again, is refused
//! with the id of what it made. A request that failed has done nothing and gives its key back.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};
use towline_model::{ErrorCode, Principal, UserId};
use towline_store::IdempotencyRow;

use super::{
    extract::read_body,
    problem::{ApiError, ApiResult},
};
use crate::app::{App, idempotency::Claim};

/// The header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;
/// More than any answer of a POST has, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Whose key it is: a credential's, or a user's in a team.
pub(super) fn scope_of(principal: &Principal) -> String {
    match principal {
        Principal::User { user_id, team_id, .. } => format!("{user_id}/{team_id}"),
        Principal::Device { credential_id, .. } | Principal::Integration { credential_id, .. } => {
            credential_id.to_string()
        }
    }
}

/// Whose key it is when the request is about no team.
pub(super) fn scope_of_user(user_id: UserId) -> String {
    user_id.to_string()
}

/// Runs a request, or answers it as it was answered before.
pub(super) async fn once(app: App, scope: String, request: Request, next: Next) -> Response {
    match key_of(request.headers()) {
        Ok(None) => next.run(request).await,
        Ok(Some(key)) => claimed(app, scope, key, request, next).await.unwrap_or_else(IntoResponse::into_response),
        Err(error) => error.into_response(),
    }
}

async fn claimed(app: App, scope: String, key: String, request: Request, next: Next) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let body = read_body(body, app.body_limit()).await?;
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let fingerprint = fingerprint(&[parts.method.as_str().as_bytes(), target.as_bytes(), &body]);
    let mut row = match app.claim_idempotency_key(scope, key, fingerprint).await? {
        Claim::Earlier(earlier) => return repeat(&earlier, fingerprint),
        Claim::TooMany => {
            let advice = "there were too many requests with an Idempotency-Key within 24 hours; send this one without";
            return Err(ApiError::new(ErrorCode::RateLimited, advice));
        }
        Claim::First(row) => row,
    };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if !response.status().is_success() {
        app.release_idempotency_key(&row).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_ANSWER_BYTES).await.map_err(|_| ApiError::internal())?;
    (row.body, row.made_id) = kept(&body);
    row.status = Some(i32::from(parts.status.as_u16()));
    if let Err(error) = app.answer_idempotency_key(&row).await {
        // It is done, and its caller is told so; repeats are told that it is not known how it ended.
        tracing::error!(error = &error as &dyn std::error::Error, "the answer under an idempotency key was not kept");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// The key of a request. It may be written as RFC 8941's string, in quotes, which then are a part of it.
fn key_of(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let fits = (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits || values.next().is_some() {
        let advice = "it must be sent once, and have 1 to 255 visible ASCII characters, such as a UUID";
        return Err(ApiError::invalid_parameter("Idempotency-Key", advice));
    }
    Ok(Some(text.to_owned()))
}

/// Each part with its length, so that no two requests come to the same bytes.
fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// What may be kept of an answer: all of it when it holds nothing but an id or a success; else its id.
fn kept(body: &Bytes) -> (Option<String>, Option<String>) {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let id = value["id"].as_str().map(str::to_owned);
    let is_plain = match value.as_object() {
        Some(fields) => fields.keys().all(|name| matches!(name.as_str(), "id" | "is_success")),
        None => body.is_empty(),
    };
    let text = std::str::from_utf8(body).ok().filter(|_| is_plain).map(str::to_owned);
    (text, id)
}

fn repeat(earlier: &IdempotencyRow, fingerprint: [u8; 32]) -> ApiResult<Response> {
    if earlier.fingerprint != fingerprint {
        let advice = "this Idempotency-Key was used for another request; use a new one for each request";
        return Err(ApiError::new(ErrorCode::IdempotencyKeyReused, advice));
    }
    let status = earlier.status.and_then(|status| u16::try_from(status).ok());
    let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
        let advice = "a request with this Idempotency-Key is under way, or was cut off within the last two minutes; send \
                      it again in a second. After two minutes it is carried out: look before whether it was already";
        let error = ApiError::new(ErrorCode::IdempotencyKeyInUse, advice);
        return Err(error.with_header(header::RETRY_AFTER, HeaderValue::from_static("1")));
    };
    let Some(body) = &earlier.body else {
        let made = earlier.made_id.as_ref().map_or_else(String::new, |id| format!(" and made {id}"));
        let advice = format!(
            "the request with this Idempotency-Key was carried out{made}; its answer held what is shown only once. If it \
             was lost, remove what was made, and make another one with a new key"
        );
        return Err(ApiError::new(ErrorCode::IdempotencyKeyUsed, advice));
    };
    let mut response = (status, body.clone()).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}
