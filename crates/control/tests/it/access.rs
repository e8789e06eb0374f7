//! Who may use which route: one row for every route, and a failure for a route without one.

use http::Method;
use serde_json::json;
use towline_control::http::router::routes;
use towline_model::Role;

use crate::support::{Caller, TestServer};

/// Who is let through.
#[derive(Debug, Clone, Copy)]
enum Who {
    Everybody,
    /// Nobody in particular, and signed-in users; a key is refused.
    Anybody,
    SignedIn,
    /// A device, about its own key.
    Device,
    /// These roles, and whether these keys: `sk-read`, `sk-invoke`, `sk-manage`, `dk` (of an admin).
    Team([bool; 4], [bool; 4]),
}

const READ: Who = Who::Team([true, true, true, true], [true, false, false, true]);
const MANAGE: Who = Who::Team([false, true, true, true], [false, false, true, true]);
const INVOKE: Who = Who::Team([false, true, true, true], [false, true, false, true]);
const KEYS: Who = Who::Team([false, true, true, true], [false, false, false, false]);

const ADMIN: Who = Who::Team([false, false, true, true], [false, false, false, true]);
/// Members, and devices in their name.
const LOOK: Who = Who::Team([true, true, true, true], [false, false, false, true]);
const MEMBERS: Who = Who::Team([true, true, true, true], [false, false, false, false]);
const ADMINS: Who = Who::Team([false, false, true, true], [false, false, false, false]);
const OWNER: Who = Who::Team([false, false, false, true], [false, false, false, false]);

/// Secrets are for people, and for their devices.
const SECRETS: Who = Who::Team([false, true, true, true], [false, false, false, true]);

const TABLE: &[(&str, &str, Who)] = &[
    ("POST", "/api/v1/auth/login", Who::Everybody),
    ("POST", "/api/v1/auth/refresh", Who::Everybody),
    ("POST", "/api/v1/auth/logout", Who::Everybody),
    ("GET", "/api/v1/auth/oidc/start", Who::Everybody),
    ("GET", "/api/v1/auth/oidc/callback", Who::Everybody),
    ("GET", "/api/v1/users/me", Who::SignedIn),
    ("PUT", "/api/v1/users/me", Who::SignedIn),
    ("POST", "/api/v1/teams", Who::SignedIn),
    ("GET", "/api/v1/teams", Who::SignedIn),
    ("GET", "/api/v1/teams/current", LOOK),
    ("PUT", "/api/v1/teams/current", ADMINS),
    ("POST", "/api/v1/teams/current/transfer", OWNER),
    ("GET", "/api/v1/members", LOOK),
    ("GET", "/api/v1/members/{id}", LOOK),
    ("PUT", "/api/v1/members/{id}", ADMINS),
    ("DELETE", "/api/v1/members/{id}", ADMINS),
    ("POST", "/api/v1/invitations", ADMINS),
    ("GET", "/api/v1/invitations", ADMINS),
    ("DELETE", "/api/v1/invitations/{id}", ADMINS),
    ("POST", "/api/v1/invitations/accept", Who::Anybody),
    ("POST", "/api/v1/credentials", KEYS),
    ("GET", "/api/v1/credentials", KEYS),
    ("DELETE", "/api/v1/credentials/{id}", KEYS),
    ("POST", "/api/v1/desktop/pair/start", Who::Everybody),
    ("POST", "/api/v1/desktop/pair/poll", Who::Everybody),
    ("POST", "/api/v1/desktop/pair/confirm", MEMBERS),
    ("POST", "/api/v1/auth/device/revoke", Who::Device),
    ("POST", "/api/v1/containers", MANAGE),
    ("GET", "/api/v1/containers", READ),
    ("GET", "/api/v1/containers/{id}", READ),
    ("PUT", "/api/v1/containers/{id}", MANAGE),
    ("DELETE", "/api/v1/containers/{id}", MANAGE),
    ("POST", "/api/v1/containers/{id}/deploy", MANAGE),
    ("POST", "/api/v1/containers/{id}/undeploy", MANAGE),
    ("POST", "/api/v1/containers/{id}/restart", MANAGE),
    ("GET", "/api/v1/containers/{id}/instances", READ),
    ("GET", "/api/v1/containers/{id}/events", READ),
    ("GET", "/api/v1/containers/{id}/logs", READ),
    ("POST", "/api/v1/secrets", SECRETS),
    ("GET", "/api/v1/secrets", SECRETS),
    ("GET", "/api/v1/secrets/{id}", SECRETS),
    ("PUT", "/api/v1/secrets/{id}", SECRETS),
    ("DELETE", "/api/v1/secrets/{id}", SECRETS),
    ("GET", "/api/v1/agents", READ),
    ("GET", "/api/v1/audit", ADMIN),
    ("GET", "/api/v1/audit/export", ADMIN),
    ("GET", "/api/v1/r/containers", READ),
    ("GET", "/api/v1/r/containers/{slug}", READ),
    ("POST", "/api/v1/r/containers/{slug}/ticket", INVOKE),
    ("GET", "/api/v1/r/agents", READ),
    ("GET", "/api/v1/openapi.json", Who::Everybody),
    ("GET", "/healthz", Who::Everybody),
    ("GET", "/readyz", Who::Everybody),
    ("POST", "/api/v1/teams/current/leave", MEMBERS),
    ("DELETE", "/api/v1/teams/current", OWNER),
];

