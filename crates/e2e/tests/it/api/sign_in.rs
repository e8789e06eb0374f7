//! The first start, sign-in, tokens, and the header that names the team.

use std::os::unix::fs::PermissionsExt;

use http::Method;
use serde_json::{Value, json};
use towline_e2e::{api::Api, system::Server};
use towline_gateway::testing::mistyped;

#[tokio::test]
async fn the_first_start_writes_a_file_that_nobody_else_can_read() {
    let mut server = Server::start().await;
    let path = server.directory().join("data/bootstrap.json");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let fields: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["agent_key", "api_key", "email_address", "team_id", "url", "user_password"]);
    assert!(fields["api_key"].as_str().unwrap().starts_with("sk-"));
    assert!(fields["agent_key"].as_str().unwrap().starts_with("ak-"));
    // A second start makes no second owner, and what was written still works.
    server.kill();
    server.start_again().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    server.owner().await.get("/users/me").await.expect(200);
    // None of the secrets is in what the server has printed.
    for secret in ["api_key", "agent_key", "user_password"] {
        let secret = fields[secret].as_str().unwrap();
        assert!(!server.process.output().contains(secret), "the log has a secret");
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_are_one_answer() {
    let server = Server::start().await;
    let api = server.api().anonymous();
    let login = async |email: &str, password: &str| {
        api.post("/auth/login", &json!({"email_address": email, "user_password": password})).await
    };
    let wrong = login(&server.bootstrap.email_address, "wrong").await.problem(401, "invalid_login");
    let unknown = login("nobody@example.com", "wrong").await.problem(401, "invalid_login");
    assert_eq!(wrong, unknown);
    api.post("/auth/login", &json!({"email_address": "x"})).await.problem(400, "malformed_body");
    // The address is no secret and people write it as they like; the password is compared as it is.
    let upper = server.bootstrap.email_address.to_uppercase();
    assert_eq!(login(&upper, &server.bootstrap.user_password).await.status, 200);
}

async fn login(server: &Server) -> (Api, Value) {
    let api = server.api().anonymous();
    let body =
        json!({"email_address": server.bootstrap.email_address, "user_password": server.bootstrap.user_password});
    let tokens = api.post("/auth/login", &body).await.expect(200);
    (api, tokens)
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_family() {
    let server = Server::start().await;
    let (api, first) = login(&server).await;
    assert!(first["expires_in"].as_u64().unwrap() > 0, "{first}");
    let refresh = async |token: &Value| api.post("/auth/refresh", &json!({"refresh_token": token})).await;
    let second = refresh(&first["refresh_token"]).await.expect(200);
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    let user = api.with_user(second["access_token"].as_str().unwrap(), &server.bootstrap.team_id);
    user.get("/containers").await.expect(200);
    // Somebody uses the old one again: it was stolen, or the new one was. Both end.
    refresh(&first["refresh_token"]).await.problem(401, "unauthenticated");
    refresh(&second["refresh_token"]).await.problem(401, "unauthenticated");
    // Another sign-in is another family.
    let (_, third) = login(&server).await;
    refresh(&third["refresh_token"]).await.expect(200);
}

#[tokio::test]
async fn a_logout_ends_the_refresh_token() {
    let server = Server::start().await;
    let (api, tokens) = login(&server).await;
    let user = api.with_user(tokens["access_token"].as_str().unwrap(), &server.bootstrap.team_id);
    let answer = user.post("/auth/logout", &json!({"refresh_token": tokens["refresh_token"]})).await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.text());
    let again = api.post("/auth/refresh", &json!({"refresh_token": tokens["refresh_token"]})).await;
    again.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_token_outlives_the_server_that_gave_it() {
    let mut server = Server::start().await;
    let owner = server.owner().await;
    server.kill();
    server.start_again().await;
    owner.get("/containers").await.expect(200);
}

#[tokio::test]
async fn a_user_says_which_team_is_meant() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let token = owner.bearer();
    let none = server.api().with_key(token);
    none.get("/containers").await.problem(400, "team_required");
    none.get("/r/containers").await.problem(400, "team_required");
    let elsewhere = none.with_user(token, "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77");
    elsewhere.get("/containers").await.problem(403, "not_in_team");
    let nonsense = none.with_user(token, "my-team");
    nonsense.get("/containers").await.problem(400, "invalid_parameter");
    // Who I am is not about a team.
    let me = none.get("/users/me").await.expect(200);
    assert_eq!(me["email_address"], server.bootstrap.email_address);
    // A key brings its team; the header is ignored.
    let key = server.api().request(Method::GET, "/r/containers").header("x-team-id", "nonsense");
    server.api().send(key).await.expect(200);
}

#[tokio::test]
async fn what_is_no_credential_is_401_everywhere() {
    let server = Server::start().await;
    let api = server.api();
    let strangers = [
        api.anonymous(),
        api.with_key(&mistyped(&server.bootstrap.api_key)),
        api.with_key("sk-"),
        api.with_key("eyJhbGciOiJub25lIn0.e30."),
        api.with_key(&server.bootstrap.agent_key),
    ];
    for stranger in &strangers {
        for path in ["/containers", "/r/containers", "/r/agents", "/credentials"] {
            let answer = stranger.get(path).await;
            answer.problem(401, "unauthenticated");
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
        }
        stranger.get("/r/containers/hello/echo").await.gateway_problem(401, "unauthenticated");
        let invoke = stranger.post("/r/invoke/hello", &json!({"method": "GET", "path": "/"})).await;
        invoke.gateway_problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_when_it_is_well_formed() {
    let server = Server::start().await;
    let api = server.api();
    let ask = async |id: &str| {
        api.send(api.request(Method::GET, "/r/containers").header("x-request-id", id))
            .await
            .header("x-request-id")
            .to_owned()
    };
    assert_eq!(ask("from-me.1_A").await, "from-me.1_A");
    let long = "x".repeat(200);
    for bad in [long.as_str(), "with space", "ä", "a\"b"] {
        let answered = ask(bad).await;
        assert!(!answered.is_empty() && answered != bad, "{bad:?} became {answered:?}");
    }
    let (one, two) = (api.get("/r/containers").await, api.get("/r/containers").await);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}
