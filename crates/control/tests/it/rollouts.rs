//! Updates and restarts of a running service.

use std::time::Duration;

use serde_json::json;
use towline_model::{InstancePhase, Role};
use towline_tunnel::message::{InstanceSpec, ReasonKind};

use crate::{
    agents::{Machine, because},
    support::{TestServer, with},
};

/// A server with one machine and one service that runs twice.
async fn running() -> (TestServer, Machine, String) {
    let server = TestServer::start_with(|config| {
        config.limits.failure_grace = Duration::from_millis(10);
        config.limits.drain_settle = Duration::from_millis(10);
    })
    .await;
    let machine = Machine::join(&server, "box").await;
    let path = server.create(&with("hello", "replica_count", json!(2))).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for(&path, "both are ready", |service| service["instances_ready"] == 2).await;
    (server, machine, path)
}

fn generations(instances: &[InstanceSpec]) -> Vec<i64> {
    let mut generations: Vec<_> = instances.iter().map(|spec| spec.generation).collect();
    generations.sort_unstable();
    generations
}

#[tokio::test]
async fn an_update_replaces_what_ran_without_a_gap() {
    let (server, machine, path) = running().await;
    machine.set(|spec| {
        let phase = if spec.generation == 1 { InstancePhase::Ready } else { InstancePhase::Starting };
        (phase, None)
    });
    let owner = server.owner();
    server
        .put(&owner, &path, &json!({"docker_image": "demo:2", "env_config": [{"env_name": "A", "env_value": "2"}]}))
        .await
        .json(200);
    server.act(&owner, &format!("{path}/deploy")).await.json(200);
    let both = machine.wished(|instances| generations(instances) == [1, 1, 2, 2]).await;
    for spec in &both {
        let (image, env) = if spec.generation == 1 { ("demo:1", 0) } else { ("demo:2", 1) };
        assert_eq!((spec.image.as_str(), spec.env.len()), (image, env), "each deploy keeps its own definition");
    }
    let service = server.get(&owner, &path).await.json(200);
    assert_eq!((&service["service_status"], &service["instances_ready"]), (&json!("running"), &json!(2)));
    assert_eq!(service["rollout"]["state"], "progressing");
    machine.set(|_| (InstancePhase::Ready, None));
    server.wait_for(&path, "it has succeeded", |service| service["rollout"]["state"] == "succeeded").await;
    machine.wished(|instances| generations(instances) == [2, 2]).await;
    let list = server
        .wait_for(&format!("{path}/instances"), "the old ones are gone", |list| list["page_meta"]["total_count"] == 2)
        .await;
    assert!(list["instance_list"].as_array().unwrap().iter().all(|row| row["generation"] == 2), "{list:#}");
    let shown = server.get(&server.user(Role::Viewer), &path).await.json(200).to_string();
    assert!(
        !shown.contains("previous") && !shown.contains("\"2\""),
        "the definitions of deploys are nobody's business: {shown}"
    );
}

#[tokio::test]
async fn an_update_that_fails_leaves_what_ran() {
    let (server, machine, path) = running().await;
    machine.set(|spec| match spec.generation {
        1 => (InstancePhase::Ready, None),
        _ => (InstancePhase::BackingOff, because(ReasonKind::ImageUnavailable, "no such tag")),
    });
    let owner = server.owner();
    server.put(&owner, &path, &json!({"docker_image": "demo:2"})).await.json(200);
    server.act(&owner, &format!("{path}/deploy")).await.json(200);
    let service = server.wait_for(&path, "it has failed", |service| service["rollout"]["state"] == "failed").await;
    assert_eq!((&service["service_status"], &service["instances_ready"]), (&json!("running"), &json!(2)));
    assert!(service["rollout"]["reason"].as_str().unwrap().contains("no such tag"), "{service:#}");
    machine.wished(|instances| generations(instances) == [1, 1]).await;
    // A restart restarts what runs, not what failed.
    machine.set(|_| (InstancePhase::Ready, None));
    server.act(&owner, &format!("{path}/restart")).await.json(200);
    let fresh = machine.wished(|instances| generations(instances) == [3, 3]).await;
    assert!(fresh.iter().all(|spec| spec.image == "demo:1"));
    server.wait_for(&path, "it has succeeded", |service| service["rollout"]["state"] == "succeeded").await;
}

#[tokio::test]
async fn an_undeploy_in_the_middle_of_an_update_ends_both() {
    let (server, machine, path) = running().await;
    machine.set(|_| (InstancePhase::Starting, None));
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    machine.wished(|instances| generations(instances) == [1, 1, 2, 2]).await;
    server.act(&server.owner(), &format!("{path}/undeploy")).await.json(200);
    server.wait_for_status(&path, "stopped").await;
    machine.wished(<[InstanceSpec]>::is_empty).await;
}
