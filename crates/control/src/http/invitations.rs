//! Invitations to a team.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use towline_model::{InvitationId, Role, Secret, TeamId, Timestamp, UserId};
use towline_store::InvitationRow;

use super::{
    access::{Caller, MaybeSignedIn},
    extract::{JsonBody, PathParam},
    page::{PageMeta, PageParams, PageQuery},
    problem::ApiResult,
};
use crate::app::{
    App,
    invitation::{Acceptance, Delivery, MadeInvitation},
};

/// Who is invited, and as what.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInvitationRequest {
    /// The person's e-mail address, in any case.
    #[schema(example = "ada@example.com", max_length = 254)]
    email_address: String,
    /// What the person will be: `admin`, `member` or `viewer`.
    invitation_role: Role,
}

/// How the token of an invitation gets to the person.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MailStatus {
    /// A mail server has taken the mail.
    Sent,
    /// This server sends no mail: pass the token on yourself.
    NotConfigured,
    /// The mail could not be sent: pass the token on yourself.
    Failed,
}

/// A new invitation.
#[derive(Serialize, utoipa::ToSchema)]
pub struct CreateInvitationResponse {
    /// Its id.
    id: InvitationId,
    /// From when on it cannot be accepted: seven days from now.
    expires_at: Timestamp,
    /// Whether the person gets it by mail.
    mail_status: MailStatus,
    /// What the person accepts it with, when no mail brings it. It is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "inv-Zm9v...")]
    token: Option<String>,
}

/// An open invitation.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct InvitationItem {
    /// Its id.
    id: InvitationId,
    /// Who is invited.
    #[schema(example = "ada@example.com")]
    email_address: String,
    /// What the person will be.
    invitation_role: Role,
    /// Who invited.
    invited_by: UserId,
    /// When.
    created_at: Timestamp,
    /// From when on it cannot be accepted.
    expires_at: Timestamp,
}

/// A page of invitations.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct InvitationList {
    /// The invitations.
    invitation_list: Vec<InvitationItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

/// What an invitation is accepted with.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptRequest {
    /// The invitation's token.
    #[schema(value_type = String, example = "inv-Zm9v...")]
    token: Secret<String>,
    /// The password of the new account, at least 8 characters. Needed without an access token, not allowed with one.
    #[schema(value_type = Option<String>, format = Password, example = "correct horse battery staple", min_length = 8, max_length = 1024)]
    user_password: Option<Secret<String>>,
    /// The name for people of the new account, 1 to 100 characters.
    #[schema(example = "Ada Lovelace", min_length = 1, max_length = 100)]
    display_name: Option<String>,
}

/// What one has become by accepting.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AcceptResponse {
    /// Always true.
    #[schema(example = true)]
    is_success: bool,
    /// The team's id, for `X-Team-ID`.
    team_id: TeamId,
    /// The new member's id.
    user_id: UserId,
    /// What the new member is in the team.
    role: Role,
}

impl From<InvitationRow> for InvitationItem {
    fn from(row: InvitationRow) -> Self {
        Self {
            id: row.id,
            email_address: row.email_address,
            invitation_role: row.role,
            invited_by: row.invited_by,
            created_at: row.created_at,
            expires_at: row.expires_at,
        }
    }
}

impl From<MadeInvitation> for CreateInvitationResponse {
    fn from(made: MadeInvitation) -> Self {
        let (mail_status, token) = match made.delivery {
            Delivery::Mailed => (MailStatus::Sent, None),
            Delivery::ByHand(token) => (MailStatus::NotConfigured, Some(token)),
            Delivery::MailFailed(token) => (MailStatus::Failed, Some(token)),
        };
        let token = token.map(|token| token.expose().clone());
        Self { id: made.row.id, expires_at: made.row.expires_at, mail_status, token }
    }
}

/// Invite somebody to the team.
///
/// The person gets a token by mail; when this server sends no mail, or it could not be sent, the token is in the answer.
#[utoipa::path(
    post,
    path = "/api/v1/invitations",
    operation_id = "create_invitation",
    tag = "people",
    request_body = CreateInvitationRequest,
    responses(
        (status = 201, description = "The new invitation.", body = CreateInvitationResponse),
        (status = 409, description = "`already_exists`: the person is invited or a member already.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    State(app): State<App>,
    Caller(principal): Caller,
    JsonBody(request): JsonBody<CreateInvitationRequest>,
) -> ApiResult<(StatusCode, Json<CreateInvitationResponse>)> {
    let made = app.invite(&principal, &request.email_address, request.invitation_role).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// List the invitations that can still be accepted, the newest first.
#[utoipa::path(
    get,
    path = "/api/v1/invitations",
    operation_id = "list_invitations",
    tag = "people",
    params(PageQuery),
    responses((status = 200, description = "A page of invitations.", body = InvitationList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    PageParams(page): PageParams,
) -> ApiResult<Json<InvitationList>> {
    let rows = app.list_invitations(principal.team_id(), page).await?;
    Ok(Json(InvitationList {
        page_meta: PageMeta::new(page, &rows),
        invitation_list: rows.items.into_iter().map(Into::into).collect(),
    }))
}

/// Revoke an invitation.
#[utoipa::path(
    delete,
    path = "/api/v1/invitations/{id}",
    operation_id = "revoke_invitation",
    tag = "people",
    params(("id" = InvitationId, Path, description = "The invitation's id.")),
    responses((status = 204, description = "Revoked."))
)]
pub async fn revoke(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<InvitationId>,
) -> ApiResult<StatusCode> {
    app.revoke_invitation(&principal, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accept an invitation.
///
/// With an access token, the signed-in user becomes a member, if the invitation is for that user's address. Without one, an
/// account is made for the invited address, with the given password. An invitation works once.
#[utoipa::path(
    post,
    path = "/api/v1/invitations/accept",
    operation_id = "accept_invitation",
    tag = "people",
    request_body = AcceptRequest,
    responses(
        (status = 200, description = "The new membership.", body = AcceptResponse),
        (status = 403, description = "`forbidden`: the invitation is for another address than the signed-in user's.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`: the token is unknown, expired, revoked or was used before.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 409, description = "`already_exists`: there is an account for the invited address (sign in first), or its user is a member already.", body = towline_model::Problem, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`: too many passwords are being hashed at this moment.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn accept(
    State(app): State<App>,
    MaybeSignedIn(user_id): MaybeSignedIn,
    JsonBody(request): JsonBody<AcceptRequest>,
) -> ApiResult<Json<AcceptResponse>> {
    let AcceptRequest { token, user_password: password, display_name } = request;
    let acceptance = Acceptance { user_id, password, display_name };
    let membership = app.accept_invitation(&token, acceptance).await?.membership;
    Ok(Json(AcceptResponse {
        is_success: true,
        team_id: membership.team_id,
        user_id: membership.user_id,
        role: membership.role,
    }))
}
