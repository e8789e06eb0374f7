//! Too many requests: refused by address, by account, by credential, with the time to wait; nobody else is touched.

use std::{collections::BTreeSet, net::IpAddr};

use axum::body::Body;
use http::{Method, Request};
use serde_json::json;
use towline_control::{
    http::{
        access::{Access, Limit},
        router::routes,
    },
    rate_limit::RateLimitConfig,
};
use towline_gateway::CallerAddr;
use towline_model::Role;

use crate::support::{Answer, Caller, PASSWORD, TestServer};

const LOGIN: &str = "/api/v1/auth/login";

async fn server(change: impl FnOnce(&mut RateLimitConfig)) -> TestServer {
    TestServer::start_with(|config| change(&mut config.rate_limits)).await
}

/// The request as it comes from an address.
fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let address: IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(CallerAddr(address));
    request
}

fn login(email_address: &str, password: &str) -> Request<Body> {
    let body = json!({"email_address": email_address, "user_password": password});
    Caller::NOBODY.request(Method::POST, LOGIN, Some(&body))
}

#[track_caller]
fn refused(answer: &Answer) {
    answer.problem(429, "rate_limited");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

#[tokio::test]
async fn attempts_to_get_in_are_counted_by_address() {
    let attempts = [
        (Method::POST, LOGIN, json!({"email_address": "nobody@ours.example", "user_password": "wrong wrong"}), 401),
        (Method::POST, "/api/v1/invitations/accept", json!({"token": "wrong", "user_password": PASSWORD}), 404),
        (Method::GET, "/api/v1/auth/oidc/start", json!({}), 404),
        (Method::GET, "/api/v1/auth/oidc/callback", json!({}), 404),
        (Method::POST, "/api/v1/desktop/pair/start", json!({}), 200),
        (Method::POST, "/api/v1/desktop/pair/confirm", json!({"user_code": "BCDF-GHJK"}), 401),
    ];
    let rate = format!("{}/m", attempts.len()).parse().unwrap();
    let server = server(|limits| limits.sign_in_per_address = Some(rate)).await;
    let counted: BTreeSet<_> = routes()
        .into_iter()
        .filter(|route| route.limit == Limit::SignIn)
        .map(|route| (route.method.to_string(), route.path))
        .collect();
    assert_eq!(attempts.iter().map(|row| (row.0.to_string(), row.1)).collect::<BTreeSet<_>>(), counted);
    for (method, path, body, status) in &attempts {
        let answer = server.send(from("192.0.2.1", Caller::NOBODY.request(method.clone(), path, Some(body)))).await;
        assert_eq!(answer.status, *status, "{path}: {}", answer.text());
    }
    for (method, path, body, _) in &attempts {
        refused(&server.send(from("192.0.2.1", Caller::NOBODY.request(method.clone(), path, Some(body)))).await);
    }
    server.send(from("192.0.2.2", login("owner@ours.example", PASSWORD))).await.json(200);
    let known = server.owner().request(Method::GET, "/api/v1/users/me", None);
    server.send(from("192.0.2.1", known)).await.json(200);
}

#[tokio::test]
async fn passwords_are_counted_by_account() {
    let server = server(|limits| limits.sign_in_per_account = Some("2/m".parse().unwrap())).await;
    for address in ["192.0.2.1", "192.0.2.2"] {
        server.send(from(address, login("owner@ours.example", "wrong wrong"))).await.problem(401, "invalid_login");
    }
    refused(&server.send(from("192.0.2.3", login("OWNER@ours.example", PASSWORD))).await);
    server.send(from("192.0.2.1", login("owner@theirs.example", PASSWORD))).await.json(200);
    for _ in 0..2 {
        server.send(from("192.0.2.1", login("nobody@ours.example", PASSWORD))).await.problem(401, "invalid_login");
    }
    refused(&server.send(from("192.0.2.1", login("nobody@ours.example", PASSWORD))).await);
}

#[tokio::test]
async fn requests_are_counted_by_who_makes_them() {
    let server = server(|limits| limits.api_per_credential = Some("2/m".parse().unwrap())).await;
    let path = "/api/v1/containers";
    for caller in [server.key("sk"), server.key("sk-read"), server.key("dk"), server.user(Role::Viewer)] {
        for _ in 0..2 {
            server.get(&caller, path).await.json(200);
        }
        refused(&server.get(&caller, path).await);
    }
    // One user, in whichever team.
    server.get(&server.owner(), "/api/v1/users/me").await.json(200);
    server.get(&server.owner(), path).await.json(200);
    refused(&server.get(&server.owner(), "/api/v1/users/me").await);
}

#[tokio::test]
async fn what_needs_nobody_known_is_counted_by_address() {
    let server = server(|limits| limits.api_per_address = Some("1/m".parse().unwrap())).await;
    // Each as well as sent in vain: how often it is sent is what counts.
    let open: Vec<_> = routes()
        .into_iter()
        .filter(|route| matches!(route.access, Access::Public | Access::Anybody) && route.limit != Limit::None)
        .map(|route| (route.method, route.path))
        .collect();
    assert!(open.contains(&(Method::POST, "/api/v1/desktop/pair/poll")), "{open:?}");
    for (number, (method, path)) in open.into_iter().enumerate() {
        let address = format!("192.0.2.{}", number + 1);
        let body = json!({"device_code": "dc-wrong"});
        let request = || from(&address, Caller::NOBODY.request(method.clone(), path, Some(&body)));
        let answer = server.send(request()).await;
        assert!(answer.status != 429, "{path}: {}", answer.text());
        refused(&server.send(request()).await);
    }
    for path in ["/healthz", "/readyz"] {
        let is_uncounted = routes().iter().any(|route| route.path == path && route.limit == Limit::None);
        assert!(is_uncounted, "{path}");
    }
    assert_eq!(routes().iter().filter(|route| route.limit == Limit::None).count(), 2);
}

#[tokio::test]
async fn keys_cannot_be_tried_without_end() {
    let server = server(|limits| limits.api_per_address = Some("2/m".parse().unwrap())).await;
    let wrong = Caller::bearer("sk-wrong").request(Method::GET, "/api/v1/containers", None);
    server.send(from("192.0.2.1", wrong)).await.problem(401, "unauthenticated");
    server.send(from("192.0.2.1", Request::get("/api/v1/openapi.json").body(Body::empty()).unwrap())).await.json(200);
    let wrong = Caller::bearer("sk-wrong").request(Method::GET, "/api/v1/containers", None);
    refused(&server.send(from("192.0.2.1", wrong)).await);
    server.send(from("192.0.2.1", server.key("sk").request(Method::GET, "/api/v1/containers", None))).await.json(200);
    for _ in 0..5 {
        let health = Request::get("/healthz").body(Body::empty()).unwrap();
        assert_eq!(server.send(from("192.0.2.1", health)).await.status, 200, "whoever watches is not counted");
    }
}
