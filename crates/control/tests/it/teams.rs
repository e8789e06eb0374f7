//! Teams: made, renamed, handed over.

use serde_json::json;
use towline_model::Role;

use crate::support::{Answer, Caller, TestServer, minimal};

async fn transfer(server: &TestServer, to: Role) -> Answer {
    let body = json!({"user_id": server.ours.users[&to]});
    server.post(&server.owner(), "/api/v1/teams/current/transfer", &body).await
}

#[tokio::test]
async fn somebody_makes_a_further_team_and_owns_it() {
    let server = TestServer::start().await;
    let user = Caller::bearer(&server.token(server.ours.users[&Role::Viewer]));
    let made = server.post(&user, "/api/v1/teams", &json!({"team_name": "mine"})).await.json(201);
    let id = made["id"].as_str().unwrap();
    assert_eq!(made, json!({"id": id}));
    let list = server.get(&user, "/api/v1/teams").await.json(200);
    let rows: Vec<_> =
        list["team_list"].as_array().unwrap().iter().map(|row| (&row["team_name"], &row["role"])).collect();
    assert_eq!(rows, [(&json!("ours"), &json!("viewer")), (&json!("mine"), &json!("owner"))]);
    assert_eq!(list["page_meta"]["total_count"], 2);
    let page = server.get(&user, "/api/v1/teams?per_page=1&current_page=2").await.json(200);
    assert_eq!(page["team_list"][0]["id"], id);
    let mut owner = user.clone();
    owner.headers.push(("x-team-id", id.to_owned()));
    let team = server.get(&owner, "/api/v1/teams/current").await.json(200);
    assert_eq!(
        (&team["team_name"], &team["role"], &team["member_count"]),
        (&json!("mine"), &json!("owner"), &json!(1))
    );
    let log = server.get(&owner, "/api/v1/audit").await.json(200);
    assert_eq!(log["audit_list"][0]["action"], "team.create", "{log:#}");
    server.post(&owner, "/api/v1/containers", &minimal("hello")).await.json(201);
    let me = server.get(&user, "/api/v1/users/me").await.json(200);
    assert_eq!(me["team_list"][1], json!({"team_id": id, "team_name": "mine", "role": "owner"}));
    // Nobody else is in it.
    let mut other = server.owner();
    other.headers[1].1 = id.to_owned();
    server.get(&other, "/api/v1/teams/current").await.problem(403, "not_in_team");
}

#[tokio::test]
async fn names_are_checked_and_changed() {
    let server = TestServer::start().await;
    for name in [json!(""), json!("x".repeat(101)), json!("a\nb")] {
        let body = json!({"team_name": name});
        server.post(&server.owner(), "/api/v1/teams", &body).await.problem(400, "validation_failed");
        server.put(&server.owner(), "/api/v1/teams/current", &body).await.problem(400, "validation_failed");
    }
    for body in [json!({}), json!({"team_name": 1}), json!({"team_name": "x", "more": 1})] {
        server.post(&server.owner(), "/api/v1/teams", &body).await.problem(400, "malformed_body");
        server.put(&server.owner(), "/api/v1/teams/current", &body).await.problem(400, "malformed_body");
    }
    let renamed = server.put(&server.user(Role::Admin), "/api/v1/teams/current", &json!({"team_name": "Größe"})).await;
    assert_eq!(renamed.json(200), json!({"id": server.ours.id}));
    let team = server.get(&server.user(Role::Viewer), "/api/v1/teams/current").await.json(200);
    assert_eq!(
        (&team["team_name"], &team["role"], &team["member_count"]),
        (&json!("Größe"), &json!("viewer"), &json!(4))
    );
}

#[tokio::test]
async fn a_team_is_handed_over_and_the_owner_becomes_an_admin() {
    let server = TestServer::start().await;
    assert!(transfer(&server, Role::Owner).await.problem(409, "invalid_state").contains("already"));
    assert_eq!(transfer(&server, Role::Viewer).await.json(200), json!({"is_success": true}));
    let owner = server.user(Role::Viewer);
    let list = server.get(&owner, "/api/v1/members").await.json(200);
    let role = |role| {
        let id = json!(server.ours.users[&role]);
        list["member_list"].as_array().unwrap().iter().find(|row| row["user_id"] == id).unwrap()["role"].clone()
    };
    assert_eq!((role(Role::Viewer), role(Role::Owner)), (json!("owner"), json!("admin")));
    // It holds at once: the former owner cannot do it again.
    transfer(&server, Role::Admin).await.problem(403, "forbidden");
    let body = json!({"user_id": "nonsense"});
    server.post(&owner, "/api/v1/teams/current/transfer", &body).await.problem(400, "malformed_body");
}

#[tokio::test]
async fn of_two_that_hand_a_team_over_at_once_one_does() {
    let server = TestServer::start().await;
    let (one, other) = tokio::join!(transfer(&server, Role::Admin), transfer(&server, Role::Member));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403], "{} {}", one.text(), other.text());
    let list = server.get(&server.user(Role::Viewer), "/api/v1/members").await.json(200);
    let owners = list["member_list"].as_array().unwrap().iter().filter(|row| row["role"] == "owner").count();
    assert_eq!(owners, 1, "{list:#}");
}
