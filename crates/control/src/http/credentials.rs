//! Keys.

use std::str::FromStr;

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use towline_model::{CredentialId, ErrorCode, KeyKind, Principal, Scope, Timestamp, UserId};

use super::{
    access::Caller,
    extract::{JsonBody, PathParam, QueryParams},
    page::{PageMeta, PageParams, PageQuery},
    problem::{ApiError, ApiResult},
};
use crate::app::{
    App,
    credential::{ListedCredential, NewCredential},
};

/// The kinds of key that can be made here.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewCredentialKind {
    /// `sk-`: a program that calls services of the team.
    Integration,
    /// `ak-`: an agent that joins the team.
    Agent,
}

/// The key that is wished.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCredentialRequest {
    /// What it is for.
    kind: NewCredentialKind,
    /// Its name for people, 1 to 100 characters.
    #[schema(example = "ci", min_length = 1, max_length = 100)]
    display_name: String,
    /// After how many days it ends, 1 to 365; without it, never.
    #[schema(example = 90, minimum = 1, maximum = 365)]
    expires_in_days: Option<u32>,
    /// What it may do; only for `integration`. Without it: `read` and `invoke`.
    #[schema(min_items = 1)]
    scopes: Option<Vec<Scope>>,
    /// The slugs of the only services that it sees and calls; only for `integration`. Without it: all of the team, those
    /// to come included. What is kept are the services themselves: when one is deleted, a new one that takes over its
    /// slug is not on the list.
    #[schema(min_items = 1, max_items = 100, example = json!(["hello"]))]
    services: Option<Vec<String>>,
}

/// A new key. It is shown this once.
#[derive(Serialize, utoipa::ToSchema)]
pub struct CreateCredentialResponse {
    /// The key's id.
    id: CredentialId,
    /// What it is for.
    kind: KeyKind,
    /// Its first 12 characters, to recognise it by.
    #[schema(example = "sk-4fT9aQz1x")]
    key_prefix: String,
    /// The key. It is stored nowhere and cannot be shown again.
    #[schema(example = "sk-4fT9aQz1x...")]
    raw_key: String,
}

/// A key, without the key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CredentialItem {
    /// Its id.
    id: CredentialId,
    /// What it is for.
    kind: KeyKind,
    /// Its name for people.
    #[schema(example = "ci")]
    display_name: String,
    /// Its first 12 characters, to recognise it by.
    #[schema(example = "sk-4fT9aQz1x")]
    key_prefix: String,
    /// What it may do; empty for kinds that have no scopes.
    scopes: Vec<Scope>,
    /// The slugs of the only services that it sees and calls, without those that were deleted; null for all of the team.
    #[schema(example = json!(["hello"]))]
    services: Option<Vec<String>>,
    /// Who made it.
    created_by: UserId,
    /// When it was made.
    created_at: Timestamp,
    /// From when on it opens nothing; null for never.
    expires_at: Option<Timestamp>,
    /// The agent's key that was made together with this device's key, and ends with it; null for other keys.
    companion_id: Option<CredentialId>,
    /// When it was last used, to about half a minute; null for never. An agent's key is used as long as an agent is connected with it.
    last_used_at: Option<Timestamp>,
}

/// A page of keys.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CredentialList {
    /// The keys.
    credentials: Vec<CredentialItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

impl From<ListedCredential> for CredentialItem {
    fn from(ListedCredential { row, services }: ListedCredential) -> Self {
        Self {
            id: row.id,
            kind: row.kind,
            display_name: row.display_name,
            key_prefix: row.key_prefix,
            scopes: row.scopes,
            services,
            created_by: row.created_by,
            created_at: row.created_at,
            expires_at: row.expires_at,
            companion_id: row.companion_id,
            last_used_at: row.last_used_at,
        }
    }
}

/// A kind of key as a query parameter.
struct KindParam(KeyKind);

impl FromStr for KindParam {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        KeyKind::ALL.into_iter().find(|kind| kind.as_str() == text).map(Self).ok_or(())
    }
}

/// Make a key.
///
/// The key is in the answer and is shown this once.
#[utoipa::path(
    post,
    path = "/api/v1/credentials",
    operation_id = "create_credential",
    tag = "credentials",
    request_body = CreateCredentialRequest,
    responses((status = 201, description = "The new key.", body = CreateCredentialResponse))
)]
pub async fn create(
    State(app): State<App>,
    Caller(principal): Caller,
    JsonBody(request): JsonBody<CreateCredentialRequest>,
) -> ApiResult<(StatusCode, Json<CreateCredentialResponse>)> {
    // Keys are made by people who have signed in; the table of actions says so, too.
    let Principal::User { user_id, team_id, .. } = principal else {
        return Err(ApiError::new(ErrorCode::Forbidden, "a key cannot make keys; sign in"));
    };
    let wished = NewCredential {
        kind: match request.kind {
            NewCredentialKind::Integration => KeyKind::Integration,
            NewCredentialKind::Agent => KeyKind::Agent,
        },
        display_name: request.display_name,
        expires_in_days: request.expires_in_days,
        scopes: request.scopes,
        services: request.services,
    };
    let made = app.create_credential(team_id, user_id, &wished).await?;
    let response = CreateCredentialResponse {
        id: made.row.id,
        kind: made.row.kind,
        key_prefix: made.row.key_prefix,
        raw_key: made.key.expose().clone(),
    };
    Ok((StatusCode::CREATED, Json(response)))
}

/// List the keys that are not revoked, the newest first.
#[utoipa::path(
    get,
    path = "/api/v1/credentials",
    operation_id = "list_credentials",
    tag = "credentials",
    params(("kind" = inline(Option<KeyKind>), Query, description = "Only keys of this kind."), PageQuery),
    responses((status = 200, description = "A page of keys.", body = CredentialList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    PageParams(page): PageParams,
    query: QueryParams,
) -> ApiResult<Json<CredentialList>> {
    let kind = query.get::<KindParam>("kind", "integration, device or agent")?.map(|kind| kind.0);
    let rows = app.list_credentials(principal.team_id(), kind, page).await?;
    Ok(Json(CredentialList {
        page_meta: PageMeta::new(page, &rows),
        credentials: rows.items.into_iter().map(Into::into).collect(),
    }))
}

/// Revoke a key.
///
/// It holds for the very next request. An agent's session that was opened with it is closed. The companion of a device's
/// key is revoked with it.
#[utoipa::path(
    delete,
    path = "/api/v1/credentials/{id}",
    operation_id = "revoke_credential",
    tag = "credentials",
    params(("id" = CredentialId, Path, description = "The key's id.")),
    responses((status = 204, description = "Revoked."))
)]
pub async fn revoke(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<CredentialId>,
) -> ApiResult<StatusCode> {
    app.revoke_credential(principal.team_id(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}
