//! Device pairing over the API: who gets keys, when, and how they end.

use std::{sync::Arc, time::Duration};

use http::{Method, header};
use serde_json::{Value, json};
use towline_gateway::testing::{SimAgent, within};
use towline_model::{Clock, KeyHash, ManualClock, Role, SystemClock};

use crate::support::{Answer, Caller, TestServer};

const START: &str = "/api/v1/desktop/pair/start";
const POLL: &str = "/api/v1/desktop/pair/poll";
const CONFIRM: &str = "/api/v1/desktop/pair/confirm";
const REVOKE: &str = "/api/v1/auth/device/revoke";

async fn begin(server: &TestServer) -> Value {
    server.act(&Caller::NOBODY, START).await.json(200)
}

async fn poll(server: &TestServer, started: &Value) -> Answer {
    server.post(&Caller::NOBODY, POLL, &json!({"device_code": started["device_code"]})).await
}

async fn confirm(server: &TestServer, caller: &Caller, code: &Value) -> Answer {
    server.post(caller, CONFIRM, &json!({"user_code": code, "device_name": "laptop"})).await
}

/// A device of the member of this role: its key, and the key for its agent.
async fn paired(server: &TestServer, role: Role) -> (Caller, Option<String>) {
    let started = begin(server).await;
    let answer = confirm(server, &server.user(role), &started["user_code"]).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{}", answer.text());
    let keys = poll(server, &started).await.json(200);
    assert_eq!(keys["status"], "approved");
    let agent_key = keys["agent_key"].as_str().map(str::to_owned);
    (Caller::bearer(keys["raw_key"].as_str().unwrap()), agent_key)
}

async fn works(server: &TestServer, device: &Caller) -> bool {
    let answer = server.get(device, "/api/v1/containers").await;
    if answer.status != 200 {
        answer.problem(401, "unauthenticated");
    }
    answer.status == 200
}

async fn join(server: &TestServer, key: &str) -> SimAgent {
    SimAgent::connect(server.server.addr(), key, SimAgent::hello("laptop")).await.unwrap()
}

/// Whether anybody can join with this key.
fn is_known(server: &TestServer, key: &str) -> bool {
    server.server.app().gateway().snapshot().credentials.key(&KeyHash::of(key)).is_some()
}

#[tokio::test]
async fn a_device_waits_is_confirmed_and_gets_its_keys_once() {
    let server = TestServer::start().await;
    let started = begin(&server).await;
    assert_eq!((&started["expires_in"], &started["interval"]), (&json!(300), &json!(2)));
    let code = started["user_code"].as_str().unwrap();
    assert!(code.len() == 9 && code.as_bytes()[4] == b'-', "{code}");
    let page = started["verification_uri"].as_str().unwrap();
    assert_eq!(page, format!("{}/pair", server.server.url()));
    assert_eq!(started["verification_uri_complete"], format!("{page}?code={code}"));
    assert_eq!(poll(&server, &started).await.json(200), json!({"status": "pending"}));
    assert_eq!(poll(&server, &started).await.json(200), json!({"status": "pending"}), "as often as it asks");

    assert_eq!(confirm(&server, &server.user(Role::Member), &started["user_code"]).await.status, 204);
    let keys = poll(&server, &started).await.json(200);
    assert_eq!(keys.as_object().unwrap().keys().collect::<Vec<_>>(), ["agent_key", "raw_key", "status"]);
    assert_eq!(keys["status"], "approved");
    poll(&server, &started).await.problem(404, "not_found");

    let device = Caller::bearer(keys["raw_key"].as_str().unwrap());
    assert!(works(&server, &device).await);
    server.post(&device, "/api/v1/containers", &crate::support::minimal("hello")).await.json(201);
    let wished = json!({"kind": "integration", "display_name": "x"});
    server.post(&device, "/api/v1/credentials", &wished).await.problem(403, "forbidden");
    let _agent = join(&server, keys["agent_key"].as_str().unwrap()).await;

    let list = server.get(&server.owner(), "/api/v1/credentials").await;
    for key in ["raw_key", "agent_key"] {
        assert!(!list.text().contains(&keys[key].as_str().unwrap()[12..]), "{key}");
    }
    let list = list.json(200);
    let row = |kind: &str| {
        let rows = list["credentials"].as_array().unwrap().iter();
        rows.clone().find(|row| row["kind"] == kind && row["display_name"] == "laptop").unwrap().clone()
    };
    let (device, agent) = (row("device"), row("agent"));
    assert_eq!(device["companion_id"], agent["id"]);
    assert_eq!(agent["companion_id"], Value::Null);
    assert_eq!(device["created_by"], json!(server.ours.users[&Role::Member]));
    let log = server.get(&server.owner(), "/api/v1/audit").await.json(200);
    let [_, issued, confirmed] = &log["audit_list"].as_array().unwrap()[..] else { panic!("{log:#}") };
    assert_eq!((&confirmed["action"], &confirmed["target_name"]), (&json!("device.pair"), &json!("laptop")));
    assert_eq!((&issued["action"], &issued["target_id"]), (&json!("credential.create"), &device["id"]));
    assert_eq!(issued["details"]["companion_id"], agent["id"]);
    assert_eq!(issued["actor_name"], "member@ours.example", "the user whose device it is");
}

