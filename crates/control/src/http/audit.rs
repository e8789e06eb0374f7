//! The audit log: a page of it, or all of it as lines of JSON.

use std::str::FromStr;

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{header, request::Parts};
use serde::Serialize;
use towline_model::{AuditAction, CredentialId, TeamId, Timestamp, UserId};
use towline_store::{AuditFilter, AuditRow, Position, StoreError};
use uuid::Uuid;

use super::{
    access::Caller,
    extract::QueryParams,
    page::{PageMeta, PageParams, PageQuery},
    problem::{ApiError, ApiResult},
};
use crate::app::App;

/// One thing that somebody did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// The entry's id.
    id: Uuid,
    /// When it was done.
    at: Timestamp,
    /// What was done: the kind of thing, a dot, and what was done to it.
    #[schema(example = "service.deploy")]
    action: String,
    /// With what it was done: `user` (signed in), `device`, `integration`, or `system` (the server itself).
    #[schema(example = "user")]
    actor_kind: String,
    /// The user's e-mail address, or the key's name, at that time.
    #[schema(example = "ada@example.com")]
    actor_name: String,
    /// The user; null when a key of the team did it.
    user_id: Option<UserId>,
    /// The key; null when it was done without one.
    credential_id: Option<CredentialId>,
    /// The kind of thing that it was done to.
    #[schema(example = "service")]
    target_kind: String,
    /// The id of what it was done to. It may be gone by now.
    target_id: Option<String>,
    /// The name of what it was done to, at that time.
    #[schema(example = "hello")]
    target_name: String,
    /// The address that the request came from.
    #[schema(example = "203.0.113.5")]
    address: Option<String>,
    /// The request's id, as in its `X-Request-Id`.
    request_id: Option<String>,
    /// More about it, such as the names of the fields that were changed. Never a value, never a secret.
    #[schema(value_type = Option<Object>)]
    details: Option<serde_json::Value>,
}

/// A page of the audit log.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditList {
    /// The entries.
    audit_list: Vec<AuditEntry>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

/// The query parameters that say which entries are wanted, for their description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "read by QueryParams; here for its description only")]
pub struct AuditQuery {
    /// Only this action, such as `service.deploy`.
    #[param(required = false)]
    action: String,
    /// Only what was done to the thing with this id.
    #[param(required = false)]
    target_id: Uuid,
    /// Only what this user did.
    #[param(required = false)]
    user_id: UserId,
    /// Only what was done with this key.
    #[param(required = false)]
    credential_id: CredentialId,
    /// Only what was done at or after this moment.
    #[param(required = false)]
    since: Timestamp,
    /// Only what was done before this moment.
    #[param(required = false)]
    until: Timestamp,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            target_kind: row.action.split('.').next().unwrap_or_default().to_owned(),
            action: row.action,
            actor_kind: row.actor_kind,
            actor_name: row.actor_name,
            user_id: row.user_id,
            credential_id: row.credential_id,
            target_id: row.target_id,
            target_name: row.target_name,
            address: row.address,
            request_id: row.request_id,
            details: row.details,
        }
    }
}

/// An action as a query parameter.
struct ActionParam(AuditAction);

impl FromStr for ActionParam {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        AuditAction::ALL.iter().find(|action| action.as_str() == text).map(|action| Self(*action)).ok_or(())
    }
}

/// A time as a query parameter.
struct TimeParam(Timestamp);

impl FromStr for TimeParam {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Timestamp::parse(text).map(Self).ok_or(())
    }
}

/// Which entries a request wants.
#[derive(Debug)]
pub struct Wanted(AuditFilter);

impl<S: Sync> FromRequestParts<S> for Wanted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        const TIME: &str = "a time such as 2026-11-24T09:30:00Z";
        let query = QueryParams::from_request_parts(parts, state).await?;
        let action = query.get::<ActionParam>("action", "an action of the audit log, such as service.deploy")?;
        let target_id = query.get::<Uuid>("target_id", "an id")?;
        Ok(Self(AuditFilter {
            action: action.map(|action| action.0.as_str().to_owned()),
            target_id: target_id.map(|id| id.to_string()),
            user_id: query.get("user_id", "a user's id")?,
            credential_id: query.get("credential_id", "a key's id")?,
            since: query.get::<TimeParam>("since", TIME)?.map(|time| time.0),
            until: query.get::<TimeParam>("until", TIME)?.map(|time| time.0),
        }))
    }
}

/// List what was done in the team, the newest first.
///
/// Every change is here: who made it, to what, from where, and with which credential. Entries are kept for 400 days
/// unless the server is told otherwise.
#[utoipa::path(
    get,
    path = "/api/v1/audit",
    operation_id = "list_audit_entries",
    tag = "audit",
    params(AuditQuery, PageQuery),
    responses((status = 200, description = "A page of the log.", body = AuditList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    Wanted(filter): Wanted,
    PageParams(page): PageParams,
) -> ApiResult<Json<AuditList>> {
    let entries = app.list_audit_entries(principal.team_id(), &filter, page).await?;
    Ok(Json(AuditList {
        page_meta: PageMeta::new(page, &entries),
        audit_list: entries.items.into_iter().map(Into::into).collect(),
    }))
}

/// Export what was done in the team, the oldest first.
///
/// One JSON object a line (the entries of the list), as many as there are. An answer that was cut off has no end.
#[utoipa::path(
    get,
    path = "/api/v1/audit/export",
    operation_id = "export_audit_entries",
    tag = "audit",
    params(AuditQuery),
    responses((status = 200, description = "The log, a line for each entry.", body = String, content_type = "application/jsonl"))
)]
pub async fn export(State(app): State<App>, Caller(principal): Caller, Wanted(filter): Wanted) -> Response {
    let lines = lines(app, principal.team_id(), filter);
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
}

/// The log in pieces, each of which is read when the one before has been taken.
fn lines(app: App, team_id: TeamId, filter: AuditFilter) -> impl Stream<Item = Result<Bytes, StoreError>> {
    stream::try_unfold(None, move |position: Option<Position>| {
        let (app, filter) = (app.clone(), filter.clone());
        async move {
            let entries = app.next_audit_entries(team_id, &filter, position).await?;
            let Some(last) = entries.last() else { return Ok(None) };
            let position = Some(Position { at: last.at, id: last.id });
            let mut text = Vec::new();
            for entry in entries {
                serde_json::to_writer(&mut text, &AuditEntry::from(entry)).expect("an entry is plain fields");
                text.push(b'\n');
            }
            Ok(Some((Bytes::from(text), position)))
        }
    })
}
