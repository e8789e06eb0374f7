//! Users.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use towline_model::{Role, Secret, TeamId, Timestamp, UserId, ValidationError};

use super::{
    access::SignedIn,
    conditional::ThingVersion,
    extract::{JsonBody, nullable},
    problem::ApiResult,
};
use crate::app::{
    App,
    precondition::Precondition,
    user::{PasswordChange, UserChanges, UserError},
};

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
pub async fn me(State(app): State<App>, SignedIn(user_id): SignedIn) -> ApiResult<(ThingVersion, Json<UserResponse>)> {
    let details = app.user(user_id).await?;
    let details = details.ok_or(UserError::NoSuchUser)?;
    let version = ThingVersion(details.version());
    let team_list =
        details.teams.into_iter().map(|(team, role)| UserTeam { team_id: team.id, team_name: team.name, role });
    let user = UserResponse {
        id: details.user.id,
        email_address: details.user.email_address,
        display_name: details.user.display_name,
        created_at: details.user.created_at,
        team_list: team_list.collect(),
    };
    Ok((version, Json(user)))
}

/// What to change of oneself. A field that is left out keeps its value.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateMeRequest {
    /// The name for people, 1 to 100 characters; null for none.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, example = "Ada Lovelace", min_length = 1, max_length = 100)]
    display_name: Option<Option<String>>,
    /// The password until now. Needed with `new_password` by everybody who has one.
    #[schema(value_type = Option<String>, format = Password, example = "correct horse battery staple")]
    current_password: Option<Secret<String>>,
    /// The password from now on, at least 8 characters. It ends all other sign-ins.
    #[schema(value_type = Option<String>, format = Password, example = "Tr0ub4dor&3 is worse", min_length = 8, max_length = 1024)]
    new_password: Option<Secret<String>>,
    /// With `new_password`: the newest refresh token of the sign-in that goes on. Without it, that one ends too.
    #[schema(value_type = Option<String>, example = "Zm9v...")]
    refresh_token: Option<Secret<String>>,
}

/// The user that was changed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct UpdateMeResponse {
    /// The user's id.
    id: UserId,
}

/// Change one's name or password.
///
/// A new password ends every other sign-in: its tokens work no more, and what they have in flight is cut off.
#[utoipa::path(
    put,
    path = "/api/v1/users/me",
    operation_id = "update_me",
    tag = "people",
    request_body = UpdateMeRequest,
    responses(
        (status = 200, description = "Changed.", body = UpdateMeResponse),
        (status = 403, description = "`forbidden`: `current_password` is wrong or missing.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 409, description = "`concurrent_change`: the password was changed at the same moment.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`: too many passwords are being checked at this moment.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn update_me(
    State(app): State<App>,
    SignedIn(user_id): SignedIn,
    precondition: Precondition,
    JsonBody(request): JsonBody<UpdateMeRequest>,
) -> ApiResult<Json<UpdateMeResponse>> {
    let UpdateMeRequest { display_name, current_password, new_password, refresh_token } = request;
    let is_alone = new_password.is_none() && (current_password.is_some() || refresh_token.is_some());
    if is_alone {
        let advice = "must be sent with current_password or refresh_token; without it they have no effect";
        return Err(ValidationError::one("new_password", advice).into());
    }
    let password =
        new_password.map(|new| PasswordChange { current: current_password, new, kept_sign_in: refresh_token });
    app.update_user(user_id, &precondition, UserChanges { display_name, password }).await?;
    Ok(Json(UpdateMeResponse { id: user_id }))
}
