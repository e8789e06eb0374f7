//! Every POST that makes something, sent twice with the same `Idempotency-Key`: it makes it once. A new POST has to say here
//! what it does.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use towline_control::http::router::routes;
use towline_model::Role;

use crate::{
    audit::run,
    support::{Answer, Caller, PASSWORD, TestServer, minimal},
};

/// POSTs that make nothing which a repeat could make twice, or whose repeat is not looked at here, and why.
const OTHERS: &[(&str, &str)] = &[
    ("/api/v1/auth/login", "nobody is known yet whose key it could be; each sign-in is one of its own"),
    ("/api/v1/auth/refresh", "nobody is known yet; its token works once by itself"),
    ("/api/v1/auth/logout", "ends something; ending it twice is no error"),
    ("/api/v1/teams/current/transfer", "changes who owns the team; who did it may not do it again"),
    ("/api/v1/teams/current/leave", "ends a membership; who has left is not let in again"),
    ("/api/v1/desktop/pair/start", "nobody is known yet; what is not confirmed is gone after five minutes"),
    ("/api/v1/desktop/pair/poll", "nobody is known yet; its code works once by itself"),
    ("/api/v1/desktop/pair/confirm", "an action: a_confirmed_action_is_repeated_from_memory"),
    ("/api/v1/auth/device/revoke", "ends the key that it is sent with"),
    ("/api/v1/containers/{id}/deploy", "an action: a_confirmed_action_is_repeated_from_memory"),
    ("/api/v1/containers/{id}/undeploy", "an action: its repeat is refused by the service's status at the most"),
    ("/api/v1/containers/{id}/restart", "an action: a_confirmed_action_is_repeated_from_memory"),
];

/// What a repeat is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// The same answer.
    Same,
    /// That it was carried out, since its answer held what is shown once.
    ShownOnce,
}

/// A POST that makes something.
struct Creating {
    route: &'static str,
    path: String,
    body: Value,
    /// Another request to the same path.
    other: Value,
    repeat: Repeat,
    /// Where what it makes is listed; a ticket is nowhere.
    list: Option<&'static str>,
}

/// An invitation of somebody who has an account, and its token.
async fn invitation(server: &TestServer, email_address: &str) -> Value {
    let body = json!({"email_address": email_address, "invitation_role": "viewer"});
    server.post(&server.owner(), "/api/v1/invitations", &body).await.json(201)["token"].clone()
}

/// Another POST that makes something? Here is its row.
async fn creating(server: &TestServer) -> Vec<Creating> {
    let made = server.post(&server.owner(), "/api/v1/containers", &minimal("hello")).await.json(201);
    server.act(&server.owner(), &format!("/api/v1/containers/{}/deploy", made["id"].as_str().unwrap())).await.json(200);
    run(server, &made["id"]).await;
    let tokens = [invitation(server, "owner@theirs.example").await, invitation(server, "x@example.com").await];
    let row = |route: &'static str, body: Value, other: Value, repeat, list| {
        let path = route.replace("{slug}", "hello");
        Creating { route, path, body, other, repeat, list }
    };
    let invited = |address: &str| json!({"email_address": address, "invitation_role": "member"});
    let key = |name: &str| json!({"kind": "integration", "display_name": name});
    let secret = |name: &str| json!({"name": name, "value": "hunter2"});
    vec![
        row("/api/v1/containers", minimal("one"), minimal("other"), Repeat::Same, Some("/api/v1/containers")),
        row("/api/v1/secrets", secret("one"), secret("other"), Repeat::Same, Some("/api/v1/secrets")),
        row(
            "/api/v1/teams",
            json!({"team_name": "One"}),
            json!({"team_name": "Other"}),
            Repeat::Same,
            Some("/api/v1/teams"),
        ),
        row("/api/v1/credentials", key("one"), key("other"), Repeat::ShownOnce, Some("/api/v1/credentials")),
        row(
            "/api/v1/invitations",
            invited("one@example.com"),
            invited("other@example.com"),
            Repeat::ShownOnce,
            Some("/api/v1/invitations"),
        ),
        row(
            "/api/v1/invitations/accept",
            json!({"token": tokens[0]}),
            json!({"token": tokens[1]}),
            Repeat::ShownOnce,
            Some("/api/v1/members"),
        ),
        row("/api/v1/r/containers/{slug}/ticket", Value::Null, json!({"for": "another"}), Repeat::ShownOnce, None),
    ]
}

async fn count(server: &TestServer, list: Option<&str>) -> u64 {
    let Some(list) = list else { return 0 };
    server.get(&server.owner(), list).await.json(200)["page_meta"]["total_count"].as_u64().unwrap()
}

/// Who makes it: the owner of our team; the invited person.
fn maker(server: &TestServer, creating: &Creating) -> Caller {
    match creating.route {
        "/api/v1/invitations/accept" => server.user_in(&server.theirs, Role::Owner),
        _ => server.owner(),
    }
}

