//! Images that have to be pulled, from a real registry.

use serde_json::json;
use towline_e2e::{
    engine::Engine,
    registry::{LOGIN, Registry},
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
    registry.publish(&engine, "team/demo").await;
    let missing = format!("{}/team/demo:2", registry.address());
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

#[tokio::test]
async fn an_image_behind_a_login_is_pulled_with_the_secret_and_not_with_a_wrong_one() {
    let engine = Engine::of_this_machine().await;
    let mut registry = Registry::start().await;
    let reference = registry.publish(&engine, "team/private").await;
    registry.require_login().await;
    let server = Server::start().await;
    let agent = server.start_agent("machine-1").await;
    let owner = server.owner().await;
    let body = json!({"name": "login", "value": "robot$ci:wrong-password"});
    let secret = owner.post("/secrets", &body).await.created()["id"].as_str().unwrap().to_owned();
    let colour = json!({"name": "colour", "value": "ultra violet = \"1\" $HOME"});
    let colour = owner.post("/secrets", &colour).await.created()["id"].clone();
    let mut spec = demo_service("private", 1);
    spec["docker_image"] = json!(reference);
    spec["env_config"] = json!([{"env_name": "DEMO_COLOUR", "secret_id": colour}]);
    let id = owner.create_service(&spec).await;
    let cleanup = Cleanup::of(&engine, &id);

    owner.deploy(&id).await;
    let service = owner.wait_for_status(&id, "failed").await;
    let reason = service["status_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("login that may read it"), "without a login: {reason}");
    owner.put(&format!("/containers/{id}"), &json!({"registry_auth_secret_id": secret})).await.expect(200);
    owner.deploy(&id).await;
    let service = owner.wait_for_status(&id, "failed").await;
    let reason = service["status_reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("registry_auth_secret_id") && !reason.contains("wrong-password"), "{reason}");
    assert!(engine.docker().inspect_image(&reference).await.is_err(), "it was pulled with a wrong login");

    owner.put(&format!("/secrets/{secret}"), &json!({"value": LOGIN})).await.expect(200);
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    // The container has the secret that is for it, and nothing anywhere has the login.
    let container = engine.container_ids(&id).await.remove(0);
    let inspected = engine.inspect(&container).await;
    let env = inspected.config.clone().and_then(|config| config.env).unwrap_or_default();
    assert!(env.contains(&"DEMO_COLOUR=ultra violet = \"1\" $HOME".to_owned()), "{env:?}");
    let inspected = serde_json::to_string(&inspected).unwrap();
    let (_, password) = LOGIN.split_once(':').unwrap();
    assert!(!inspected.contains(password) && !inspected.contains("robot$ci"), "{inspected}");
    for (process, output) in [("agent", agent.process.output()), ("server", server.process.output())] {
        assert!(!output.contains(password) && !output.contains("ultra violet"), "the {process}'s log: {output}");
    }
    let shown = owner.get(&format!("/containers/{id}")).await.text() + &owner.get("/secrets").await.text();
    assert!(!shown.contains(password) && !shown.contains("ultra violet"), "{shown}");
    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    drop(cleanup);
    registry.forget(&engine, &reference).await;
}
