//! From a definition to containers and back.

use http::Method;
use serde_json::json;
use tokio::task::JoinSet;
use towline_e2e::{
    api::Api,
    dir::test_dir,
    engine::Engine,
    process::Process,
    sse::EventStream,
    system::{AgentOptions, Server, demo_service, towline},
    wait::{SOON, wait_until},
};

use super::{Cleanup, Running};

#[tokio::test]
async fn a_service_goes_through_its_whole_life() {
    let engine = Engine::of_this_machine().await;
    let server = Server::start().await;
    let _agent = server.start_agent("machine-1").await;
    let owner = server.owner().await;
    let api = server.api();
    let id = owner.create_service(&demo_service("hello", 2)).await;
    let _cleanup = Cleanup::of(&engine, &id);
    api.get("/r/containers/hello/").await.gateway_problem(400, "service_not_running");

    owner.deploy(&id).await;
    let service = owner.wait_for_ready(&id, 2).await;
    assert_eq!(service["instances_total"], 2);
    api.get("/r/containers/hello/echo").await.expect(200);
    let listed = api.get("/r/containers").await.expect(200);
    assert_eq!(listed["container_list"][0]["service_status"], "running", "{listed}");
    let instances = owner.instances(&id).await;
    assert_eq!(instances.len(), 2, "{instances:?}");

    let containers = engine.containers(&id).await;
    assert_eq!(containers.len(), 2);
    for container in &containers {
        let labels = container.labels.clone().unwrap_or_default();
        assert_eq!(labels.get("towline.service"), Some(&id), "{labels:?}");
        let instance = labels.get("towline.instance").unwrap_or_else(|| panic!("{labels:?}"));
        assert!(instances.iter().any(|row| row["id"] == instance.as_str()), "{instance} is not in {instances:?}");
        let ports = container.ports.clone().unwrap_or_default();
        let published: Vec<_> = ports.iter().filter(|port| port.public_port.is_some()).collect();
        assert_eq!(published.len(), 1, "{ports:?}");
        assert_eq!((published[0].ip.as_deref(), published[0].private_port), (Some("127.0.0.1"), 8080));
    }

    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    assert!(engine.container_ids(&id).await.is_empty(), "containers are left behind");
    api.get("/r/containers/hello/").await.gateway_problem(400, "service_not_running");

    // And again: stopped is not the end.
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 2).await;
    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    assert_eq!(owner.delete(&format!("/containers/{id}")).await.status, 204);
}

#[tokio::test]
async fn the_definition_reaches_the_container() {
    let directory = tempfile::tempdir().unwrap();
    let host_path = directory.path().to_str().unwrap().to_owned();
    let running = Running::start_with(1, |spec| {
        spec["env_config"] = json!([{"env_name": "DEMO_COLOUR", "env_value": "blue = \"1\" $HOME"}]);
        spec["volume_config"] = json!([{"host_path": host_path, "container_path": "/data", "read_only": true}]);
        spec["memory_limit_bytes"] = json!(64 << 20);
        spec["cpu_limit"] = json!(0.5);
        spec["args"] = json!(["--port", "9090"]);
        spec["exposed_port"] = json!(9090);
    })
    .await;
    let env = running.api.get("/r/containers/hello/env").await.text();
    assert!(env.contains("DEMO_COLOUR") && env.contains("blue"), "{env}");
    let echo = running.api.get("/r/containers/hello/echo").await.expect(200);
    assert!(echo["headers"].to_string().contains("localhost:9090"), "{echo}");
    let ids = running.engine.container_ids(&running.service_id).await;
    let container = running.engine.inspect(&ids[0]).await;
    let host = container.host_config.unwrap();
    assert_eq!((host.memory, host.nano_cpus), (Some(64 << 20), Some(500_000_000)));
    let mount = &container.mounts.unwrap()[0];
    assert_eq!((mount.destination.as_deref(), mount.rw), (Some("/data"), Some(false)));
}

