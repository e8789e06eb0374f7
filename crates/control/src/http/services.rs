//! Services.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::Serialize;
use towline_gateway::line::LineStatus;
use towline_model::{Action, Principal, ServiceId, ServiceSpec, ServiceStatus, Timestamp};
use towline_store::Paged;

use super::{
    SUCCESS, Success,
    access::Caller,
    conditional::ThingVersion,
    extract::{JsonObject, PathParam},
    page::{PageMeta, PageParams, PageQuery},
    problem::ApiResult,
};
use crate::{
    app::{App, precondition::AsRead, service_details::ServiceDetails},
    rollout::{Rollout, RolloutState},
};

/// A service: its definition, and what is observed of it.
#[derive(Debug, Serialize)]
pub struct Service {
    #[serde(flatten)]
    spec: ServiceSpec,
    #[serde(flatten)]
    observed: ServiceObserved,
}

/// What a service has besides its definition. Read only.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ServiceObserved {
    /// The service's id.
    id: ServiceId,
    /// Where it is in its life. Only a `running` service can be called.
    service_status: ServiceStatus,
    /// Why it is there, in words that a user can act on; null when there is nothing to say.
    #[schema(example = "1 of 2 instances ready: machine-1 is pulling towline-demo:latest")]
    status_reason: Option<String>,
    /// Instances that callers can be served by now.
    #[schema(example = 2)]
    instances_ready: u32,
    /// Instances that are wished now.
    #[schema(example = 2)]
    instances_total: u32,
    /// The line before the service at the server that answers; null without `max_concurrent_requests`.
    request_line: Option<RequestLineView>,
    /// How the newest deploy goes; null before the first.
    rollout: Option<RolloutView>,
    /// Whether the definition was changed since it was last deployed: the next deploy takes the changes up.
    has_undeployed_changes: bool,
    /// When it was created.
    created_at: Timestamp,
    /// When its definition or its status last changed.
    updated_at: Timestamp,
}

/// The line before a service that takes only so many requests at a time.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RequestLine)]
pub struct RequestLineView {
    /// Requests that it has now.
    #[schema(example = 4)]
    running: usize,
    /// Requests that wait.
    #[schema(example = 2)]
    waiting: usize,
    /// Milliseconds that the first of them has been waiting.
    #[schema(example = 150)]
    longest_wait_ms: u64,
}

impl From<LineStatus> for RequestLineView {
    fn from(status: LineStatus) -> Self {
        let LineStatus { running, waiting, longest_wait } = status;
        Self { running, waiting, longest_wait_ms: u64::try_from(longest_wait.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// A deploy: how far it is, or how it ended.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Rollout)]
pub struct RolloutView {
    /// The number of the deploy.
    #[schema(example = 1)]
    generation: i64,
    /// `progressing`: on its way; `succeeded`: it serves callers; `failed`: it was given up, and what ran before goes on.
    state: RolloutState,
    /// Why it has failed.
    reason: Option<String>,
    /// When it was asked for.
    started_at: Timestamp,
    /// When it succeeded or failed.
    ended_at: Option<Timestamp>,
}

/// A page of services.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ServiceList {
    /// The services.
    #[schema(value_type = Vec<ServiceSchema>)]
    container_list: Vec<Service>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

/// The id of what was created or changed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ServiceIdResponse {
    /// The service's id.
    id: ServiceId,
}

/// Stands for [`Service`] in descriptions; the document joins the two parts into one schema of that name.
#[derive(utoipa::ToSchema)]
#[schema(as = Service)]
pub struct ServiceSchema {
    #[allow(dead_code, reason = "for the description only")]
    observed: ServiceObserved,
}

/// Stands for the fields of a partial update in descriptions; the document fills it in from the definition.
#[derive(utoipa::ToSchema)]
pub struct ServiceChanges {}

impl From<&Rollout> for RolloutView {
    fn from(rollout: &Rollout) -> Self {
        Self {
            generation: rollout.generation,
            state: rollout.state,
            reason: rollout.message.clone(),
            started_at: rollout.started_at,
            ended_at: rollout.ended_at,
        }
    }
}

impl Service {
    /// A service as this principal may see it.
    pub(super) fn seen_by(principal: &Principal, details: ServiceDetails) -> Self {
        let ServiceDetails { row, rollout, instances_ready, instances_total, line } = details;
        let has_undeployed_changes = row.deployed_spec.as_ref().is_some_and(|deployed| *deployed != row.spec);
        let spec = if principal.may(Action::ReadEnvValues) { row.spec } else { row.spec.masked() };
        let observed = ServiceObserved {
            id: row.id,
            service_status: row.status,
            status_reason: row.status_reason,
            instances_ready,
            instances_total,
            request_line: line.map(Into::into),
            rollout: rollout.as_ref().map(Into::into),
            has_undeployed_changes,
            created_at: row.created_at,
            updated_at: row.updated_at,
        };
        Self { spec, observed }
    }
}

impl ServiceList {
    pub(super) fn seen_by(principal: &Principal, page: PageParams, services: Paged<ServiceDetails>) -> Self {
        Self {
            page_meta: PageMeta::new(page.0, &services),
            container_list: services.items.into_iter().map(|service| Service::seen_by(principal, service)).collect(),
        }
    }
}

/// Define a service.
///
/// Nothing runs before its first deploy.
#[utoipa::path(
    post,
    path = "/api/v1/containers",
    operation_id = "create_service",
    tag = "services",
    request_body = ServiceSpec,
    responses(
        (status = 201, description = "Defined.", body = ServiceIdResponse),
        (status = 409, description = "`already_exists`: the team has a service with this slug.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create(
    State(app): State<App>,
    Caller(principal): Caller,
    JsonObject(definition): JsonObject,
) -> ApiResult<(StatusCode, Json<ServiceIdResponse>)> {
    let id = app.create_service(&principal, definition).await?;
    Ok((StatusCode::CREATED, Json(ServiceIdResponse { id })))
}

/// List the services, the oldest first.
///
/// Values of environment variables are masked for viewers and for keys.
#[utoipa::path(
    get,
    path = "/api/v1/containers",
    operation_id = "list_services",
    tag = "services",
    params(PageQuery),
    responses((status = 200, description = "A page of services.", body = ServiceList))
)]
pub async fn list(State(app): State<App>, Caller(principal): Caller, page: PageParams) -> ApiResult<Json<ServiceList>> {
    let services = app.list_services(&principal, page.0).await?;
    Ok(Json(ServiceList::seen_by(&principal, page, services)))
}

/// Show a service.
///
/// Values of environment variables are masked for viewers and for keys.
#[utoipa::path(
    get,
    path = "/api/v1/containers/{id}",
    operation_id = "get_service",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id.")),
    responses((status = 200, description = "The service.", body = ServiceSchema))
)]
pub async fn show(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<ServiceId>,
) -> ApiResult<(ThingVersion, Json<Service>)> {
    let service = app.service(&principal, id).await?;
    Ok((ThingVersion(service.row.version), Json(Service::seen_by(&principal, service))))
}

