//! Keys over the API.

use http::Method;
use serde_json::{Value, json};
use towline_model::Role;

use crate::support::{Caller, TestServer, minimal};

#[tokio::test]
async fn a_key_is_shown_once_works_and_is_dead_at_the_next_request() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let body = json!({"kind": "integration", "display_name": "ci", "expires_in_days": 30});
    let made = server.post(&owner, "/api/v1/credentials", &body).await.json(201);
    let names: Vec<_> = made.as_object().unwrap().keys().collect();
    assert_eq!(names, ["id", "key_prefix", "kind", "raw_key"], "as the contract says");
    let raw_key = made["raw_key"].as_str().unwrap();
    assert_eq!((&made["kind"], &made["key_prefix"]), (&json!("integration"), &json!(raw_key[..12])));
    let program = Caller::bearer(raw_key);
    server.get(&program, "/api/v1/containers").await.json(200);
    let list = server.get(&owner, "/api/v1/credentials?kind=integration").await.json(200);
    let row = list["credentials"].as_array().unwrap().iter().find(|row| row["id"] == made["id"]).unwrap();
    assert_eq!((&row["display_name"], &row["scopes"]), (&json!("ci"), &json!(["read", "invoke"])));
    assert!(row["expires_at"].is_string() && !list.to_string().contains(&raw_key[12..]), "{row:#}");
    let path = format!("/api/v1/credentials/{}", made["id"].as_str().unwrap());
    assert_eq!(server.delete(&owner, &path).await.status, 204);
    server.get(&program, "/api/v1/containers").await.problem(401, "unauthenticated");
    server.delete(&owner, &path).await.problem(404, "not_found");
    let list = server.get(&owner, "/api/v1/credentials").await.json(200);
    assert!(!list.to_string().contains(made["id"].as_str().unwrap()), "revoked keys are not listed");
}

#[tokio::test]
async fn kinds_are_told_apart() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let made =
        server.post(&owner, "/api/v1/credentials", &json!({"kind": "agent", "display_name": "rack"})).await.json(201);
    assert!(made["raw_key"].as_str().unwrap().starts_with("ak-"));
    for (kind, count) in [("integration", 4), ("agent", 2), ("device", 1)] {
        let list = server.get(&owner, &format!("/api/v1/credentials?kind={kind}")).await.json(200);
        assert_eq!(list["page_meta"]["total_count"], count, "{kind}");
        assert!(list["credentials"].as_array().unwrap().iter().all(|row| row["kind"] == kind));
    }
}

#[tokio::test]
async fn what_is_wished_of_a_key_is_checked() {
    let server = TestServer::start().await;
    let good = || json!({"kind": "integration", "display_name": "x"});
    let with = |field: &str, value: Value| {
        let mut body = good();
        body[field] = value;
        body
    };
    for (field, body) in [
        ("display_name", with("display_name", json!(""))),
        ("display_name", with("display_name", json!("x".repeat(101)))),
        ("display_name", with("display_name", json!("a\nb"))),
        ("display_name", json!({"kind": "agent"})),
        ("kind", with("kind", json!("device"))),
        ("kind", json!({"display_name": "x"})),
        ("expires_in_days", with("expires_in_days", json!(0))),
        ("expires_in_days", with("expires_in_days", json!(366))),
        ("expires_in_days", with("expires_in_days", json!(-1))),
        ("scopes", with("scopes", json!([]))),
        ("scopes", with("scopes", json!(["fly"]))),
        ("scopes", json!({"kind": "agent", "display_name": "x", "scopes": ["read"]})),
        ("services", with("services", json!([]))),
        ("services", with("services", json!(["no-such"]))),
        ("services", json!({"kind": "agent", "display_name": "x", "services": ["hello"]})),
        ("colour", with("colour", json!(1))),
    ] {
        let answer = server.post(&server.owner(), "/api/v1/credentials", &body).await;
        let message = answer.json(400)["error_message"].as_str().unwrap().to_owned();
        assert!(message.contains(field), "{body}: {message}");
    }
    let list = server.get(&server.owner(), "/api/v1/credentials").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 6, "none was made");
}

