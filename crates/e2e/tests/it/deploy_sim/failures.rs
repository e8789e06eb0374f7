//! Deploys that cannot succeed: `failed`, with the reason in words that a user can act on.

use std::time::Duration;

use serde_json::{Value, json};
use towline_agent::runtime::{PullError, RuntimeError};
use towline_e2e::{
    api::Api,
    system::{Server, ServerOptions},
    wait::{SOON, wait_until},
};

use super::{
    agent::{IMAGE, Machine, wait_for_count},
    sim_service,
};

async fn deploy(owner: &Api, spec: &Value) -> String {
    let id = owner.create_service(spec).await;
    owner.deploy(&id).await;
    id
}

async fn reason(owner: &Api, id: &str) -> String {
    let service = owner.wait_for_status(id, "failed").await;
    service["status_reason"].as_str().unwrap_or_else(|| panic!("no reason: {service:#}")).to_owned()
}

async fn impatient_server() -> Server {
    let arguments = ["--placement-timeout", "2s"].map(str::to_owned).to_vec();
    Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await
}

#[tokio::test]
async fn without_any_agent_it_says_how_to_get_one() {
    let server = impatient_server().await;
    let owner = server.owner().await;
    let id = deploy(&owner, &sim_service("hello", 1)).await;
    let reason = reason(&owner, &id).await;
    assert!(reason.contains("towline agent"), "{reason}");
    // An agent that comes later changes nothing: a failed deploy is over. The next one is not.
    let machine = Machine::start(&server, "late");
    machine.wait_until_online(&server).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    assert_eq!(machine.engine.containers().len(), 1);
}

#[tokio::test]
async fn without_an_eligible_agent_it_says_what_is_missing() {
    let server = impatient_server().await;
    let owner = server.owner().await;
    let machine = Machine::start_with(&server, "plain", &server.bootstrap.url, &["ssd"]);
    machine.wait_until_online(&server).await;
    let mut spec = sim_service("hello", 1);
    spec["required_labels"] = json!(["ssd", "zone=moon"]);
    let id = deploy(&owner, &spec).await;
    let reason = reason(&owner, &id).await;
    assert!(reason.contains("zone=moon") && reason.contains("plain") && !reason.contains("ssd,"), "{reason}");
    let mut spec = sim_service("gpus", 1);
    spec["gpu_count"] = json!(2);
    let id = deploy(&owner, &spec).await;
    let reason = self::reason(&owner, &id).await;
    assert!(reason.contains("plain has 0 of the 2 GPUs that it needs"), "{reason}");
    assert_eq!(machine.count("create"), 0);
}

#[tokio::test]
async fn without_an_engine_it_says_so_and_goes_on_when_there_is_one() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    machine.engine.set_down(true);
    let id = deploy(&owner, &sim_service("hello", 1)).await;
    wait_until("it says what it waits for", SOON, async || {
        let service = owner.service(&id).await;
        let text = service["status_reason"].as_str().unwrap_or_default();
        if text.contains("engine") { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    machine.engine.set_down(false);
    owner.wait_for_ready(&id, 1).await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    let image = "registry.example.com/secret:1";
    let said = "authentication required".to_owned();
    machine.engine.set_pull(image, Duration::ZERO, Err(PullError::Denied { image: image.to_owned(), said }));
    let mut spec = sim_service("hello", 1);
    spec["docker_image"] = json!(image);
    let id = deploy(&owner, &spec).await;
    let reason = reason(&owner, &id).await;
    assert!(reason.contains(image) && reason.contains("login"), "{reason}");
    // The definition is corrected, and the next deploy works.
    owner.put(&format!("/containers/{id}"), &json!({"docker_image": IMAGE})).await.expect(200);
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
}

#[tokio::test]
async fn an_image_that_takes_long_is_waited_for() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    machine.engine.set_pull("big:1", Duration::from_secs(8), Ok(()));
    let mut spec = sim_service("hello", 1);
    spec["docker_image"] = json!("big:1");
    // The deadline of the start counts from the start.
    spec["probe"]["start_deadline_seconds"] = json!(7);
    let id = deploy(&owner, &spec).await;
    wait_until("it is seen pulling", SOON, async || {
        let instances = owner.instances(&id).await;
        if instances.iter().any(|instance| instance["phase"] == "pulling") {
            Ok(())
        } else {
            Err(format!("{instances:?}"))
        }
    })
    .await;
    owner.wait_for_ready(&id, 1).await;
    assert_eq!(machine.count("pull"), 1);
}

#[tokio::test]
async fn a_container_that_is_never_well_fails_with_what_the_probe_saw() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    machine.engine.set_sick(Some("GET /health answered 503"));
    let mut spec = sim_service("hello", 1);
    spec["probe"]["start_deadline_seconds"] = json!(2);
    let id = deploy(&owner, &spec).await;
    let reason = reason(&owner, &id).await;
    assert!(reason.contains("answered 503"), "{reason}");
    wait_for_count(std::slice::from_ref(&machine), 0).await;
}

#[tokio::test]
async fn a_definition_that_the_engine_rejects_fails_with_its_words() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    for _ in 0..2 {
        // It is believed after a moment, so it has to be said more than once.
        machine.engine.fail_next_create(RuntimeError::Rejected("the mount source /nope does not exist".to_owned()));
    }
    let id = deploy(&owner, &sim_service("hello", 1)).await;
    // Either it was a passing failure and it runs, or it stays and the service fails with the engine's words.
    let service = wait_until("it has settled", SOON, async || {
        machine.engine.fail_next_create(RuntimeError::Rejected("the mount source /nope does not exist".to_owned()));
        let service = owner.service(&id).await;
        if service["service_status"] == "failed" { Ok(service) } else { Err(service.to_string()) }
    })
    .await;
    let reason = service["status_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("/nope"), "{reason}");
}

#[tokio::test]
async fn a_crash_loop_ends_as_failed_but_a_crash_while_running_does_not() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machine = Machine::start(&server, "one");
    let id = deploy(&owner, &sim_service("hello", 1)).await;
    owner.wait_for_ready(&id, 1).await;
    let instance = *machine.containers().keys().next().unwrap();
    machine.engine.crash(instance, 1);
    wait_until("the agent has started it again", SOON, async || {
        let restarts = owner.instances(&id).await[0]["restart_count"].clone();
        if restarts == 1 { Ok(()) } else { Err(restarts.to_string()) }
    })
    .await;
    owner.wait_for_ready(&id, 1).await;
    assert_eq!(machine.containers().keys().next(), Some(&instance), "the instance was replaced");
}
