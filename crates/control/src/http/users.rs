//! Users.

use axum::{Json, extract::State};
use serde::Serialize;
use towline_model::{ErrorCode, Role, TeamId, Timestamp, UserId};

use super::{
    access::SignedIn,
    problem::{ApiError, ApiResult},
};
use crate::app::App;

/// The user who asks.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct UserResponse {
    /// The user's id.
    id: UserId,
    /// The address to sign in with.
    #[schema(example = "owner@towline.local")]
    email_address: String,
    /// The name for people.
    display_name: Option<String>,
    /// When the user was created.
    created_at: Timestamp,
    /// The teams that the user is in.
    team_list: Vec<UserTeam>,
}

/// A team that a user is in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct UserTeam {
    /// The team's id, for `X-Team-ID`.
    team_id: TeamId,
    /// The team's name.
    #[schema(example = "default")]
    team_name: String,
    /// What the user is in the team.
    role: Role,
}

/// Show who is signed in, and in which teams.
#[utoipa::path(
    get,
    path = "/api/v1/users/me",
    operation_id = "get_me",
    tag = "people",
    responses((status = 200, description = "The user with the teams.", body = UserResponse))
)]
pub async fn me(State(app): State<App>, SignedIn(user_id): SignedIn) -> ApiResult<Json<UserResponse>> {
    let details = app.user(user_id).await?;
    let details = details
        .ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated, "this user was removed; sign in as another"))?;
    let team_list =
        details.teams.into_iter().map(|(team, role)| UserTeam { team_id: team.id, team_name: team.name, role });
    Ok(Json(UserResponse {
        id: details.user.id,
        email_address: details.user.email_address,
        display_name: details.user.display_name,
        created_at: details.user.created_at,
        team_list: team_list.collect(),
    }))
}
