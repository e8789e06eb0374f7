//! Whole commands, from the typed line to what is printed, against a server in the same process.

use std::{
    ffi::OsString,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{body::Body, http::header::CONTENT_LENGTH, response::Response};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;
use towline_agent::identity;
use towline_model::{ErrorCode, KeyKind, RawKey, Secret, TeamId, Timestamp};
use towline_store::{AuditRow, Store, StoreOptions};

use crate::{
    client::{
        CredentialsFile, shown,
        test_server::{Seen, TestServer, answer, json, problem},
    },
    cmd::{self, Context},
    config::{self, Environment},
    failure::Failure,
    output::captured::{self, Captured},
};

/// A user's shell.
struct Shell {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// What a command did.
struct Done {
    result: Result<(), Failure>,
    data: String,
    messages: String,
}

impl Shell {
    /// A shell whose commands go to `server` with a key.
    fn new(server: &TestServer) -> Self {
        let key = RawKey::generate(KeyKind::Integration, &mut rand::rng()).expose().clone();
        Self::without_key(server).with("TOWLINE_KEY", &key)
    }

    fn without_key(server: &TestServer) -> Self {
        let home = tempfile::tempdir().unwrap();
        let variables = vec![("HOME".to_owned(), home.path().display().to_string())];
        Self { home, variables }.with("TOWLINE_SERVER", server.url.as_str())
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    async fn run(&self, line: &[&str]) -> Done {
        let (run, captured) = self.start(line);
        let result = run.await;
        Done { result, data: captured.data(), messages: captured.messages() }
    }

    fn start(&self, line: &[&str]) -> (impl Future<Output = Result<(), Failure>> + use<>, Captured) {
        let environment = Environment::from_iter(self.variables.clone());
        let arguments: Vec<OsString> = ["towline"].iter().chain(line).map(Into::into).collect();
        let cli = config::parse(&arguments, &environment).unwrap_or_else(|error| panic!("{line:?}: {error:?}"));
        let (output, captured) = captured::output(cli.global.output);
        let context = Context { output, environment, config_file: cli.global.config, verbose: false };
        (async move { Box::pin(cmd::run(cli.command, &context)).await }, captured)
    }
}

impl Done {
    fn failure(&self) -> &Failure {
        self.result.as_ref().unwrap_err()
    }
}

const ID: &str = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";

fn hello(status: &str, more: &Value) -> Value {
    let mut service = json!({
        "id": ID, "service_slug": "hello", "display_name": "hello", "service_status": status,
        "docker_image": "demo", "replica_count": 2,
    });
    service.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    service
}

fn list_of(services: &[Value]) -> Response {
    json(200, &json!({"container_list": services, "page_meta": {"total_count": services.len()}}))
}

fn found(service: Option<&Value>) -> Response {
    service.map_or_else(|| problem(ErrorCode::NotFound, "no such service"), |service| json(200, service))
}

/// A server with one service, which is in the next state each time its instances are asked for.
async fn server_with_states(states: Vec<(Value, Value)>) -> TestServer {
    let step = Arc::new(AtomicUsize::new(0));
    TestServer::start(move |seen| {
        let now = step.load(SeqCst).min(states.len() - 1);
        let (service, instances) = states[now].clone();
        match seen.line.split('?').next().unwrap() {
            "GET /api/v1/r/containers/hello" => json(200, &service),
            line if line.ends_with("/instances") => {
                step.fetch_add(1, SeqCst);
                json(200, &json!({"instance_list": instances}))
            }
            line if line == format!("GET /api/v1/containers/{ID}") => json(200, &service),
            line if line.starts_with("POST ") => json(200, &json!({"is_success": true})),
            line => panic!("{line}"),
        }
    })
    .await
}

fn instance(phase: &str) -> Value {
    json!({"id": "i", "phase": phase, "generation": 1, "agent_name": "lab", "reason": null})
}

#[tokio::test]
async fn a_deploy_shows_how_far_it_is_and_ends_when_every_instance_is_ready() {
    let running =
        |state| hello("running", &json!({"instances_ready": 1, "instances_total": 2, "rollout": {"state": state}}));
    let server = server_with_states(vec![
        (hello("deploying", &json!({})), json!([])),
        (hello("deploying", &json!({})), json!([instance("pulling"), instance("pulling")])),
        (running("progressing"), json!([instance("ready"), instance("starting")])),
        (running("succeeded"), json!([instance("ready"), instance("starting")])),
        (
            hello("running", &json!({"instances_ready": 2, "instances_total": 2})),
            json!([instance("ready"), instance("ready")]),
        ),
    ])
    .await;
    let done = Shell::new(&server).run(&["service", "deploy", "hello", "--wait"]).await;
    done.result.unwrap();
    assert_eq!(done.data, "hello is running, 2/2 ready\n");
    insta::assert_snapshot!(done.messages, @"
    hello: waiting
    hello: deploying
    hello: deploying (2 pulling)
    hello: running (1 ready, 1 starting)
    hello: running (2 ready)
    ");
    assert!(server.lines().contains(&format!("POST /api/v1/containers/{ID}/deploy")));
}

#[tokio::test]
async fn a_deploy_that_fails_says_why() {
    let failed = hello("failed", &json!({"status_reason": "the image demo is neither here nor in its registry"}));
    let server = server_with_states(vec![(hello("deploying", &json!({})), json!([])), (failed, json!([]))]).await;
    let done = Shell::new(&server).run(&["service", "deploy", "hello", "--wait"]).await;
    assert_eq!(done.failure().message(), "hello failed: the image demo is neither here nor in its registry");

    let rollout = json!({"rollout": {"state": "failed", "reason": "it exits with 1"}});
    let server = server_with_states(vec![(hello("running", &rollout), json!([instance("ready")]))]).await;
    let done = Shell::new(&server).run(&["service", "deploy", "hello", "--wait"]).await;
    assert_eq!(done.failure().message(), "hello goes on as it was before, since this deploy failed: it exits with 1");

    let server = server_with_states(vec![(hello("deploying", &json!({})), json!([instance("pulling")]))]).await;
    let done = Shell::new(&server).run(&["service", "deploy", "hello", "--wait", "--timeout", "50ms"]).await;
    assert_eq!(done.failure().message(), "hello is not there after 50ms");
}

#[tokio::test]
async fn without_a_terminal_a_deploy_is_only_begun() {
    let server = server_with_states(vec![(hello("created", &json!({})), json!([]))]).await;
    let done = Shell::new(&server).run(&["service", "deploy", "hello", "-o", "json"]).await;
    done.result.unwrap();
    assert_eq!(done.data, "{\n  \"is_success\": true\n}\n");
    assert!(!server.lines().iter().any(|line| line.ends_with("/instances")));
}

#[tokio::test]
async fn create_sends_the_fields_that_were_given() {
    let server = TestServer::start(|_| json(201, &json!({"id": ID}))).await;
    let shell = Shell::new(&server);
    let file = shell.file("hello.yaml", "docker_image: demo:1\nreplica_count: 2\nservice_desc: from the file\n");
    let done = shell.run(&["service", "create", "hello", "-f", &file, "--replicas", "3"]).await;
    done.result.unwrap();
    assert_eq!(done.data, "created hello; run it with: towline service deploy hello\n");
    assert_eq!(
        server.seen()[0].json(),
        json!({
            "service_slug": "hello", "display_name": "hello", "docker_image": "demo:1", "replica_count": 3,
            "service_desc": "from the file",
        })
    );
}

#[tokio::test]
async fn update_sends_changes_only_and_null_for_what_is_cleared() {
    let server =
        server_with_states(vec![(hello("running", &json!({"probe": {"interval_seconds": 9}})), json!([]))]).await;
    let shell = Shell::new(&server);
    let put = |seen: &[Seen]| seen.iter().find(|seen| seen.line.starts_with("PUT")).map(Seen::json);
    let done = shell.run(&["service", "update", "hello"]).await;
    assert_eq!(done.failure().message(), "nothing to change was given");
    assert_eq!(put(&server.seen()), None);

    let server = TestServer::start(|seen| match seen.line.as_str() {
        line if line.starts_with("PUT") => json(200, &json!({"id": ID})),
        _ => json(200, &hello("running", &json!({"probe": {"interval_seconds": 9}}))),
    })
    .await;
    let line = ["service", "update", "hello", "--clear", "cpu_limit", "--probe-timeout", "2s"];
    Shell::new(&server).run(&line).await.result.unwrap();
    let expected = json!({"cpu_limit": null, "probe": {"interval_seconds": 9, "timeout_seconds": 2}});
    assert_eq!(put(&server.seen()), Some(expected));
}

/// Waits until a command has printed this and nothing else.
async fn until_printed(captured: &Captured, text: &str) {
    let printed = async {
        while captured.data() != text {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(45), printed).await.unwrap();
}

#[tokio::test]
async fn a_call_streams_what_arrives_when_it_arrives() {
    let (reader, mut writer) = tokio::io::duplex(64);
    let reader = Arc::new(Mutex::new(Some(reader)));
    let server = TestServer::start(move |_| {
        let reader = reader.lock().unwrap().take().unwrap();
        answer(200, "text/plain", Body::from_stream(ReaderStream::new(reader)))
    })
    .await;
    let (run, captured) = Shell::new(&server).start(&["call", "hello", "/sse"]);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(run);
    tokio::io::AsyncWriteExt::write_all(&mut writer, b"first").await.unwrap();
    until_printed(&captured, "first").await;
    tokio::io::AsyncWriteExt::write_all(&mut writer, b" second").await.unwrap();
    drop(writer);
    running.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(captured.data(), "first second");
}

#[tokio::test]
async fn a_call_sends_bodies_as_curl_does() {
    let server = TestServer::start(|_| json(200, &json!({}))).await;
    let shell = Shell::new(&server);
    let file = shell.file("body", "line 1\nline 2\n");
    let at = format!("@{file}");
    for (line, method, content_type, body) in [
        (vec!["call", "hello", "/"], "GET", "", ""),
        (vec!["call", "hello", "/", "-X", "DELETE"], "DELETE", "", ""),
        (vec!["call", "hello", "/", "-d", "a=1"], "POST", "application/x-www-form-urlencoded", "a=1"),
        (vec!["call", "hello", "/", "-d", &at], "POST", "application/x-www-form-urlencoded", "line 1line 2"),
        (
            vec!["call", "hello", "/", "--data-binary", &at, "-H", "Content-Type: x/y"],
            "POST",
            "x/y",
            "line 1\nline 2\n",
        ),
        (vec!["call", "hello", "/", "-X", "PUT", "--json", "{}"], "PUT", "application/json", "{}"),
    ] {
        shell.run(&line).await.result.unwrap();
        let seen = server.seen().pop().unwrap();
        let got = (seen.line.as_str(), seen.header("content-type"), String::from_utf8(seen.body.clone()).unwrap());
        assert_eq!(
            got,
            (format!("{method} /api/v1/r/containers/hello/").as_str(), content_type, body.to_owned()),
            "{line:?}"
        );
        if line.contains(&"--data-binary") {
            assert_eq!(seen.header("content-length"), "14");
        }
    }
}

#[tokio::test]
async fn an_error_of_towline_and_an_answer_of_the_service_are_told_apart() {
    let server = TestServer::start(|seen| {
        let mut response = problem(ErrorCode::NoReadyInstance, "hello is running but has no ready instance");
        if seen.line.ends_with("/gateway") {
            response.headers_mut().insert("proxy-status", "towline; error=destination_unavailable".parse().unwrap());
        }
        response
    })
    .await;
    let shell = Shell::new(&server);
    let done = shell.run(&["call", "hello", "/gateway"]).await;
    assert_eq!(done.failure().message(), "hello is running but has no ready instance");
    assert_eq!(done.data, "");
    let done = shell.run(&["call", "hello", "/container"]).await;
    done.result.unwrap();
    assert!(done.data.contains("no ready instance"));
    let done = shell.run(&["call", "hello", "/container", "--fail", "-i"]).await;
    assert_eq!(done.failure().message(), "the service answered 503 Service Unavailable");
    assert!(done.data.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{}", done.data);
    let done = shell.run(&["call", "hello", "/container", "-o", "json"]).await;
    let answer: Value = serde_json::from_str(&done.data).unwrap();
    assert_eq!(answer["status_code"], 503);
}

/// A server that keeps services as the real one does, as far as `apply` sees it.
async fn stateful_server() -> TestServer {
    let services: Arc<Mutex<Vec<Value>>> = Arc::default();
    TestServer::start(move |seen| {
        let mut services = services.lock().unwrap();
        let (method, target) = seen.line.split_once(' ').unwrap();
        let path = target.split('?').next().unwrap();
        if let Some(slug) = path.strip_prefix("/api/v1/r/containers/") {
            return found(services.iter().find(|service| service["service_slug"] == slug));
        }
        let path = path.strip_prefix("/api/v1/containers").unwrap();
        let position = |id: &str| services.iter().position(|service| service["id"] == id);
        match (method, path.trim_start_matches('/').split_once('/'), path.trim_start_matches('/')) {
            ("GET", None, "") => list_of(&services),
            ("POST", None, "") => {
                let id = format!("01932c07-8a4e-7bbd-9c45-{:012}", services.len());
                let mut service = seen.json();
                service["id"] = json!(id);
                service["service_status"] = json!("created");
                services.push(service);
                json(201, &json!({"id": id}))
            }
            ("POST", Some((id, verb)), _) => {
                let status = if verb == "deploy" { "running" } else { "stopped" };
                let at = position(id).unwrap();
                services[at]["service_status"] = json!(status);
                json(200, &json!({"is_success": true}))
            }
            ("PUT", None, id) => {
                let at = position(id).unwrap();
                services[at].as_object_mut().unwrap().extend(seen.json().as_object().unwrap().clone());
                json(200, &json!({"id": id}))
            }
            ("DELETE", None, id) => {
                let at = position(id).unwrap();
                services.remove(at);
                answer(204, "text/plain", "")
            }
            ("GET", Some((_, "instances")), _) => json(200, &json!({"instance_list": []})),
            ("GET", None, id) => found(position(id).map(|at| &services[at])),
            _ => panic!("{}", seen.line),
        }
    })
    .await
}

/// A server that has one service, whose deploy is refused so many times because no agent can take it.
async fn server_without_agent(refusals: usize) -> TestServer {
    let left = Arc::new(Mutex::new(refusals));
    let id = "01932c07-8a4e-7bbd-9c45-000000000000";
    let service = json!({
        "id": id, "service_slug": "ollama", "display_name": "ollama", "service_type": "attached",
        "attached_target": "127.0.0.1:11434", "service_status": "running", "has_undeployed_changes": true,
        "replica_count": 1,
    });
    TestServer::start(move |seen| match seen.line.split('?').next().unwrap() {
        "GET /api/v1/containers" => list_of(std::slice::from_ref(&service)),
        "GET /api/v1/r/agents" => {
            let agent = json!({
                "id": ID, "machine_id": identity::machine_id().as_str(), "agent_status": "online", "labels": [],
                "capabilities": ["attached"],
            });
            json(200, &json!({"agent_list": [agent], "page_meta": {"total_count": 1}}))
        }
        line if line.ends_with("/instances") => json(200, &json!({"instance_list": [instance("ready")]})),
        line if line.starts_with("GET ") => found(Some(&service)),
        line if line.starts_with("PUT ") => json(200, &json!({"id": id})),
        line if line.ends_with("/deploy") => {
            let mut left = left.lock().unwrap();
            if *left == 0 {
                return json(200, &json!({"is_success": true}));
            }
            *left -= 1;
            let message = "no agent has joined this team yet; run `towline agent` with an ak- key on a machine";
            problem(ErrorCode::NoEligibleAgent, message)
        }
        line => panic!("{line}"),
    })
    .await
}

#[tokio::test]
async fn apply_waits_for_an_agent_that_was_just_started_and_says_when_there_is_none() {
    let definition = "service_slug: ollama\nservice_type: attached\nattached_target: 127.0.0.1:11434\n";
    let server = server_without_agent(3).await;
    let shell = Shell::new(&server);
    let file = shell.file("services.yaml", definition);
    let done = shell.run(&["apply", "-f", &file]).await;
    done.result.unwrap();
    assert_eq!(server.lines().iter().filter(|line| line.ends_with("/deploy")).count(), 4);

    let server = server_without_agent(usize::MAX).await;
    let shell = Shell::new(&server);
    let file = shell.file("services.yaml", definition);
    let done = shell.run(&["apply", "-f", &file]).await;
    let message = done.failure().message().to_owned();
    assert!(
        message.starts_with("ollama: no agent has come within") && message.contains("no agent has joined"),
        "{message}"
    );
    assert!(done.failure().hint_text().unwrap().contains("towline agents"), "{:?}", done.failure().hint_text());
}

#[tokio::test]
async fn deploy_and_expose_wait_for_an_agent_as_apply_does() {
    let lines = [vec!["service", "deploy", "ollama"], vec!["expose", "11434", "--name", "ollama"]];
    for line in &lines {
        let server = server_without_agent(1).await;
        Shell::new(&server).run(line).await.result.unwrap();
        assert_eq!(server.lines().iter().filter(|line| line.ends_with("/deploy")).count(), 2, "{line:?}");

        let server = server_without_agent(usize::MAX).await;
        let done = Shell::new(&server).run(line).await;
        assert!(done.failure().message().starts_with("no agent has come within"), "{line:?}: {}", done.failure());
    }
}

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
async fn apply_creates_updates_keeps_and_prunes() {
    let server = stateful_server().await;
    let shell = Shell::new(&server);
    let one = "service_slug: one\ndocker_image: demo:1\n";
    let two = "service_slug: two\ndocker_image: demo:1\n";
    let file = shell.file("services.yaml", &format!("{one}---\n{two}"));
    let apply = async |file: &str, more: &[&str]| {
        let done = shell.run(&[&["apply", "-f", file], more].concat()).await;
        done.result.map(|()| done.data)
    };
    assert_eq!(
        apply(&file, &["--diff"]).await.unwrap(),
        "+ one: create and deploy demo:1\n+ two: create and deploy demo:1\n"
    );
    assert!(server.lines().iter().all(|line| line.starts_with("GET")), "a diff changes nothing");
    assert_eq!(apply(&file, &[]).await.unwrap(), "2 created\n");
    assert_eq!(apply(&file, &[]).await.unwrap(), "2 unchanged\n");
    let file = shell.file("services.yaml", "service_slug: one\ndocker_image: demo:2\n");
    assert_eq!(apply(&file, &[]).await.unwrap(), "1 updated\n");
    let failure = apply(&file, &["--prune"]).await.unwrap_err();
    assert_eq!(failure.message(), "there is no terminal to ask on: delete two?");
    assert_eq!(apply(&file, &["--prune", "--yes"]).await.unwrap(), "1 deleted, 1 unchanged\n");
    assert_eq!(apply(&file, &["--prune", "--yes"]).await.unwrap(), "1 unchanged\n");
    let before = server.lines().len();
    let wrong = shell.file("wrong.yaml", &format!("{one}---\nservice_slug: UPPER\ndocker_image: demo\n"));
    assert!(apply(&wrong, &[]).await.unwrap_err().message().contains("UPPER"));
    assert_eq!(server.lines().len(), before, "a wrong file changes nothing");
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

#[tokio::test]
async fn logs_are_printed_line_by_line() {
    let server = TestServer::start(|seen| match seen.line.split_once("/logs?") {
        Some((_, "follow=true&tail=2")) => answer(200, "text/event-stream", ": ping\n\ndata: one\n\ndata: two\n\n"),
        Some((_, "tail=2")) => answer(200, "text/plain", "one\ntwo\n"),
        Some((_, query)) => panic!("{query}"),
        None => json(200, &hello("running", &json!({}))),
    })
    .await;
    let shell = Shell::new(&server);
    for more in [vec![], vec!["-f"]] {
        let done = shell.run(&[vec!["service", "logs", "hello", "--tail", "2"], more].concat()).await;
        done.result.unwrap();
        assert_eq!(done.data, "one\ntwo\n");
    }
    let done = shell.run(&["service", "logs", "hello", "--tail", "2", "-o", "json"]).await;
    assert_eq!(done.data, "{\"line\":\"one\"}\n{\"line\":\"two\"}\n");
}

#[tokio::test]
async fn logs_that_break_off_are_an_error_that_says_why_if_the_server_knows() {
    for (is_revoked, says) in [(false, "broke before there was a whole answer"), (true, "this key was revoked")] {
        let (reader, mut writer) = tokio::io::duplex(64);
        let reader = Arc::new(Mutex::new(Some(reader)));
        let server = TestServer::start(move |seen| match seen.line.as_str() {
            line if line.contains("/logs?") => {
                let reader = reader.lock().unwrap().take().unwrap();
                let mut logs = answer(200, "text/event-stream", Body::from_stream(ReaderStream::new(reader)));
                // They end before, and so the server breaks off.
                logs.headers_mut().insert(CONTENT_LENGTH, 100.into());
                logs
            }
            _ if is_revoked && reader.lock().unwrap().is_none() => {
                problem(ErrorCode::Unauthenticated, "this key was revoked")
            }
            _ => json(200, &hello("running", &json!({}))),
        })
        .await;
        let (run, captured) = Shell::new(&server).start(&["service", "logs", "hello", "--follow"]);
        let mut running = tokio::task::JoinSet::new();
        running.spawn(run);
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"data: one\n\n").await.unwrap();
        until_printed(&captured, "one\n").await;
        drop(writer);
        let failure = running.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(failure.message().contains(says), "{failure}");
        assert_eq!(server.lines().last().unwrap(), &format!("GET /api/v1/containers/{ID}"));
    }
}

/// A server with one secret, `openai-key`.
async fn server_with_a_secret() -> TestServer {
    TestServer::start(|seen| match seen.line.split('?').next().unwrap() {
        "GET /api/v1/secrets" => {
            let place = json!({"service_slug": "hello", "field": "env_config[0].secret_id", "is_in_definition": true});
            let secret =
                json!({"id": ID, "name": "openai-key", "description": "d", "used_by": [place], "updated_at": "t"});
            json(200, &json!({"secret_list": [secret], "page_meta": {"total_count": 1}}))
        }
        line if line.starts_with("DELETE ") => answer(204, "text/plain", ""),
        "GET /api/v1/r/containers/hello" => json(200, &hello("deploying", &json!({}))),
        line if line.starts_with("GET /api/v1/containers") => list_of(&[]),
        line if line.starts_with("POST ") || line.starts_with("PUT ") => json(201, &json!({"id": ID})),
        line => panic!("{line}"),
    })
    .await
}

#[tokio::test]
async fn a_secrets_value_comes_from_a_file_and_is_not_shown() {
    let server = server_with_a_secret().await;
    let shell = Shell::new(&server);
    let file = shell.file("value", "hunter2\n");
    let done = shell.run(&["secret", "create", "openai-key", "--description", "d", "--value-file", &file]).await;
    done.result.unwrap();
    assert_eq!(server.seen()[0].json(), json!({"name": "openai-key", "description": "d", "value": "hunter2"}));
    assert!(!format!("{}{}", done.data, done.messages).contains("hunter2"));
    shell.run(&["secret", "update", "openai-key", "--value-file", &file]).await.result.unwrap();
    let seen = server.seen().pop().unwrap();
    assert_eq!(
        (seen.line.as_str(), seen.json()),
        (format!("PUT /api/v1/secrets/{ID}").as_str(), json!({"value": "hunter2"}))
    );
    shell.run(&["secret", "update", ID, "--name", "other"]).await.result.unwrap();
    assert_eq!(server.seen().pop().unwrap().json(), json!({"name": "other"}));
    let listed = shell.run(&["secret", "list"]).await.data;
    assert!(listed.contains("openai-key  hello"), "{listed}");
    shell.run(&["secret", "delete", "openai-key"]).await.result.unwrap();
    assert_eq!(server.lines().last().unwrap(), &format!("DELETE /api/v1/secrets/{ID}"));
    let missing = shell.run(&["secret", "delete", "other"]).await;
    assert_eq!(missing.failure().message(), "there is no secret with the name \"other\" in this team");
}

#[tokio::test]
async fn services_name_secrets_and_the_server_hears_their_ids() {
    let server = server_with_a_secret().await;
    let shell = Shell::new(&server);
    let line = ["service", "create", "hello", "--image", "demo", "--env-secret", "KEY=openai-key", "--registry-auth"];
    shell.run(&[&line[..], &["openai-key"]].concat()).await.result.unwrap();
    let body = server.seen().pop().unwrap().json();
    assert_eq!(body["env_config"], json!([{"env_name": "KEY", "secret_id": ID}]));
    assert_eq!(body["registry_auth_secret_id"], ID);
    let unknown = shell.run(&["service", "create", "hello", "--image", "demo", "--env-secret", "KEY=nope"]).await;
    assert!(unknown.failure().message().contains("nope"));

    let text = "service_slug: hello\ndocker_image: demo\nregistry_auth_secret: openai-key\nenv_config:\n\
                - {env_name: KEY, secret: openai-key}\n- {env_name: A, env_value: b}\n";
    let file = shell.file("hello.yaml", text);
    shell.run(&["apply", "-f", &file]).await.result.unwrap();
    let seen = server.seen();
    let made = seen.iter().rev().find(|seen| seen.line == "POST /api/v1/containers").unwrap().json();
    assert_eq!(made["env_config"][0], json!({"env_name": "KEY", "secret_id": ID}));
    assert_eq!(made["registry_auth_secret_id"], ID);
    let both = shell
        .file("both.yaml", &text.replace("secret: openai-key}", &format!("secret: openai-key, secret_id: {ID}}}")));
    assert!(shell.run(&["apply", "-f", &both]).await.failure().message().contains("not both"));
}

#[tokio::test]
async fn a_key_is_rotated_while_the_server_is_stopped() {
    let server = server_with_a_secret().await;
    let shell = Shell::new(&server);
    let data = shell.home.path().join("data");
    let line = ["secret", "rotate-key", "--data-dir", data.to_str().unwrap()];
    let done = shell.run(&line).await;
    done.result.unwrap();
    assert!(done.data.starts_with("sealed 0 secrets anew under the key "), "{}", done.data);
    let keys = || {
        std::fs::read_to_string(data.join("secrets.key")).unwrap().lines().filter(|line| !line.starts_with('#')).count()
    };
    let before = keys();
    shell.run(&[&line[..], &["--drop-old"]].concat()).await.result.unwrap();
    assert!(before >= 1 && keys() == 1);
    let _held = crate::cmd::serve::lock(&data).unwrap();
    assert!(shell.run(&line).await.failure().message().starts_with("another towline server uses"));
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
