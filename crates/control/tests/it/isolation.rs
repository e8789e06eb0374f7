//! Another team's things are answered exactly like missing ones.

use http::Method;
use serde_json::{Value, json};
use towline_model::Role;

use crate::support::{Caller, TestServer, minimal};

#[tokio::test]
async fn nobody_can_tell_another_teams_things_from_missing_ones() {
    let server = TestServer::start().await;
    let service = server.create(&minimal("hello")).await.rsplit('/').next().unwrap().to_owned();
    let key = server.post(&server.owner(), "/api/v1/credentials", &json!({"kind": "agent", "display_name": "k"})).await;
    let key = key.json(201)["id"].as_str().unwrap().to_owned();
    let body = json!({"name": "key", "value": "hunter2"});
    let secret =
        server.post(&server.owner(), "/api/v1/secrets", &body).await.json(201)["id"].as_str().unwrap().to_owned();
    let invited = json!({"email_address": "new@example.com", "invitation_role": "member"});
    let invitation = server.post(&server.owner(), "/api/v1/invitations", &invited).await.json(201);
    let invitation = invitation["id"].as_str().unwrap().to_owned();
    let member = server.ours.users[&Role::Member].to_string();
    let unknown = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
    let stranger = server.user_in(&server.theirs, Role::Owner);
    for (method, path, id) in [
        (Method::GET, "/api/v1/containers/{}", &service),
        (Method::PUT, "/api/v1/containers/{}", &service),
        (Method::DELETE, "/api/v1/containers/{}", &service),
        (Method::POST, "/api/v1/containers/{}/deploy", &service),
        (Method::POST, "/api/v1/containers/{}/undeploy", &service),
        (Method::POST, "/api/v1/containers/{}/restart", &service),
        (Method::GET, "/api/v1/containers/{}/instances", &service),
        (Method::GET, "/api/v1/containers/{}/events", &service),
        (Method::GET, "/api/v1/containers/{}/logs", &service),
        (Method::DELETE, "/api/v1/credentials/{}", &key),
        (Method::GET, "/api/v1/secrets/{}", &secret),
        (Method::PUT, "/api/v1/secrets/{}", &secret),
        (Method::DELETE, "/api/v1/secrets/{}", &secret),
        (Method::PUT, "/api/v1/members/{}", &member),
        (Method::DELETE, "/api/v1/members/{}", &member),
        (Method::DELETE, "/api/v1/invitations/{}", &invitation),
        (Method::GET, "/api/v1/r/containers/{}", &"hello".to_owned()),
    ] {
        let missing = if path.contains("/r/") { "jello" } else { unknown };
        let body = (method == Method::PUT).then(|| match path {
            _ if path.contains("/members/") => json!({"role": "viewer"}),
            _ if path.contains("/secrets/") => json!({"name": "x"}),
            _ => json!({"display_name": "x"}),
        });
        let ask = async |id: &str| {
            let mut caller = stranger.clone();
            caller.headers.push(("x-request-id", "same".to_owned()));
            let answer = server.call(&caller, method.clone(), &path.replace("{}", id), body.as_ref()).await;
            answer.problem(404, "not_found");
            (answer.headers.clone(), answer.text())
        };
        assert_eq!(ask(id).await, ask(missing).await, "{method} {path}");
    }
    for path in ["/api/v1/containers", "/api/v1/r/containers", "/api/v1/agents", "/api/v1/secrets"] {
        assert_eq!(server.get(&stranger, path).await.json(200)["page_meta"]["total_count"], 0, "{path}");
    }
    // A reference to it is refused as one to nothing is.
    let refer = async |id: &str| {
        let mut caller = stranger.clone();
        caller.headers.push(("x-request-id", "same".to_owned()));
        let body = crate::support::with("refers", "registry_auth_secret_id", json!(id));
        let answer = server.post(&caller, "/api/v1/containers", &body).await;
        answer.problem(400, "validation_failed");
        (answer.headers.clone(), answer.text())
    };
    assert_eq!(refer(&secret).await, refer(unknown).await);
    let list = server.get(&stranger, "/api/v1/members").await.json(200);
    assert!(!list.to_string().contains("ours.example"), "{list:#}");
    let list = server.get(&stranger, "/api/v1/invitations").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 0, "{list:#}");
    // Somebody of another team cannot be made the owner of this one.
    let transfer = json!({"user_id": server.theirs.users[&Role::Admin]});
    let answer = server.post(&server.owner(), "/api/v1/teams/current/transfer", &transfer).await;
    answer.problem(404, "not_found");
    // The slug is free over there, and here nothing has changed.
    server.post(&stranger, "/api/v1/containers", &minimal("hello")).await.json(201);
    let ours = server.get(&server.owner(), &format!("/api/v1/containers/{service}")).await.json(200);
    assert_eq!((&ours["service_status"], &ours["display_name"]), (&json!("created"), &json!("hello")));
}

#[tokio::test]
async fn environment_values_are_for_people_who_may_see_them() {
    let server = TestServer::start().await;
    let mut spec = minimal("hello");
    spec["env_config"] = json!([{"env_name": "TOKEN", "env_value": "hunter2"}]);
    let path = server.create(&spec).await;
    let mut callers: Vec<(Caller, bool)> = Role::ALL.map(|role| (server.user(role), role >= Role::Member)).to_vec();
    callers.extend([(server.key("sk"), false), (server.key("sk-read"), false), (server.key("dk"), true)]);
    for (caller, sees) in callers {
        for path in [path.as_str(), "/api/v1/containers", "/api/v1/r/containers", "/api/v1/r/containers/hello"] {
            let answer = server.get(&caller, path).await.json(200);
            assert_eq!(answer.to_string().contains("hunter2"), sees, "{path}: {answer:#}");
            let service = answer["container_list"].get(0).unwrap_or(&answer);
            assert_eq!(service["env_config"][0]["env_name"], "TOKEN");
        }
    }
    // Sending the mask back would overwrite the value with it.
    let shown: Value = server.get(&server.key("sk"), &path).await.json(200)["env_config"].clone();
    let answer = server.put(&server.owner(), &path, &json!({"env_config": shown})).await;
    assert!(answer.problem(400, "validation_failed").contains("mask"));
}
