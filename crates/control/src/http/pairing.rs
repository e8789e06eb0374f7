//! Device pairing: a device asks, a user confirms, the device fetches its keys.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use towline_model::{Principal, Secret};

use super::{
    SUCCESS, Success,
    access::Caller,
    extract::JsonBody,
    problem::{ApiError, ApiResult},
};
use crate::app::{
    App,
    pairing::{LIFETIME, POLL_INTERVAL},
};

/// A device that has begun to wait.
#[derive(Serialize, utoipa::ToSchema)]
pub struct StartPairingResponse {
    /// What the device asks with. Nobody else should see it.
    #[schema(example = "dc-Zm9v...")]
    device_code: String,
    /// What the device shows to its user.
    #[schema(example = "BCDF-GHJK")]
    user_code: String,
    /// Where the user types it.
    #[schema(example = "https://towline.example.com/pair")]
    verification_uri: String,
    /// The same place with the code filled in, as a link.
    #[schema(example = "https://towline.example.com/pair?code=BCDF-GHJK")]
    verification_uri_complete: String,
    /// Seconds until the codes are of no use.
    #[schema(example = 300)]
    expires_in: u64,
    /// Seconds between two questions of the device.
    #[schema(example = 2)]
    interval: u64,
}

/// Which device asks.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PollPairingRequest {
    /// The device's code.
    #[schema(value_type = String, example = "dc-Zm9v...")]
    device_code: Secret<String>,
}

/// Whether a device was confirmed.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairingStatus {
    /// Nobody has confirmed it yet: ask again.
    Pending,
    /// It is confirmed; the keys are in this answer and in no other.
    Approved,
}

/// What a device gets to know.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PollPairingResponse {
    /// Whether it was confirmed.
    status: PairingStatus,
    /// The device's key (`dk-`), once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "dk-4fT9aQz1x...")]
    raw_key: Option<String>,
    /// A key for an agent on the device (`ak-`), once. It ends with the device's. Left out when the user is a viewer, who
    /// brings no agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "ak-7hK2mPq8w...")]
    agent_key: Option<String>,
}

/// The device that is let in.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmPairingRequest {
    /// The code that the device shows, in any case, with or without dashes and spaces.
    #[schema(value_type = String, example = "BCDF-GHJK")]
    user_code: Secret<String>,
    /// What the device is called in the list of keys, 1 to 100 characters.
    #[schema(example = "Ada's laptop", min_length = 1, max_length = 100)]
    device_name: Option<String>,
}

/// Begin to pair a device.
///
/// The device shows the code for people and asks with its own every `interval` seconds until somebody has confirmed it.
#[utoipa::path(
    post,
    path = "/api/v1/desktop/pair/start",
    operation_id = "start_pairing",
    tag = "credentials",
    responses(
        (status = 200, description = "The codes.", body = StartPairingResponse),
        (status = 429, description = "`rate_limited`: too many devices wait to be paired at this moment.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn start(State(app): State<App>) -> ApiResult<Json<StartPairingResponse>> {
    let started = app.start_pairing().await?;
    let user_code = started.user_code.expose().clone();
    Ok(Json(StartPairingResponse {
        device_code: started.device_code.expose().clone(),
        verification_uri_complete: format!("{}?code={user_code}", started.verification_uri),
        user_code,
        verification_uri: started.verification_uri,
        expires_in: LIFETIME.as_secs(),
        interval: POLL_INTERVAL.as_secs(),
    }))
}

/// Ask whether a device was confirmed, and fetch its keys.
///
/// The keys are in the first answer after the confirmation; after that the code is unknown.
#[utoipa::path(
    post,
    path = "/api/v1/desktop/pair/poll",
    operation_id = "poll_pairing",
    tag = "credentials",
    request_body = PollPairingRequest,
    responses(
        (status = 200, description = "`pending`, or `approved` with the keys.", body = PollPairingResponse),
        (status = 404, description = "`not_found`: the code is unknown, has expired, or its keys were fetched.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn poll(
    State(app): State<App>,
    JsonBody(request): JsonBody<PollPairingRequest>,
) -> ApiResult<Json<PollPairingResponse>> {
    let answer = match app.poll_pairing(&request.device_code).await? {
        None => PollPairingResponse { status: PairingStatus::Pending, raw_key: None, agent_key: None },
        Some(keys) => PollPairingResponse {
            status: PairingStatus::Approved,
            raw_key: Some(keys.device_key.expose().clone()),
            agent_key: keys.agent_key.map(|key| key.expose().clone()),
        },
    };
    Ok(Json(answer))
}

/// Let a device in.
///
/// The device will act as you in this team. A code works once.
#[utoipa::path(
    post,
    path = "/api/v1/desktop/pair/confirm",
    operation_id = "confirm_pairing",
    tag = "credentials",
    request_body = ConfirmPairingRequest,
    responses(
        (status = 204, description = "Confirmed."),
        (status = 404, description = "`not_found`: the code is unknown, has expired or was used.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`: you have typed too many wrong codes.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn confirm(
    State(app): State<App>,
    Caller(principal): Caller,
    JsonBody(request): JsonBody<ConfirmPairingRequest>,
) -> ApiResult<StatusCode> {
    app.confirm_pairing(&principal, &request.user_code, request.device_name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revoke the device's key that the request is made with.
///
/// The agent's key that was made together with it is revoked, too. Both hold for the very next request.
#[utoipa::path(
    post,
    path = "/api/v1/auth/device/revoke",
    operation_id = "revoke_device",
    tag = "credentials",
    responses((status = 200, description = "Revoked.", body = Success))
)]
pub async fn revoke(State(app): State<App>, Caller(principal): Caller) -> ApiResult<Json<Success>> {
    // The route's access lets nobody else through.
    let Principal::Device { credential_id, team_id, .. } = principal else { return Err(ApiError::internal()) };
    app.revoke_device(team_id, credential_id).await?;
    Ok(SUCCESS)
}
