//! Processes end, connections end, engines come late: containers stay, and there are never two of one.

use std::os::unix::fs::symlink;

use towline_e2e::{
    engine::Engine,
    system::{AgentOptions, Server, demo_service},
    wait::{SOON, wait_until},
};

use super::{Cleanup, Running};

const ECHO: &str = "/r/containers/hello/echo";

#[tokio::test]
async fn an_agent_that_is_killed_adopts_its_containers() {
    let mut running = Running::start(2).await;
    let before = running.engine.started_at(&running.service_id).await;
    running.agent.kill();
    running.api.wait_for_answer(ECHO, 503).await.gateway_problem(503, "agent_unreachable");
    assert_eq!(running.owner.service(&running.service_id).await["service_status"], "running");
    assert_eq!(running.engine.started_at(&running.service_id).await, before, "a lost connection stopped a container");
    running.agent.start_again();
    running.api.wait_for_answer(ECHO, 200).await;
    running.owner.wait_for_ready(&running.service_id, 2).await;
    assert_eq!(running.engine.started_at(&running.service_id).await, before, "the containers are others");
}

#[tokio::test]
async fn a_server_that_is_killed_finds_everything_as_it_was() {
    let mut running = Running::start(2).await;
    let before = running.engine.started_at(&running.service_id).await;
    running.server.kill();
    running.server.start_again().await;
    running.api.wait_for_answer(ECHO, 200).await;
    running.owner.wait_for_ready(&running.service_id, 2).await;
    assert_eq!(running.engine.started_at(&running.service_id).await, before, "the containers are others");
}

#[tokio::test]
async fn both_can_be_gone_while_a_service_is_being_stopped() {
    let mut running = Running::start(1).await;
    running.agent.kill();
    running.owner.undeploy(&running.service_id).await;
    running.server.kill();
    assert_eq!(running.engine.container_ids(&running.service_id).await.len(), 1);
    running.server.start_again().await;
    running.agent.start_again();
    running.owner.wait_for_status(&running.service_id, "stopped").await;
    wait_until("the container is gone", SOON, async || {
        let left = running.engine.container_ids(&running.service_id).await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_ends_by_wish_leaves_its_containers_running() {
    let mut running = Running::start(1).await;
    let before = running.engine.started_at(&running.service_id).await;
    let status = running.agent.process.terminate(SOON).await;
    assert!(status.success(), "{status}: {}", running.agent.process.output());
    assert_eq!(running.engine.started_at(&running.service_id).await, before);
    running.agent.start_again();
    running.api.wait_for_answer(ECHO, 200).await;
    assert_eq!(running.engine.started_at(&running.service_id).await, before);
}

#[tokio::test]
async fn a_server_that_ends_by_wish_finishes_what_runs() {
    let mut running = Running::start(1).await;
    let api = running.api.clone();
    let request = api.request(http::Method::GET, "/r/containers/hello/sse?n=10&interval_ms=100");
    let mut events = towline_e2e::sse::EventStream::new(request.send().await.unwrap());
    events.next().await.unwrap().unwrap();
    running.server.process.signal("TERM");
    let mut count = 1;
    while events.next().await.expect("the stream is not cut").is_some() {
        count += 1;
    }
    assert_eq!(count, 10);
    running.server.process.wait_for_end(0, SOON).await;
}

#[tokio::test]
async fn an_engine_that_appears_later_is_picked_up() {
    let engine = Engine::of_this_machine().await;
    let socket = engine.host().strip_prefix("unix://").expect("the machine's engine has a socket").to_owned();
    let directory = towline_e2e::dir::test_dir();
    let appears = directory.path().join("docker.sock");
    let server = Server::start().await;
    let options = AgentOptions {
        name: "early".to_owned(),
        docker_host: Some(format!("unix://{}", appears.display())),
        ..AgentOptions::default()
    };
    let _agent = server.start_agent_with(options).await;
    let owner = server.owner().await;
    let agents = server.api().get("/r/agents").await.expect(200);
    assert_ne!(agents["agent_list"][0]["engine_status"], "ready", "{agents}");
    let id = owner.create_service(&demo_service("hello", 1)).await;
    let _cleanup = Cleanup::of(&engine, &id);
    owner.deploy(&id).await;
    wait_until("the service says that there is no engine", SOON, async || {
        let service = owner.service(&id).await;
        let reason = service["status_reason"].as_str().unwrap_or_default().to_lowercase();
        if reason.contains("engine") { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    symlink(&socket, &appears).unwrap();
    server.wait_for_engine("early").await;
    owner.wait_for_ready(&id, 1).await;
    server.api().get(ECHO).await.expect(200);
}
