//! Secrets over the API: stored, referred to, never seen again.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use towline_model::Role;

use crate::support::{TestServer, minimal, with};

const VALUE: &str = "hunter2-a-value-that-nobody-sees";

/// Stores a secret of our team and gives its id.
async fn store(server: &TestServer, name: &str, value: &str) -> String {
    let body = json!({"name": name, "value": value});
    server.post(&server.owner(), "/api/v1/secrets", &body).await.json(201)["id"].as_str().unwrap().to_owned()
}

fn env(id: &str) -> Value {
    json!([{"env_name": "TOKEN", "secret_id": id}])
}

#[tokio::test]
async fn a_secret_is_stored_listed_changed_and_forgotten_without_being_seen() {
    let server = TestServer::start().await;
    let owner = server.user(Role::Member);
    let body = json!({"name": "openai/key", "description": "production", "value": VALUE});
    let made = server.post(&owner, "/api/v1/secrets", &body).await.json(201);
    assert_eq!(made.as_object().unwrap().len(), 1, "{made}");
    let path = format!("/api/v1/secrets/{}", made["id"].as_str().unwrap());
    let shown = server.get(&owner, &path).await.json(200);
    let expected = json!({
        "id": made["id"], "name": "openai/key", "description": "production", "used_by": [],
        "created_at": shown["created_at"], "updated_at": shown["created_at"],
    });
    assert_eq!(shown, expected);
    let list = server.get(&owner, "/api/v1/secrets?per_page=1").await.json(200);
    assert_eq!(
        list,
        json!({"secret_list": [expected], "page_meta": {"current_page": 1, "per_page": 1, "total_count": 1}})
    );

    let answer = server.put(&owner, &path, &json!({"name": "other", "description": null})).await;
    assert_eq!(answer.json(200), json!({"id": made["id"]}));
    server.put(&owner, &path, &json!({"value": "another"})).await.json(200);
    let shown = server.get(&owner, &path).await.json(200);
    assert_eq!((&shown["name"], &shown["description"]), (&json!("other"), &json!("")));
    assert_eq!(server.delete(&owner, &path).await.status, 204);
    server.get(&owner, &path).await.problem(404, "not_found");
    server.delete(&owner, &path).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_name_is_taken_once_in_a_team() {
    let server = TestServer::start().await;
    store(&server, "key", "x").await;
    let other = store(&server, "other", "x").await;
    let body = json!({"name": "key", "value": "y"});
    assert!(
        server.post(&server.owner(), "/api/v1/secrets", &body).await.problem(409, "already_exists").contains("key")
    );
    let path = format!("/api/v1/secrets/{other}");
    server.put(&server.owner(), &path, &json!({"name": "key"})).await.problem(409, "already_exists");
    let stranger = server.user_in(&server.theirs, Role::Owner);
    server.post(&stranger, "/api/v1/secrets", &body).await.json(201);
}

#[tokio::test]
async fn what_is_wished_of_a_secret_is_checked_and_not_repeated() {
    let server = TestServer::start().await;
    let good = store(&server, "good", "x").await;
    let path = format!("/api/v1/secrets/{good}");
    let too_long = format!("{VALUE}{}", "x".repeat(65_536));
    for (field, body) in [
        ("name", json!({"name": "", "value": VALUE})),
        ("name", json!({"name": "a b", "value": VALUE})),
        ("name", json!({"name": "x".repeat(101), "value": VALUE})),
        ("name", json!({"name": good, "value": VALUE})),
        ("name", json!({"name": "-x", "value": VALUE})),
        ("name", json!({"value": VALUE})),
        ("description", json!({"name": "x", "description": "x".repeat(1001), "value": VALUE})),
        ("value", json!({"name": "x", "value": ""})),
        ("value", json!({"name": "x", "value": format!("{VALUE}\0")})),
        ("value", json!({"name": "x", "value": too_long})),
        ("value", json!({"name": "x", "value": [VALUE]})),
        ("value", json!({"name": "x", "value": 20_262_026})),
        ("value", json!({"name": "x"})),
        ("colour", json!({"name": "x", "value": VALUE, "colour": 1})),
    ] {
        let answer = server.post(&server.owner(), "/api/v1/secrets", &body).await;
        let text = answer.text();
        let message = answer.json(400)["error_message"].as_str().unwrap().to_owned();
        assert!(message.contains(field), "{field}: {message}");
        assert!(!text.contains("hunter2") && !text.contains("20262026"), "{text}");
        if body.get("value").is_some() && body.get("name").is_some() {
            let answer = server.put(&server.owner(), &path, &body).await;
            assert!(answer.status == 400 && !answer.text().contains("hunter2"), "{}", answer.text());
        }
    }
    let list = server.get(&server.owner(), "/api/v1/secrets").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 1, "none was stored");
}

