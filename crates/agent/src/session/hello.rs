//! The first words of a session.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use towline_tunnel::message::{CAN_ATTACH, CAN_REACH_OUT, EngineStatus, Hello, PROTOCOL_VERSION, Welcome};

use super::Failure;
use crate::{config::AgentConfig, observed::Observed};

/// How long hello waits for the first word of the container engine.
const ENGINE_DEADLINE: Duration = Duration::from_secs(3);

/// Who this agent is and what its machine has.
pub(super) async fn hello(config: &AgentConfig, observed: &Arc<Observed>, gpu_count: u32, via_proxy: bool) -> Hello {
    Hello {
        protocol_versions: vec![PROTOCOL_VERSION],
        name: config.name.clone(),
        machine_id: config.machine_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: config.labels.clone(),
        capabilities: [CAN_ATTACH, CAN_REACH_OUT].map(str::to_owned).to_vec(),
        gpu_count,
        via_proxy,
        engine: engine(observed).await,
    }
}

async fn engine(observed: &Observed) -> EngineStatus {
    let mut engine = observed.engine();
    let known = timeout(ENGINE_DEADLINE, engine.wait_for(Option::is_some)).await;
    let known = known.ok().and_then(|status| status.ok().and_then(|status| status.clone()));
    known
        .unwrap_or_else(|| EngineStatus::Unavailable { reason: "the container engine has not answered yet".to_owned() })
}

/// Checks that the server chose a version that was offered.
pub(super) fn check_version(welcome: Welcome) -> Result<Welcome, Failure> {
    if welcome.protocol_version == PROTOCOL_VERSION {
        Ok(welcome)
    } else {
        Err(Failure::Version(welcome.protocol_version))
    }
}
