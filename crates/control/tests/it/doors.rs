//! The ways in to the API: the same as to services, but for passwords.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use towline_model::Role;

use crate::support::{Caller, TestServer};

const PATH: &str = "/api/v1/r/containers";

fn with(headers: &[(&'static str, &str)]) -> Caller {
    Caller { headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect() }
}

#[tokio::test]
async fn a_key_opens_the_api_from_every_header_but_as_a_password() {
    let server = TestServer::start().await;
    let key = &server.ours.keys["sk"];
    for name in ["x-towline-key", "x-api-key", "api-key", "x-goog-api-key"] {
        server.get(&with(&[(name, key)]), PATH).await.json(200);
        server.get(&with(&[(name, &server.ours.keys["ak"])]), PATH).await.problem(401, "unauthenticated");
    }
    server.get(&with(&[("authorization", &format!("Bearer {key}"))]), PATH).await.json(200);
    // A browser would send it by itself, whoever's page makes it ask.
    let basic = format!("Basic {}", STANDARD.encode(format!("x:{key}")));
    server.get(&with(&[("authorization", &basic)]), PATH).await.problem(401, "unauthenticated");
    server.get(&Caller::NOBODY, &format!("{PATH}?key={key}")).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn an_access_token_opens_the_api_from_the_header_of_our_own() {
    let server = TestServer::start().await;
    let token = server.token(server.ours.users[&Role::Viewer]);
    let team = server.ours.id.to_string();
    server.get(&with(&[("x-towline-key", &token), ("x-team-id", &team)]), PATH).await.json(200);
    server.get(&with(&[("x-towline-key", &token)]), "/api/v1/users/me").await.json(200);
    server.get(&with(&[("x-api-key", &token), ("x-team-id", &team)]), PATH).await.problem(401, "unauthenticated");
    let key = &server.ours.keys["sk"];
    server.get(&with(&[("x-towline-key", key)]), "/api/v1/users/me").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn two_keys_are_one_too_many() {
    let server = TestServer::start().await;
    let (key, other) = (&server.ours.keys["sk"], &server.theirs.keys["sk"]);
    let bearer = format!("Bearer {key}");
    let both = with(&[("authorization", &bearer), ("x-api-key", other)]);
    let message = server.get(&both, PATH).await.problem(400, "malformed_request");
    assert!(message.contains("X-Api-Key"), "{message}");
}

#[tokio::test]
async fn a_ticket_is_made_only_for_a_service_that_runs() {
    let server = TestServer::start().await;
    let (key, path) = (server.key("sk-invoke"), |slug: &str| format!("{PATH}/{slug}/ticket"));
    server.act(&key, &path("hello")).await.problem(404, "not_found");
    server.create(&crate::support::minimal("hello")).await;
    let message = server.act(&key, &path("hello")).await.problem(400, "service_not_running");
    assert!(message.contains("deploy it first"), "{message}");
    server.act(&server.key("sk-read"), &path("hello")).await.problem(403, "forbidden");
}