#[tokio::test]
async fn case_dashes_and_spaces_of_a_code_do_not_matter() {
    let server = TestServer::start().await;
    let ways: [fn(&str) -> String; 4] = [
        |code| code.to_lowercase(),
        |code| code.replace('-', ""),
        |code| format!("  {} ", code.replace('-', " ")),
        |code| code.chars().map(|c| format!("{c}-")).collect(),
    ];
    for way in ways {
        let started = begin(&server).await;
        let typed = way(started["user_code"].as_str().unwrap());
        assert_eq!(confirm(&server, &server.owner(), &json!(typed)).await.status, 204, "{typed:?}");
        assert_eq!(poll(&server, &started).await.json(200)["status"], "approved");
    }
}

#[tokio::test]
async fn a_code_that_is_unknown_or_used_confirms_nothing() {
    let server = TestServer::start().await;
    let started = begin(&server).await;
    let owner = server.owner();
    for code in ["", "BCDF", "AAAA-AAAA", "BCDF-GHJK"] {
        confirm(&server, &owner, &json!(code)).await.problem(404, "not_found");
    }
    for body in [json!({}), json!({"user_code": 1}), json!({"user_code": "BCDF-GHJK", "more": 1})] {
        server.post(&owner, CONFIRM, &body).await.problem(400, "malformed_body");
    }
    let unnamed = json!({"user_code": started["user_code"], "device_name": ""});
    server.post(&owner, CONFIRM, &unnamed).await.problem(400, "validation_failed");
    assert_eq!(poll(&server, &started).await.json(200)["status"], "pending");
    server.post(&Caller::NOBODY, POLL, &json!({"device_code": "dc-nonsense"})).await.problem(404, "not_found");
    // The code for people is none for devices.
    let swapped = json!({"device_code": started["user_code"]});
    server.post(&Caller::NOBODY, POLL, &swapped).await.problem(404, "not_found");

    assert_eq!(confirm(&server, &owner, &started["user_code"]).await.status, 204);
    confirm(&server, &owner, &started["user_code"]).await.problem(404, "not_found");
    confirm(&server, &server.user(Role::Member), &started["user_code"]).await.problem(404, "not_found");
    assert_eq!(poll(&server, &started).await.json(200)["status"], "approved");
    confirm(&server, &owner, &started["user_code"]).await.problem(404, "not_found");
}