#[tokio::test]
async fn scopes_are_what_a_key_may_do() {
    let server = TestServer::start().await;
    let body = json!({"kind": "integration", "display_name": "x", "scopes": ["manage", "read", "manage"]});
    let made = server.post(&server.user(Role::Member), "/api/v1/credentials", &body).await.json(201);
    let manager = Caller::bearer(made["raw_key"].as_str().unwrap());
    let spec = crate::support::minimal("hello");
    server.post(&manager, "/api/v1/containers", &spec).await.json(201);
    server.post(&server.key("sk"), "/api/v1/containers", &spec).await.problem(403, "forbidden");
    let events = server.get(&manager, "/api/v1/containers").await.json(200);
    let id = events["container_list"][0]["id"].as_str().unwrap().to_owned();
    let events = server.get(&manager, &format!("/api/v1/containers/{id}/events")).await.json(200);
    assert_eq!(events["event_list"][0]["message"], "defined by the key \"x\"");
}

#[tokio::test]
async fn a_key_with_a_list_sees_nothing_else() {
    let server = TestServer::start().await;
    let (listed, other) = (server.create(&minimal("listed")).await, server.create(&minimal("other")).await);
    let theirs = server.user_in(&server.theirs, Role::Owner);
    server.post(&theirs, "/api/v1/containers", &minimal("abroad")).await.json(201);
    let body = |slugs: Value| json!({"kind": "integration", "display_name": "x", "scopes": ["read", "invoke", "manage"], "services": slugs});
    let refused = server.post(&server.owner(), "/api/v1/credentials", &body(json!(["listed", "abroad"]))).await;
    assert!(refused.problem(400, "validation_failed").contains("services[1]"), "{}", refused.text());
    let made = server.post(&server.owner(), "/api/v1/credentials", &body(json!(["listed", "listed"]))).await.json(201);
    let key = Caller::bearer(made["raw_key"].as_str().unwrap());
    let services = async || {
        let list = server.get(&server.owner(), "/api/v1/credentials").await.json(200);
        let rows = list["credentials"].as_array().unwrap();
        assert!(rows.iter().all(|row| (row["id"] == made["id"]) == row["services"].is_array()), "{list:#}");
        rows.iter().find(|row| row["id"] == made["id"]).unwrap()["services"].clone()
    };
    assert_eq!(services().await, json!(["listed"]));

    let unknown = "/api/v1/containers/01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
    let mut caller = key.clone();
    caller.headers.push(("x-request-id", "same".to_owned()));
    for (method, part) in [
        (Method::GET, ""),
        (Method::PUT, ""),
        (Method::DELETE, ""),
        (Method::POST, "/deploy"),
        (Method::POST, "/undeploy"),
        (Method::POST, "/restart"),
        (Method::GET, "/instances"),
        (Method::GET, "/events"),
        (Method::GET, "/logs"),
    ] {
        let body = (method == Method::PUT).then(|| json!({"display_name": "x"}));
        let ask = async |path: &str| {
            let answer = server.call(&caller, method.clone(), &format!("{path}{part}"), body.as_ref()).await;
            answer.problem(404, "not_found");
            (answer.headers.clone(), answer.text())
        };
        assert_eq!(ask(&other).await, ask(unknown).await, "{method} {part}");
    }
    let hidden = server.get(&caller, "/api/v1/r/containers/other").await;
    assert_eq!(hidden.text(), server.get(&caller, "/api/v1/r/containers/outer").await.text());
    for path in ["/api/v1/containers", "/api/v1/r/containers"] {
        let list = server.get(&key, path).await.json(200);
        assert_eq!(
            (&list["page_meta"]["total_count"], list["container_list"].as_array().unwrap().len()),
            (&json!(1), 1)
        );
        assert_eq!(list["container_list"][0]["service_slug"], "listed");
    }
    server.put(&key, &listed, &json!({"display_name": "new"})).await.json(200);
    server.post(&key, "/api/v1/containers", &minimal("third")).await.problem(403, "forbidden");

    // A service that takes over the slug of one that was deleted is another service.
    assert_eq!(server.delete(&key, &listed).await.status, 204);
    server.create(&minimal("listed")).await;
    server.get(&key, "/api/v1/r/containers/listed").await.problem(404, "not_found");
    assert_eq!(server.get(&key, "/api/v1/containers").await.json(200)["page_meta"]["total_count"], 0);
    assert_eq!(services().await, json!([]), "an empty list is not the whole team");
}
