//! Who may do something: keys, members, invitations, and what is written down of it.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use serde_json::{Value, json};
use towline_model::{Secret, Timestamp};
use towline_store::{AuditRow, Store, StoreOptions};

use super::{ID, Shell};
use crate::client::test_server::{Seen, TestServer, answer, json};

#[tokio::test]
async fn keys_are_listed_by_their_kind() {
    let server = TestServer::start(|seen| {
        let ada = "01932c07-8a4e-7bbd-9c45-000000000001";
        if seen.line.starts_with("GET /api/v1/members") {
            let member = json!({"user_id": ada, "email_address": "ada@example.com"});
            return json(200, &json!({"member_list": [member]}));
        }
        assert_eq!(seen.line, "GET /api/v1/credentials?kind=device&per_page=100");
        let key = json!({
            "id": ID, "kind": "device", "display_name": "laptop", "key_prefix": "dk-4fT9aQz1x", "created_by": ada,
        });
        json(200, &json!({"credentials": [key], "page_meta": {"total_count": 1}}))
    })
    .await;
    let done = Shell::new(&server).run(&["key", "list", "--kind", "device"]).await;
    done.result.as_ref().unwrap();
    for part in ["dk-4fT9aQz1x", "laptop", "ada@example.com"] {
        assert!(done.data.contains(part), "{}", done.data);
    }
}

#[tokio::test]
async fn a_key_is_alone_on_stdout() {
    let made = json!({"id": ID, "kind": "integration", "key_prefix": "sk-123456789", "raw_key": "sk-123456789rest"});
    let server = TestServer::start(move |_| json(201, &made)).await;
    let line = ["key", "create", "--name", "ci", "--scope", "read", "--scope", "manage", "--expires-in-days", "90"];
    let done = Shell::new(&server).run(&line).await;
    done.result.unwrap();
    assert_eq!(done.data, "sk-123456789rest\n");
    let expected =
        json!({"kind": "integration", "display_name": "ci", "scopes": ["read", "manage"], "expires_in_days": 90});
    assert_eq!(server.seen()[0].json(), expected);
}

fn members() -> Value {
    json!({"member_list": [
        {"user_id": ID, "email_address": "ada@example.com", "display_name": "Ada", "role": "admin"},
        {"user_id": "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a78", "email_address": "bob@example.com", "display_name": null, "role": "viewer"},
    ], "page_meta": {"total_count": 2}})
}

