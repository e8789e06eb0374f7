//! Members: their roles, and how they go.

use http::Method;
use serde_json::{Value, json};
use towline_model::Role;

use crate::support::{Answer, Caller, TestServer};

fn path(server: &TestServer, role: Role) -> String {
    format!("/api/v1/members/{}", server.ours.users[&role])
}

async fn set_role(server: &TestServer, caller: Role, target: Role, role: &str) -> Answer {
    server.put(&server.user(caller), &path(server, target), &json!({"role": role})).await
}

async fn roles(server: &TestServer) -> Vec<(String, String)> {
    let list = server.get(&server.owner(), "/api/v1/members").await.json(200);
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let mut roles: Vec<_> = list["member_list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (text(row, "email_address"), text(row, "role")))
        .collect();
    roles.sort();
    roles
}

#[tokio::test]
async fn members_are_listed_by_pages() {
    let server = TestServer::start().await;
    let list = server.get(&server.user(Role::Viewer), "/api/v1/members?per_page=3").await.json(200);
    let cursor = list["page_meta"]["next_cursor"].as_str().unwrap();
    let page_meta = json!({"current_page": 1, "per_page": 3, "total_count": 4, "next_cursor": cursor});
    assert_eq!(list["page_meta"], page_meta);
    let first = &list["member_list"][0];
    let expected = json!({
        "user_id": server.ours.users[&Role::Viewer], "email_address": "viewer@ours.example", "display_name": null,
        "role": "viewer",
    });
    assert_eq!(first, &expected);
    let rest = server.get(&server.key("dk"), "/api/v1/members?per_page=3&current_page=2").await.json(200);
    assert_eq!(rest["member_list"].as_array().unwrap().len(), 1);
    let behind = server.get(&server.key("dk"), &format!("/api/v1/members?cursor={cursor}")).await.json(200);
    assert_eq!(behind["member_list"], rest["member_list"]);
}

#[tokio::test]
async fn a_role_holds_for_the_very_next_request() {
    let server = TestServer::start().await;
    let viewer = server.user(Role::Viewer);
    server.get(&viewer, "/api/v1/credentials").await.problem(403, "forbidden");
    let changed = set_role(&server, Role::Admin, Role::Viewer, "member").await.json(200);
    assert_eq!(changed, json!({"id": server.ours.users[&Role::Viewer]}));
    server.get(&viewer, "/api/v1/credentials").await.json(200);
    set_role(&server, Role::Owner, Role::Viewer, "viewer").await.json(200);
    server.get(&viewer, "/api/v1/credentials").await.problem(403, "forbidden");
}

#[tokio::test]
async fn the_owners_role_is_not_given_and_not_taken() {
    let server = TestServer::start().await;
    let before = roles(&server).await;
    // An admin cannot touch the owner, nor make one.
    set_role(&server, Role::Admin, Role::Owner, "viewer").await.problem(403, "forbidden");
    set_role(&server, Role::Admin, Role::Member, "owner").await.problem(403, "forbidden");
    set_role(&server, Role::Admin, Role::Admin, "owner").await.problem(403, "forbidden");
    let remove = server.delete(&server.user(Role::Admin), &path(&server, Role::Owner)).await;
    remove.problem(403, "forbidden");
    // The owner is told how it is done.
    for role in ["owner", "admin"] {
        let answer = set_role(&server, Role::Owner, Role::Owner, role).await;
        assert!(answer.problem(409, "invalid_state").contains("/teams/current/transfer"));
    }
    let answer = set_role(&server, Role::Owner, Role::Admin, "owner").await;
    assert!(answer.problem(409, "invalid_state").contains("/teams/current/transfer"));
    let answer = server.delete(&server.owner(), &path(&server, Role::Owner)).await;
    assert!(answer.problem(409, "invalid_state").contains("/teams/current/transfer"));
    for body in [json!({"role": "king"}), json!({}), json!({"role": "admin", "more": 1})] {
        let answer = server.put(&server.owner(), &path(&server, Role::Member), &body).await;
        answer.problem(400, "malformed_body");
    }
    let answer = server.put(&server.owner(), "/api/v1/members/me", &json!({"role": "admin"})).await;
    answer.problem(400, "invalid_parameter");
    assert_eq!(roles(&server).await, before, "nothing has changed");
}

#[tokio::test]
async fn a_removed_members_keys_die_with_the_membership() {
    let server = TestServer::start().await;
    let (admin, device) = (server.user(Role::Admin), server.key("dk"));
    server.get(&device, "/api/v1/containers").await.json(200);
    let invited = json!({"email_address": "new@example.com", "invitation_role": "admin"});
    let token = server.post(&admin, "/api/v1/invitations", &invited).await.json(201)["token"].clone();
    assert_eq!(server.delete(&server.owner(), &path(&server, Role::Admin)).await.status, 204);
    server.get(&device, "/api/v1/containers").await.problem(401, "unauthenticated");
    server.get(&admin, "/api/v1/containers").await.problem(403, "not_in_team");
    server.delete(&server.owner(), &path(&server, Role::Admin)).await.problem(404, "not_found");
    // No way back in by an invitation of one's own.
    let body = json!({"token": token, "user_password": "long enough"});
    let accept = server.post(&Caller::NOBODY, "/api/v1/invitations/accept", &body).await;
    accept.problem(404, "not_found");
    // The account stays, and so does the team's key that the person may have made.
    let me = server.get(&Caller::bearer(&server.token(server.ours.users[&Role::Admin])), "/api/v1/users/me").await;
    assert_eq!(me.json(200)["team_list"], json!([]));
    server.get(&server.key("sk"), "/api/v1/containers").await.json(200);
    // Whoever comes back begins with new keys.
    let again = json!({"email_address": "admin@ours.example", "invitation_role": "viewer"});
    let token = server.post(&server.owner(), "/api/v1/invitations", &again).await.json(201)["token"].clone();
    let accept = server.post(&admin, "/api/v1/invitations/accept", &json!({"token": token})).await;
    assert_eq!(accept.json(200)["role"], "viewer");
    server.get(&device, "/api/v1/containers").await.problem(401, "unauthenticated");
    server.get(&admin, "/api/v1/containers").await.json(200);
}

#[tokio::test]
async fn who_is_demoted_at_the_same_moment_does_nothing_any_more() {
    let server = TestServer::start().await;
    // Of two admins who demote each other at once, one is faster; the other is no admin then.
    set_role(&server, Role::Owner, Role::Member, "admin").await.json(200);
    let one = set_role(&server, Role::Admin, Role::Member, "viewer");
    let other = set_role(&server, Role::Member, Role::Admin, "viewer");
    let (one, other) = tokio::join!(one, other);
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403], "{} {}", one.text(), other.text());
    let left = roles(&server).await.into_iter().filter(|(_, role)| role == "admin").count();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn leaving_is_for_everybody_but_the_owner() {
    let server = TestServer::start().await;
    let leave = async |role| server.act(&server.user(role), "/api/v1/teams/current/leave").await;
    assert!(leave(Role::Owner).await.problem(409, "invalid_state").contains("transfer"));
    let device = server.key("dk");
    server.get(&device, "/api/v1/containers").await.json(200);
    for role in [Role::Viewer, Role::Member, Role::Admin] {
        assert_eq!(leave(role).await.json(200), json!({"is_success": true}));
        leave(role).await.problem(403, "not_in_team");
    }
    server.get(&device, "/api/v1/containers").await.problem(401, "unauthenticated");
    let log = server.get(&server.owner(), "/api/v1/audit?per_page=1").await.json(200);
    let newest = &log["audit_list"][0];
    assert_eq!((&newest["action"], &newest["target_name"]), (&json!("member.leave"), &json!("admin@ours.example")));
    assert_eq!(roles(&server).await, [("owner@ours.example".to_owned(), "owner".to_owned())]);
    let method = Method::GET;
    server.call(&server.owner(), method, "/api/v1/teams/current", None).await.json(200);
}