#[tokio::test]
async fn of_two_who_confirm_and_of_two_who_fetch_one_does() {
    let server = TestServer::start().await;
    for _ in 0..5 {
        let started = begin(&server).await;
        let (owner, member) = (server.owner(), server.user(Role::Member));
        let code = &started["user_code"];
        let (one, other) = tokio::join!(confirm(&server, &owner, code), confirm(&server, &member, code));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 404], "{} {}", one.text(), other.text());
        let (one, other) = tokio::join!(poll(&server, &started), poll(&server, &started));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404], "{} {}", one.text(), other.text());
    }
    let list = server.get(&server.owner(), "/api/v1/credentials?kind=device").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 1 + 5);
}

#[tokio::test]
async fn a_code_is_good_for_five_minutes() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let server = TestServer::start_at(clock.clone()).await;
    let (waiting, late) = (begin(&server).await, begin(&server).await);
    clock.advance(Duration::from_secs(299));
    assert_eq!(poll(&server, &waiting).await.json(200)["status"], "pending");
    assert_eq!(confirm(&server, &server.owner(), &late["user_code"]).await.status, 204);
    clock.advance(Duration::from_secs(1));
    poll(&server, &waiting).await.problem(404, "not_found");
    confirm(&server, &server.owner(), &waiting["user_code"]).await.problem(404, "not_found");
    // Whoever was confirmed in the last moment still gets to ask.
    assert_eq!(poll(&server, &late).await.json(200)["status"], "approved");

    let forgotten = begin(&server).await;
    confirm(&server, &server.owner(), &forgotten["user_code"]).await;
    let rows = async || server.server.store().read().await.unwrap().count_device_pairings().await.unwrap();
    assert_eq!(rows().await, 1, "the next that came has swept out the expired one");
    clock.advance(Duration::from_secs(300));
    poll(&server, &forgotten).await.problem(404, "not_found");
    begin(&server).await;
    assert_eq!(rows().await, 1);
}

#[tokio::test]
async fn who_types_too_many_wrong_codes_waits() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let server = TestServer::start_at(clock.clone()).await;
    let (owner, member) = (server.owner(), server.user(Role::Member));
    let guess = json!("BCDF-GHJK");
    for _ in 0..10 {
        confirm(&server, &owner, &guess).await.problem(404, "not_found");
    }
    let started = begin(&server).await;
    let answer = confirm(&server, &owner, &started["user_code"]).await;
    answer.problem(429, "rate_limited");
    assert_eq!(answer.headers[header::RETRY_AFTER], "300");
    assert_eq!(poll(&server, &started).await.json(200)["status"], "pending");
    // Others are not held up, and right codes are no wrong ones.
    for _ in 0..12 {
        let started = begin(&server).await;
        assert_eq!(confirm(&server, &member, &started["user_code"]).await.status, 204);
    }
    clock.advance(Duration::from_secs(300));
    let started = begin(&server).await;
    assert_eq!(confirm(&server, &owner, &started["user_code"]).await.status, 204);
}

#[tokio::test]
async fn only_so_many_devices_wait_at_a_time() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let server = TestServer::start_at(clock.clone()).await;
    for _ in 0..1000 {
        begin(&server).await;
    }
    let answer = server.act(&Caller::NOBODY, START).await;
    answer.problem(429, "rate_limited");
    assert_eq!(answer.headers[header::RETRY_AFTER], "10");
    clock.advance(Duration::from_secs(300));
    begin(&server).await;
}

#[tokio::test]
async fn a_viewers_device_looks_and_brings_no_agent() {
    let server = TestServer::start().await;
    let (device, agent_key) = paired(&server, Role::Viewer).await;
    assert_eq!(agent_key, None);
    assert!(works(&server, &device).await);
    server.post(&device, "/api/v1/containers", &crate::support::minimal("hello")).await.problem(403, "forbidden");
    server.act(&device, "/api/v1/r/containers/hello/ticket").await.problem(403, "forbidden");
    assert_eq!(server.act(&device, REVOKE).await.json(200), json!({"is_success": true}));
    assert!(!works(&server, &device).await);
}

