//! The listing part of the runtime API: what a caller of services can see of them. Calling them is the gateway's.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use serde::Serialize;
use towline_gateway::TICKET_LIFETIME;

use super::{
    access::Caller,
    agents::{self, AgentList},
    conditional::ThingVersion,
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
    let services = app.list_services(&principal, page.0).await?;
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
) -> ApiResult<(ThingVersion, Json<Service>)> {
    let service = app.service_by_slug(&principal, &slug).await?;
    Ok((ThingVersion(service.row.version), Json(Service::seen_by(&principal, service))))
}

/// A WebSocket ticket.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Ticket {
    /// What opens one WebSocket to the service: as the query parameter `towline_ticket`, or as the subprotocol
    /// `towline.ticket.<ticket>`.
    #[schema(example = "mJ0aTq4yq2sCzv0v6pXH9h1k8Rr3bN5d")]
    pub ticket: String,
    /// Seconds for which it may be used.
    #[schema(example = 30)]
    pub expires_in: u64,
}

/// Make a ticket for a browser's WebSocket.
///
/// A browser cannot send a key with a WebSocket. Whoever has one gets a ticket for it here, which opens one WebSocket to
/// the service, once, within 30 seconds, at the gateway that made it, and only while its maker could still call the service.
/// On a container that has a `POST /ticket` of its own, that one is called as `POST …/ticket?`.
#[utoipa::path(
    post,
    path = "/api/v1/r/containers/{slug}/ticket",
    operation_id = "create_websocket_ticket",
    tag = "runtime",
    params(("slug" = String, Path, description = "The service's slug.", example = "hello")),
    responses((status = 200, description = "The ticket.", body = Ticket))
)]
pub async fn create_ticket(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(slug): PathParam<String>,
) -> ApiResult<Response> {
    let ticket = app.gateway().issue_ticket(&principal, &slug)?;
    let ticket = Ticket { ticket: ticket.expose().clone(), expires_in: TICKET_LIFETIME.as_secs() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(ticket)).into_response())
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