/// Change fields of a definition.
///
/// A field that is left out keeps its value; null clears an optional one. It takes effect at the next deploy.
#[utoipa::path(
    put,
    path = "/api/v1/containers/{id}",
    operation_id = "update_service",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id.")),
    request_body = ServiceChanges,
    responses(
        (status = 200, description = "Changed.", body = ServiceIdResponse),
        (status = 409, description = "`invalid_state`: the service is deploying or stopping; wait until it is done. `definition_unreadable`: what is stored cannot be read.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn update(
    State(app): State<App>,
    Caller(principal): Caller,
    service: AsRead<ServiceId>,
    JsonObject(changes): JsonObject,
) -> ApiResult<Json<ServiceIdResponse>> {
    app.update_service(&principal, &service, &changes).await?;
    Ok(Json(ServiceIdResponse { id: service.id }))
}

/// Forget a service that does not run.
#[utoipa::path(
    delete,
    path = "/api/v1/containers/{id}",
    operation_id = "delete_service",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id.")),
    responses(
        (status = 204, description = "Forgotten."),
        (status = 409, description = "`invalid_state`: the service runs, or is on its way; undeploy it first.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    State(app): State<App>,
    Caller(principal): Caller,
    service: AsRead<ServiceId>,
) -> ApiResult<StatusCode> {
    app.delete_service(&principal, &service).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Run the current definition.
///
/// From `running` it is an update: the instances of the new deploy are brought up beside those that serve callers, and
/// take over when all of them are ready; if they cannot become ready, the old ones stay. `rollout` tells how it goes.
#[utoipa::path(
    post,
    path = "/api/v1/containers/{id}/deploy",
    operation_id = "deploy_service",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id.")),
    responses(
        (status = 200, description = "It is on its way; `service_status` and `rollout` tell how far it is.", body = Success),
        (status = 409, description = "`invalid_state`: the service is deploying or stopping. `no_eligible_agent`: for `external` and `attached`, no agent that is online can take it; the message says why. `secret_unreadable`: a secret that it needs cannot be opened. `definition_unreadable`: what is stored cannot be read.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn deploy(
    State(app): State<App>,
    Caller(principal): Caller,
    service: AsRead<ServiceId>,
) -> ApiResult<Json<Success>> {
    app.deploy_service(&principal, &service).await?;
    Ok(SUCCESS)
}

/// Stop a service.
///
/// No new request reaches it from now on; those in flight may finish within 30 seconds.
#[utoipa::path(
    post,
    path = "/api/v1/containers/{id}/undeploy",
    operation_id = "undeploy_service",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id.")),
    responses(
        (status = 200, description = "It is on its way; `service_status` tells how far it is.", body = Success),
        (status = 409, description = "`invalid_state`: the service does not run. `definition_unreadable`: what is stored cannot be read.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn undeploy(
    State(app): State<App>,
    Caller(principal): Caller,
    service: AsRead<ServiceId>,
) -> ApiResult<Json<Success>> {
    app.undeploy_service(&principal, &service).await?;
    Ok(SUCCESS)
}

/// Replace every instance by a fresh one of the same definition.
///
/// As with an update, the old instances serve callers until the new ones are ready.
#[utoipa::path(
    post,
    path = "/api/v1/containers/{id}/restart",
    operation_id = "restart_service",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id.")),
    responses(
        (status = 200, description = "It is on its way; `rollout` tells how far it is.", body = Success),
        (status = 409, description = "`invalid_state`: the service is not running. `secret_unreadable`: a secret that it needs cannot be opened. `definition_unreadable`: what is stored cannot be read.", body = towline_model::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn restart(
    State(app): State<App>,
    Caller(principal): Caller,
    service: AsRead<ServiceId>,
) -> ApiResult<Json<Success>> {
    app.restart_service(&principal, &service).await?;
    Ok(SUCCESS)
}
