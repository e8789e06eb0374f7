//! Two teams on one server: neither learns that the other has anything.

use http::Method;
use serde_json::json;
use towline_e2e::{
    system::{Server, demo_service},
    team,
};

#[tokio::test]
async fn the_things_of_another_team_are_answered_like_missing_ones() {
    let mut server = Server::start().await;
    let other = team::add_team(&mut server).await;
    let owner = server.owner().await;
    let id = owner.create_service(&demo_service("hello", 1)).await;
    let (_, key) = owner.create_key(&json!({"kind": "integration", "display_name": "k"})).await;
    let invited = json!({"email_address": "new@example.com", "invitation_role": "member"});
    let invitation = owner.post("/invitations", &invited).await.created()["id"].as_str().unwrap().to_owned();
    let me = owner.get("/users/me").await.expect(200)["id"].as_str().unwrap().to_owned();
    let stranger = server.api().login(&other.email_address, &server.bootstrap.user_password, &other.team_id).await;
    let unknown = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
    let paths = [
        (Method::GET, "/containers/{}"),
        (Method::PUT, "/containers/{}"),
        (Method::DELETE, "/containers/{}"),
        (Method::POST, "/containers/{}/deploy"),
        (Method::POST, "/containers/{}/undeploy"),
        (Method::POST, "/containers/{}/restart"),
        (Method::GET, "/containers/{}/instances"),
        (Method::GET, "/containers/{}/events"),
        (Method::GET, "/containers/{}/logs"),
        (Method::DELETE, "/credentials/{}"),
        (Method::DELETE, "/invitations/{}"),
        (Method::PUT, "/members/{}"),
        (Method::DELETE, "/members/{}"),
    ];
    for (method, path) in paths {
        let thing = match path {
            _ if path.starts_with("/credentials") => &key,
            _ if path.starts_with("/invitations") => &invitation,
            _ if path.starts_with("/members") => &me,
            _ => &id,
        };
        let ask = async |id: &str| {
            let request = stranger.request(method.clone(), &path.replace("{}", id)).header("x-request-id", "same");
            let body = if path.starts_with("/members") { json!({"role": "viewer"}) } else { json!({}) };
            let request = if method == Method::PUT { request.json(&body) } else { request };
            let answer = stranger.send(request).await;
            (answer.status, answer.text().replace(id, "<id>"))
        };
        assert_eq!(ask(thing).await, ask(unknown).await, "{method} {path}");
        assert_eq!(ask(thing).await.0, 404, "{method} {path}");
    }
    for list in ["/containers", "/r/containers", "/r/agents"] {
        let answer = stranger.get(list).await.expect(200);
        assert_eq!(answer["page_meta"]["total_count"], 0, "{list}: {answer}");
    }
    // The same slug is free in the other team, and the owner's service is untouched.
    stranger.create_service(&demo_service("hello", 1)).await;
    assert_eq!(owner.service(&id).await["service_status"], "created");
}

#[tokio::test]
async fn a_slug_of_another_team_cannot_be_called_or_told_from_none() {
    let mut server = Server::start().await;
    let other = team::add_team(&mut server).await;
    server.owner().await.create_service(&demo_service("hello", 1)).await;
    let stranger = server.api().with_key(&other.api_key);
    let ask = async |slug: &str| {
        let path = format!("/r/containers/{slug}/echo");
        let answer = stranger.send(stranger.request(Method::GET, &path).header("x-request-id", "same")).await;
        (answer.gateway_problem(404, "not_found"), answer.text().replace(slug, "<slug>")).1
    };
    assert_eq!(ask("hello").await, ask("jello").await);
    let ask = async |slug: &str| {
        let body = json!({"method": "GET", "path": "/"});
        let request = stranger.request(Method::POST, &format!("/r/invoke/{slug}")).header("x-request-id", "same");
        let answer = stranger.send(request.json(&body)).await;
        (answer.gateway_problem(404, "not_found"), answer.text().replace(slug, "<slug>")).1
    };
    assert_eq!(ask("hello").await, ask("jello").await);
    // The owner's token does not open the other team either.
    let owner = server.owner().await;
    let elsewhere = owner.with_user(owner.bearer(), &other.team_id);
    elsewhere.get("/containers").await.problem(403, "not_in_team");
}

#[tokio::test]
async fn a_viewer_sees_and_touches_nothing() {
    let mut server = Server::start().await;
    let viewer = team::add_member(&mut server, towline_model::Role::Viewer).await;
    let owner = server.owner().await;
    let mut spec = demo_service("hello", 1);
    spec["env_config"] = json!([{"env_name": "TOKEN", "env_value": "hunter2"}]);
    let id = owner.create_service(&spec).await;
    let viewer = server.api().login(&viewer, &server.bootstrap.user_password, &server.bootstrap.team_id).await;
    let shown = viewer.service(&id).await;
    assert_eq!(shown["service_slug"], "hello");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    viewer.get("/r/agents").await.expect(200);
    viewer.get(&format!("/containers/{id}/events")).await.expect(200);
    viewer.post("/containers", &demo_service("other", 1)).await.problem(403, "forbidden");
    viewer.put(&format!("/containers/{id}"), &json!({})).await.problem(403, "forbidden");
    viewer.delete(&format!("/containers/{id}")).await.problem(403, "forbidden");
    for verb in ["deploy", "undeploy", "restart"] {
        viewer.act(&format!("/containers/{id}/{verb}")).await.problem(403, "forbidden");
    }
    viewer.get("/credentials").await.problem(403, "forbidden");
    viewer.get("/r/containers/hello/").await.gateway_problem(403, "forbidden");
    let invoke = viewer.post("/r/invoke/hello", &json!({"method": "GET", "path": "/"})).await;
    invoke.gateway_problem(403, "forbidden");
}
