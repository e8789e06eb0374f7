//! Signing in with OpenID Connect: two addresses that a browser visits, before and after the identity provider.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use towline_model::ErrorCode;

use super::{
    auth::TokenResponse,
    extract::QueryParams,
    pair_page,
    problem::{ApiError, ApiResult},
};
use crate::{app::App, oidc::Attempt};

/// The cookie that keeps a sign-in that has begun.
const COOKIE: &str = "towline_oidc";
/// How long a person may take at the provider.
const MAX_AGE_SECONDS: u32 = 600;

/// What the cookie keeps.
#[derive(Serialize, Deserialize)]
struct Kept {
    attempt: Attempt,
    /// Whether the page that devices are paired on has begun it, and is the answer.
    pair: bool,
}

/// Begin to sign in with OpenID Connect.
///
/// For browsers: leads to the identity provider, which leads back to the callback.
#[utoipa::path(
    get,
    path = "/api/v1/auth/oidc/start",
    operation_id = "start_oidc",
    tag = "people",
    params(("pair" = inline(Option<bool>), Query, description = "Lead back to the page that devices are paired on.")),
    responses(
        (status = 303, description = "To the identity provider, with a cookie for the return."),
        (status = 404, description = "`not_found`: this server has no sign-in with OpenID Connect.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 502, description = "`identity_provider_failed`: the identity provider cannot be used.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn start(State(app): State<App>, query: QueryParams) -> ApiResult<Response> {
    let pair = query.switch("pair")?;
    let (uri, attempt) = app.begin_oidc().await?;
    let location = HeaderValue::from_str(&uri.to_string()).map_err(|_| ApiError::internal())?;
    let text = serde_json::to_vec(&Kept { attempt, pair }).map_err(|_| ApiError::internal())?;
    let cookie = cookie(&BASE64_URL_SAFE_NO_PAD.encode(text), MAX_AGE_SECONDS, &app)?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, location), (header::SET_COOKIE, cookie)]).into_response())
}

/// Finish to sign in with OpenID Connect.
///
/// The identity provider leads browsers here. The answer is the same as that of a sign-in with a password; if it was begun
/// with `pair`, it is the page that devices are paired on.
#[utoipa::path(
    get,
    path = "/api/v1/auth/oidc/callback",
    operation_id = "finish_oidc",
    tag = "people",
    params(
        ("code" = inline(Option<String>), Query, description = "What the provider has given."),
        ("state" = inline(Option<String>), Query, description = "What we have given the provider."),
        ("error" = inline(Option<String>), Query, description = "Why the provider has not let the person in."),
    ),
    responses(
        (status = 200, description = "Signed in.", body = TokenResponse),
        (status = 401, description = "`unauthenticated`: the provider did not confirm the sign-in.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: the person is not invited, the address not verified, or the provider refused.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`: this server has no sign-in with OpenID Connect.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 409, description = "`concurrent_change`: the same person has signed in for the first time twice at once.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 502, description = "`identity_provider_failed`: the identity provider cannot be used.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn callback(State(app): State<App>, headers: HeaderMap, query: QueryParams) -> ApiResult<Response> {
    let text = |name| query.text(name).unwrap_or_default();
    if !app.has_oidc() {
        return Err(crate::app::oidc::OidcSignInError::NotConfigured.into());
    }
    let again = "this is not the end of a sign-in that this browser began within the last ten minutes; \
                 begin at /api/v1/auth/oidc/start";
    let kept = kept(&headers).filter(|kept| kept.attempt.began(text("state")));
    let Kept { attempt, pair } = kept.ok_or_else(|| ApiError::invalid_parameter("state", again))?;
    if let Some(error) = query.text("error") {
        let error: String = error.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
        let message = format!("the identity provider did not let you in ({error})");
        return Err(ApiError::new(ErrorCode::Forbidden, message));
    }
    let code = query.text("code").ok_or_else(|| ApiError::invalid_parameter("code", "it is missing"))?;
    let tokens = app.finish_oidc(attempt, code.to_owned()).await?;
    let spent = cookie("", 0, &app)?;
    let answer =
        if pair { pair_page::page(&app, Some(&tokens)) } else { Json(TokenResponse::from(tokens)).into_response() };
    Ok(([(header::SET_COOKIE, spent)], answer).into_response())
}

fn cookie(value: &str, max_age: u32, app: &App) -> ApiResult<HeaderValue> {
    let secure = if app.is_https() { "; Secure" } else { "" };
    let text = format!("{COOKIE}={value}; Path=/api/v1/auth/oidc; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).map_err(|_| ApiError::internal())
}

/// The sign-in that the browser has begun.
fn kept(headers: &HeaderMap) -> Option<Kept> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == COOKIE)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(value).ok()?).ok()
}
