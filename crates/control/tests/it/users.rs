//! Oneself: name and password.

use serde_json::{Value, json};
use towline_model::{Role, UserId};

use crate::support::{Answer, Caller, PASSWORD, TestServer};

const NEW: &str = "another horse";

async fn login(server: &TestServer, password: &str) -> Answer {
    let body = json!({"email_address": "member@ours.example", "user_password": password});
    server.post(&Caller::NOBODY, "/api/v1/auth/login", &body).await
}

async fn refresh(server: &TestServer, tokens: &Value) -> Answer {
    let body = json!({"refresh_token": tokens["refresh_token"]});
    server.post(&Caller::NOBODY, "/api/v1/auth/refresh", &body).await
}

fn me(server: &TestServer) -> Caller {
    Caller::bearer(&server.token(server.ours.users[&Role::Member]))
}

async fn change(server: &TestServer, body: Value) -> Answer {
    server.put(&me(server), "/api/v1/users/me", &body).await
}

#[tokio::test]
async fn a_name_is_changed_and_taken_away() {
    let server = TestServer::start().await;
    let id = server.ours.users[&Role::Member];
    assert_eq!(change(&server, json!({"display_name": "Ada"})).await.json(200), json!({"id": id}));
    let shown = async || server.get(&me(&server), "/api/v1/users/me").await.json(200)["display_name"].clone();
    assert_eq!(shown().await, "Ada");
    change(&server, json!({})).await.json(200);
    assert_eq!(shown().await, "Ada", "what is left out stays");
    for name in [json!(""), json!("x".repeat(101)), json!("a\tb")] {
        change(&server, json!({"display_name": name})).await.problem(400, "validation_failed");
    }
    change(&server, json!({"display_name": 7})).await.problem(400, "malformed_body");
    change(&server, json!({"email_address": "other@example.com"})).await.problem(400, "malformed_body");
    change(&server, json!({"display_name": null})).await.json(200);
    assert_eq!(shown().await, Value::Null);
}

#[tokio::test]
async fn a_new_password_needs_the_old_one() {
    let server = TestServer::start().await;
    for (body, status, code) in [
        (json!({"new_password": NEW}), 403, "forbidden"),
        (json!({"new_password": NEW, "current_password": "wrong"}), 403, "forbidden"),
        (json!({"new_password": "short", "current_password": PASSWORD}), 400, "validation_failed"),
        (json!({"new_password": "x".repeat(1025), "current_password": PASSWORD}), 400, "validation_failed"),
        (json!({"current_password": PASSWORD}), 400, "validation_failed"),
        (json!({"refresh_token": "x"}), 400, "validation_failed"),
        (json!({"new_password": NEW, "current_password": PASSWORD, "display_name": ""}), 400, "validation_failed"),
        (json!({"new_password": NEW, "current_password": "wrong", "display_name": "X"}), 403, "forbidden"),
    ] {
        change(&server, body).await.problem(status, code);
    }
    login(&server, PASSWORD).await.json(200);
    assert_eq!(server.get(&me(&server), "/api/v1/users/me").await.json(200)["display_name"], Value::Null);
    change(&server, json!({"new_password": NEW, "current_password": PASSWORD})).await.json(200);
    login(&server, PASSWORD).await.problem(401, "invalid_login");
    login(&server, NEW).await.json(200);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sign_ins() {
    let server = TestServer::start().await;
    let (here, there) = (login(&server, PASSWORD).await.json(200), login(&server, PASSWORD).await.json(200));
    let body = json!({"new_password": NEW, "current_password": PASSWORD, "refresh_token": here["refresh_token"]});
    change(&server, body).await.json(200);
    refresh(&server, &there).await.problem(401, "unauthenticated");
    let here = refresh(&server, &here).await.json(200);
    // Without a sign-in that goes on, all end.
    change(&server, json!({"new_password": PASSWORD, "current_password": NEW})).await.json(200);
    refresh(&server, &here).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn of_two_new_passwords_at_once_one_is_taken() {
    let server = TestServer::start().await;
    let to = |new: &str| change(&server, json!({"new_password": new, "current_password": PASSWORD}));
    let (one, other) = tokio::join!(to("first choice"), to("second choice"));
    let works = [login(&server, "first choice").await.status, login(&server, "second choice").await.status];
    match (one.status, other.status) {
        (200, 409 | 403) => assert_eq!(works, [200, 401]),
        (409 | 403, 200) => assert_eq!(works, [401, 200]),
        _ => panic!("{} {}", one.text(), other.text()),
    }
}

#[tokio::test]
async fn a_removed_user_changes_nothing() {
    let server = TestServer::start().await;
    let ghost = Caller::bearer(&server.token(UserId::generate()));
    for body in [json!({"display_name": "x"}), json!({"new_password": NEW, "current_password": NEW})] {
        server.put(&ghost, "/api/v1/users/me", &body).await.problem(401, "unauthenticated");
    }
    server.post(&ghost, "/api/v1/teams", &json!({"team_name": "x"})).await.problem(401, "unauthenticated");
    assert_eq!(server.get(&ghost, "/api/v1/teams").await.json(200)["team_list"], json!([]));
}