#[test]
fn every_route_has_a_row() {
    let routes: Vec<_> = routes().iter().map(|route| (route.method.clone(), route.path)).collect();
    for (method, path) in &routes {
        let rows = TABLE.iter().filter(|row| row.0 == method.as_str() && row.1 == *path).count();
        assert_eq!(rows, 1, "{method} {path} has no row (or two): say who may use it");
    }
    assert_eq!(routes.len(), TABLE.len(), "a row has no route");
}

#[tokio::test]
async fn the_table_holds() {
    let server = TestServer::start().await;
    let callers = callers(&server);
    for &(method, path, who) in TABLE {
        for (index, caller) in callers.iter().enumerate() {
            // Whoever is let through here takes others away.
            if matches!(
                (method, path),
                ("DELETE", "/api/v1/teams/current") | (_, "/api/v1/teams/current/leave" | "/api/v1/auth/device/revoke")
            ) {
                let server = TestServer::start().await;
                let callers = self::callers(&server);
                try_row(&server, (method, path, who), index, &callers[index]).await;
            } else {
                try_row(&server, (method, path, who), index, caller).await;
            }
        }
    }
}

async fn try_row(
    server: &TestServer,
    (method, path, who): (&str, &str, Who),
    index: usize,
    (name, caller): &(&'static str, Caller),
) {
    let path = path.replace("{id}", "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77").replace("{slug}", "no-such");
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    // A body that is refused as soon as somebody looks at it.
    let body = (method != Method::GET).then(|| json!([]));
    let answer = server.call(caller, method.clone(), &path, body.as_ref()).await;
    let is_key = name.contains('-') || *name == "dk";
    let expected = match who {
        Who::Everybody => None,
        Who::Anybody if is_key || *name == "ak" => Some((401, "unauthenticated")),
        Who::Anybody => None,
        _ if matches!(*name, "nobody" | "ak") => Some((401, "unauthenticated")),
        Who::SignedIn if is_key => Some((401, "unauthenticated")),
        Who::SignedIn => None,
        Who::Device => (*name != "dk").then_some((403, "forbidden")),
        Who::Team(roles, _) if index < 4 => (!roles[index]).then_some((403, "forbidden")),
        Who::Team(_, keys) => (!keys[index - 4]).then_some((403, "forbidden")),
    };
    match expected {
        Some((status, code)) => drop(answer.problem(status, code)),
        None => {
            let is_login = path.contains("/auth/");
            let is_refused = matches!(answer.status, 401 | 403 | 405 | 500..);
            assert!(!is_refused || is_login, "{method} {path} as {name}: {} {}", answer.status, answer.text());
        }
    }
}

fn callers(server: &TestServer) -> Vec<(&'static str, Caller)> {
    let mut callers: Vec<_> = Role::ALL.into_iter().map(|role| (role.as_str(), server.user(role))).collect();
    callers.extend(["sk-read", "sk-invoke", "sk-manage", "dk", "ak"].map(|name| (name, server.key(name))));
    callers.push(("nobody", Caller::NOBODY));
    callers
}

#[tokio::test]
async fn a_token_needs_a_team_and_a_key_brings_its_own() {
    let server = TestServer::start().await;
    let token = server.token(server.ours.users[&Role::Owner]);
    let with_team = |team: &str| {
        let mut caller = Caller::bearer(&token);
        caller.headers.push(("x-team-id", team.to_owned()));
        caller
    };
    let path = "/api/v1/containers";
    server.get(&Caller::bearer(&token), path).await.problem(400, "team_required");
    server.get(&with_team("nonsense"), path).await.problem(400, "invalid_parameter");
    server.get(&with_team(&server.theirs.id.to_string()), path).await.problem(403, "not_in_team");
    let unknown = with_team("01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77");
    server.get(&unknown, path).await.problem(403, "not_in_team");
    let mut key = server.key("sk");
    key.headers.push(("x-team-id", server.theirs.id.to_string()));
    server.get(&key, path).await.json(200);
    server.get(&Caller::bearer(&token), "/api/v1/users/me").await.json(200);
}

#[tokio::test]
async fn a_removed_user_is_nobody() {
    let server = TestServer::start().await;
    let token = server.token(towline_model::UserId::generate());
    let answer = server.get(&Caller::bearer(&token), "/api/v1/users/me").await;
    assert_eq!(answer.status, 401, "{}", answer.text());
    server.get(&Caller::bearer("eyJ.eyJ.x"), "/api/v1/users/me").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn an_answer_to_a_reader_lives_by_what_let_the_reader_in() {
    let server = TestServer::start().await;
    let made = server
        .post(&server.owner(), "/api/v1/credentials", &json!({"kind": "integration", "display_name": "ci"}))
        .await;
    let made = made.json(201);
    let reader = Caller::bearer(made["raw_key"].as_str().unwrap());
    let request = reader.request(Method::GET, "/api/v1/containers", None);
    let answer = tower::ServiceExt::oneshot(server.router.clone(), request).await.unwrap();
    let standing = answer.extensions().get::<towline_gateway::Standing>().unwrap();
    assert!(!standing.is_lost());
    let path = format!("/api/v1/credentials/{}", made["id"].as_str().unwrap());
    assert_eq!(server.delete(&server.owner(), &path).await.status, 204);
    assert!(standing.is_lost());
}
