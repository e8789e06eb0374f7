//! The client against a server in the same process.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use towline_model::{Clock, ErrorCode, KeyKind, RawKey, Secret, SystemClock, TeamId, Timestamp};
use url::Url;

use super::{
    Client, Identity, SignIn,
    credentials::{Credentials, CredentialsFile, Login},
    sign_in::Owner,
    test_server::{self, TestServer},
};
use crate::{cli::ClientArgs, cmd::Context, config::Environment, failure::Failure, output};

fn key_client(server: &TestServer) -> Client {
    Client::new(server.url.clone(), Identity::Key(Secret::new("sk-1".to_owned()))).unwrap()
}

fn said(failure: &Failure) -> String {
    let (output, captured) = output::captured::output(output::Format::Text);
    output.failure(failure);
    captured.messages()
}

#[tokio::test]
async fn a_problem_is_printed_in_the_servers_words_with_a_hint() {
    let server =
        TestServer::start(|_| test_server::problem(ErrorCode::Unauthenticated, "the key sk-4fT9aQz1x was revoked"))
            .await;
    let error = key_client(&server).get::<Value>("/containers", &[]).await.unwrap_err();
    insta::assert_snapshot!(said(&error.into()), @"
    error: the key sk-4fT9aQz1x was revoked
    hint: give a valid key with --key or TOWLINE_KEY, or sign in with `towline login`
    ");
}

#[tokio::test]
async fn a_stranger_and_silence_are_told_apart() {
    let server = TestServer::start(|_| test_server::answer(200, "text/html", "<html>")).await;
    let client = key_client(&server);
    let error = client.get::<Value>("/containers", &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot understand the server's answer: the answer is not JSON");
    let url = server.url.clone();
    drop(server);
    let nobody = Client::new(Url::parse("http://127.0.0.1:1").unwrap(), Identity::Nobody).unwrap();
    let error = nobody.get::<Value>("/containers", &[]).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot reach the server at http://127.0.0.1:1: "), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_ne!(url, *nobody.base());
}

#[tokio::test]
async fn a_service_is_found_by_slug_or_id() {
    const ID: &str = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
    let server = TestServer::start(|seen| {
        let service = json!({"id": ID, "service_slug": "hello", "service_status": "created"});
        match seen.line.strip_prefix("GET /api/v1").unwrap() {
            "/r/containers/hello" => test_server::json(200, &service),
            path if path == format!("/containers/{ID}") => test_server::json(200, &service),
            _ => test_server::problem(ErrorCode::NotFound, "there is no such service in this team"),
        }
    })
    .await;
    let client = key_client(&server);
    assert_eq!(client.service("hello").await.unwrap().view.service_slug, "hello");
    assert_eq!(client.service(ID).await.unwrap().view.service_slug, "hello");
    for unknown in ["other", "not/a/slug", "..", ""] {
        let error = client.service(unknown).await.unwrap_err();
        assert_eq!(
            said(&error.into()),
            format!(
                "error: there is no service {unknown:?} in this team\nhint: `towline service list` shows all of them\n"
            )
        );
    }
    assert!(server.seen().iter().all(|seen| seen.header("authorization") == "Bearer sk-1"));
    assert!(server.seen().iter().all(|seen| seen.header("x-team-id").is_empty()));
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let server = TestServer::start(|seen| {
        let page = |numbers: std::ops::Range<usize>, page_meta: Value| {
            let list: Vec<_> = numbers.collect();
            test_server::json(200, &json!({"thing_list": list, "page_meta": page_meta}))
        };
        match seen.line.as_str() {
            "GET /api/v1/things?kind=a&per_page=100" => page(0..100, json!({"next_cursor": "here"})),
            "GET /api/v1/things?kind=a&per_page=100&cursor=here" => page(100..130, json!({"total_count": 130})),
            line => panic!("{line}"),
        }
    })
    .await;
    let list = key_client(&server).list("/things", "thing_list", &[("kind", "a".to_owned())]).await.unwrap();
    assert_eq!(list, (0..130).map(Value::from).collect::<Vec<_>>());
}

fn login(refresh: &str, access: &str, access_expires_at: Timestamp) -> Login {
    Login {
        email_address: "ada@example.com".to_owned(),
        team_id: TeamId::generate(),
        refresh_token: Secret::new(refresh.to_owned()),
        access_token: Secret::new(access.to_owned()),
        access_expires_at,
    }
}

async fn keep(file: &CredentialsFile, server: &Url, login: Login) {
    let mut credentials = Credentials { current: Some(server.to_string()), ..Credentials::default() };
    credentials.logins.insert(server.to_string(), login);
    file.lock().await.unwrap().write(&credentials).unwrap();
}

fn user_client(server: &TestServer, file: &CredentialsFile, owner: Option<Owner>) -> Client {
    let sign_in = Box::new(SignIn::new(server.url.clone(), file.clone(), owner));
    Client::new(server.url.clone(), Identity::User { sign_in, team_id: TeamId::generate() }).unwrap()
}

/// A server whose only valid refresh token is `r-<n>` after n uses, as rotation demands.
async fn rotating_server() -> TestServer {
    let used = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    TestServer::start(move |seen| {
        use std::sync::atomic::Ordering::SeqCst;
        let tokens =
            |n: usize| json!({"access_token": format!("a-{n}"), "refresh_token": format!("r-{n}"), "expires_in": 900});
        match seen.line.as_str() {
            "POST /api/v1/auth/refresh" => {
                let n = used.load(SeqCst);
                if seen.json() != json!({"refresh_token": format!("r-{n}")}) {
                    return test_server::problem(ErrorCode::Unauthenticated, "the refresh token was used already");
                }
                used.store(n + 1, SeqCst);
                test_server::json(200, &tokens(n + 1))
            }
            "POST /api/v1/auth/login" => test_server::json(200, &tokens(used.load(SeqCst))),
            _ if seen.header("authorization").starts_with("Bearer a-") => test_server::json(200, &json!({})),
            _ => test_server::problem(ErrorCode::Unauthenticated, "no"),
        }
    })
    .await
}

#[tokio::test]
async fn a_stale_token_is_renewed_once_by_whoever_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let file = CredentialsFile::at(dir.path().join("credentials.json"));
    let server = rotating_server().await;
    keep(&file, &server.url, login("r-0", "old", Timestamp::from_micros(0))).await;
    // Eight runs at once: with rotation, a second use of the same refresh token would end the sign-in.
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = user_client(&server, &file, None);
        runs.spawn(async move { client.get::<Value>("/containers", &[]).await.map(drop) });
    }
    while let Some(run) = runs.join_next().await {
        run.unwrap().unwrap();
    }
    let renewals = server.lines().iter().filter(|line| line.ends_with("/auth/refresh")).count();
    assert_eq!(renewals, 1);
    let kept = file.read().unwrap().logins.remove(server.url.as_str()).unwrap();
    assert_eq!((kept.refresh_token.expose().as_str(), kept.access_token.expose().as_str()), ("r-1", "a-1"));
    assert!(kept.access_expires_at > SystemClock.now() + Duration::from_secs(600));
}

