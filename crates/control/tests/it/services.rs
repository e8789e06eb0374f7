//! Services as definitions, without any agent.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tower::ServiceExt;
use towline_model::Role;

use crate::support::{TestServer, minimal, with};

#[tokio::test]
async fn a_definition_comes_back_with_its_defaults() {
    let server = TestServer::start().await;
    let path = server.create(&minimal("hello")).await;
    let service = server.get(&server.owner(), &path).await.json(200);
    let expected = json!({
        "id": path.rsplit('/').next(), "service_slug": "hello", "display_name": "hello", "service_desc": "",
        "service_type": "deployed", "docker_image": "demo:1", "exposed_port": 8080, "health_path": "/health",
        "app_protocol": "http1", "env_config": [], "volume_config": [], "required_labels": [], "gpu_count": 0, "replica_count": 1,
        "probe": {"interval_seconds": 5, "timeout_seconds": 3, "failure_threshold": 3, "start_deadline_seconds": 120},
        "service_status": "created", "status_reason": null, "has_undeployed_changes": false, "instances_ready": 0, "instances_total": 0,
        "rollout": null, "request_line": null, "created_at": service["created_at"], "updated_at": service["created_at"],
    });
    assert_eq!(service, expected);
    assert_eq!(server.get(&server.key("sk"), "/api/v1/r/containers/hello").await.json(200), expected);
}

#[tokio::test]
async fn an_update_is_partial_null_clears_and_a_refused_one_changes_nothing() {
    let server = TestServer::start().await;
    let mut spec = minimal("hello");
    spec["usage_prompt"] = json!("say hi");
    spec["env_config"] = json!([{"env_name": "A", "env_value": "1"}]);
    let path = server.create(&spec).await;
    let owner = server.owner();
    let change = json!({"display_name": "Hello", "usage_prompt": null, "replica_count": 3});
    assert_eq!(server.put(&owner, &path, &change).await.json(200), json!({"id": path.rsplit('/').next()}));
    let service = server.get(&owner, &path).await.json(200);
    assert_eq!((&service["display_name"], &service["replica_count"]), (&json!("Hello"), &json!(3)));
    assert_eq!((service.get("usage_prompt"), &service["env_config"]), (None, &spec["env_config"]));
    for (change, field) in [
        (json!({"service_slug": "other"}), "service_slug"),
        (json!({"display_name": null}), "display_name"),
        (json!({"colour": null}), "colour"),
        (json!({"replica_count": 11}), "replica_count"),
        (json!({"display_name": "x", "exposed_port": 0}), "exposed_port"),
    ] {
        let message = server.put(&owner, &path, &change).await.problem(400, "validation_failed");
        assert!(message.contains(field), "{change}: {message}");
    }
    assert_eq!(server.get(&owner, &path).await.json(200), service);
    server.put(&owner, &path, &json!({})).await.json(200);
}

#[tokio::test]
async fn what_is_settled_at_creation_says_so_and_what_to_do() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let path = server.create(&minimal("hello")).await;
    let before = server.get(&owner, &path).await.json(200);
    for (change, field, is) in [
        (json!({"service_slug": "other"}), "service_slug", "is hello"),
        (json!({"service_type": "external", "external_url": "https://example.com"}), "service_type", "is deployed"),
        (
            json!({"service_type": "attached", "attached_target": "127.0.0.1:1", "docker_image": null}),
            "service_type",
            "is deployed",
        ),
    ] {
        let answer = server.put(&owner, &path, &change).await;
        let message = answer.problem(400, "validation_failed");
        for words in [field, is, "cannot be changed after creation", "create another service and delete this one"] {
            assert!(message.contains(words), "{change}: {message}");
        }
        let errors = answer.json(400)["errors"].clone();
        assert_eq!((errors.as_array().unwrap().len(), &errors[0]["field"]), (1, &json!(field)), "{errors:#}");
    }
    server.put(&owner, &path, &json!({"service_slug": "hello", "service_type": "deployed"})).await.json(200);
    let without_time = |mut service: Value| service.as_object_mut().unwrap().remove("updated_at").map(|_| service);
    assert_eq!(without_time(server.get(&owner, &path).await.json(200)), without_time(before));
}

#[tokio::test]
async fn a_slug_is_taken_once_in_a_team() {
    let server = TestServer::start().await;
    let path = server.create(&minimal("hello")).await;
    let again = server.post(&server.owner(), "/api/v1/containers", &minimal("hello")).await;
    assert!(again.problem(409, "already_exists").contains("hello"));
    assert_eq!(server.delete(&server.owner(), &path).await.status, 204);
    server.get(&server.owner(), &path).await.problem(404, "not_found");
    server.create(&minimal("hello")).await;
}

#[tokio::test]
async fn of_many_that_want_one_slug_one_gets_it() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let spec = minimal("hello");
    let answers =
        futures_util::future::join_all((0..10).map(|_| server.post(&owner, "/api/v1/containers", &spec))).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!((created, answers.iter().filter(|answer| answer.status == 409).count()), (1, 9));
}