#[tokio::test]
async fn a_reference_must_name_a_secret_that_fits() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let (login, word) = (store(&server, "login", "user:pass").await, store(&server, "word", VALUE).await);
    let unknown = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
    let path = server.create(&minimal("hello")).await;
    for (field, value, named, says) in [
        ("env_config", env(unknown), "env_config[0].secret_id", "no such secret"),
        ("registry_auth_secret_id", json!(unknown), "registry_auth_secret_id", "no such secret"),
        ("registry_auth_secret_id", json!(word), "registry_auth_secret_id", "username:password"),
    ] {
        let created = server.post(&owner, "/api/v1/containers", &with("refers", field, value.clone())).await;
        let updated = server.put(&owner, &path, &json!({field: value})).await;
        for answer in [created, updated] {
            let message = answer.problem(400, "validation_failed");
            assert!(message.contains(named) && message.contains(says), "{message}");
            assert_eq!(answer.json(400)["errors"][0]["field"], named);
            assert!(!answer.text().contains("hunter2"), "{}", answer.text());
        }
    }
    assert_eq!(server.get(&owner, &path).await.json(200).get("registry_auth_secret_id"), None, "nothing was changed");
    server.put(&owner, &path, &json!({"registry_auth_secret_id": login, "env_config": env(&word)})).await.json(200);
    let service = server.get(&server.user(Role::Viewer), &path).await.json(200);
    assert_eq!((&service["registry_auth_secret_id"], &service["env_config"]), (&json!(login), &env(&word)));
    // What is in use keeps its form.
    let message = server
        .put(&owner, &format!("/api/v1/secrets/{login}"), &json!({"value": VALUE}))
        .await
        .problem(400, "validation_failed");
    assert!(
        message.contains("hello") && message.contains("username:password") && !message.contains("hunter2"),
        "{message}"
    );
    server.put(&owner, &path, &json!({"registry_auth_secret_id": null})).await.json(200);
    server.put(&owner, &format!("/api/v1/secrets/{login}"), &json!({"value": VALUE})).await.json(200);
}

#[tokio::test]
async fn one_in_use_is_not_forgotten_and_says_where() {
    let server = TestServer::start_with(|config| config.limits.placement = std::time::Duration::from_secs(600)).await;
    let owner = server.owner();
    let id = store(&server, "key", "user:pass").await;
    let secret = format!("/api/v1/secrets/{id}");
    let mut spec = with("hello", "env_config", env(&id));
    spec["registry_auth_secret_id"] = json!(id);
    spec["required_labels"] = json!(["none-has-it"]);
    let path = server.create(&spec).await;
    let message = server.delete(&owner, &secret).await.problem(409, "secret_in_use");
    assert!(message.contains("hello (env_config[0].secret_id), hello (registry_auth_secret_id)"), "{message}");
    let used_by = server.get(&owner, &secret).await.json(200)["used_by"].clone();
    let place = |field: &str| json!({"service_id": path.rsplit('/').next(), "service_slug": "hello", "field": field, "is_in_definition": true});
    assert_eq!(used_by, json!([place("env_config[0].secret_id"), place("registry_auth_secret_id")]));

    // A deploy goes on needing what its definition does not name any more.
    server.act(&owner, &format!("{path}/deploy")).await.json(200);
    server.act(&owner, &format!("{path}/undeploy")).await.json(200);
    server.wait_for_status(&path, "stopped").await;
    server.put(&owner, &path, &json!({"registry_auth_secret_id": null})).await.json(200);
    server.delete(&owner, &secret).await.problem(409, "secret_in_use");
    server.act(&owner, &format!("{path}/deploy")).await.json(200);
    let list = server.get(&owner, "/api/v1/secrets").await.json(200);
    assert_eq!(list["secret_list"][0]["used_by"].as_array().unwrap().len(), 1);
    server.act(&owner, &format!("{path}/undeploy")).await.json(200);
    server.wait_for_status(&path, "stopped").await;
    server.put(&owner, &path, &json!({"env_config": []})).await.json(200);
    assert_eq!(server.delete(&owner, &secret).await.status, 204);
}

