//! The audit log: every change leaves exactly one entry, and a route that changes something, be it a GET, cannot be forgotten.

use http::Method;
use serde_json::{Value, json};
use towline_control::http::router::routes;
use towline_model::{Role, ServiceId, ServiceStatus};
use towline_store::{AuditFilter, StoreError};

use crate::support::{Caller, PASSWORD, TestServer, minimal};

/// Routes that change something and leave no entry in the log of a team, and why.
const EXEMPT: &[(&str, &str)] = &[
    (
        "POST /api/v1/auth/refresh",
        "goes on with a sign-in that is told; when it ends one: a_stolen_refresh_token_is_told_once",
    ),
    ("GET /api/v1/auth/oidc/callback", "needs a provider: the end-to-end tests look at its entries (oidc::)"),
    ("POST /api/v1/teams", "its entry is in the log of the new team: teams::somebody_makes_a_further_team_and_owns_it"),
    ("POST /api/v1/teams/current/leave", "the owner, who watches, cannot leave: members::leaving_is_for_everybody"),
    ("DELETE /api/v1/teams/current", "the log goes with its team: what_concerns_no_team_is_in_the_servers_own_log"),
    ("POST /api/v1/desktop/pair/start", "nobody is known yet, and it concerns no team"),
    ("POST /api/v1/r/containers/{slug}/ticket", "a permission of thirty seconds to do what is not told either: a call"),
];

/// The GETs that only read. Another one? Whoever adds it says here that it does, or calls it below.
const READS: &[&str] = &[
    // What has begun is kept in the browser.
    "/api/v1/auth/oidc/start",
    "/api/v1/users/me",
    "/api/v1/teams",
    "/api/v1/teams/current",
    "/api/v1/members",
    "/api/v1/members/{id}",
    "/api/v1/invitations",
    "/api/v1/credentials",
    "/api/v1/containers",
    "/api/v1/containers/{id}",
    "/api/v1/containers/{id}/instances",
    "/api/v1/containers/{id}/events",
    "/api/v1/containers/{id}/logs",
    "/api/v1/secrets",
    "/api/v1/secrets/{id}",
    "/api/v1/agents",
    "/api/v1/audit",
    "/api/v1/audit/export",
    "/api/v1/r/containers",
    "/api/v1/r/containers/{slug}",
    "/api/v1/r/agents",
    "/api/v1/openapi.json",
    "/healthz",
    "/readyz",
];

/// Makes calls and sees to it that each leaves its entry.
struct Watch<'s> {
    server: &'s TestServer,
    seen: Vec<String>,
}

impl Watch<'_> {
    async fn entries(&self) -> Vec<Value> {
        let list = self.server.get(&self.server.owner(), "/api/v1/audit?per_page=100").await.json(200);
        list["audit_list"].as_array().unwrap().clone()
    }

    /// Calls a route as somebody; it must leave one entry with this action. Gives the answer.
    async fn call(&mut self, caller: &Caller, route: &str, id: &Value, body: Value, action: &str) -> Value {
        let before = self.entries().await;
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{id}", id.as_str().unwrap_or_default());
        let body = (!body.is_null()).then_some(body);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = self.server.call(caller, method, &path, body.as_ref()).await;
        assert!((200..300).contains(&answer.status), "{route}: {}", answer.text());
        let after = self.entries().await;
        assert_eq!(after.len(), before.len() + 1, "{route} must leave one entry: {after:#?}");
        assert_eq!(after[0]["action"], action, "{route}");
        assert!(!after[0]["target_name"].as_str().unwrap().is_empty(), "{route}: {:#}", after[0]);
        assert_eq!(after[0]["request_id"], answer.headers["x-request-id"].to_str().unwrap(), "{route}");
        let refused = self.server.call(&self.server.user(Role::Viewer), Method::GET, "/api/v1/audit", None).await;
        refused.problem(403, "forbidden");
        self.seen.push(route.to_owned());
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
    }
}

