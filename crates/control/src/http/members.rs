//! Members of a team.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use towline_model::{Role, UserId};
use towline_store::MemberRow;

use super::{
    access::Caller,
    conditional::ThingVersion,
    extract::{JsonBody, PathParam},
    page::{PageMeta, PageParams, PageQuery},
    problem::ApiResult,
};
use crate::app::{App, member::version, precondition::AsRead};

/// A member.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MemberItem {
    /// The user's id.
    user_id: UserId,
    /// The user's e-mail address.
    #[schema(example = "ada@example.com")]
    email_address: String,
    /// The user's name for people.
    #[schema(example = "Ada Lovelace")]
    display_name: Option<String>,
    /// What the user is in the team.
    role: Role,
}

/// A page of members.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct MemberList {
    /// The members.
    member_list: Vec<MemberItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

/// What a member is to be.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateMemberRequest {
    /// The role from now on: `admin`, `member` or `viewer`.
    role: Role,
}

/// The member that was changed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct UpdateMemberResponse {
    /// The user's id.
    id: UserId,
}

impl From<MemberRow> for MemberItem {
    fn from(row: MemberRow) -> Self {
        Self { user_id: row.user_id, email_address: row.email_address, display_name: row.display_name, role: row.role }
    }
}

/// List the team's members.
#[utoipa::path(
    get,
    path = "/api/v1/members",
    operation_id = "list_members",
    tag = "people",
    params(PageQuery),
    responses((status = 200, description = "A page of members.", body = MemberList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    PageParams(page): PageParams,
) -> ApiResult<Json<MemberList>> {
    let rows = app.list_members(principal.team_id(), page).await?;
    Ok(Json(MemberList {
        page_meta: PageMeta::new(page, &rows),
        member_list: rows.items.into_iter().map(Into::into).collect(),
    }))
}

/// Show a member.
#[utoipa::path(
    get,
    path = "/api/v1/members/{id}",
    operation_id = "get_member",
    tag = "people",
    params(("id" = UserId, Path, description = "The user's id.")),
    responses((status = 200, description = "The member.", body = MemberItem))
)]
pub async fn show(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<UserId>,
) -> ApiResult<(ThingVersion, Json<MemberItem>)> {
    let member = app.member(principal.team_id(), id).await?;
    Ok((ThingVersion(version(member.role)), Json(member.into())))
}

/// Give a member another role.
///
/// It holds for the member's next request. The owner's role changes only when the team is handed over.
#[utoipa::path(
    put,
    path = "/api/v1/members/{id}",
    operation_id = "update_member",
    tag = "people",
    params(("id" = UserId, Path, description = "The user's id.")),
    request_body = UpdateMemberRequest,
    responses(
        (status = 200, description = "Changed.", body = UpdateMemberResponse),
        (status = 409, description = "`invalid_state`: a team has one owner; hand it over.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn update(
    State(app): State<App>,
    Caller(principal): Caller,
    member: AsRead<UserId>,
    JsonBody(request): JsonBody<UpdateMemberRequest>,
) -> ApiResult<Json<UpdateMemberResponse>> {
    app.set_role(&principal, &member, request.role).await?;
    Ok(Json(UpdateMemberResponse { id: member.id }))
}

/// Remove a member.
///
/// The keys of the member's devices in this team end, and what they have in flight is cancelled.
#[utoipa::path(
    delete,
    path = "/api/v1/members/{id}",
    operation_id = "remove_member",
    tag = "people",
    params(("id" = UserId, Path, description = "The user's id.")),
    responses(
        (status = 204, description = "Removed."),
        (status = 409, description = "`invalid_state`: the owner stays; hand the team over or delete it.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn remove(
    State(app): State<App>,
    Caller(principal): Caller,
    member: AsRead<UserId>,
) -> ApiResult<StatusCode> {
    app.remove_member(&principal, &member).await?;
    Ok(StatusCode::NO_CONTENT)
}