#[tokio::test]
async fn a_member_is_named_by_address_or_id() {
    let server = TestServer::start(|seen| match seen.line.split(['?', ' ']).next().unwrap() {
        "GET" => json(200, &members()),
        "DELETE" => answer(204, "", Body::empty()),
        "PUT" => json(200, &json!({"id": ID})),
        _ => json(200, &json!({"is_success": true})),
    })
    .await;
    let shell = Shell::new(&server);
    let done = shell.run(&["member", "list"]).await;
    assert!(done.data.contains("ada@example.com  Ada   admin   01932c07"), "{}", done.data);
    let done = shell.run(&["member", "set-role", "ADA@example.com", "viewer"]).await;
    assert_eq!(done.data, "ada@example.com is viewer now\n");
    let done = shell.run(&["member", "remove", ID, "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&done.data).unwrap(), json!({"id": ID}));
    let done = shell.run(&["team", "transfer", "ada@example.com"]).await;
    assert_eq!(done.data, "ada@example.com owns the team now; you are an admin\n");
    let seen = server.seen();
    let body = |line: &str| seen.iter().find(|seen| seen.line == line).map(Seen::json);
    assert_eq!(body(&format!("PUT /api/v1/members/{ID}")), Some(json!({"role": "viewer"})));
    assert!(body(&format!("DELETE /api/v1/members/{ID}")).is_some());
    assert_eq!(body("POST /api/v1/teams/current/transfer"), Some(json!({"user_id": ID})));
    let done = shell.run(&["member", "remove", "eve@example.com"]).await;
    assert_eq!(done.failure().message(), "there is no member eve@example.com in this team");
}

#[tokio::test]
async fn an_invitation_is_passed_on_by_hand_when_no_mail_brings_it() {
    let statuses = Arc::new(Mutex::new(vec!["failed", "sent", "not_configured"]));
    let server = TestServer::start(move |_| {
        let status = statuses.lock().unwrap().pop().unwrap();
        let mut made = json!({"id": ID, "mail_status": status, "expires_at": "2030-01-01T00:00:00Z"});
        if status != "sent" {
            made["token"] = json!("inv-x");
        }
        json(201, &made)
    })
    .await;
    let shell = Shell::new(&server);
    let invite = ["member", "invite", "ada@example.com", "--role", "viewer"];
    let done = shell.run(&invite).await;
    let command = format!("towline member accept --server {} --token inv-x", server.url.as_str().trim_end_matches('/'));
    assert!(done.data.contains(&command), "{}", done.data);
    assert_eq!(server.seen()[0].json(), json!({"email_address": "ada@example.com", "invitation_role": "viewer"}));
    let done = shell.run(&invite).await;
    assert_eq!(done.data, "invited ada@example.com; the token was sent by mail\n");
    let done = shell.run(&invite).await;
    assert!(done.messages.contains("could not be sent") && done.data.contains("inv-x"), "{}", done.messages);
}

#[tokio::test]
async fn nothing_is_deleted_or_left_without_a_yes() {
    let server = TestServer::start(|seen| match seen.line.split(' ').next().unwrap() {
        "GET" => json(200, &json!({"id": ID, "team_name": "blue", "role": "owner", "member_count": 2})),
        "DELETE" => answer(204, "", Body::empty()),
        _ => json(200, &json!({"is_success": true})),
    })
    .await;
    let shell = Shell::new(&server);
    for verb in ["delete", "leave"] {
        let done = shell.run(&["team", verb]).await;
        assert_eq!(done.failure().hint_text(), Some("say --yes"));
    }
    assert!(server.lines().iter().all(|line| line.starts_with("GET")), "{:?}", server.lines());
    assert_eq!(shell.run(&["team", "leave", "--yes"]).await.data, "you have left blue\n");
    assert_eq!(shell.run(&["team", "delete", "--yes"]).await.data, "deleted blue\n");
    assert_eq!(server.lines().last().unwrap(), "DELETE /api/v1/teams/current");
}

/// A database with one entry in the server's own log.
async fn own_log_in(data_dir: &std::path::Path) -> AuditRow {
    std::fs::create_dir_all(data_dir).unwrap();
    let url = format!("sqlite://{}", data_dir.join("towline.db").display());
    let store = Store::connect(&Secret::new(url), StoreOptions::default()).await.unwrap();
    let entry = AuditRow {
        id: ID.parse().unwrap(),
        team_id: None,
        at: Timestamp::from_micros(1_700_000_000_000_000),
        action: "team.delete".to_owned(),
        actor_kind: "user".to_owned(),
        actor_name: "ada@example.com".to_owned(),
        user_id: None,
        credential_id: None,
        target_id: Some(ID.to_owned()),
        target_name: "Blue".to_owned(),
        address: None,
        request_id: Some("r-1".to_owned()),
        details: None,
    };
    let mut tx = store.write().await.unwrap();
    tx.insert_audit_entry(&entry, Timestamp::from_micros(0)).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    entry
}

#[tokio::test]
async fn the_servers_own_log_is_read_from_its_database() {
    let server = TestServer::start(|seen| panic!("{}", seen.line)).await;
    let shell = Shell::new(&server);
    let data_dir = shell.home.path().join("data");
    let at = data_dir.display().to_string();
    let missing = shell.run(&["audit", "--server-log", "--data-dir", &at]).await;
    assert!(missing.failure().message().starts_with("there is no database"), "{:?}", missing.failure());
    assert!(!data_dir.exists(), "and none is made");

    let entry = own_log_in(&data_dir).await;
    let shown = shell.run(&["audit", "--server-log", "--data-dir", &at]).await;
    shown.result.unwrap();
    assert!(shown.data.contains("team.delete") && shown.data.contains("ada@example.com"), "{}", shown.data);
    let url = format!("sqlite://{}", data_dir.join("towline.db").display());
    let line = ["audit", "--server-log", "--export", "--database-url", &url];
    let exported = shell.run(&line).await;
    exported.result.unwrap();
    let exported: Value = serde_json::from_str(exported.data.trim_end()).unwrap();
    assert_eq!((&exported["id"], &exported["target_kind"]), (&json!(entry.id), &json!("team")));
    let none = shell.run(&[&line[..], &["--action", "user.create"]].concat()).await;
    none.result.unwrap();
    assert_eq!(none.data, "");
}
