//! Services: deployed, changed, applied from a file, and their logs.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::{body::Body, http::header::CONTENT_LENGTH};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;
use towline_agent::identity;
use towline_model::ErrorCode;

use super::{ID, Shell, found, hello, list_of, until_printed};
use crate::client::test_server::{Seen, TestServer, answer, json, problem};

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
