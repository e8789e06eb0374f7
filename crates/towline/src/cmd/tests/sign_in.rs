//! Signing in, pairing, and signing out.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use serde_json::json;
use towline_model::{ErrorCode, TeamId};

use super::{ID, Shell, list_of};
use crate::client::{
    CredentialsFile, shown,
    test_server::{TestServer, answer, json, problem},
};

#[tokio::test]
async fn signing_out_ends_the_sign_in_at_the_server_and_forgets_it_here() {
    let server = TestServer::start(|seen| match seen.line.as_str() {
        "POST /api/v1/auth/logout" => answer(204, "text/plain", ""),
        line => panic!("{line}"),
    })
    .await;
    let shell = Shell::without_key(&server);
    let file = CredentialsFile::at(shell.home.path().join(".config/towline/credentials.json"));
    let kept = json!({"current": server.url, "logins": {server.url.as_str(): {
        "email_address": "ada@example.com", "team_id": TeamId::generate(), "refresh_token": "r", "access_token": "a",
        "access_expires_at": "2026-11-24T09:30:00Z",
    }}});
    std::fs::create_dir_all(file.path().parent().unwrap()).unwrap();
    std::fs::write(file.path(), kept.to_string()).unwrap();
    shell.run(&["logout"]).await.result.unwrap();
    assert_eq!(server.seen()[0].json(), json!({"refresh_token": "r"}));
    assert!(file.read().unwrap().logins.is_empty());
    assert_eq!(shell.run(&["logout"]).await.failure().message(), "there is no such sign-in on this machine");
}

/// A server that lets a machine in at its third question, and what its keys are by the number of pairings before.
async fn pairing_server() -> TestServer {
    let (questions, devices) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    TestServer::start(move |seen| match seen.line.as_str() {
        "POST /api/v1/desktop/pair/start" => {
            questions.store(0, SeqCst);
            let started = json!({
                "device_code": "dc-1", "user_code": "BCDF-GHJK", "verification_uri": "https://towline.example.com/pair",
                "expires_in": 300, "interval": 0,
            });
            json(200, &started)
        }
        "POST /api/v1/desktop/pair/poll" if questions.fetch_add(1, SeqCst) < 2 => {
            json(200, &json!({"status": "pending"}))
        }
        "POST /api/v1/desktop/pair/poll" => {
            let number = devices.fetch_add(1, SeqCst);
            let keys =
                json!({"status": "approved", "raw_key": format!("dk-{number}"), "agent_key": format!("ak-{number}")});
            json(200, &keys)
        }
        "GET /api/v1/teams/current" => json(200, &json!({"id": ID, "team_name": "Engines", "role": "member"})),
        "POST /api/v1/auth/device/revoke" => json(200, &json!({"is_success": true})),
        line if line.starts_with("GET /api/v1/containers") => list_of(&[]),
        line => panic!("{line}"),
    })
    .await
}

fn credentials_of(shell: &Shell) -> CredentialsFile {
    CredentialsFile::at(shell.home.path().join(".config/towline/credentials.json"))
}

#[tokio::test]
async fn a_machine_that_is_let_in_acts_with_its_key_until_it_signs_out() {
    let server = pairing_server().await;
    let shell = Shell::without_key(&server);
    let done = shell.run(&["login"]).await;
    done.result.unwrap();
    assert_eq!(done.data, format!("signed in to {} as member in the team Engines\n", shown(&server.url)));
    assert!(done.messages.contains("https://towline.example.com/pair?code=BCDF-GHJK&name="), "{}", done.messages);
    assert!(done.messages.contains("The code is BCDF-GHJK, good for 5 minutes."), "{}", done.messages);
    assert!(!(done.data + &done.messages).contains("dk-"), "keys are not shown");
    assert_eq!(server.lines().iter().filter(|line| line.ends_with("/pair/poll")).count(), 3);
    assert_eq!(server.seen()[1].json(), json!({"device_code": "dc-1"}));
    let file = credentials_of(&shell);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file.path()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    shell.run(&["service", "list"]).await.result.unwrap();
    let asked = server.seen().pop().unwrap();
    assert_eq!((asked.header("authorization"), asked.header("x-team-id")), ("Bearer dk-0", ""));

    // The next sign-in takes the place of this one, which is ended.
    shell.run(&["login"]).await.result.unwrap();
    let revoked = |number: usize| {
        let seen = server.seen().into_iter().filter(|seen| seen.line.ends_with("/auth/device/revoke"));
        seen.map(|seen| seen.header("authorization").to_owned()).nth(number)
    };
    assert_eq!(revoked(0).as_deref(), Some("Bearer dk-0"));
    let done = shell.run(&["logout"]).await;
    done.result.unwrap();
    assert_eq!((done.messages.as_str(), revoked(1).as_deref()), ("", Some("Bearer dk-1")));
    assert!(!file.path().exists());
    assert_eq!(shell.run(&["service", "list"]).await.failure().message(), {
        format!("nobody has signed in to {}", shown(&server.url))
    });
}

#[tokio::test]
async fn a_sign_out_succeeds_when_the_key_is_gone_and_when_the_server_is() {
    let gone = TestServer::start(|_| problem(ErrorCode::Unauthenticated, "the key is unknown or was revoked")).await;
    let away = "http://127.0.0.1:1/";
    for (server, warns) in [(gone.url.as_str(), false), (away, true)] {
        let shell = Shell::without_key(&gone);
        let file = credentials_of(&shell);
        std::fs::create_dir_all(file.path().parent().unwrap()).unwrap();
        std::fs::write(file.path(), json!({"devices": {server: {"device_key": "dk-1"}}}).to_string()).unwrap();
        let done = shell.run(&["logout", "--server", server]).await;
        done.result.unwrap();
        assert_eq!(done.messages.contains("could not be ended at the server"), warns, "{}", done.messages);
        assert!(!file.path().exists());
    }
}

#[tokio::test]
async fn a_code_that_nobody_confirms_ends_with_an_error() {
    let server = TestServer::start(|seen| match seen.line.as_str() {
        "POST /api/v1/desktop/pair/start" => json(
            200,
            &json!({
                "device_code": "dc-1", "user_code": "BCDF-GHJK", "verification_uri": "https://towline.example.com/pair",
                "expires_in": 300, "interval": 0,
            }),
        ),
        _ => problem(ErrorCode::NotFound, "this device code is unknown"),
    })
    .await;
    let shell = Shell::without_key(&server);
    let done = shell.run(&["login"]).await;
    assert_eq!(done.failure().message(), "nobody has let this machine in, and the code has expired");
    assert_eq!(done.failure().hint_text(), Some("run `towline login` again"));
    assert!(!credentials_of(&shell).path().exists());
    let done = shell.run(&["login", "--team", ID]).await;
    assert!(done.failure().message().contains("--email"), "{}", done.failure());
}
