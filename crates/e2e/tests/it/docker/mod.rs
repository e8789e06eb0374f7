//! Real containers: `towline server` and `towline agent` as processes, the machine's container engine, the demo service.

mod bodies;
mod calls;
mod durability;
mod lifecycle;
mod streams;

use std::sync::Arc;

use towline_e2e::{
    api::Api,
    engine::Engine,
    system::{Agent, Server, demo_service},
};

/// A server, an agent and the demo service, running. Dropped, nothing of it is left.
pub struct Running {
    pub server: Server,
    pub agent: Agent,
    /// The runtime API with an integration key.
    pub api: Api,
    /// The management API.
    pub owner: Api,
    pub engine: Engine,
    pub service_id: String,
    _cleanup: Cleanup,
}

impl Running {
    /// Deploys the demo service as `hello` and waits until every replica is ready.
    pub async fn start(replicas: u32) -> Self {
        Self::start_with(replicas, |_| ()).await
    }

    /// The same, with a definition that is changed first.
    pub async fn start_with(replicas: u32, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        Self::start_on(Server::start().await, replicas, change).await
    }

    /// The same, on a server that was started otherwise.
    pub async fn start_on(server: Server, replicas: u32, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        let engine = Engine::of_this_machine().await;
        let agent = server.start_agent("machine-1").await;
        let owner = server.owner().await;
        let mut spec = demo_service("hello", replicas);
        change(&mut spec);
        let service_id = owner.create_service(&spec).await;
        let cleanup = Cleanup::of(&engine, &service_id);
        owner.deploy(&service_id).await;
        owner.wait_for_ready(&service_id, u64::from(replicas)).await;
        let api = server.api();
        Self { server, agent, api, owner, engine, service_id, _cleanup: cleanup }
    }
}

/// Removes the containers of a service when the test ends, however it ends.
pub struct Cleanup {
    engine: Engine,
    service_id: Arc<str>,
}

impl Cleanup {
    pub fn of(engine: &Engine, service_id: &str) -> Self {
        Self { engine: engine.clone(), service_id: service_id.into() }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let (engine, service_id) = (self.engine.clone(), self.service_id.clone());
        // A drop cannot await, and the test's runtime may be the one that is unwinding: a thread with its own.
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                // A connection of another runtime would never be driven.
                if let Ok(engine) = Engine::connect(engine.host()).await {
                    engine.remove_containers(&service_id).await;
                }
            });
        });
        let _ = removal.join();
    }
}
