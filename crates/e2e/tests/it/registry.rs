//! Images that have to be pulled, from a real registry.

use serde_json::json;
use towline_e2e::{
    engine::Engine,
    registry::Registry,
    system::{Server, demo_service},
};

use crate::docker::Cleanup;

#[tokio::test]
async fn an_image_that_is_only_in_the_registry_is_pulled() {
    let engine = Engine::of_this_machine().await;
    let mut registry = Registry::start().await;
    let reference = registry.publish(&engine, "team/demo").await;
    assert!(engine.docker().inspect_image(&reference).await.is_err(), "the image is here before it was pulled");
    let server = Server::start().await;
    let _agent = server.start_agent("machine-1").await;
    let owner = server.owner().await;
    let mut spec = demo_service("pulled", 1);
    spec["docker_image"] = json!(reference);
    let id = owner.create_service(&spec).await;
    let cleanup = Cleanup::of(&engine, &id);
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    server.api().get("/r/containers/pulled/echo").await.expect(200);
    let image = engine.docker().inspect_image(&reference).await.expect("the image was pulled");
    let labels = image.config.and_then(|config| config.labels).unwrap_or_default();
    assert_eq!(labels.get("only.in").map(String::as_str), Some(registry.address()));
    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    drop(cleanup);
    registry.forget(&engine, &reference).await;
}

#[tokio::test]
async fn a_tag_that_the_registry_does_not_have_fails_with_the_reason() {
    let engine = Engine::of_this_machine().await;
    let mut registry = Registry::start().await;
    let reference = registry.publish(&engine, "team/demo").await;
    let missing = reference.replace(":1", ":2");
    let missing = if missing.contains(&format!("{}/", registry.address())) {
        missing
    } else {
        format!("{}/team/demo:2", registry.address())
    };
    let server = Server::start().await;
    let _agent = server.start_agent("machine-1").await;
    let owner = server.owner().await;
    let mut spec = demo_service("missing", 1);
    spec["docker_image"] = json!(missing);
    let id = owner.create_service(&spec).await;
    let _cleanup = Cleanup::of(&engine, &id);
    owner.deploy(&id).await;
    let service = owner.wait_for_status(&id, "failed").await;
    let reason = service["status_reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&missing), "{reason}");
}
