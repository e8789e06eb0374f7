//! The listing part of the runtime API: what a caller of services can see of them. Calling them is the gateway's.

use axum::{Json, extract::State};

use super::{
    access::Caller,
    agents::{self, AgentList},
    extract::PathParam,
    page::{PageParams, PageQuery},
    problem::ApiResult,
    services::{Service, ServiceList, ServiceSchema},
};
use crate::app::App;

/// List the services that can be called, the oldest first.
///
/// Every service of the team is listed; only a `running` one can be called. `usage_prompt` and `openapi_url` say how.
#[utoipa::path(
    get,
    path = "/api/v1/r/containers",
    operation_id = "list_callable_services",
    tag = "runtime",
    params(PageQuery),
    responses((status = 200, description = "A page of services.", body = ServiceList))
)]
pub async fn list_services(
    State(app): State<App>,
    Caller(principal): Caller,
    page: PageParams,
) -> ApiResult<Json<ServiceList>> {
    let services = app.list_services(principal.team_id(), page.0).await?;
    Ok(Json(ServiceList::seen_by(&principal, page, services)))
}

/// Show a service by its slug.
#[utoipa::path(
    get,
    path = "/api/v1/r/containers/{slug}",
    operation_id = "get_callable_service",
    tag = "runtime",
    params(("slug" = String, Path, description = "The service's slug.", example = "hello")),
    responses((status = 200, description = "The service.", body = ServiceSchema))
)]
pub async fn show_service(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(slug): PathParam<String>,
) -> ApiResult<Json<Service>> {
    let service = app.service_by_slug(principal.team_id(), &slug).await?;
    Ok(Json(Service::seen_by(&principal, service)))
}

/// List the agents that services run on.
#[utoipa::path(
    get,
    path = "/api/v1/r/agents",
    operation_id = "list_runtime_agents",
    tag = "runtime",
    params(PageQuery),
    responses((status = 200, description = "A page of agents.", body = AgentList))
)]
pub async fn list_agents(state: State<App>, caller: Caller, page: PageParams) -> ApiResult<Json<AgentList>> {
    agents::list(state, caller, page).await
}
