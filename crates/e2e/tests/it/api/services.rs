//! Services as definitions: create, list, show, update, delete, and the statuses in which that is allowed.

use serde_json::{Value, json};
use towline_e2e::{api::Api, system::Server};

fn minimal(slug: &str) -> Value {
    json!({"service_slug": slug, "display_name": slug, "docker_image": "towline-demo:latest"})
}

#[tokio::test]
async fn a_definition_comes_back_with_its_defaults() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let id = owner.create_service(&minimal("hello")).await;
    let service = owner.service(&id).await;
    for (field, value) in [
        ("id", json!(id)),
        ("service_slug", json!("hello")),
        ("display_name", json!("hello")),
        ("service_desc", json!("")),
        ("service_type", json!("deployed")),
        ("docker_image", json!("towline-demo:latest")),
        ("exposed_port", json!(8080)),
        ("health_path", json!("/health")),
        ("env_config", json!([])),
        ("volume_config", json!([])),
        ("required_labels", json!([])),
        ("gpu_count", json!(0)),
        ("replica_count", json!(1)),
        ("service_status", json!("created")),
        ("instances_ready", json!(0)),
        ("instances_total", json!(0)),
    ] {
        assert_eq!(service[field], value, "{field} in {service:#}");
    }
    for field in ["created_at", "updated_at"] {
        let time = service[field].as_str().unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z') && time.contains('T'), "{field} is {time}");
    }
    // UUIDv7: version and variant.
    assert_eq!((&id[14..15], id.len()), ("7", 36));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::start().await;
    let owner = server.owner().await;
    for number in 0..5 {
        owner.create_service(&minimal(&format!("svc-{number}"))).await;
    }
    let page = async |query: &str| owner.get(&format!("/containers{query}")).await.expect(200);
    let slugs = |page: &Value| {
        let list = page["container_list"].as_array().unwrap().iter();
        list.map(|service| service["service_slug"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = page("").await;
    assert_eq!(all["page_meta"], json!({"current_page": 1, "per_page": 20, "total_count": 5}));
    assert_eq!(slugs(&all).len(), 5);
    let second = page("?current_page=2&per_page=2").await;
    let cursor = second["page_meta"]["next_cursor"].as_str().unwrap_or_default();
    let page_meta = json!({"current_page": 2, "per_page": 2, "total_count": 5, "next_cursor": cursor});
    assert_eq!(second["page_meta"], page_meta);
    assert_eq!(slugs(&second), slugs(&all)[2..4]);
    assert_eq!(slugs(&page(&format!("?cursor={cursor}")).await), slugs(&all)[4..]);
    assert!(slugs(&page("?current_page=9").await).is_empty());
    for wrong in ["?per_page=0", "?per_page=101", "?current_page=0", "?current_page=x", "?per_page=-1"] {
        owner.get(&format!("/containers{wrong}")).await.problem(400, "invalid_parameter");
    }
    let runtime = server.api().get("/r/containers?per_page=3").await.expect(200);
    assert_eq!(runtime["container_list"].as_array().unwrap().len(), 3);
    assert_eq!(runtime["page_meta"]["total_count"], 5);
}

#[tokio::test]
async fn an_update_is_partial_and_null_clears() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let mut spec = minimal("hello");
    spec["usage_prompt"] = json!("say hi");
    spec["env_config"] = json!([{"env_name": "A", "env_value": "1"}]);
    let id = owner.create_service(&spec).await;
    let path = format!("/containers/{id}");
    let answer = owner.put(&path, &json!({"display_name": "Hello", "usage_prompt": null, "replica_count": 3})).await;
    assert_eq!(answer.expect(200), json!({"id": id}));
    let service = owner.service(&id).await;
    assert_eq!(service["display_name"], "Hello");
    assert_eq!(service["usage_prompt"], Value::Null);
    assert_eq!(service["replica_count"], 3);
    assert_eq!(service["env_config"], spec["env_config"]);
    for (change, field) in [
        (json!({"service_slug": "other"}), "service_slug"),
        (json!({"display_name": null}), "display_name"),
        (json!({"colour": "red"}), "colour"),
        (json!({"replica_count": 11}), "replica_count"),
    ] {
        let message = owner.put(&path, &change).await.problem(400, "validation_failed");
        assert!(message.contains(field), "{change}: {message}");
    }
    assert_eq!(owner.service(&id).await["updated_at"], service["updated_at"], "a refused update changed something");
}

#[tokio::test]
async fn a_slug_is_taken_once() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let id = owner.create_service(&minimal("hello")).await;
    let message = owner.post("/containers", &minimal("hello")).await.problem(409, "already_exists");
    assert!(message.contains("hello"), "{message}");
    assert_eq!(owner.delete(&format!("/containers/{id}")).await.status, 204);
    owner.get(&format!("/containers/{id}")).await.problem(404, "not_found");
    owner.create_service(&minimal("hello")).await;
}

#[tokio::test]
async fn environment_values_are_for_members_only() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let mut spec = minimal("hello");
    spec["env_config"] = json!([{"env_name": "TOKEN", "env_value": "hunter2"}]);
    let id = owner.create_service(&spec).await;
    assert_eq!(owner.service(&id).await["env_config"], spec["env_config"]);
    let key = server.api();
    for path in [
        format!("/containers/{id}"),
        "/containers".to_owned(),
        "/r/containers".to_owned(),
        "/r/containers/hello".to_owned(),
    ] {
        let text = key.get(&path).await.expect(200).to_string();
        assert!(!text.contains("hunter2"), "{path} shows a value to an integration key: {text}");
    }
    assert!(!server.process.output().contains("hunter2"), "the log shows a value");
}

/// Without an agent a deploy waits for one, which is long enough to look at the statuses on the way.
#[tokio::test]
async fn each_status_allows_what_the_contract_says() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let id = owner.create_service(&minimal("hello")).await;
    let path = format!("/containers/{id}");
    let refused = async |owner: &Api, verb: &str| {
        owner.act(&format!("{path}/{verb}")).await.problem(409, "invalid_state");
    };
    refused(&owner, "undeploy").await;
    refused(&owner, "restart").await;
    owner.deploy(&id).await;
    let service = owner.service(&id).await;
    assert_eq!(service["service_status"], "deploying", "{service:#}");
    refused(&owner, "deploy").await;
    owner.put(&path, &json!({"display_name": "x"})).await.problem(409, "invalid_state");
    owner.delete(&path).await.problem(409, "invalid_state");
    server.api().get("/r/containers/hello/").await.gateway_problem(400, "service_not_running");
    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    refused(&owner, "undeploy").await;
    assert_eq!(owner.delete(&path).await.status, 204);
}

#[tokio::test]
async fn what_happened_is_told_as_events() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let id = owner.create_service(&minimal("hello")).await;
    owner.deploy(&id).await;
    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    let events = owner.get(&format!("/containers/{id}/events")).await.expect(200);
    let list = events["event_list"].as_array().unwrap_or_else(|| panic!("{events:#}"));
    assert!(list.len() >= 3, "{events:#}");
    assert_eq!(owner.instances(&id).await.len(), 0);
}