async fn post(server: &TestServer, caller: &Caller, path: &str, body: &Value) -> Answer {
    server.call(caller, Method::POST, path, (!body.is_null()).then_some(body)).await
}

async fn check(server: &TestServer, creating: &Creating) {
    let Creating { route, path, body, .. } = creating;
    let mut caller = maker(server, creating);
    caller.headers.push(("idempotency-key", format!("{route}#1")));
    let before = count(server, creating.list).await;
    let first = post(server, &caller, path, body).await;
    assert!((200..300).contains(&first.status), "{route}: {}", first.text());
    let made = u64::from(creating.list.is_some());
    assert_eq!(count(server, creating.list).await, before + made, "{route} makes one thing");

    let again = post(server, &caller, path, body).await;
    match creating.repeat {
        Repeat::Same => {
            assert_eq!((again.status, &again.body), (first.status, &first.body), "{route}");
            assert_eq!(again.headers["idempotency-replayed"], "true", "{route}");
        }
        Repeat::ShownOnce => {
            let message = again.problem(409, "idempotency_key_used");
            let first: Value = serde_json::from_slice(&first.body).unwrap();
            let id = first["id"].as_str().unwrap_or_default();
            assert!(message.contains(id), "{route}: {message}");
            let shown = ["raw_key", "token", "ticket"].into_iter().filter_map(|name| first[name].as_str());
            assert!(shown.into_iter().all(|secret| !again.text().contains(secret)), "{route}");
        }
    }
    post(server, &caller, path, &creating.other).await.problem(422, "idempotency_key_reused");
    assert_eq!(count(server, creating.list).await, before + made, "{route} makes it once");

    // With another key it is another request, whatever becomes of it.
    caller.headers.last_mut().unwrap().1 = format!("{route}#2");
    let other = post(server, &caller, path, &creating.other).await;
    assert!(!other.headers.contains_key("idempotency-replayed") && other.status != 422, "{route}: {}", other.text());
}

#[tokio::test]
async fn every_post_that_makes_something_makes_it_once() {
    let server = TestServer::start().await;
    let rows = creating(&server).await;
    for creating in &rows {
        check(&server, creating).await;
    }
    let told: Vec<_> = rows.iter().map(|row| row.route).chain(OTHERS.iter().map(|(route, _)| *route)).collect();
    let posts: Vec<_> = routes().iter().filter(|route| route.method == Method::POST).map(|route| route.path).collect();
    assert_eq!(told.len(), posts.len());
    let (told, posts): (BTreeSet<_>, BTreeSet<_>) = (told.into_iter().collect(), posts.into_iter().collect());
    assert_eq!(told, posts, "a POST has no row, and no reason is given");
}

#[tokio::test]
async fn a_confirmed_action_is_repeated_from_memory() {
    let server = TestServer::start().await;
    let mut owner = server.owner();
    let path = server.create(&minimal("hello")).await;
    let started = server.act(&Caller::NOBODY, "/api/v1/desktop/pair/start").await.json(200);
    let confirm = json!({"user_code": started["user_code"]});
    owner.headers.push(("idempotency-key", "k".to_owned()));
    let id = json!(path.rsplit('/').next().unwrap());
    for (number, (path, body)) in [
        (format!("{path}/deploy"), Value::Null),
        (format!("{path}/restart"), Value::Null),
        ("/api/v1/desktop/pair/confirm".to_owned(), confirm),
    ]
    .into_iter()
    .enumerate()
    {
        owner.headers.last_mut().unwrap().1 = format!("k{number}");
        let answers = [post(&server, &owner, &path, &body).await, post(&server, &owner, &path, &body).await];
        let [first, again] = &answers;
        assert!((200..300).contains(&first.status), "{path}: {}", first.text());
        assert_eq!((first.status, &first.body), (again.status, &again.body), "{path}");
        assert_eq!(again.headers["idempotency-replayed"], "true", "{path}");
        // A service that runs can be restarted.
        run(&server, &id).await;
    }
    let body = json!({"email_address": "owner@ours.example", "user_password": PASSWORD});
    let mut nobody = Caller::NOBODY;
    nobody.headers.push(("idempotency-key", "k".to_owned()));
    for _ in 0..2 {
        let answer = server.post(&nobody, "/api/v1/auth/login", &body).await;
        assert!(!answer.headers.contains_key("idempotency-replayed"), "whose key it is, is not known");
        answer.json(200);
    }
    let events = server.get(&server.owner(), &format!("{path}/events")).await.json(200);
    let asked = events["event_list"].as_array().unwrap().iter().filter(|event| event["kind"] == "deploy_requested");
    assert_eq!(asked.count(), 1, "{events:#}");
}
