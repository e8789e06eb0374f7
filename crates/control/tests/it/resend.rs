//! Requests that are sent again, and changes that would undo somebody else's.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use serde_json::{Value, json};
use towline_control::http::router::routes;
use towline_model::{Clock, Role, SystemClock};

use crate::support::{Answer, Caller, TestServer, minimal};

fn with(caller: &Caller, name: &'static str, value: &str) -> Caller {
    let mut caller = caller.clone();
    caller.headers.push((name, value.to_owned()));
    caller
}

fn etag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

async fn count(server: &TestServer) -> u64 {
    server.get(&server.owner(), "/api/v1/containers").await.json(200)["page_meta"]["total_count"].as_u64().unwrap()
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_carried_out_once() {
    let server = TestServer::start().await;
    let caller = with(&server.owner(), "idempotency-key", "one");
    let (path, body) = ("/api/v1/containers", minimal("hello"));
    let first = server.post(&caller, path, &body).await;
    let again = server.post(&caller, path, &body).await;
    assert_eq!((first.json(201), first.headers.get("idempotency-replayed")), (again.json(201), None));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers["content-type"], "application/json");
    server.post(&caller, path, &minimal("other")).await.problem(422, "idempotency_key_reused");
    // The same key of somebody else is another one.
    let other = with(&server.key("sk-manage"), "idempotency-key", "one");
    server.post(&other, path, &minimal("others")).await.json(201);
    assert_eq!(count(&server).await, 2);
    for wrong in ["", "a b", &"x".repeat(256)] {
        let wrong = with(&server.owner(), "idempotency-key", wrong);
        server.post(&wrong, path, &minimal("no")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn a_request_that_failed_gives_its_key_back() {
    let server = TestServer::start().await;
    let caller = with(&server.owner(), "idempotency-key", "k");
    let wrong = json!({"service_slug": "hello"});
    server.post(&caller, "/api/v1/containers", &wrong).await.json(400);
    server.post(&caller, "/api/v1/containers", &minimal("hello")).await.json(201);
}

#[tokio::test]
async fn a_key_that_is_shown_once_is_not_shown_again() {
    let server = TestServer::start().await;
    let caller = with(&server.owner(), "idempotency-key", "k");
    let body = json!({"kind": "integration", "display_name": "ci"});
    let made = server.post(&caller, "/api/v1/credentials", &body).await.json(201);
    let message = server.post(&caller, "/api/v1/credentials", &body).await.problem(409, "idempotency_key_used");
    assert!(message.contains(made["id"].as_str().unwrap()), "{message}");
    assert!(!message.contains(&made["raw_key"].as_str().unwrap()[12..]));
    let scope = format!("{}/{}", server.ours.users[&Role::Owner], server.ours.id);
    let row = server.server.store().read().await.unwrap().find_idempotency_key(&scope, "k").await.unwrap().unwrap();
    assert_eq!((row.body, row.status), (None, Some(201)), "the key is stored nowhere");
}

/// A request that was cut off so many seconds ago, as its server left it.
async fn cut_off(server: &TestServer, seconds: u64) {
    let mut row = {
        let scope = format!("{}/{}", server.ours.users[&Role::Owner], server.ours.id);
        let mut tx = server.server.store().read().await.unwrap();
        tx.find_idempotency_key(&scope, "k").await.unwrap().unwrap()
    };
    let mut tx = server.server.store().write().await.unwrap();
    tx.release_idempotency_key(&row).await.unwrap();
    row.created_at = SystemClock.now() - Duration::from_secs(seconds);
    assert!(tx.claim_idempotency_key(&row).await.unwrap());
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_request_that_was_cut_off_can_be_sent_again_after_two_minutes() {
    let server = TestServer::start().await;
    let caller = with(&server.owner(), "idempotency-key", "k");
    server.post(&caller, "/api/v1/containers", &minimal("hello")).await.json(201);
    cut_off(&server, 60).await;
    server.post(&caller, "/api/v1/containers", &minimal("again")).await.problem(422, "idempotency_key_reused");
    server.post(&caller, "/api/v1/containers", &minimal("hello")).await.problem(409, "idempotency_key_in_use");
    cut_off(&server, 121).await;
    server.post(&caller, "/api/v1/containers", &minimal("again")).await.json(201);
    let replayed = server.post(&caller, "/api/v1/containers", &minimal("again")).await;
    assert_eq!(replayed.headers["idempotency-replayed"], "true");
    assert_eq!(count(&server).await, 2);
}

#[tokio::test]
async fn of_many_at_once_one_is_carried_out() {
    let server = TestServer::start().await;
    let caller = with(&server.owner(), "idempotency-key", "k");
    let body = minimal("hello");
    let answers =
        futures_util::future::join_all((0..8).map(|_| server.post(&caller, "/api/v1/containers", &body))).await;
    for answer in &answers {
        match answer.status {
            201 => drop(answer.json(201)),
            _ => drop(answer.problem(409, "idempotency_key_in_use")),
        }
    }
    let fresh = answers.iter().filter(|it| it.status == 201 && !it.headers.contains_key("idempotency-replayed"));
    assert_eq!((fresh.count(), count(&server).await), (1, 1));
}

#[tokio::test]
async fn a_tag_saves_a_body_and_changes_with_the_thing() {
    let server = TestServer::start().await;
    let path = server.create(&minimal("hello")).await;
    for path in
        [path.as_str(), "/api/v1/r/containers/hello", "/api/v1/containers", "/api/v1/users/me", "/api/v1/openapi.json"]
    {
        let tag = etag(&server.get(&server.owner(), path).await);
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag}");
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let answer = server.get(&with(&server.owner(), "if-none-match", &known), path).await;
            assert_eq!((answer.status, answer.body.len(), etag(&answer)), (304, 0, tag.clone()), "{path} {known}");
            assert!(answer.headers.contains_key("x-request-id"));
        }
        assert_eq!(server.get(&with(&server.owner(), "if-none-match", "\"x\""), path).await.status, 200);
    }
    let before = etag(&server.get(&server.owner(), &path).await);
    server.put(&server.owner(), &path, &json!({"display_name": "other"})).await.json(200);
    let answer = server.get(&with(&server.owner(), "if-none-match", &before), &path).await;
    assert_eq!(answer.json(200)["display_name"], "other");
}

/// Every route with PUT is here: the path, two changes of what it is about.
#[tokio::test]
async fn everything_that_is_put_can_be_guarded() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let service = server.create(&minimal("hello")).await;
    let secret = json!({"name": "token", "value": "hunter2"});
    let secret = server.post(&owner, "/api/v1/secrets", &secret).await.json(201);
    let things = [
        ("/api/v1/containers/{id}", service, json!({"display_name": "a"}), json!({"display_name": "b"})),
        (
            "/api/v1/secrets/{id}",
            format!("/api/v1/secrets/{}", secret["id"].as_str().unwrap()),
            json!({"description": "a"}),
            json!({"value": "b"}),
        ),
        ("/api/v1/teams/current", "/api/v1/teams/current".into(), json!({"team_name": "a"}), json!({"team_name": "b"})),
        ("/api/v1/users/me", "/api/v1/users/me".into(), json!({"display_name": "a"}), json!({"display_name": null})),
        (
            "/api/v1/members/{id}",
            format!("/api/v1/members/{}", server.ours.users[&Role::Viewer]),
            json!({"role": "member"}),
            json!({"role": "admin"}),
        ),
    ];
    let routes: BTreeSet<_> =
        routes().iter().filter(|route| route.method == Method::PUT).map(|route| route.path).collect();
    assert_eq!(things.iter().map(|thing| thing.0).collect::<BTreeSet<_>>(), routes);
    for (_, path, one, other) in &things {
        let read = with(&owner, "if-match", &etag(&server.get(&owner, path).await));
        server.put(&read, path, one).await.json(200);
        let after_one = server.get(&owner, path).await;
        server.put(&read, path, other).await.problem(412, "precondition_failed");
        assert_eq!(etag(&server.get(&owner, path).await), etag(&after_one), "{path}: nothing was changed");
        server.put(&with(&owner, "if-match", &etag(&after_one)), path, other).await.json(200);
        assert_ne!(etag(&server.get(&owner, path).await), etag(&after_one), "{path}");
    }
    for path in [&things[1].1, &things[4].1] {
        let stale = with(&owner, "if-match", "\"1-0123456789abcdef0123456789abcdef\"");
        server.delete(&stale, path).await.problem(412, "precondition_failed");
        let read = with(&owner, "if-match", &etag(&server.get(&owner, path).await));
        assert_eq!(server.delete(&read, path).await.status, 204, "{path}");
    }
}

#[tokio::test]
async fn a_change_of_something_that_has_changed_is_refused() {
    let server = TestServer::start().await;
    let path = server.create(&minimal("hello")).await;
    let owner = server.owner();
    let read = etag(&server.get(&owner, &path).await);
    // The version is the same whoever looks: by slug, and with values masked.
    let elsewhere = etag(&server.get(&server.key("sk-read"), "/api/v1/r/containers/hello").await);
    let change = |name: &str| json!({"display_name": name});
    server.put(&with(&owner, "if-match", &read), &path, &change("one")).await.json(200);
    let stale = [read.clone(), elsewhere, "\"other\"".to_owned(), format!("W/{read}")];
    for tag in &stale {
        let caller = with(&owner, "if-match", tag);
        server.put(&caller, &path, &change("two")).await.problem(412, "precondition_failed");
        server.delete(&caller, &path).await.problem(412, "precondition_failed");
        server.act(&caller, &format!("{path}/deploy")).await.problem(412, "precondition_failed");
    }
    server.put(&with(&owner, "if-match", "nonsense"), &path, &change("two")).await.problem(400, "invalid_parameter");
    let shown: Value = server.get(&owner, &path).await.json(200);
    assert_eq!(shown["display_name"], "one", "nothing that was refused has changed anything");
    server.put(&with(&owner, "if-match", "*"), &path, &change("three")).await.json(200);
    let now = etag(&server.get(&owner, &path).await);
    let several = with(&owner, "if-match", &format!("{read}, {now}"));
    assert_eq!(server.call(&several, Method::DELETE, &path, None).await.status, 204);
    server.delete(&with(&owner, "if-match", "*"), &path).await.problem(404, "not_found");
}
