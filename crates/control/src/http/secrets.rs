//! Secrets.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use towline_model::{Secret, SecretId, ServiceId, Timestamp};

use super::{
    access::Caller,
    conditional::ThingVersion,
    extract::{JsonBody, PathParam},
    page::{PageMeta, PageParams, PageQuery},
    problem::ApiResult,
};
use crate::app::{
    App,
    precondition::AsRead,
    secret::{NewSecret, SecretChanges, SecretDetails, SecretPlace},
};

/// The secret that is wished.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSecretRequest {
    /// Its name, unique in the team: 1 to 100 letters, digits and any of `.` `_` `-` `/`, a letter or digit first.
    #[schema(example = "openai-key", min_length = 1, max_length = 100)]
    name: String,
    /// What it is, for people, at most 1000 characters.
    #[serde(default)]
    #[schema(example = "the production account", max_length = 1000)]
    description: Option<String>,
    /// Its value, 1 byte to 64 KiB without NUL. It is never returned.
    #[serde(deserialize_with = "value")]
    #[schema(value_type = String, format = Password, example = "...", min_length = 1, max_length = 65536)]
    value: Secret<String>,
}

/// What is to be changed. A field that is left out keeps its value.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateSecretRequest {
    /// Another name.
    #[serde(default)]
    #[schema(example = "openai-key", min_length = 1, max_length = 100)]
    name: Option<String>,
    /// Another description; null for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "the production account", max_length = 1000)]
    description: Option<Option<String>>,
    /// Another value.
    #[serde(default, deserialize_with = "optional_value")]
    #[schema(value_type = Option<String>, format = Password, example = "...", min_length = 1, max_length = 65536)]
    value: Option<Secret<String>>,
}

/// The id of what was created or changed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SecretIdResponse {
    /// The secret's id.
    id: SecretId,
}

/// A secret, without its value.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SecretItem {
    /// Its id, which definitions refer to.
    id: SecretId,
    /// Its name, unique in the team.
    #[schema(example = "openai-key")]
    name: String,
    /// What it is, for people.
    #[schema(example = "the production account")]
    description: String,
    /// Where it is used; it can be deleted when that is nowhere.
    used_by: Vec<SecretUser>,
    /// When it was created.
    created_at: Timestamp,
    /// When its name, description or value last changed.
    updated_at: Timestamp,
}

/// One place where a secret is used.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SecretUser {
    /// The service.
    service_id: ServiceId,
    /// Its slug.
    #[schema(example = "hello")]
    service_slug: String,
    /// The field of its definition.
    #[schema(example = "env_config[0].secret_id")]
    field: String,
    /// Whether the definition refers to it as it is now; if not, only a deploy that runs does.
    is_in_definition: bool,
}

/// A page of secrets.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SecretList {
    /// The secrets.
    secret_list: Vec<SecretItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

impl From<SecretDetails> for SecretItem {
    fn from(details: SecretDetails) -> Self {
        let SecretDetails { row, used_by } = details;
        Self {
            id: row.id,
            name: row.name,
            description: row.description,
            used_by: used_by.into_iter().map(Into::into).collect(),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl From<SecretPlace> for SecretUser {
    fn from(place: SecretPlace) -> Self {
        let SecretPlace { service_id, service_slug, field, is_in_definition, .. } = place;
        Self { service_id, service_slug, field, is_in_definition }
    }
}

/// Reads a value. What is no text is not repeated in the error: it may be a secret all the same, such as a number.
fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(Secret::new(text)),
        _ => Err(serde::de::Error::custom("must be a text")),
    }
}

fn optional_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret<String>>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Secret::new(text))),
        _ => Err(serde::de::Error::custom("must be a text")),
    }
}

/// Tells null from a field that is left out.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Store a secret.
///
/// Its value is kept sealed and is never returned. Definitions refer to it by its id: in `env_config`, as the login for the
/// image's registry (`username:password`), or as the `Authorization` of an external service.
#[utoipa::path(
    post,
    path = "/api/v1/secrets",
    operation_id = "create_secret",
    tag = "secrets",
    request_body = CreateSecretRequest,
    responses(
        (status = 201, description = "Stored.", body = SecretIdResponse),
        (status = 409, description = "`already_exists`: the team has a secret of this name.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    State(app): State<App>,
    Caller(principal): Caller,
    JsonBody(request): JsonBody<CreateSecretRequest>,
) -> ApiResult<(StatusCode, Json<SecretIdResponse>)> {
    let CreateSecretRequest { name, description, value } = request;
    let wished = NewSecret { name, description: description.unwrap_or_default(), value };
    let id = app.create_secret(&principal, wished).await?;
    Ok((StatusCode::CREATED, Json(SecretIdResponse { id })))
}

/// List the secrets without their values, the oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/secrets",
    operation_id = "list_secrets",
    tag = "secrets",
    params(PageQuery),
    responses((status = 200, description = "A page of secrets.", body = SecretList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    PageParams(page): PageParams,
) -> ApiResult<Json<SecretList>> {
    let secrets = app.list_secrets(principal.team_id(), page).await?;
    Ok(Json(SecretList {
        page_meta: PageMeta::new(page, &secrets),
        secret_list: secrets.items.into_iter().map(Into::into).collect(),
    }))
}

/// Show a secret without its value, and where it is used.
#[utoipa::path(
    get,
    path = "/api/v1/secrets/{id}",
    operation_id = "get_secret",
    tag = "secrets",
    params(("id" = SecretId, Path, description = "The secret's id.")),
    responses((status = 200, description = "The secret.", body = SecretItem))
)]
pub async fn show(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<SecretId>,
) -> ApiResult<(ThingVersion, Json<SecretItem>)> {
    let secret = app.secret(principal.team_id(), id).await?;
    Ok((ThingVersion(secret.row.version), Json(secret.into())))
}

/// Change a secret.
///
/// A field that is left out keeps its value. Containers that are made from now on get a new value: deploy or restart the
/// services that use it. Those that run keep what they were started with.
#[utoipa::path(
    put,
    path = "/api/v1/secrets/{id}",
    operation_id = "update_secret",
    tag = "secrets",
    params(("id" = SecretId, Path, description = "The secret's id.")),
    request_body = UpdateSecretRequest,
    responses(
        (status = 200, description = "Changed.", body = SecretIdResponse),
        (status = 409, description = "`already_exists`: the team has another secret of this name.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn update(
    State(app): State<App>,
    Caller(principal): Caller,
    secret: AsRead<SecretId>,
    JsonBody(request): JsonBody<UpdateSecretRequest>,
) -> ApiResult<Json<SecretIdResponse>> {
    let UpdateSecretRequest { name, description, value } = request;
    let changes = SecretChanges { name, description: description.map(Option::unwrap_or_default), value };
    app.update_secret(&principal, &secret, &changes).await?;
    Ok(Json(SecretIdResponse { id: secret.id }))
}

/// Forget a secret that nothing refers to.
#[utoipa::path(
    delete,
    path = "/api/v1/secrets/{id}",
    operation_id = "delete_secret",
    tag = "secrets",
    params(("id" = SecretId, Path, description = "The secret's id.")),
    responses(
        (status = 204, description = "Forgotten."),
        (status = 409, description = "`secret_in_use`: services refer to it; the message names them.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    State(app): State<App>,
    Caller(principal): Caller,
    secret: AsRead<SecretId>,
) -> ApiResult<StatusCode> {
    app.delete_secret(&principal, &secret).await?;
    Ok(StatusCode::NO_CONTENT)
}
