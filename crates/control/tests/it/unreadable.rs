//! Secrets that do not open and definitions that cannot be read: each stands in the way of its own service only.

use http::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};
use towline_model::InstancePhase;

use crate::{
    agents::Machine,
    support::{TestServer, minimal, with},
};

async fn store(server: &TestServer, name: &str) -> String {
    let body = json!({"name": name, "value": "hunter2"});
    server.post(&server.owner(), "/api/v1/secrets", &body).await.json(201)["id"].as_str().unwrap().to_owned()
}

fn needing(slug: &str, secret: &str) -> Value {
    with(slug, "env_config", json!([{"env_name": "TOKEN", "secret_id": secret}]))
}

/// What a disk does, or somebody who restores half a backup.
async fn damage_secret(server: &TestServer, id: &str) {
    let ids = [id.parse().unwrap()].into();
    let mut tx = server.server.store().write().await.unwrap();
    let mut row = tx.lock_secrets(server.ours.id, &ids).await.unwrap().remove(0);
    row.sealed = "1.AAAA".to_owned();
    tx.update_secret(&mut row).await.unwrap();
    tx.commit().await.unwrap();
}

/// Changes rows past the server, as a newer version does.
async fn execute_raw(server: &TestServer, sql: String) {
    let url = server.config.database_url.expose();
    let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn run(server: &TestServer, definition: &Value) -> String {
    let path = server.create(definition).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for(&path, "it is ready", |service| service["instances_ready"] == 1).await;
    path
}

#[tokio::test]
async fn a_secret_that_does_not_open_concerns_its_own_services_only() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "one").await;
    machine.set(|spec| match spec.service_slug.as_str() {
        "slow" => (InstancePhase::Starting, None),
        _ => (InstancePhase::Ready, None),
    });
    let (secret, owner) = (store(&server, "db/password").await, server.owner());
    let user = run(&server, &needing("user", &secret)).await;
    let slow = server.create(&needing("slow", &secret)).await;
    server.act(&owner, &format!("{slow}/deploy")).await.json(200);
    machine.wished(|specs| specs.len() == 2).await;

    damage_secret(&server, &secret).await;
    let failed = server.wait_for_status(&slow, "failed").await;
    let reason = failed["status_reason"].as_str().unwrap();
    assert!(reason.contains("db/password") && reason.contains("set the value anew"), "{reason}");
    // The agent goes on being told; what runs is left alone, and nothing new is made without the secret.
    let other = run(&server, &minimal("other")).await;
    let specs = machine.wished(|specs| specs.len() == 2 && specs.iter().any(|spec| spec.service_slug == "other")).await;
    let told = specs.iter().find(|spec| spec.service_slug == "user").unwrap();
    assert!(told.withheld.as_ref().unwrap().contains("db/password"), "{:?}", told.withheld);
    assert_eq!((told.secret_env.len(), told.env[0].env_value.as_str()), (1, ""));
    assert_eq!(server.get(&owner, &user).await.json(200)["instances_ready"], 1);
    for path in [&user, &slow] {
        let message = server.act(&owner, &format!("{path}/deploy")).await.problem(409, "secret_unreadable");
        assert!(message.contains("db/password") && message.contains("env_config[0]"), "{message}");
    }
    server.act(&owner, &format!("{user}/restart")).await.problem(409, "secret_unreadable");
    server.act(&owner, &format!("{other}/restart")).await.json(200);

    server.put(&owner, &format!("/api/v1/secrets/{secret}"), &json!({"value": "anew"})).await.json(200);
    let is_whole = |spec: &towline_tunnel::message::InstanceSpec| {
        spec.service_slug == "user" && spec.withheld.is_none() && spec.env[0].env_value == "anew"
    };
    machine.wished(|specs| specs.iter().any(is_whole)).await;
    server.act(&owner, &format!("{user}/restart")).await.json(200);
}

#[tokio::test]
async fn a_definition_that_cannot_be_read_fails_its_own_service_only() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "one").await;
    let (secret, owner) = (store(&server, "db/password").await, server.owner());
    let broken = run(&server, &needing("broken", &secret)).await;
    let fine = run(&server, &minimal("fine")).await;
    let newer = format!(r#"{{"service_slug":"broken","secrets":["{secret}"],"from_next_year":"hunter2"}}"#);
    execute_raw(
        &server,
        format!("UPDATE services SET spec = '{newer}', deployed_spec = '{newer}' WHERE slug = 'broken'"),
    )
    .await;

    let shown = server.get(&owner, &broken).await.json(200);
    assert_eq!((&shown["service_slug"], &shown["service_status"]), (&json!("broken"), &json!("failed")));
    let reason = shown["status_reason"].as_str().unwrap();
    assert!(reason.contains("cannot be read") && reason.contains("delete the service"), "{reason}");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    let list = server.get(&owner, "/api/v1/containers").await.json(200);
    let status: Vec<_> =
        list["container_list"].as_array().unwrap().iter().map(|service| &service["service_status"]).collect();
    assert_eq!(status, [&json!("failed"), &json!("running")]);
    // It is ended, as what has failed is; the others go on and can be changed.
    machine.wished(|specs| specs.len() == 1 && specs[0].service_slug == "fine").await;
    server.put(&owner, &fine, &json!({"display_name": "Finer"})).await.json(200);
    server.act(&owner, &format!("{fine}/deploy")).await.json(200);
    run(&server, &minimal("new")).await;
    for action in ["deploy", "undeploy", "restart"] {
        server.act(&owner, &format!("{broken}/{action}")).await.problem(409, "definition_unreadable");
    }
    let change = json!({"display_name": "Mended"});
    let message = server.put(&owner, &broken, &change).await.problem(409, "definition_unreadable");
    assert!(message.contains("cannot be read"), "{message}");

    let path = format!("/api/v1/secrets/{secret}");
    let message = server.call(&owner, Method::DELETE, &path, None).await.problem(409, "secret_in_use");
    assert!(message.contains("broken") && message.contains("cannot be read"), "{message}");
    assert_eq!(server.delete(&owner, &broken).await.status, 204);
    assert_eq!(server.delete(&owner, &path).await.status, 204);
}

#[tokio::test]
async fn a_definition_that_can_be_read_again_goes_on() {
    let server = TestServer::start().await;
    let _machine = Machine::join(&server, "one").await;
    let path = run(&server, &minimal("hello")).await;
    execute_raw(&server, "UPDATE services SET deployed_spec = '{' || deployed_spec".to_owned()).await;
    assert_eq!(server.get(&server.owner(), &path).await.json(200)["service_status"], "failed");
    execute_raw(&server, "UPDATE services SET deployed_spec = substr(deployed_spec, 2)".to_owned()).await;
    let ready = |service: &Value| service["service_status"] == "running" && service["instances_ready"] == 1;
    server.wait_for(&path, "it runs as before", ready).await;
}
