//! Deploys with simulated machines: the real server as a process, the real agent in this process, and an engine in memory whose
//! containers outlive the agent, as real ones do. What real engines add is in `docker`.

mod agent;
mod durability;
mod failures;
mod lifecycle;
mod team_end;

use serde_json::{Value, json};

/// A definition that the engine in memory can run.
fn sim_service(slug: &str, replicas: u32) -> Value {
    json!({
        "service_slug": slug,
        "display_name": slug,
        "docker_image": agent::IMAGE,
        "replica_count": replicas,
        "probe": {"interval_seconds": 1, "start_deadline_seconds": 60},
    })
}
