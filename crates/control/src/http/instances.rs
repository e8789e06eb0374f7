//! Instances of a service.

use axum::{Json, extract::State};
use serde::Serialize;
use towline_model::{AgentId, InstanceId, InstancePhase, ServiceId, Timestamp};

use super::{
    access::Caller,
    extract::PathParam,
    page::{PageMeta, PageParams, PageQuery},
    problem::ApiResult,
};
use crate::app::{App, service_details::InstanceDetails};

/// One running copy of a service, or one that shall be.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct InstanceItem {
    /// Its id.
    id: InstanceId,
    /// The number of the deploy that it belongs to.
    #[schema(example = 1)]
    generation: i64,
    /// How far it is, as its agent last said.
    phase: InstancePhase,
    /// Why it is not ready, in words.
    reason: Option<String>,
    /// The agent that it is placed on; null while it waits for one.
    agent_id: Option<AgentId>,
    /// That agent's name.
    #[schema(example = "machine-1")]
    agent_name: Option<String>,
    /// Whether that agent is connected.
    is_agent_online: bool,
    /// Whether it is on its way out.
    is_stopping: bool,
    /// How often its container ended by itself and was started again.
    #[schema(example = 0)]
    restart_count: i64,
    /// Since when it is ready; null while it is not.
    ready_since: Option<Timestamp>,
    /// When its agent last said something of it.
    reported_at: Option<Timestamp>,
    /// When it was created.
    created_at: Timestamp,
}

/// A page of instances.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct InstanceList {
    /// The instances.
    instance_list: Vec<InstanceItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

impl From<InstanceDetails> for InstanceItem {
    fn from(InstanceDetails { row, agent }: InstanceDetails) -> Self {
        Self {
            id: row.id,
            generation: row.generation,
            phase: row.phase,
            reason: row.reason,
            agent_id: row.agent_id,
            is_agent_online: agent.as_ref().is_some_and(|agent| agent.session_id.is_some()),
            agent_name: agent.map(|agent| agent.name),
            is_stopping: row.stop_requested_at.is_some(),
            restart_count: row.restart_count,
            ready_since: row.ready_since,
            reported_at: row.reported_at,
            created_at: row.created_at,
        }
    }
}

/// List the instances of a service, the oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/containers/{id}/instances",
    operation_id = "list_instances",
    tag = "services",
    params(("id" = ServiceId, Path, description = "The service's id."), PageQuery),
    responses((status = 200, description = "A page of instances.", body = InstanceList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    PathParam(id): PathParam<ServiceId>,
    PageParams(page): PageParams,
) -> ApiResult<Json<InstanceList>> {
    let instances = app.list_instances(&principal, id, page).await?;
    Ok(Json(InstanceList {
        page_meta: PageMeta::new(page, &instances),
        instance_list: instances.items.into_iter().map(Into::into).collect(),
    }))
}