#[tokio::test]
async fn changes_of_many_at_once_are_all_kept() {
    let server = TestServer::start().await;
    let path = server.create(&minimal("hello")).await;
    let owner = server.owner();
    let changes: Vec<Value> = [
        json!({"exposed_port": 81}),
        json!({"display_name": "x"}),
        json!({"replica_count": 2}),
        json!({"gpu_count": 1}),
        json!({"usage_prompt": "hi"}),
        json!({"health_path": "/up"}),
        json!({"service_desc": "d"}),
    ]
    .to_vec();
    let puts = changes.iter().map(|change| server.put(&owner, &path, change));
    for answer in futures_util::future::join_all(puts).await {
        answer.json(200);
    }
    let service = server.get(&owner, &path).await.json(200);
    for change in changes {
        for (field, value) in change.as_object().unwrap() {
            assert_eq!(&service[field], value);
        }
    }
}

#[tokio::test]
async fn each_status_allows_what_the_contract_says() {
    let server = TestServer::start_with(|config| config.limits.placement = Duration::from_secs(600)).await;
    let path = server.create(&with("hello", "required_labels", json!(["gpu"]))).await;
    let owner = server.owner();
    let refused = async |verb: &str| {
        let answer = server.act(&owner, &format!("{path}/{verb}")).await;
        let message = answer.problem(409, "invalid_state");
        assert!(message.contains(verb), "{message}");
    };
    refused("undeploy").await;
    refused("restart").await;
    let deployed = server.act(&owner, &format!("{path}/deploy")).await;
    assert_eq!(deployed.json(200), json!({"is_success": true}));
    let service =
        server.wait_for(&path, "it says what it waits for", |service| service["status_reason"].is_string()).await;
    assert_eq!(service["service_status"], "deploying");
    assert!(service["status_reason"].as_str().unwrap().contains("no agent has joined"), "{service:#}");
    assert_eq!((&service["rollout"]["generation"], &service["rollout"]["state"]), (&json!(1), &json!("progressing")));
    refused("deploy").await;
    refused("restart").await;
    server.put(&owner, &path, &json!({"display_name": "x"})).await.problem(409, "invalid_state");
    server.delete(&owner, &path).await.problem(409, "invalid_state");
    server.act(&owner, &format!("{path}/undeploy")).await.json(200);
    server.wait_for_status(&path, "stopped").await;
    refused("undeploy").await;
    server.put(&owner, &path, &json!({"display_name": "x"})).await.json(200);
    assert_eq!(server.delete(&owner, &path).await.status, 204);
}

#[tokio::test]
async fn without_an_agent_a_deploy_fails_in_words_and_can_be_tried_again() {
    let server = TestServer::start_with(|config| config.limits.placement = Duration::from_millis(50)).await;
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    let service = server.wait_for_status(&path, "failed").await;
    assert!(service["status_reason"].as_str().unwrap().contains("towline agent"), "{service:#}");
    assert_eq!(service["rollout"]["state"], "failed");
    let events = server.get(&server.key("sk"), &format!("{path}/events")).await.json(200);
    let kinds: Vec<_> = events["event_list"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["failed", "deploy_requested", "created"]);
    let message = events["event_list"][1]["message"].as_str().unwrap();
    assert!(message.contains("owner@ours.example"), "{message}");
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server
        .wait_for(&path, "it has failed again", |service| {
            service["rollout"]["generation"] == 2 && service["service_status"] == "failed"
        })
        .await;
    assert_eq!(server.delete(&server.owner(), &path).await.status, 204);
}

#[tokio::test]
async fn what_changes_something_runs_to_its_end_without_its_caller() {
    let server = TestServer::start().await;
    let owner = server.owner();
    // While somebody else writes, the request is under way and cannot end.
    let blocker = server.server.store().write().await.unwrap();
    let request = owner.request(Method::POST, "/api/v1/containers", Some(&minimal("hello")));
    let mut answer = Box::pin(server.router.clone().oneshot(request));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "it could not wait");
    drop(answer);
    drop(blocker);
    server.wait_for("/api/v1/containers", "the service is there", |list| list["page_meta"]["total_count"] == 1).await;
    assert_eq!(
        server.get(&server.user(Role::Viewer), "/api/v1/containers").await.json(200)["container_list"][0]["service_slug"],
        "hello"
    );
}

#[tokio::test]
async fn an_attached_service_is_defined_by_its_place() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let spec = json!({
        "service_slug": "ollama", "display_name": "Ollama", "service_type": "attached", "attached_target": "127.0.0.1:11434",
    });
    let path = server.create(&spec).await;
    let service = server.get(&owner, &path).await.json(200);
    for field in ["docker_image", "exposed_port", "health_path", "external_url"] {
        assert_eq!(service.get(field), None, "{field}");
    }
    assert_eq!(
        (&service["service_type"], &service["attached_target"]),
        (&json!("attached"), &json!("127.0.0.1:11434"))
    );
    for (change, field) in [
        (json!({"docker_image": "demo:1"}), "docker_image"),
        (json!({"attached_target": null}), "attached_target"),
        (json!({"attached_target": "http://127.0.0.1:11434"}), "attached_target"),
        (json!({"external_url": "https://example.com"}), "external_url"),
        (json!({"service_type": "deployed"}), "service_type"),
    ] {
        let message = server.put(&owner, &path, &change).await.problem(400, "validation_failed");
        assert!(message.contains(field), "{change}: {message}");
    }
    let words = server.act(&owner, &format!("{path}/deploy")).await.problem(409, "no_eligible_agent");
    assert!(words.contains("no agent has joined"), "{words}");
    assert_eq!(server.get(&owner, &path).await.json(200)["service_status"], "created");
}
