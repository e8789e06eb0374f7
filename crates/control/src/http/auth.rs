//! Signing in and out.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use towline_model::{Secret, validate::Checks};

use super::{
    SUCCESS, Success,
    extract::JsonBody,
    problem::{ApiError, ApiResult},
};
use crate::app::{
    App,
    sign_in::{ACCESS_LIFETIME, Tokens},
};

/// Longer texts are refused before they are hashed.
const MAX_CREDENTIAL_BYTES: usize = 1024;

/// Who signs in.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The user's e-mail address, in any case.
    #[schema(example = "owner@towline.local", max_length = 1024)]
    email_address: String,
    /// The user's password.
    #[schema(value_type = String, format = Password, example = "correct horse battery staple", max_length = 1024)]
    user_password: Secret<String>,
}

/// A refresh token.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// The refresh token of the last answer.
    #[schema(value_type = String, example = "Zm9v...")]
    refresh_token: Secret<String>,
}

/// A pair of tokens.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TokenResponse {
    /// Opens the API as `Authorization: Bearer <access_token>` for `expires_in` seconds.
    #[schema(example = "eyJ0eXAi...")]
    access_token: String,
    /// Gets the next pair, once, within 30 days.
    #[schema(example = "Zm9v...")]
    refresh_token: String,
    /// Seconds until the access token ends.
    #[schema(example = 900)]
    expires_in: u64,
}

impl From<Tokens> for TokenResponse {
    fn from(tokens: Tokens) -> Self {
        Self {
            access_token: tokens.access_token.expose().clone(),
            refresh_token: tokens.refresh_token.expose().clone(),
            expires_in: ACCESS_LIFETIME.as_secs(),
        }
    }
}

/// Sign in.
///
/// Exchanges an e-mail address and a password for an access token and a refresh token.
#[utoipa::path(
    post,
    path = "/api/v1/auth/login",
    operation_id = "login",
    tag = "people",
    request_body = LoginRequest,
    responses(
        (status = 200, description = "Signed in.", body = TokenResponse),
        (status = 401, description = "`invalid_login`: the e-mail address or the password is wrong.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`: too many people are signing in at this moment.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn login(
    State(app): State<App>,
    JsonBody(request): JsonBody<LoginRequest>,
) -> ApiResult<Json<TokenResponse>> {
    let mut checks = Checks::default();
    let fits = |text: &str| text.len() <= MAX_CREDENTIAL_BYTES;
    checks.require(fits(&request.email_address), "email_address", "must have at most 1024 bytes");
    checks.require(fits(request.user_password.expose()), "user_password", "must have at most 1024 bytes");
    checks.finish().map_err(ApiError::from)?;
    let tokens = app.sign_in(&request.email_address, request.user_password).await?;
    Ok(Json(tokens.into()))
}

/// Get new tokens.
///
/// Exchanges a refresh token for the next pair. Each refresh token works once; when one comes back that was used before,
/// the whole sign-in is ended.
#[utoipa::path(
    post,
    path = "/api/v1/auth/refresh",
    operation_id = "refresh",
    tag = "people",
    request_body = RefreshRequest,
    responses(
        (status = 200, description = "The next pair.", body = TokenResponse),
        (status = 401, description = "`unauthenticated`: the refresh token is unknown, expired, or was used before.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn refresh(
    State(app): State<App>,
    JsonBody(request): JsonBody<RefreshRequest>,
) -> ApiResult<Json<TokenResponse>> {
    Ok(Json(app.refresh(&request.refresh_token).await?.into()))
}

/// Sign out.
///
/// Ends the sign-in that the refresh token belongs to. Its access tokens work no more, and what they have in flight is cut off.
#[utoipa::path(
    post,
    path = "/api/v1/auth/logout",
    operation_id = "logout",
    tag = "people",
    request_body = RefreshRequest,
    responses((status = 200, description = "Signed out, now or before.", body = Success))
)]
pub async fn logout(State(app): State<App>, JsonBody(request): JsonBody<RefreshRequest>) -> ApiResult<Json<Success>> {
    app.sign_out(&request.refresh_token).await?;
    Ok(SUCCESS)
}
