//! Invitations without a mail server: the token is in the answer.

use std::time::Duration;

use serde_json::{Value, json};
use towline_model::{Clock, Role, SystemClock};
use towline_store::{InvitationRow, Store, StoreOptions};

use crate::support::{Answer, Caller, TestServer};

const PASSWORD: &str = "eight or more";
const ACCEPT: &str = "/api/v1/invitations/accept";

async fn invite(server: &TestServer, caller: Role, address: &str, role: &str) -> Answer {
    let body = json!({"email_address": address, "invitation_role": role});
    server.post(&server.user(caller), "/api/v1/invitations", &body).await
}

async fn token(server: &TestServer, address: &str, role: &str) -> Value {
    invite(server, Role::Admin, address, role).await.json(201)["token"].clone()
}

async fn accept(server: &TestServer, body: Value) -> Answer {
    server.post(&Caller::NOBODY, ACCEPT, &body).await
}

async fn open(server: &TestServer) -> Vec<Value> {
    let list = server.get(&server.owner(), "/api/v1/invitations").await.json(200);
    let rows = list["invitation_list"].as_array().unwrap().clone();
    assert_eq!(list["page_meta"]["total_count"], rows.len());
    rows
}

#[tokio::test]
async fn a_new_person_sets_a_password_and_is_in() {
    let server = TestServer::start().await;
    let made = invite(&server, Role::Admin, "Ada@Example.com", "member").await.json(201);
    assert_eq!(made["mail_status"], "not_configured");
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("inv-") && token.len() > 40, "{token}");
    let rows = open(&server).await;
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["id"], &rows[0]["email_address"]), (&made["id"], &json!("ada@example.com")));
    assert_eq!((&rows[0]["invitation_role"], &rows[0]["expires_at"]), (&json!("member"), &made["expires_at"]));
    assert_eq!(rows[0]["invited_by"], json!(server.ours.users[&Role::Admin]));
    assert!(!rows[0].to_string().contains(token), "the token is shown once");

    let joined =
        accept(&server, json!({"token": token, "user_password": PASSWORD, "display_name": "Ada"})).await.json(200);
    assert_eq!((&joined["is_success"], &joined["role"]), (&json!(true), &json!("member")));
    assert_eq!(joined["team_id"], json!(server.ours.id));
    let body = json!({"email_address": "ada@example.com", "user_password": PASSWORD});
    let tokens = server.post(&Caller::NOBODY, "/api/v1/auth/login", &body).await.json(200);
    let mut ada = Caller::bearer(tokens["access_token"].as_str().unwrap());
    ada.headers.push(("x-team-id", server.ours.id.to_string()));
    let me = server.get(&ada, "/api/v1/users/me").await.json(200);
    assert_eq!((&me["display_name"], &me["id"]), (&json!("Ada"), &joined["user_id"]));
    server.get(&ada, "/api/v1/credentials").await.json(200);
    // It works once.
    accept(&server, json!({"token": token, "user_password": PASSWORD})).await.problem(404, "not_found");
    assert_eq!(open(&server).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_user_accepts_what_is_for_the_users_address() {
    let server = TestServer::start().await;
    let token = token(&server, "member@THEIRS.example", "viewer").await;
    // A password does not make a second account, nor take the first one over.
    let answer = accept(&server, json!({"token": token, "user_password": PASSWORD})).await;
    assert!(answer.problem(409, "already_exists").contains("sign in"));
    let other = Caller::bearer(&server.token(server.theirs.users[&Role::Admin]));
    server.post(&other, ACCEPT, &json!({"token": token})).await.problem(403, "forbidden");
    // Whose invitation it is comes first, then what it is accepted with.
    server.post(&other, ACCEPT, &json!({"token": token, "user_password": PASSWORD})).await.problem(403, "forbidden");
    server.post(&other, ACCEPT, &json!({"token": "inv-x", "user_password": PASSWORD})).await.problem(404, "not_found");
    let user = Caller::bearer(&server.token(server.theirs.users[&Role::Member]));
    for more in ["user_password", "display_name"] {
        let mut body = json!({"token": token});
        body[more] = json!(PASSWORD);
        server.post(&user, ACCEPT, &body).await.problem(400, "validation_failed");
    }
    assert_eq!(server.post(&user, ACCEPT, &json!({"token": token})).await.json(200)["role"], "viewer");
    server.post(&user, ACCEPT, &json!({"token": token})).await.problem(404, "not_found");
    let me = server.get(&user, "/api/v1/users/me").await.json(200);
    assert_eq!(me["team_list"].as_array().unwrap().len(), 2, "{me:#}");
}

#[tokio::test]
async fn nobody_is_invited_twice_or_into_the_own_team_or_as_an_owner() {
    let server = TestServer::start().await;
    invite(&server, Role::Admin, "ada@example.com", "admin").await.json(201);
    let again = invite(&server, Role::Owner, "ADA@example.com", "viewer").await;
    assert!(again.problem(409, "already_exists").contains("revoke"));
    invite(&server, Role::Owner, "member@ours.example", "admin").await.problem(409, "already_exists");
    for (address, role, code) in [
        ("bob@example.com", "owner", "validation_failed"),
        ("bob", "member", "validation_failed"),
        ("", "member", "validation_failed"),
        ("bob@example.com\r\nBcc: eve@example.com", "member", "validation_failed"),
        ("bob@example.com", "king", "malformed_body"),
    ] {
        invite(&server, Role::Owner, address, role).await.problem(400, code);
    }
    let more = json!({"email_address": "bob@example.com", "invitation_role": "member", "more": 1});
    server.post(&server.owner(), "/api/v1/invitations", &more).await.problem(400, "malformed_body");
    assert_eq!(open(&server).await.len(), 1);
}

#[tokio::test]
async fn a_revoked_invitation_opens_nothing() {
    let server = TestServer::start().await;
    let made = invite(&server, Role::Admin, "ada@example.com", "member").await.json(201);
    let path = format!("/api/v1/invitations/{}", made["id"].as_str().unwrap());
    assert_eq!(server.delete(&server.owner(), &path).await.status, 204);
    server.delete(&server.owner(), &path).await.problem(404, "not_found");
    let answer = accept(&server, json!({"token": made["token"], "user_password": PASSWORD})).await;
    answer.problem(404, "not_found");
    invite(&server, Role::Admin, "ada@example.com", "member").await.json(201);
}

#[tokio::test]
async fn an_expired_invitation_opens_nothing_and_is_not_in_the_way() {
    let server = TestServer::start().await;
    let store = Store::connect(&server.config.database_url, StoreOptions::default()).await.unwrap();
    let now = SystemClock.now();
    let token = "inv-expired";
    let row = InvitationRow {
        id: towline_model::InvitationId::generate(),
        team_id: server.ours.id,
        email_address: "ada@example.com".to_owned(),
        role: Role::Member,
        token_hash: *towline_model::KeyHash::of(token).as_bytes(),
        invited_by: server.ours.users[&Role::Owner],
        created_at: now,
        expires_at: now + Duration::from_millis(1),
    };
    let mut tx = store.write().await.unwrap();
    tx.insert_invitation(&row).await.unwrap();
    tx.commit().await.unwrap();
    while SystemClock.now() <= row.expires_at {
        tokio::task::yield_now().await;
    }
    accept(&server, json!({"token": token, "user_password": PASSWORD})).await.problem(404, "not_found");
    assert_eq!(open(&server).await, Vec::<Value>::new());
    invite(&server, Role::Admin, "ada@example.com", "member").await.json(201);
}

#[tokio::test]
async fn what_is_sent_to_accept_is_checked_and_leaves_the_invitation_open() {
    let server = TestServer::start().await;
    let token = token(&server, "ada@example.com", "member").await;
    for (body, status, code) in [
        (json!({"token": token}), 400, "validation_failed"),
        (json!({"token": token, "user_password": "short"}), 400, "validation_failed"),
        (json!({"token": token, "user_password": PASSWORD, "display_name": ""}), 400, "validation_failed"),
        (json!({"user_password": PASSWORD}), 400, "malformed_body"),
        (json!({"token": token, "user_password": PASSWORD, "role": "owner"}), 400, "malformed_body"),
        (json!({"token": "inv-nonsense", "user_password": PASSWORD}), 404, "not_found"),
        (json!({"token": "", "user_password": PASSWORD}), 404, "not_found"),
    ] {
        accept(&server, body).await.problem(status, code);
    }
    server.post(&server.key("sk"), ACCEPT, &json!({"token": token})).await.problem(401, "unauthenticated");
    accept(&server, json!({"token": token, "user_password": PASSWORD})).await.json(200);
}

#[tokio::test]
async fn of_many_that_accept_at_once_one_is_in() {
    let server = TestServer::start().await;
    let token = token(&server, "ada@example.com", "member").await;
    let tries = (0..6).map(|_| accept(&server, json!({"token": token, "user_password": PASSWORD})));
    let answers = futures_util::future::join_all(tries).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(404) + count(409)), (1, 5), "{answers:?}");
    let list = server.get(&server.owner(), "/api/v1/members").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 5);
}