/// Deploys a definition that cannot work and gives the reason that a user reads.
async fn failed(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let engine = Engine::of_this_machine().await;
    let server = Server::start().await;
    let _agent = server.start_agent("machine-1").await;
    let owner = server.owner().await;
    let mut spec = demo_service("hello", 1);
    change(&mut spec);
    let id = owner.create_service(&spec).await;
    let _cleanup = Cleanup::of(&engine, &id);
    owner.deploy(&id).await;
    let service = owner.wait_for_status(&id, "failed").await;
    let reason = service["status_reason"].as_str().unwrap_or_else(|| panic!("no reason: {service:#}")).to_owned();
    wait_until("nothing is left of a failed deploy", SOON, async || {
        let left = engine.container_ids(&id).await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    // A failed service can be changed and tried again.
    owner.put(&format!("/containers/{id}"), &json!({"display_name": "again"})).await.expect(200);
    assert_eq!(owner.delete(&format!("/containers/{id}")).await.status, 204);
    reason
}

#[tokio::test]
async fn an_image_that_is_nowhere_fails_with_its_name() {
    let reason = failed(|spec| spec["docker_image"] = json!("127.0.0.1:1/nowhere/nothing:1")).await;
    assert!(reason.contains("127.0.0.1:1/nowhere/nothing:1"), "{reason}");
}

#[tokio::test]
async fn a_container_that_ends_by_itself_fails_as_a_crash_loop() {
    let reason = failed(|spec| {
        spec["env_config"] = json!([
            {"env_name": "DEMO_EXIT_AFTER_MS", "env_value": "1"}, {"env_name": "DEMO_EXIT_CODE", "env_value": "42"},
        ]);
    })
    .await;
    assert!(reason.contains("42"), "{reason}");
}

#[tokio::test]
async fn a_container_that_never_gets_healthy_fails_with_the_probe() {
    let reason = failed(|spec| {
        spec["env_config"] = json!([{"env_name": "DEMO_HEALTH_STATUS", "env_value": "503"}]);
        spec["probe"] = json!({"interval_seconds": 1, "start_deadline_seconds": 3});
    })
    .await;
    assert!(reason.contains("/health") && reason.contains("503"), "{reason}");
}

#[tokio::test]
async fn a_command_that_is_not_in_the_image_fails_with_its_name() {
    let reason = failed(|spec| spec["command"] = json!(["/no-such-program"])).await;
    assert!(reason.contains("/no-such-program"), "{reason}");
}

#[tokio::test]
async fn requests_in_flight_are_finished_before_a_service_stops() {
    let running = Running::start(1).await;
    let api = running.api.clone();
    let mut slow = JoinSet::new();
    slow.spawn(async move { api.get("/r/containers/hello/slow?ms=3000&count=inflight").await });
    wait_until("the request is at the container", SOON, async || {
        let count = running.api.get("/r/containers/hello/count?key=inflight").await.expect(200);
        if count["count"] == 1 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    let request = running.api.request(Method::GET, "/r/containers/hello/sse?n=20&interval_ms=100");
    let mut events = EventStream::new(request.send().await.unwrap());
    events.next().await.unwrap().unwrap();
    running.owner.undeploy(&running.service_id).await;
    // New requests are refused at once, …
    running.api.get("/r/containers/hello/").await.gateway_problem(400, "service_not_running");
    // … and those that run come to their own end.
    let mut count = 1;
    while events.next().await.expect("the stream is not cut").is_some() {
        count += 1;
    }
    assert_eq!(count, 20);
    assert_eq!(slow.join_next().await.unwrap().unwrap().expect(200)["slept_ms"], 3000);
    running.owner.wait_for_status(&running.service_id, "stopped").await;
}

#[tokio::test]
async fn an_unhealthy_instance_takes_no_requests_until_it_is_well_again() {
    let running = Running::start(1).await;
    let path = "/r/containers/hello/health";
    let put = running.api.request(Method::PUT, &format!("{path}?status=500"));
    running.api.send(put).await.expect(200);
    running.api.wait_for_answer("/r/containers/hello/echo", 503).await.gateway_problem(503, "no_ready_instance");
    // It stays running: that is what 503 is for.
    assert_eq!(running.owner.service(&running.service_id).await["service_status"], "running");
    let answer = running.api.get("/r/containers/hello/echo").await;
    assert!(answer.header("retry-after").parse::<u64>().is_ok(), "{:?}", answer.headers);
    let ids = running.engine.container_ids(&running.service_id).await;
    let published = running.engine.inspect(&ids[0]).await.network_settings.unwrap().ports.unwrap();
    let port = published["8080/tcp"].as_ref().unwrap()[0].host_port.clone().unwrap();
    let heal = reqwest::Client::new().put(format!("http://127.0.0.1:{port}/health?status=200"));
    assert_eq!(heal.send().await.unwrap().status(), 200);
    running.owner.wait_for_ready(&running.service_id, 1).await;
    running.api.get("/r/containers/hello/echo").await.expect(200);
}

#[tokio::test]
async fn a_container_that_dies_is_started_again() {
    let running = Running::start(1).await;
    let before = running.api.get("/r/containers/hello/instance").await.expect(200);
    let exit = running.api.act("/r/containers/hello/exit?code=7").await;
    exit.gateway_problem(502, "upstream_failed");
    wait_until("another process answers", SOON, async || {
        let answer = running.api.get("/r/containers/hello/instance").await;
        let is_another = answer.status == 200 && answer.json() != before;
        if is_another { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    assert_eq!(running.engine.container_ids(&running.service_id).await.len(), 1);
    let instances = running.owner.instances(&running.service_id).await;
    assert!(instances[0]["restart_count"].as_u64().unwrap() >= 1, "{instances:?}");
}

#[tokio::test]
async fn logs_come_as_text_and_follow_as_events() {
    let running = Running::start(1).await;
    let path = format!("/containers/{}/logs", running.service_id);
    let logs = running.owner.get(&path).await;
    assert_eq!(logs.status, 200, "{}", logs.text());
    assert!(logs.text().contains("listening on"), "{}", logs.text());
    let request = running.owner.request(Method::GET, &format!("{path}?follow=true&tail=10"));
    let mut events = EventStream::new(request.send().await.unwrap());
    let first = tokio::time::timeout(SOON, events.next()).await.expect("a line soon").unwrap().unwrap();
    assert!(first.data.contains("listening on"), "{first:?}");
    // The stream stays open, and what the container says from now on is the next that comes.
    running.api.act("/r/containers/hello/log?line=one+more").await.expect(200);
    let next = tokio::time::timeout(SOON, events.next()).await.expect("the next line").unwrap().unwrap();
    assert!(next.data.contains("one more"), "{next:?}");
}

#[tokio::test]
async fn following_logs_ends_at_once_with_the_key_and_says_so() {
    let running = Running::start(1).await;
    let body = json!({"kind": "integration", "display_name": "reader", "scopes": ["read"]});
    let (reader, key_id) = running.owner.create_key(&body).await;
    let home = test_dir();
    let mut command = towline(home.path());
    command.args(["service", "logs", "hello", "--follow", "--server", &running.server.bootstrap.url]);
    command.env("TOWLINE_KEY", reader.bearer());
    let mut follower = Process::start("towline service logs", &mut command, &home.path().join("log"));
    follower.wait_for_output("listening on").await;
    let path = format!("/containers/{}/logs?follow=true", running.service_id);
    let follow = async |api: &Api| {
        let mut events = EventStream::new(api.request(Method::GET, &path).send().await.unwrap());
        events.next().await.unwrap().unwrap();
        events
    };
    let (mut by_key, mut by_owner) = (follow(&reader).await, follow(&running.owner).await);

    let revoked = running.owner.delete(&format!("/credentials/{key_id}")).await;
    assert_eq!(revoked.status, 204, "{}", revoked.text());
    let cut = tokio::time::timeout(SOON, by_key.next()).await.expect("it is cut");
    assert!(cut.is_err(), "a cut answer looks complete: {cut:?}");
    follower.wait_for_end(1, SOON).await;
    let said = follower.output();
    assert!(said.contains("the key is unknown or was revoked"), "{said}");
    // Nobody else's is cut: it comes to its own end, with the service.
    running.owner.undeploy(&running.service_id).await;
    let end = async { while by_owner.next().await.expect("it is not cut").is_some() {} };
    tokio::time::timeout(SOON, end).await.expect("it ends");
}

#[tokio::test]
async fn only_an_agent_with_the_labels_gets_the_service() {
    let engine = Engine::of_this_machine().await;
    let server = Server::start().await;
    let _plain = server.start_agent("plain").await;
    let owner = server.owner().await;
    let mut spec = demo_service("hello", 1);
    spec["required_labels"] = json!(["gpu", "zone=a"]);
    let id = owner.create_service(&spec).await;
    let _cleanup = Cleanup::of(&engine, &id);
    owner.deploy(&id).await;
    wait_until("the service says what it waits for", SOON, async || {
        let service = owner.service(&id).await;
        assert_eq!(service["service_status"], "deploying", "{service:#}");
        let reason = service["status_reason"].as_str().unwrap_or_default();
        if reason.contains("gpu") { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    let labels = ["gpu", "zone=a", "ssd"].map(str::to_owned).to_vec();
    let options = AgentOptions { name: "labelled".to_owned(), labels, ..AgentOptions::default() };
    let _labelled = server.start_agent_with(options).await;
    owner.wait_for_ready(&id, 1).await;
    let agents = server.api().get("/r/agents").await.expect(200);
    assert_eq!(agents["agent_list"].as_array().unwrap().len(), 2, "{agents}");
}