#[tokio::test]
async fn a_token_that_is_refused_before_its_time_is_renewed_and_the_call_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let file = CredentialsFile::at(dir.path().join("credentials.json"));
    let server = rotating_server().await;
    keep(&file, &server.url, login("r-0", "revoked", SystemClock.now() + Duration::from_secs(900))).await;
    let client = user_client(&server, &file, None);
    client.post::<Value>("/containers", Some(&json!({"a": 1}))).await.unwrap();
    assert_eq!(server.lines(), ["POST /api/v1/containers", "POST /api/v1/auth/refresh", "POST /api/v1/containers"]);
    let last = server.seen().pop().unwrap();
    assert_eq!((last.header("authorization"), last.json()), ("Bearer a-1", json!({"a": 1})));
    assert!(!last.header("x-team-id").is_empty());
}

#[tokio::test]
async fn a_sign_in_that_has_ended_says_how_to_sign_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = CredentialsFile::at(dir.path().join("credentials.json"));
    let server = rotating_server().await;
    keep(&file, &server.url, login("used", "old", Timestamp::from_micros(0))).await;
    let error = user_client(&server, &file, None).get::<Value>("/containers", &[]).await.unwrap_err();
    let url = super::shown(&server.url);
    assert_eq!(
        said(&error.into()),
        format!("error: your sign-in to {url} has ended\nhint: sign in again: towline login --server {url}\n")
    );
}