#[tokio::test]
async fn a_service_and_its_secrets_have_a_size_together() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(store(&server, name, &"x".repeat(60_000)).await);
    }
    let variables = |ids: &[String]| -> Value {
        let entries = ids.iter().enumerate();
        entries.map(|(index, id)| json!({"env_name": format!("V{index}"), "secret_id": id})).collect()
    };
    let message = server
        .post(&owner, "/api/v1/containers", &with("hello", "env_config", variables(&ids)))
        .await
        .problem(400, "validation_failed");
    assert!(message.contains("128 KiB"), "{message}");
    server.create(&with("hello", "env_config", variables(&ids[..2]))).await;
    let path = format!("/api/v1/secrets/{}", ids[0]);
    let message =
        server.put(&owner, &path, &json!({"value": "\"".repeat(50_000)})).await.problem(400, "validation_failed");
    assert!(message.contains("hello") && message.contains("128 KiB"), "{message}");
    server.put(&owner, &path, &json!({"value": "short"})).await.json(200);
}

#[tokio::test]
async fn of_many_references_and_a_deletion_at_once_nothing_is_left_dangling() {
    let server = TestServer::start().await;
    let owner = server.owner();
    for round in 0..5 {
        let id = store(&server, &format!("key-{round}"), "x").await;
        let specs: Vec<_> = (0..4).map(|n| with(&format!("s-{round}-{n}"), "env_config", env(&id))).collect();
        let creates = specs.iter().map(|spec| server.post(&owner, "/api/v1/containers", spec));
        let secret = format!("/api/v1/secrets/{id}");
        let (created, deleted) = tokio::join!(futures_util::future::join_all(creates), server.delete(&owner, &secret));
        let made = created.iter().filter(|answer| answer.status == 201).count();
        assert!((deleted.status == 204) == (made == 0), "{made} refer to it, and deleting it was {}", deleted.status);
    }
}

/// Everything that is logged while it is set.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_value_is_in_no_log_event_answer_or_description() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = TestServer::start().await;
    let owner = server.owner();
    let id = store(&server, "key", &format!("{VALUE}:{VALUE}")).await;
    let mut spec = with("hello", "env_config", env(&id));
    spec["registry_auth_secret_id"] = json!(id);
    let path = server.create(&spec).await;
    server.act(&owner, &format!("{path}/deploy")).await.json(200);
    server.put(&owner, &format!("/api/v1/secrets/{id}"), &json!({"value": format!("{VALUE}:2")})).await.json(200);
    server
        .put(&owner, &format!("/api/v1/secrets/{id}"), &json!({"value": VALUE}))
        .await
        .problem(400, "validation_failed");
    server.delete(&owner, &format!("/api/v1/secrets/{id}")).await.problem(409, "secret_in_use");
    for path in [
        path.as_str(),
        "/api/v1/containers",
        &format!("{path}/events"),
        &format!("{path}/instances"),
        "/api/v1/secrets",
        &format!("/api/v1/secrets/{id}"),
        "/api/v1/r/containers/hello",
        "/api/v1/openapi.json",
    ] {
        let answer = server.get(&owner, path).await;
        assert!(answer.status == 200 && !answer.text().contains("hunter2"), "{path}: {}", answer.text());
    }
    let mut tx = server.server.store().read().await.unwrap();
    let rows = tx.list_secrets(server.ours.id, towline_store::Page::default()).await.unwrap();
    assert!(!format!("{rows:?}").contains("hunter2"));
    drop(tx);
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("/api/v1/secrets"), "the log was seen: {} bytes", logged.len());
    assert!(!logged.contains("hunter2"));
}
