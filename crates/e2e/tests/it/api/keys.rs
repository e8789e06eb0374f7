//! Keys: made once, shown once, recognised by their prefix, dead at the next request.

use serde_json::{Value, json};
use towline_e2e::{api::Api, system::Server};

async fn listed(owner: &Api, kind: &str) -> Vec<Value> {
    let page = owner.get(&format!("/credentials?kind={kind}")).await.expect(200);
    assert!(page["page_meta"]["total_count"].is_u64(), "{page}");
    page["credentials"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_key_is_shown_once_and_revoked_for_the_very_next_request() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let body = json!({"kind": "integration", "display_name": "ci", "expires_in_days": 30});
    let created = owner.post("/credentials", &body).await.created();
    let raw_key = created["raw_key"].as_str().unwrap();
    assert_eq!(created["kind"], "integration");
    assert_eq!(created["key_prefix"], raw_key[..12]);
    let row = listed(&owner, "integration").await.into_iter().find(|row| row["id"] == created["id"]).unwrap();
    assert_eq!(row["display_name"], "ci");
    assert_eq!(row["key_prefix"], raw_key[..12]);
    assert!(row["expires_at"].is_string(), "{row}");
    assert!(!row.to_string().contains(&raw_key[12..]), "the list shows a key");

    let program = server.api().with_key(raw_key);
    program.get("/r/containers").await.expect(200);
    let path = format!("/credentials/{}", created["id"].as_str().unwrap());
    assert_eq!(owner.delete(&path).await.status, 204);
    program.get("/r/containers").await.problem(401, "unauthenticated");
    owner.delete(&path).await.problem(404, "not_found");
}

#[tokio::test]
async fn keys_of_each_kind_are_listed_apart() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let agent = owner.post("/credentials", &json!({"kind": "agent", "display_name": "rack 3"})).await.created();
    assert!(agent["raw_key"].as_str().unwrap().starts_with("ak-"), "{agent}");
    let ids = |rows: Vec<Value>| rows.into_iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert!(ids(listed(&owner, "agent").await).contains(&agent["id"]));
    assert!(!ids(listed(&owner, "integration").await).contains(&agent["id"]));
    owner.get("/credentials?kind=moon").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_key_makes_no_keys() {
    let server = Server::start().await;
    let body = json!({"kind": "integration", "display_name": "mine"});
    server.api().post("/credentials", &body).await.problem(403, "forbidden");
    server.api().get("/credentials").await.problem(403, "forbidden");
    let owner = server.owner().await;
    let all = json!({"kind": "integration", "display_name": "all", "scopes": ["read", "invoke", "manage"]});
    let (manager, _) = owner.create_key(&all).await;
    manager.post("/credentials", &body).await.problem(403, "forbidden");
}

#[tokio::test]
async fn scopes_are_what_a_key_may_do() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let key = async |scopes: &[&str]| {
        owner.create_key(&json!({"kind": "integration", "display_name": "k", "scopes": scopes})).await.0
    };
    let reader = key(&["read"]).await;
    reader.get("/containers").await.expect(200);
    let spec = json!({"service_slug": "abc", "display_name": "x", "docker_image": "x"});
    reader.post("/containers", &spec).await.problem(403, "forbidden");
    reader.get("/r/containers/abc/").await.gateway_problem(403, "forbidden");
    let manager = key(&["read", "manage"]).await;
    let id = manager.create_service(&spec).await;
    manager.get("/r/containers/abc/").await.gateway_problem(403, "forbidden");
    let caller = key(&["invoke"]).await;
    caller.get("/r/containers/abc/").await.gateway_problem(400, "service_not_running");
    caller.get(&format!("/containers/{id}")).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_wrong_wish_for_a_key_is_refused_with_the_field() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let before = listed(&owner, "integration").await.len();
    for (body, field) in [
        (json!({"kind": "integration", "display_name": ""}), "display_name"),
        (json!({"kind": "integration", "display_name": "x".repeat(101)}), "display_name"),
        (json!({"kind": "integration", "display_name": "x", "expires_in_days": 0}), "expires_in_days"),
        (json!({"kind": "integration", "display_name": "x", "expires_in_days": 366}), "expires_in_days"),
        (json!({"kind": "integration", "display_name": "x", "expires_in_days": 1.5}), "expires_in_days"),
        (json!({"kind": "device", "display_name": "x"}), "kind"),
        (json!({"kind": "moon", "display_name": "x"}), "kind"),
        (json!({"display_name": "x"}), "kind"),
        (json!({"kind": "integration", "display_name": "x", "scopes": ["all"]}), "scopes"),
        (json!({"kind": "integration", "display_name": "x", "colour": "red"}), "colour"),
    ] {
        let answer = owner.post("/credentials", &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.json()["error_message"].as_str().unwrap().contains(field), "{body}: {}", answer.text());
    }
    assert_eq!(listed(&owner, "integration").await.len(), before);
}