#[tokio::test]
async fn the_owner_signs_in_anew_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = CredentialsFile::at(dir.path().join("sign-in.json"));
    let server = rotating_server().await;
    let owner = || Owner {
        email_address: "owner@localhost".to_owned(),
        user_password: Secret::new("pw".to_owned()),
        team_id: TeamId::generate(),
    };
    user_client(&server, &file, Some(owner())).get::<Value>("/containers", &[]).await.unwrap();
    assert_eq!(server.seen()[0].json(), json!({"email_address": "owner@localhost", "user_password": "pw"}));
    // The token is kept, so the next run need not sign in.
    user_client(&server, &file, Some(owner())).get::<Value>("/containers", &[]).await.unwrap();
    assert_eq!(server.lines().iter().filter(|line| line.contains("/auth/")).count(), 1);
    // A used refresh token is no obstacle either.
    keep(&file, &server.url, login("used", "old", Timestamp::from_micros(0))).await;
    user_client(&server, &file, Some(owner())).get::<Value>("/containers", &[]).await.unwrap();
}

/// A server that answers the first request of each line with 429 and so many seconds, and the next as it should.
async fn busy_server(seconds: impl Fn(&str) -> Option<u32> + Clone + Send + Sync + 'static) -> TestServer {
    let seen_before = Arc::new(Mutex::new(BTreeSet::new()));
    TestServer::start(move |seen| {
        let is_first = seen_before.lock().unwrap().insert(seen.line.clone());
        if let Some(seconds) = seconds(&seen.line).filter(|_| is_first) {
            let mut answer = test_server::problem(ErrorCode::RateLimited, "too many requests");
            answer.headers_mut().insert("retry-after", seconds.into());
            return answer;
        }
        test_server::json(200, &json!({"access_token": "a-1", "refresh_token": "r-1", "expires_in": 900}))
    })
    .await
}

#[tokio::test]
async fn signing_in_and_renewing_wait_as_long_as_the_server_says() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Owner {
        email_address: "owner@localhost".to_owned(),
        user_password: Secret::new("pw".to_owned()),
        team_id: TeamId::generate(),
    };
    for (is_kept, path) in [(true, "refresh"), (false, "login")] {
        let server = busy_server(|line| line.contains("/auth/").then_some(1)).await;
        let file = CredentialsFile::at(dir.path().join(path));
        if is_kept {
            keep(&file, &server.url, login("r-0", "old", Timestamp::from_micros(0))).await;
        }
        let told = Arc::new(Mutex::new(vec![]));
        let teller = Arc::clone(&told);
        let client = user_client(&server, &file, Some(owner.clone()));
        let client = client.with_notice(move |text| teller.lock().unwrap().push(text));
        client.get::<Value>("/containers", &[]).await.unwrap();
        let asked = format!("POST /api/v1/auth/{path}");
        assert_eq!(server.lines(), [asked.as_str(), asked.as_str(), "GET /api/v1/containers"]);
        assert_eq!(*told.lock().unwrap(), ["the server takes no more requests for now; trying again in 1 s"]);
    }
    let server = busy_server(|_| Some(1)).await;
    let nobody = Client::new(server.url.clone(), Identity::Nobody).unwrap();
    nobody.post::<Value>("/auth/login", Some(&json!({}))).await.unwrap();
    assert_eq!(server.lines().len(), 2, "`towline login` asks so");
}

#[tokio::test]
async fn a_call_and_the_renewal_that_it_needs_wait_two_minutes_together() {
    let dir = tempfile::tempdir().unwrap();
    let file = CredentialsFile::at(dir.path().join("credentials.json"));
    let server = busy_server(|line| Some(if line.contains("/auth/") { 1 } else { 120 })).await;
    keep(&file, &server.url, login("r-0", "old", Timestamp::from_micros(0))).await;
    let error = user_client(&server, &file, None).get::<Value>("/containers", &[]).await.unwrap_err();
    assert_eq!(error.code(), "rate_limited");
    let refresh = "POST /api/v1/auth/refresh";
    assert_eq!(server.lines(), [refresh, refresh, "GET /api/v1/containers"]);
}