#[tokio::test]
async fn a_device_revokes_itself_and_its_companion() {
    let server = TestServer::start().await;
    let (device, agent_key) = paired(&server, Role::Member).await;
    let (other, _) = paired(&server, Role::Member).await;
    let agent_key = agent_key.unwrap();
    let agent = join(&server, &agent_key).await;
    assert_eq!(server.act(&device, REVOKE).await.json(200), json!({"is_success": true}));
    assert!(!works(&server, &device).await);
    server.act(&device, REVOKE).await.problem(401, "unauthenticated");
    within("the agent's session ends", agent.session_ended()).await;
    assert!(!is_known(&server, &agent_key));
    assert!(works(&server, &other).await, "other devices of the user go on");
    let log = server.get(&server.owner(), "/api/v1/audit?per_page=1").await.json(200);
    let newest = &log["audit_list"][0];
    assert_eq!((&newest["action"], &newest["actor_kind"]), (&json!("credential.revoke"), &json!("device")));
    assert!(newest["details"]["companion_id"].is_string(), "{newest:#}");
}

#[tokio::test]
async fn whatever_ends_a_devices_key_ends_its_companion() {
    for how in ["revoke", "remove", "leave", "delete the team", "demote"] {
        let server = TestServer::start().await;
        let (device, agent_key) = paired(&server, Role::Member).await;
        let agent_key = agent_key.unwrap();
        let agent = join(&server, &agent_key).await;
        let owner = server.owner();
        let member = format!("/api/v1/members/{}", server.ours.users[&Role::Member]);
        match how {
            "revoke" => {
                let list = server.get(&owner, "/api/v1/credentials?kind=device").await.json(200);
                let id = list["credentials"][0]["id"].as_str().unwrap();
                assert_eq!(server.delete(&owner, &format!("/api/v1/credentials/{id}")).await.status, 204);
            }
            "remove" => assert_eq!(server.delete(&owner, &member).await.status, 204),
            "leave" => drop(server.act(&server.user(Role::Member), "/api/v1/teams/current/leave").await.json(200)),
            "demote" => drop(server.put(&owner, &member, &json!({"role": "viewer"})).await.json(200)),
            _ => {
                let path = "/api/v1/teams/current";
                assert_eq!(server.call(&owner, Method::DELETE, path, None).await.status, 204);
            }
        }
        // A viewer keeps the device, but brings no agents.
        assert_eq!(works(&server, &device).await, how == "demote", "{how}");
        within("the agent's session ends", agent.session_ended()).await;
        assert!(!is_known(&server, &agent_key), "{how}");
    }
}

#[tokio::test]
async fn who_is_removed_before_the_device_asks_gives_it_nothing() {
    let server = TestServer::start().await;
    let started = begin(&server).await;
    assert_eq!(confirm(&server, &server.user(Role::Member), &started["user_code"]).await.status, 204);
    let member = format!("/api/v1/members/{}", server.ours.users[&Role::Member]);
    assert_eq!(server.delete(&server.owner(), &member).await.status, 204);
    poll(&server, &started).await.problem(404, "not_found");
    let list = server.get(&server.owner(), "/api/v1/credentials?kind=device").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 1, "{list:#}");
}

#[tokio::test]
async fn the_page_is_strict() {
    let server = TestServer::start().await;
    for (path, content_type) in [
        ("/pair?code=BCDF-GHJK", "text/html; charset=utf-8"),
        ("/pair/pair.js", "text/javascript; charset=utf-8"),
        ("/pair/pair.css", "text/css; charset=utf-8"),
    ] {
        let answer = server.get(&Caller::NOBODY, path).await;
        assert_eq!((answer.status, answer.headers[header::CONTENT_TYPE].to_str().unwrap()), (200, content_type));
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(!answer.text().contains("BCDF-GHJK"), "nothing of the query is put into the page");
    }
    let html = server.get(&Caller::NOBODY, "/pair").await.text();
    assert!(html.contains("data-oidc=\"false\" data-access-token=\"\""), "{html}");
    server.act(&Caller::NOBODY, "/pair").await.problem(405, "method_not_allowed");
}
