//! Signing in, refreshing, signing out.

use serde_json::{Value, json};

use crate::support::{Answer, Caller, PASSWORD, TestServer};

async fn login(server: &TestServer, email_address: &str, password: &str) -> Answer {
    let body = json!({"email_address": email_address, "user_password": password});
    server.post(&Caller::NOBODY, "/api/v1/auth/login", &body).await
}

async fn refresh(server: &TestServer, token: &Value) -> Answer {
    server.post(&Caller::NOBODY, "/api/v1/auth/refresh", &json!({"refresh_token": token})).await
}

#[tokio::test]
async fn a_password_becomes_a_token_that_says_who_one_is() {
    let server = TestServer::start().await;
    let tokens = login(&server, "Member@Ours.example", PASSWORD).await.json(200);
    assert_eq!(tokens["expires_in"], 900);
    let caller = Caller::bearer(tokens["access_token"].as_str().unwrap());
    let me = server.get(&caller, "/api/v1/users/me").await.json(200);
    assert_eq!(me["email_address"], "member@ours.example");
    let team = json!([{"team_id": server.ours.id, "team_name": "ours", "role": "member"}]);
    assert_eq!(me["team_list"], team);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_are_one_answer() {
    let server = TestServer::start().await;
    let wrong = login(&server, "owner@ours.example", "wrong").await.problem(401, "invalid_login");
    let unknown = login(&server, "nobody@ours.example", PASSWORD).await.problem(401, "invalid_login");
    assert_eq!(wrong, unknown);
    login(&server, "owner@ours.example", &PASSWORD.to_uppercase()).await.problem(401, "invalid_login");
    login(&server, "", "").await.problem(401, "invalid_login");
    login(&server, "owner@ours.example", &"x".repeat(2000)).await.problem(400, "validation_failed");
    let missing = server.post(&Caller::NOBODY, "/api/v1/auth/login", &json!({"email_address": "x"})).await;
    assert!(missing.problem(400, "malformed_body").contains("user_password"));
    let more = json!({"email_address": "x", "user_password": "y", "otp": "1"});
    let more = server.post(&Caller::NOBODY, "/api/v1/auth/login", &more).await;
    assert!(more.problem(400, "malformed_body").contains("otp"));
    // serde alone would take these for the two fields.
    let array = json!(["owner@towline.local", "secret"]);
    server.post(&Caller::NOBODY, "/api/v1/auth/login", &array).await.problem(400, "malformed_body");
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_sign_in() {
    let server = TestServer::start().await;
    let first = login(&server, "owner@ours.example", PASSWORD).await.json(200);
    let second = refresh(&server, &first["refresh_token"]).await.json(200);
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    let caller = Caller::bearer(second["access_token"].as_str().unwrap());
    server.get(&caller, "/api/v1/users/me").await.json(200);
    refresh(&server, &first["refresh_token"]).await.problem(401, "unauthenticated");
    refresh(&server, &second["refresh_token"]).await.problem(401, "unauthenticated");
    let other = login(&server, "owner@ours.example", PASSWORD).await.json(200);
    refresh(&server, &other["refresh_token"]).await.json(200);
    refresh(&server, &json!("nonsense")).await.problem(401, "unauthenticated");
    refresh(&server, &json!(7)).await.problem(400, "malformed_body");
}

#[tokio::test]
async fn of_many_that_refresh_at_once_one_wins_and_the_family_dies() {
    let server = TestServer::start().await;
    let first = login(&server, "owner@ours.example", PASSWORD).await.json(200);
    let tries = (0..8).map(|_| refresh(&server, &first["refresh_token"]));
    let answers = futures_util::future::join_all(tries).await;
    let winners: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(winners.len(), 1);
    refresh(&server, &winners[0].json(200)["refresh_token"]).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn signing_out_ends_the_sign_in_and_is_no_error_twice() {
    let server = TestServer::start().await;
    let tokens = login(&server, "owner@ours.example", PASSWORD).await.json(200);
    let body = json!({"refresh_token": tokens["refresh_token"]});
    for _ in 0..2 {
        let answer = server.post(&Caller::NOBODY, "/api/v1/auth/logout", &body).await;
        assert_eq!(answer.json(200), json!({"is_success": true}));
    }
    refresh(&server, &tokens["refresh_token"]).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn access_tokens_end_with_their_sign_in() {
    let server = TestServer::start().await;
    let works = async |tokens: &Value| {
        let caller = Caller::bearer(tokens["access_token"].as_str().unwrap());
        let answer = server.get(&caller, "/api/v1/users/me").await;
        assert!(matches!(answer.status, 200 | 401));
        answer.status == 200
    };
    let sign_in = async || login(&server, "owner@ours.example", PASSWORD).await.json(200);

    // By signing out, through every token that goes back to it.
    let first = sign_in().await;
    let second = refresh(&server, &first["refresh_token"]).await.json(200);
    let other = sign_in().await;
    assert!(works(&first).await && works(&second).await && works(&other).await);
    let body = json!({"refresh_token": second["refresh_token"]});
    server.post(&Caller::NOBODY, "/api/v1/auth/logout", &body).await.json(200);
    assert!(!works(&first).await && !works(&second).await && works(&other).await);

    // By a refresh token that comes back.
    let first = sign_in().await;
    let second = refresh(&server, &first["refresh_token"]).await.json(200);
    refresh(&server, &first["refresh_token"]).await.problem(401, "unauthenticated");
    assert!(!works(&second).await && works(&other).await);

    // By a new password, but for the sign-in that is kept.
    let kept = sign_in().await;
    let change = json!({
        "current_password": PASSWORD, "new_password": "another correct horse", "refresh_token": kept["refresh_token"],
    });
    let caller = Caller::bearer(kept["access_token"].as_str().unwrap());
    server.put(&caller, "/api/v1/users/me", &change).await.json(200);
    assert!(works(&kept).await && !works(&other).await);
}