/// A user's home with whatever was set up in it.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        crate::tls::install();
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn context(&self) -> Context {
        let home = self.dir.path().to_str().unwrap();
        let (output, _) = output::captured::output(output::Format::Text);
        Context { output, environment: Environment::from_iter([("HOME", home)]), config_file: None, verbose: true }
    }

    async fn signed_in(self, server: &str) -> Self {
        let file = CredentialsFile::at(self.dir.path().join(".config/towline/credentials.json"));
        let mut credentials = file.read().unwrap();
        credentials.current = Some(server.to_owned());
        credentials.logins.insert(server.to_owned(), login("r", "a", SystemClock.now() + Duration::from_secs(900)));
        file.lock().await.unwrap().write(&credentials).unwrap();
        self
    }

    fn bootstrapped(self, data_dir: &str, url: &str) -> Self {
        let dir = self.dir.path().join(data_dir);
        std::fs::create_dir_all(&dir).unwrap();
        let bootstrap = json!({
            "url": url, "team_id": TeamId::generate(), "email_address": "owner@localhost", "user_password": "pw",
            "api_key": "sk-1", "agent_key": "ak-1",
        });
        std::fs::write(dir.join("bootstrap.json"), bootstrap.to_string()).unwrap();
        self
    }

    /// Which server is meant, and how.
    fn connect(&self, args: &ClientArgs) -> Result<String, Failure> {
        let client = self.context().client(args)?;
        let identity = match &client.identity {
            Identity::Nobody => "nobody",
            Identity::Key(_) => "key",
            Identity::User { .. } => "user",
        };
        Ok(format!("{identity} at {}", client.base()))
    }
}

fn no_args() -> ClientArgs {
    ClientArgs { server: None, key: None, key_file: None, data_dir: None }
}

#[tokio::test]
async fn who_is_meant_and_where() {
    let data = ".local/share/towline";
    let key = || Some(Secret::new(RawKey::generate(KeyKind::Integration, &mut key_rng()).expose().clone()));
    let other = || Some(Url::parse("http://other:1").unwrap());

    let home = Home::new();
    assert_eq!(home.connect(&ClientArgs { key: key(), ..no_args() }).unwrap(), "key at http://127.0.0.1:7070/");
    let failure = home.connect(&no_args()).unwrap_err();
    assert!(failure.message() == "nobody has signed in" && failure.hint_text().unwrap().contains("towline login"));

    let home = home.bootstrapped(data, "http://127.0.0.1:4321");
    assert_eq!(home.connect(&no_args()).unwrap(), "user at http://127.0.0.1:4321/");
    assert_eq!(home.connect(&ClientArgs { key: key(), ..no_args() }).unwrap(), "key at http://127.0.0.1:4321/");
    let failure = home.connect(&ClientArgs { server: other(), ..no_args() }).unwrap_err();
    assert_eq!(failure.message(), "nobody has signed in to http://other:1");

    let home = home.signed_in("http://signed:1/").await;
    assert_eq!(home.connect(&no_args()).unwrap(), "user at http://signed:1/");
    assert_eq!(home.connect(&ClientArgs { key: key(), ..no_args() }).unwrap(), "key at http://signed:1/");
    assert!(home.connect(&ClientArgs { server: other(), ..no_args() }).is_err());
    let named = ClientArgs { data_dir: Some(home.dir.path().join(data)), ..no_args() };
    assert_eq!(home.connect(&named).unwrap(), "user at http://127.0.0.1:4321/");

    let home = home.signed_in("http://other:1/").await;
    let signed = Some(Url::parse("http://signed:1").unwrap());
    assert_eq!(home.connect(&ClientArgs { server: signed, ..no_args() }).unwrap(), "user at http://signed:1/");
}

#[test]
fn a_wrong_key_is_seen_before_it_is_sent() {
    let home = Home::new();
    let given = |key: &str| ClientArgs { key: Some(Secret::new(key.to_owned())), ..no_args() };
    let failure = home.connect(&given("sk-mistyped")).unwrap_err();
    assert!(failure.message().contains("checksum"), "{failure}");
    let agents = RawKey::generate(KeyKind::Agent, &mut key_rng());
    let failure = home.connect(&given(agents.expose())).unwrap_err();
    assert!(failure.message().contains("agent's"), "{failure}");
}

fn key_rng() -> impl rand::CryptoRng {
    rand::rng()
}