/// Makes a service that is being deployed a running one, as an agent's report would.
pub async fn run(server: &TestServer, id: &Value) {
    let id: ServiceId = id.as_str().unwrap().parse().unwrap();
    loop {
        let mut tx = server.server.store().write().await.unwrap();
        let mut row = tx.find_service(server.ours.id, id).await.unwrap().unwrap();
        row.status = ServiceStatus::Running;
        match tx.update_service(&mut row).await {
            Ok(()) => return tx.commit().await.unwrap(),
            // The reconciler was quicker.
            Err(StoreError::Concurrent) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn call_people(watch: &mut Watch<'_>) {
    let (owner, nobody, none) = (watch.server.owner(), Caller::NOBODY, Value::Null);
    watch.call(&owner, "PUT /api/v1/users/me", &none, json!({"display_name": "Ada"}), "user.update").await;
    watch.call(&owner, "PUT /api/v1/teams/current", &none, json!({"team_name": "Blue"}), "team.update").await;
    let member = json!(watch.server.ours.users[&Role::Member]);
    let role = json!({"role": "viewer"});
    watch.call(&owner, "PUT /api/v1/members/{id}", &member, role, "member.update").await;
    watch.call(&owner, "DELETE /api/v1/members/{id}", &member, Value::Null, "member.remove").await;
    let wished = |address: &str| json!({"email_address": address, "invitation_role": "member"});
    let invite = "POST /api/v1/invitations";
    let made = watch.call(&owner, invite, &none, wished("a@example.com"), "invitation.create").await;
    let revoke = "DELETE /api/v1/invitations/{id}";
    watch.call(&owner, revoke, &made["id"], Value::Null, "invitation.revoke").await;
    let made = watch.server.post(&owner, "/api/v1/invitations", &wished("b@example.com")).await.json(201);
    let body = json!({"token": made["token"], "user_password": PASSWORD});
    watch.call(&nobody, "POST /api/v1/invitations/accept", &none, body, "invitation.accept").await;
    // There and back, so that the owner goes on watching.
    let transfer = json!({"user_id": watch.server.ours.users[&Role::Admin]});
    let back = json!({"user_id": watch.server.ours.users[&Role::Owner]});
    let admin = watch.server.user(Role::Admin);
    watch.server.post(&owner, "/api/v1/teams/current/transfer", &transfer).await.json(200);
    watch.call(&admin, "POST /api/v1/teams/current/transfer", &none, back, "team.transfer").await;
}

/// Another route that changes something? Call it here, or say above why it leaves no entry.
async fn call_everything(watch: &mut Watch<'_>) {
    let (owner, nobody, none) = (watch.server.owner(), Caller::NOBODY, Value::Null);
    let login = json!({"email_address": "owner@ours.example", "user_password": PASSWORD});
    let tokens = watch.call(&nobody, "POST /api/v1/auth/login", &none, login, "user.sign_in").await;
    let refresh_token = json!({"refresh_token": tokens["refresh_token"]});
    watch.call(&nobody, "POST /api/v1/auth/logout", &none, refresh_token, "user.sign_out").await;

    call_people(watch).await;

    let wished = json!({"kind": "integration", "display_name": "ci"});
    let key = watch.call(&owner, "POST /api/v1/credentials", &none, wished, "credential.create").await;
    watch.call(&owner, "DELETE /api/v1/credentials/{id}", &key["id"], Value::Null, "credential.revoke").await;

    let started = watch.server.act(&nobody, "/api/v1/desktop/pair/start").await.json(200);
    let confirm = json!({"user_code": started["user_code"], "device_name": "laptop"});
    watch.call(&owner, "POST /api/v1/desktop/pair/confirm", &none, confirm, "device.pair").await;
    let poll = json!({"device_code": started["device_code"]});
    let keys = watch.call(&nobody, "POST /api/v1/desktop/pair/poll", &none, poll, "credential.create").await;
    let device = Caller::bearer(keys["raw_key"].as_str().unwrap());
    watch.call(&device, "POST /api/v1/auth/device/revoke", &none, Value::Null, "credential.revoke").await;

    let wished = json!({"name": "key", "value": "hunter2"});
    let secret = watch.call(&owner, "POST /api/v1/secrets", &none, wished, "secret.create").await["id"].clone();
    let change = json!({"value": "hunter2-too"});
    watch.call(&owner, "PUT /api/v1/secrets/{id}", &secret, change, "secret.update").await;
    assert!(!format!("{:?}", watch.entries().await).contains("hunter2"));
    watch.call(&owner, "DELETE /api/v1/secrets/{id}", &secret, Value::Null, "secret.delete").await;

    let made = watch.call(&owner, "POST /api/v1/containers", &none, minimal("hello"), "service.create").await;
    let id = &made["id"];
    let change = json!({"display_name": "Hello"});
    watch.call(&owner, "PUT /api/v1/containers/{id}", id, change, "service.update").await;
    watch.call(&owner, "POST /api/v1/containers/{id}/deploy", id, Value::Null, "service.deploy").await;
    run(watch.server, id).await;
    watch.call(&owner, "POST /api/v1/containers/{id}/restart", id, Value::Null, "service.restart").await;
    watch.call(&owner, "POST /api/v1/containers/{id}/undeploy", id, Value::Null, "service.undeploy").await;
    let path = format!("/api/v1/containers/{}", id.as_str().unwrap());
    watch.server.wait_for_status(&path, "stopped").await;
    watch.call(&owner, "DELETE /api/v1/containers/{id}", id, Value::Null, "service.delete").await;
}

#[tokio::test]
async fn every_route_that_changes_something_leaves_an_entry() {
    let server = TestServer::start().await;
    let mut watch = Watch { server: &server, seen: Vec::new() };
    call_everything(&mut watch).await;
    let table = routes();
    for read in READS {
        assert!(table.iter().any(|route| route.method == Method::GET && route.path == *read), "GET {read} is gone");
    }
    for (exempt, _) in EXEMPT {
        let is_there = table.iter().any(|route| *exempt == format!("{} {}", route.method, route.path));
        assert!(is_there, "{exempt} is gone");
    }
    let mut expected: Vec<_> = table
        .iter()
        .filter(|route| route.method != Method::GET || !READS.contains(&route.path))
        .map(|route| format!("{} {}", route.method, route.path))
        .filter(|route| EXEMPT.iter().all(|(exempt, _)| exempt != route))
        .collect();
    expected.sort();
    watch.seen.sort();
    assert_eq!(watch.seen, expected, "a route leaves no entry, and no reason is given");
}

/// What is in the server's own log, the oldest first: the action, by whom, to what.
async fn own_log(server: &TestServer) -> Vec<(String, String, String)> {
    let mut tx = server.server.store().read().await.unwrap();
    let entries = tx.audit_entries_after(None, &AuditFilter::default(), None, 100).await.unwrap();
    entries.into_iter().map(|entry| (entry.action, entry.actor_name, entry.target_name)).collect()
}

#[tokio::test]
async fn what_concerns_no_team_is_in_the_servers_own_log() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let invited = json!({"email_address": "ada@example.com", "invitation_role": "member"});
    let made = server.post(&owner, "/api/v1/invitations", &invited).await.json(201);
    let body = json!({"token": made["token"], "user_password": PASSWORD});
    server.post(&Caller::NOBODY, "/api/v1/invitations/accept", &body).await.json(200);
    let login = json!({"email_address": "ada@example.com", "user_password": PASSWORD});
    let sign_in = async || {
        let tokens = server.post(&Caller::NOBODY, "/api/v1/auth/login", &login).await.json(200);
        let mut caller = Caller::bearer(tokens["access_token"].as_str().unwrap());
        caller.headers.push(("x-team-id", server.ours.id.to_string()));
        (caller, json!({"refresh_token": tokens["refresh_token"]}))
    };
    let (ada, _) = sign_in().await;
    let by_ada = |action: &str| (action.to_owned(), "ada@example.com".to_owned(), "ada@example.com".to_owned());
    let mut expected = vec![by_ada("user.create")];
    assert_eq!(own_log(&server).await, expected, "a member's sign-in is in the team's log");

    server.act(&ada, "/api/v1/teams/current/leave").await.json(200);
    let (ada, refresh_token) = sign_in().await;
    server.put(&ada, "/api/v1/users/me", &json!({"display_name": "Ada"})).await.json(200);
    server.post(&Caller::NOBODY, "/api/v1/auth/logout", &refresh_token).await.json(200);
    expected.extend(["user.sign_in", "user.update", "user.sign_out"].map(by_ada));
    assert_eq!(own_log(&server).await, expected);

    server.put(&owner, "/api/v1/teams/current", &json!({"team_name": "Blue"})).await.json(200);
    assert_eq!(server.delete(&owner, "/api/v1/teams/current").await.status, 204);
    expected.push(("team.delete".to_owned(), "owner@ours.example".to_owned(), "Blue".to_owned()));
    assert_eq!(own_log(&server).await, expected);
    // It is for whoever runs the server: nobody reads it over the API.
    let theirs = server.user_in(&server.theirs, Role::Owner);
    assert_eq!(server.get(&theirs, "/api/v1/audit").await.json(200)["page_meta"]["total_count"], 0);
}

#[tokio::test]
async fn a_stolen_refresh_token_is_told_once() {
    let server = TestServer::start().await;
    let login = json!({"email_address": "owner@ours.example", "user_password": PASSWORD});
    let tokens = server.post(&Caller::NOBODY, "/api/v1/auth/login", &login).await.json(200);
    let body = json!({"refresh_token": tokens["refresh_token"]});
    server.post(&Caller::NOBODY, "/api/v1/auth/refresh", &body).await.json(200);
    for _ in 0..2 {
        assert_eq!(server.post(&Caller::NOBODY, "/api/v1/auth/refresh", &body).await.status, 401);
    }
    let list = server.get(&server.owner(), "/api/v1/audit").await.json(200);
    let [ended, begun] = &list["audit_list"].as_array().unwrap()[..] else { panic!("{list:#}") };
    assert_eq!((&begun["action"], &ended["action"]), (&json!("user.sign_in"), &json!("user.sign_out")));
    assert_eq!(ended["details"], json!({"reason": "refresh_token_reused"}));
}

#[tokio::test]
async fn an_entry_says_who_what_and_with_what() {
    let server = TestServer::start().await;
    let made = server.post(&server.key("sk-manage"), "/api/v1/containers", &minimal("hello")).await.json(201);
    let change = json!({"display_name": "Hi", "env_config": [{"env_name": "TOKEN", "env_value": "hunter2"}]});
    let path = format!("/api/v1/containers/{}", made["id"].as_str().unwrap());
    server.put(&server.key("dk"), &path, &change).await.json(200);
    let list = server.get(&server.owner(), "/api/v1/audit").await;
    assert!(!list.text().contains("hunter2"));
    let list = list.json(200);
    let [update, create] = &list["audit_list"].as_array().unwrap()[..] else { panic!("{list:#}") };
    assert_eq!(update["details"], json!({"fields": ["display_name", "env_config"]}));
    assert_eq!((&update["actor_kind"], &update["actor_name"]), (&json!("device"), &json!("admin@ours.example")));
    assert_eq!(update["user_id"], json!(server.ours.users[&Role::Admin]));
    assert!(update["credential_id"].is_string());
    assert_eq!((&create["actor_kind"], &create["actor_name"]), (&json!("integration"), &json!("sk-manage")));
    assert_eq!((&create["target_kind"], &create["target_name"]), (&json!("service"), &json!("hello")));
    assert_eq!(create["target_id"], made["id"]);
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let server = TestServer::start().await;
    server.create(&minimal("hello")).await;
    let again = server.post(&server.owner(), "/api/v1/containers", &minimal("hello")).await;
    again.problem(409, "already_exists");
    server.post(&server.user(Role::Viewer), "/api/v1/containers", &minimal("other")).await.problem(403, "forbidden");
    let list = server.get(&server.owner(), "/api/v1/audit").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 1, "{list:#}");
}

#[tokio::test]
async fn another_teams_log_is_not_there() {
    let server = TestServer::start().await;
    server.create(&minimal("hello")).await;
    let theirs = server.user_in(&server.theirs, Role::Owner);
    assert_eq!(server.get(&theirs, "/api/v1/audit").await.json(200)["page_meta"]["total_count"], 0);
    assert_eq!(server.get(&theirs, "/api/v1/audit/export").await.text(), "");
}

#[tokio::test]
async fn the_log_is_exported_as_lines_the_oldest_first() {
    let server = TestServer::start().await;
    for number in 0..3 {
        server.create(&minimal(&format!("service-{number}"))).await;
    }
    let answer = server.get(&server.owner(), "/api/v1/audit/export").await;
    assert_eq!(answer.headers["content-type"], "application/jsonl");
    let entries: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = entries.iter().map(|entry| entry["target_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["service-0", "service-1", "service-2"]);
    let listed = server.get(&server.owner(), "/api/v1/audit").await.json(200);
    let listed: Vec<_> = listed["audit_list"].as_array().unwrap().iter().rev().cloned().collect();
    assert_eq!(entries, listed);
}

#[tokio::test]
async fn the_log_is_searched_by_what_is_named() {
    let server = TestServer::start().await;
    server.create(&minimal("one")).await;
    let total = async |query: &str| {
        let list = server.get(&server.owner(), &format!("/api/v1/audit?{query}")).await.json(200);
        list["page_meta"]["total_count"].as_u64().unwrap()
    };
    assert_eq!(total("action=service.create").await, 1);
    assert_eq!(total("action=service.delete").await, 0);
    assert_eq!(total("until=2020-01-01T00:00:00Z").await, 0);
    assert_eq!(total("since=2020-01-01T00:00:00Z").await, 1);
    for query in ["action=no.such", "since=yesterday", "user_id=x", "target_id=x"] {
        let answer = server.get(&server.owner(), &format!("/api/v1/audit?{query}")).await;
        answer.problem(400, "invalid_parameter");
    }
}
