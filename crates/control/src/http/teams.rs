//! Teams.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use towline_model::{ErrorCode, Principal, Role, TeamId, Timestamp, UserId};

use super::{
    SUCCESS, Success,
    access::{Caller, SignedIn},
    conditional::ThingVersion,
    extract::JsonBody,
    page::{PageMeta, PageParams, PageQuery},
    problem::{ApiError, ApiResult},
};
use crate::app::{App, precondition::Precondition};

/// A team's name.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamRequest {
    /// The name for people, 1 to 100 characters.
    #[schema(example = "Analytical Engines", min_length = 1, max_length = 100)]
    team_name: String,
}

/// Which team was made or changed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TeamReference {
    /// The team's id, for `X-Team-ID`.
    id: TeamId,
}

/// A team that the user is in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TeamItem {
    /// The team's id, for `X-Team-ID`.
    id: TeamId,
    /// The team's name.
    #[schema(example = "Analytical Engines")]
    team_name: String,
    /// What the user is in the team.
    role: Role,
    /// When it was created.
    created_at: Timestamp,
}

/// A page of teams.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TeamList {
    /// The teams.
    team_list: Vec<TeamItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

/// The team of the request.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TeamResponse {
    /// The team's id.
    id: TeamId,
    /// The team's name.
    #[schema(example = "Analytical Engines")]
    team_name: String,
    /// What the user who asks is in the team.
    role: Role,
    /// How many members the team has.
    #[schema(example = 3)]
    member_count: u64,
    /// When it was created.
    created_at: Timestamp,
}

/// Who becomes the owner.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// The id of another member.
    user_id: UserId,
}

/// Make a team.
///
/// Whoever makes it owns it.
#[utoipa::path(
    post,
    path = "/api/v1/teams",
    operation_id = "create_team",
    tag = "people",
    request_body = TeamRequest,
    responses((status = 201, description = "The new team.", body = TeamReference))
)]
pub async fn create(
    State(app): State<App>,
    SignedIn(user_id): SignedIn,
    JsonBody(request): JsonBody<TeamRequest>,
) -> ApiResult<(StatusCode, Json<TeamReference>)> {
    let id = app.create_team(user_id, &request.team_name).await?;
    Ok((StatusCode::CREATED, Json(TeamReference { id })))
}

/// List the teams that the signed-in user is in, the oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/teams",
    operation_id = "list_teams",
    tag = "people",
    params(PageQuery),
    responses((status = 200, description = "A page of teams.", body = TeamList))
)]
pub async fn list(
    State(app): State<App>,
    SignedIn(user_id): SignedIn,
    PageParams(page): PageParams,
) -> ApiResult<Json<TeamList>> {
    let rows = app.list_teams(user_id, page).await?;
    let item = |(team, role): (towline_store::TeamRow, Role)| TeamItem {
        id: team.id,
        team_name: team.name,
        role,
        created_at: team.created_at,
    };
    Ok(Json(TeamList { page_meta: PageMeta::new(page, &rows), team_list: rows.items.into_iter().map(item).collect() }))
}

/// Show the team.
#[utoipa::path(
    get,
    path = "/api/v1/teams/current",
    operation_id = "get_team",
    tag = "people",
    responses((status = 200, description = "The team.", body = TeamResponse))
)]
pub async fn show(State(app): State<App>, Caller(principal): Caller) -> ApiResult<(ThingVersion, Json<TeamResponse>)> {
    let (Principal::User { role, .. } | Principal::Device { role, .. }) = principal else {
        return Err(ApiError::new(ErrorCode::Forbidden, "a key has no role in a team; sign in"));
    };
    let details = app.team(principal.team_id()).await?;
    let version = ThingVersion(details.version());
    let team = TeamResponse {
        id: details.team.id,
        team_name: details.team.name,
        role,
        member_count: details.member_count,
        created_at: details.team.created_at,
    };
    Ok((version, Json(team)))
}

/// Rename the team.
#[utoipa::path(
    put,
    path = "/api/v1/teams/current",
    operation_id = "update_team",
    tag = "people",
    request_body = TeamRequest,
    responses((status = 200, description = "Renamed.", body = TeamReference))
)]
pub async fn update(
    State(app): State<App>,
    Caller(principal): Caller,
    precondition: Precondition,
    JsonBody(request): JsonBody<TeamRequest>,
) -> ApiResult<Json<TeamReference>> {
    app.rename_team(&principal, &precondition, &request.team_name).await?;
    Ok(Json(TeamReference { id: principal.team_id() }))
}

/// Hand the team over to another member.
///
/// A team has one owner: whoever was it becomes an admin.
#[utoipa::path(
    post,
    path = "/api/v1/teams/current/transfer",
    operation_id = "transfer_team",
    tag = "people",
    request_body = TransferRequest,
    responses(
        (status = 200, description = "Handed over.", body = Success),
        (status = 404, description = "`not_found`: the team has no such member.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 409, description = "`invalid_state`: this is the owner already.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn transfer(
    State(app): State<App>,
    Caller(principal): Caller,
    JsonBody(request): JsonBody<TransferRequest>,
) -> ApiResult<Json<Success>> {
    app.transfer_team(&principal, request.user_id).await?;
    Ok(SUCCESS)
}

/// Leave the team.
///
/// The keys of one's devices in the team end. The owner cannot leave.
#[utoipa::path(
    post,
    path = "/api/v1/teams/current/leave",
    operation_id = "leave_team",
    tag = "people",
    responses(
        (status = 200, description = "Left.", body = Success),
        (status = 409, description = "`invalid_state`: the owner cannot leave; hand the team over or delete it.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn leave(State(app): State<App>, Caller(principal): Caller) -> ApiResult<Json<Success>> {
    app.leave_team(&principal).await?;
    Ok(SUCCESS)
}

/// Delete the team with all that belongs to it.
///
/// Nobody can see or use anything of it from the first moment on: its keys are dead, requests in flight are cancelled. Its
/// agents stop their containers; the answer comes when they have, or have not answered for 15 seconds. Then their keys
/// and sessions are gone, too. There is no way back.
#[utoipa::path(
    delete,
    path = "/api/v1/teams/current",
    operation_id = "delete_team",
    tag = "people",
    responses((status = 204, description = "Deleted."))
)]
pub async fn delete(State(app): State<App>, Caller(principal): Caller) -> ApiResult<StatusCode> {
    app.delete_team(&principal).await?;
    Ok(StatusCode::NO_CONTENT)
}
