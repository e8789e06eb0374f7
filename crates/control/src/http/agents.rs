//! Agents.

use axum::{Json, extract::State};
use serde::Serialize;
use towline_model::{AgentId, Timestamp};
use towline_store::AgentRow;

use super::{
    access::Caller,
    page::{PageMeta, PageParams, PageQuery},
    problem::ApiResult,
};
use crate::app::App;

/// Whether an agent is connected.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// It has a session.
    Online,
    /// It has none.
    Offline,
}

/// Whether an agent's container engine can be used.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// It can.
    Ready,
    /// It cannot; `engine_message` says why.
    Unavailable,
}

/// What an agent's connections are wrapped in.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentTransport {
    /// Nothing: HTTP is switched to the agents' own protocol.
    Upgrade,
    /// WebSockets: something on the way lets nothing else pass.
    Websocket,
}

impl AgentTransport {
    fn of(text: &str) -> Self {
        if text == "websocket" { Self::Websocket } else { Self::Upgrade }
    }
}

/// A machine of the team.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AgentItem {
    /// Its id.
    id: AgentId,
    /// Its name, unique in the team.
    #[schema(example = "machine-1")]
    display_name: String,
    /// Whether it is connected.
    agent_status: AgentStatus,
    /// Its labels.
    #[schema(example = json!(["gpu"]))]
    labels: Vec<String>,
    /// What it can do beyond running containers: `attached` and `external` services.
    #[schema(example = json!(["attached", "external"]))]
    capabilities: Vec<String>,
    /// Stays the same for its machine, whatever the agent's name. It is a hash, not the machine's own id.
    #[schema(example = "0123456789abcdef0123456789abcdef")]
    machine_id: String,
    /// GPUs of its machine.
    #[schema(example = 0)]
    gpu_count: i32,
    /// Whether its container engine can be used, as it last said.
    engine_status: EngineState,
    /// Which engine it is, or why it cannot be used.
    #[schema(example = "Docker 28.2.2")]
    engine_message: Option<String>,
    /// How its connections reach the server, as of its last session; null for one that has not joined for long.
    transport: Option<AgentTransport>,
    /// Whether they lead through an HTTP proxy.
    via_proxy: bool,
    /// The version of its program.
    #[schema(example = "0.1.0")]
    agent_version: String,
    /// When it was last heard of.
    last_seen_at: Option<Timestamp>,
    /// When it first joined.
    created_at: Timestamp,
}

/// A page of agents.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AgentList {
    /// The agents.
    agent_list: Vec<AgentItem>,
    /// Where in the list this is.
    page_meta: PageMeta,
}

impl From<AgentRow> for AgentItem {
    fn from(row: AgentRow) -> Self {
        Self {
            id: row.id,
            display_name: row.name,
            agent_status: if row.session_id.is_some() { AgentStatus::Online } else { AgentStatus::Offline },
            labels: row.labels,
            capabilities: row.capabilities,
            machine_id: row.machine_id,
            gpu_count: row.gpu_count,
            engine_status: if row.engine_ready { EngineState::Ready } else { EngineState::Unavailable },
            engine_message: row.engine_message,
            transport: row.transport.as_deref().map(AgentTransport::of),
            via_proxy: row.via_proxy,
            agent_version: row.agent_version,
            last_seen_at: row.last_seen_at,
            created_at: row.created_at,
        }
    }
}

/// List the agents, in the order in which they first joined.
#[utoipa::path(
    get,
    path = "/api/v1/agents",
    operation_id = "list_agents",
    tag = "agents",
    params(PageQuery),
    responses((status = 200, description = "A page of agents.", body = AgentList))
)]
pub async fn list(
    State(app): State<App>,
    Caller(principal): Caller,
    PageParams(page): PageParams,
) -> ApiResult<Json<AgentList>> {
    let agents = app.list_agents(principal.team_id(), page).await?;
    Ok(Json(AgentList {
        page_meta: PageMeta::new(page, &agents),
        agent_list: agents.items.into_iter().map(Into::into).collect(),
    }))
}
