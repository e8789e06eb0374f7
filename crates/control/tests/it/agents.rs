//! Agents that speak the real protocol: who they are, what they are told, what they say.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use tower::ServiceExt;
use towline_control::Server;
use towline_gateway::testing::{AgentKind, SimAgent, within};
use towline_model::{Clock, InstanceId, InstancePhase, Role, SessionId, SystemClock, Timestamp};
use towline_tunnel::message::{Desired, EngineStatus, InstanceReport, InstanceSpec, Reason, ReasonKind, Report};

use crate::support::{Caller, TestServer, minimal, start, with};

/// What a machine says of an instance that it should run.
type Policy = Arc<dyn Fn(&InstanceSpec) -> (InstancePhase, Option<Reason>) + Send + Sync>;

/// A simulated agent that answers every wish with a report.
pub struct Machine {
    pub agent: Arc<SimAgent>,
    policy: watch::Sender<Policy>,
    reporter: Mutex<JoinSet<()>>,
}

impl Machine {
    /// Joins; every instance is ready at once.
    pub async fn join(server: &TestServer, name: &str) -> Self {
        Self::join_at(server.server.addr(), &server.ours.keys["ak"], name).await
    }

    pub async fn join_at(addr: SocketAddr, key: &str, name: &str) -> Self {
        let agent = Arc::new(SimAgent::connect(addr, key, SimAgent::hello(name)).await.unwrap());
        let policy: Policy = Arc::new(|_| (InstancePhase::Ready, None));
        let (policy, policies) = watch::channel(policy);
        let mut reporter = JoinSet::new();
        reporter.spawn(report(Arc::clone(&agent), policies));
        Self { agent, policy, reporter: Mutex::new(reporter) }
    }

    /// From now on instances are like that.
    pub fn set(&self, policy: impl Fn(&InstanceSpec) -> (InstancePhase, Option<Reason>) + Send + Sync + 'static) {
        self.policy.send_replace(Arc::new(policy));
    }

    /// From now on it says nothing by itself.
    pub fn report_by_hand(&self) {
        self.reporter.lock().unwrap().abort_all();
    }

    /// Says that exactly these instances run.
    pub async fn say(&self, revision: u64, instances: &[(InstanceId, i64, InstancePhase)]) {
        let instances = instances.iter().map(|&(id, generation, phase)| instance_report(id, generation, phase, None));
        self.agent
            .report(Report { revision, endpoints_revision: 0, engine: ready(), instances: instances.collect() })
            .await;
    }

    /// The revision of a wish, once it fits.
    pub async fn revision_of(&self, fits: impl Fn(&[InstanceSpec]) -> bool) -> u64 {
        self.wished(fits).await;
        self.agent.desired().borrow().as_ref().map_or(0, |desired| desired.revision)
    }

    /// What it should run, once that fits.
    pub async fn wished(&self, fits: impl Fn(&[InstanceSpec]) -> bool) -> Vec<InstanceSpec> {
        let mut desired = self.agent.desired();
        let fits = |desired: &Option<Desired>| desired.as_ref().is_some_and(|desired| fits(&containers(desired)));
        let desired = within("a wish that fits", desired.wait_for(fits)).await.unwrap().clone();
        containers(&desired.unwrap())
    }
}

/// Every container that goes on, whether or not one may be made.
fn containers(desired: &Desired) -> Vec<InstanceSpec> {
    desired.instances.iter().chain(&desired.withheld).cloned().collect()
}

async fn report(agent: Arc<SimAgent>, mut policies: watch::Receiver<Policy>) {
    let mut desired = agent.desired();
    loop {
        let wish = desired.borrow_and_update().clone();
        if let Some(wish) = wish {
            let policy = policies.borrow_and_update().clone();
            let specs = containers(&wish);
            let instances = specs.iter().map(|spec| {
                let (phase, reason) = policy(spec);
                instance_report(spec.instance_id, spec.generation, phase, reason)
            });
            agent
                .report(Report {
                    revision: wish.revision,
                    endpoints_revision: 0,
                    engine: ready(),
                    instances: instances.collect(),
                })
                .await;
        }
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            changed = policies.changed() => if changed.is_err() { return },
        }
    }
}

fn ready() -> EngineStatus {
    EngineStatus::Ready { version: "Simulated 1.0".to_owned() }
}

fn instance_report(
    instance_id: InstanceId,
    generation: i64,
    phase: InstancePhase,
    reason: Option<Reason>,
) -> InstanceReport {
    InstanceReport { instance_id, generation, phase, reason, restart_count: 0, container_id: Some("c".to_owned()) }
}

pub fn because(kind: ReasonKind, message: &str) -> Option<Reason> {
    Some(Reason { kind, message: message.to_owned() })
}

async fn agents(server: &TestServer) -> Vec<Value> {
    let list = server.get(&server.key("sk"), "/api/v1/r/agents").await.json(200);
    list["agent_list"].as_array().unwrap().clone()
}

/// Whether the gateway would send a caller to an instance.
fn is_routed(server: &Server, team: towline_model::TeamId, slug: &str) -> bool {
    let snapshot = server.app().gateway().snapshot();
    snapshot.routes.get(team, slug).is_some_and(|route| route.instances.iter().any(|instance| instance.ready))
}

#[tokio::test]
async fn a_service_goes_through_its_whole_life() {
    let server = TestServer::start().await;
    let (one, two) = (Machine::join(&server, "one").await, Machine::join(&server, "two").await);
    let mut spec = with("hello", "env_config", json!([{"env_name": "TOKEN", "env_value": "hunter2"}]));
    spec["replica_count"] = json!(2);
    let path = server.create(&spec).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    let service = server.wait_for(&path, "both are ready", |service| service["instances_ready"] == 2).await;
    assert_eq!((&service["service_status"], &service["instances_total"]), (&json!("running"), &json!(2)));
    server.wait_for(&path, "there is nothing more to say", |service| service["status_reason"].is_null()).await;
    assert!(is_routed(&server.server, server.ours.id, "hello"));
    for machine in [&one, &two] {
        let wished = machine.wished(|instances| instances.len() == 1).await;
        assert_eq!((wished[0].image.as_str(), wished[0].generation), ("demo:1", 1));
        assert_eq!(wished[0].env[0].env_value, "hunter2", "the container gets what was written");
    }
    let instances = server.get(&server.user(Role::Viewer), &format!("{path}/instances")).await.json(200);
    let rows = instances["instance_list"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["phase"] == "ready" && row["is_agent_online"] == true), "{instances:#}");

    server.act(&server.owner(), &format!("{path}/undeploy")).await.json(200);
    assert!(!is_routed(&server.server, server.ours.id, "hello"), "before the answer, not after it");
    server.wait_for_status(&path, "stopped").await;
    for machine in [&one, &two] {
        machine.wished(<[InstanceSpec]>::is_empty).await;
    }
    let events = server.get(&server.owner(), &format!("{path}/events?per_page=100")).await.json(200);
    let kinds: Vec<_> =
        events["event_list"].as_array().unwrap().iter().rev().map(|event| event["kind"].as_str().unwrap()).collect();
    for kind in [
        "created",
        "deploy_requested",
        "placed",
        "ready",
        "running",
        "undeploy_requested",
        "stopping",
        "gone",
        "stopped",
    ] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("created", "stopped"));
}

#[tokio::test]
async fn a_failure_of_the_machine_is_told_in_its_words() {
    let server = TestServer::start_with(|config| config.limits.failure_grace = Duration::from_millis(10)).await;
    let machine = Machine::join(&server, "box").await;
    machine.set(|_| (InstancePhase::BackingOff, because(ReasonKind::ImageUnavailable, "manifest unknown")));
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    let service = server.wait_for_status(&path, "failed").await;
    let reason = service["status_reason"].as_str().unwrap();
    assert!(reason.contains("manifest unknown") && reason.contains("box"), "{reason}");
    machine.wished(<[InstanceSpec]>::is_empty).await;
    server
        .wait_for(&format!("{path}/instances"), "nothing is left", |list| list["page_meta"]["total_count"] == 0)
        .await;
}

#[tokio::test]
async fn readiness_is_routed_as_it_is_reported() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for_status(&path, "running").await;
    machine.set(|_| (InstancePhase::Unhealthy, because(ReasonKind::ProbeFailed, "GET /health answered 500")));
    let service = server.wait_for(&path, "nothing is ready", |service| service["status_reason"].is_string()).await;
    assert_eq!((&service["service_status"], &service["instances_ready"]), (&json!("running"), &json!(0)));
    assert!(service["status_reason"].as_str().unwrap().contains("answered 500"), "{service:#}");
    assert!(!is_routed(&server.server, server.ours.id, "hello"));
    // It lost the container altogether, and does not even speak of it.
    machine.set(|_| (InstancePhase::Ready, None));
    server.wait_for(&path, "it is ready again", |service| service["instances_ready"] == 1).await;
    let revision = machine.agent.desired().borrow().as_ref().unwrap().revision;
    machine.agent.report(Report { revision, endpoints_revision: 0, engine: ready(), instances: Vec::new() }).await;
    server.wait_for(&path, "it is not there", |service| service["instances_ready"] == 0).await;
    let list = server.get(&server.owner(), &format!("{path}/instances")).await.json(200);
    assert_eq!(list["instance_list"][0]["phase"], "pending", "{list:#}");
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_instances_only() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    machine.set(|_| (InstancePhase::Starting, None));
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    let wished = machine.wished(|instances| instances.len() == 1).await;
    let liar = Machine::join(&server, "liar").await;
    let claim = instance_report(wished[0].instance_id, 1, InstancePhase::Ready, None);
    let wrong_generation = instance_report(wished[0].instance_id, 7, InstancePhase::Ready, None);
    let revision =
        within("a wish", liar.agent.desired().wait_for(Option::is_some)).await.unwrap().as_ref().unwrap().revision;
    let claims = Report {
        revision,
        endpoints_revision: 0,
        engine: EngineStatus::Unavailable { reason: "broken".to_owned() },
        instances: vec![claim],
    };
    liar.agent.report(claims).await;
    machine
        .agent
        .report(Report { revision: 0, endpoints_revision: 0, engine: ready(), instances: vec![wrong_generation] })
        .await;
    server
        .wait_for("/api/v1/agents", "the report has arrived", |list| {
            list["agent_list"][1]["engine_message"] == "broken"
        })
        .await;
    let service = server.get(&server.owner(), &path).await.json(200);
    assert_eq!(service["service_status"], "deploying");
    let list = server.get(&server.owner(), &format!("{path}/instances")).await.json(200);
    assert_eq!(list["instance_list"][0]["phase"], "starting");
}

#[tokio::test]
async fn a_name_belongs_to_one_machine_at_a_time() {
    let server = TestServer::start().await;
    let (addr, key) = (server.server.addr(), &server.ours.keys["ak"]);
    let first = SimAgent::connect(addr, key, SimAgent::hello("box")).await.unwrap();
    let mut hello = SimAgent::hello("box");
    hello.machine_id = "another".to_owned();
    let refusal = SimAgent::connect(addr, key, hello.clone()).await.unwrap_err();
    assert!(refusal.reason.contains("--name") && refusal.retry, "{refusal:?}");
    // The same machine again: the newer session is the agent's.
    let second = SimAgent::connect(addr, key, SimAgent::hello("box")).await.unwrap();
    assert_eq!(first.agent_id(), second.agent_id());
    first.session_ended().await;
    assert_eq!(agents(&server).await[0]["agent_status"], "online");
    // In another team the name is free.
    let theirs = SimAgent::connect(addr, &server.theirs.keys["ak"], hello.clone()).await.unwrap();
    assert_ne!(theirs.agent_id(), second.agent_id());
    drop(second);
    server.wait_for("/api/v1/agents", "it is offline", |list| list["agent_list"][0]["agent_status"] == "offline").await;
    let third = SimAgent::connect(addr, key, hello).await.unwrap();
    assert_eq!(third.agent_id(), first.agent_id(), "an agent is its name");
}

#[tokio::test]
async fn what_an_agent_says_of_itself_is_checked_and_shown() {
    let server = TestServer::start().await;
    let (addr, key) = (server.server.addr(), &server.ours.keys["ak"]);
    let refused = async |change: fn(&mut towline_tunnel::message::Hello)| {
        let mut hello = SimAgent::hello("box");
        change(&mut hello);
        let refusal = SimAgent::connect(addr, key, hello).await.unwrap_err();
        assert!(!refusal.retry, "{refusal:?}");
        refusal.reason
    };
    assert!(refused(|hello| hello.name = String::new()).await.contains("--name"));
    assert!(refused(|hello| hello.name = "a\nb".to_owned()).await.contains("--name"));
    assert!(refused(|hello| hello.name = "x".repeat(101)).await.contains("--name"));
    assert!(refused(|hello| hello.labels = vec!["a b".to_owned()]).await.contains("a b"));
    assert!(refused(|hello| hello.labels = vec!["a".to_owned(); 65]).await.contains("64"));
    assert!(agents(&server).await.is_empty());
    let mut hello = SimAgent::hello("box");
    (hello.labels, hello.gpu_count) = (vec!["gpu".to_owned()], 2);
    hello.engine = EngineStatus::Unavailable { reason: "install Docker".to_owned() };
    let agent = SimAgent::connect(addr, key, hello).await.unwrap();
    let shown = agents(&server).await;
    let shown = &shown[0];
    assert_eq!(shown["id"], agent.agent_id().to_string());
    assert_eq!((&shown["display_name"], &shown["labels"]), (&json!("box"), &json!(["gpu"])));
    assert_eq!((&shown["engine_status"], &shown["engine_message"]), (&json!("unavailable"), &json!("install Docker")));
    // The engine appears, and what waited is placed.
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server
        .wait_for(&path, "it says why it waits", |service| {
            service["status_reason"].as_str().is_some_and(|reason| reason.contains("install Docker"))
        })
        .await;
    agent.report(Report { revision: 0, endpoints_revision: 0, engine: ready(), instances: Vec::new() }).await;
    let mut desired = agent.desired();
    within("a wish", desired.wait_for(|wish| wish.as_ref().is_some_and(|wish| wish.instances.len() == 1)))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_revoked_key_closes_its_agents_session() {
    let server = TestServer::start().await;
    let owner = server.owner();
    let body = json!({"kind": "agent", "display_name": "x"});
    let made = server.post(&owner, "/api/v1/credentials", &body).await.json(201);
    let machine = Machine::join_at(server.server.addr(), made["raw_key"].as_str().unwrap(), "box").await;
    assert_eq!(agents(&server).await[0]["agent_status"], "online");
    let path = format!("/api/v1/credentials/{}", made["id"].as_str().unwrap());
    assert_eq!(server.delete(&owner, &path).await.status, 204);
    machine.agent.session_ended().await;
    server.wait_for("/api/v1/agents", "it is offline", |list| list["agent_list"][0]["agent_status"] == "offline").await;
}

#[tokio::test]
async fn a_lost_goodbye_is_made_up_for() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    let agent_id = machine.agent.agent_id();
    drop(machine);
    server.wait_for("/api/v1/agents", "it is offline", |list| list["agent_list"][0]["agent_status"] == "offline").await;
    let mut tx = server.server.store().write().await.unwrap();
    let long_ago = Timestamp::from_micros(SystemClock.now().as_micros() - 30_000_000);
    assert!(tx.set_session(agent_id, SessionId::generate(), long_ago).await.unwrap());
    tx.commit().await.unwrap();
    server.wait_for("/api/v1/agents", "it is offline", |list| list["agent_list"][0]["agent_status"] == "offline").await;
}

#[tokio::test]
async fn a_server_that_starts_again_keeps_every_instance() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    let path = server.create(&with("hello", "replica_count", json!(2))).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for(&path, "both are ready", |service| service["instances_ready"] == 2).await;
    let ids = |specs: &[InstanceSpec]| {
        let mut ids: Vec<_> = specs.iter().map(|spec| spec.instance_id).collect();
        ids.sort_unstable();
        ids
    };
    let before = ids(&machine.wished(|instances| instances.len() == 2).await);
    let revision = machine.agent.desired().borrow().as_ref().unwrap().revision;
    let key = server.ours.keys["ak"].clone();
    let (config, team) = (server.config.clone(), server.ours.id);
    server.server.shutdown().await;
    drop(machine);
    let again = start(&config).await;
    assert!(is_routed(&again, team, "hello"), "routes are there before the first request");
    let machine = Machine::join_at(again.addr(), &key, "box").await;
    let after = machine.wished(|instances| instances.len() == 2).await;
    assert_eq!(ids(&after), before);
    assert!(machine.agent.desired().borrow().as_ref().unwrap().revision > revision, "revisions grow over restarts");
    again.shutdown().await;
}

#[tokio::test]
async fn logs_come_from_every_instance_or_from_one() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    let path = server.create(&with("hello", "replica_count", json!(2))).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for(&path, "both are ready", |service| service["instances_ready"] == 2).await;
    let wished = machine.wished(|instances| instances.len() == 2).await;
    let (one, two) = (wished[0].instance_id, wished[1].instance_id);
    machine.agent.set(one, AgentKind::Logs("listening\nhello\n"));
    machine.agent.set(two, AgentKind::Logs("listening too\n"));
    let viewer = server.user(Role::Viewer);
    let logs = server.get(&viewer, &format!("{path}/logs")).await;
    assert_eq!((logs.status, logs.headers["content-type"].to_str().unwrap()), (200, "text/plain; charset=utf-8"));
    let mut lines: Vec<_> = logs.text().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    let mut expected = ["listening", "hello"].map(|line| format!("{} | {line}", &one.to_string()[28..])).to_vec();
    expected.push(format!("{} | listening too", &two.to_string()[28..]));
    expected.sort_unstable();
    assert_eq!(lines, expected);
    let single = server.get(&viewer, &format!("{path}/logs?instance={one}")).await;
    assert_eq!(single.text(), "listening\nhello\n");
    let followed = server.get(&viewer, &format!("{path}/logs?follow=true&instance={one}")).await;
    assert_eq!(followed.headers["content-type"], "text/event-stream");
    assert_eq!(followed.text(), "data: listening\n\ndata: hello\n\n");
    drop(machine);
    server.wait_for("/api/v1/agents", "it is offline", |list| list["agent_list"][0]["agent_status"] == "offline").await;
    server.get(&viewer, &format!("{path}/logs")).await.problem(503, "agent_unreachable");
    let stranger = Caller::bearer(&server.theirs.keys["sk"]);
    server.get(&stranger, &format!("{path}/logs")).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_server_that_ends_ends_logs_that_are_followed() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for_status(&path, "running").await;
    let wished = machine.wished(|instances| instances.len() == 1).await;
    machine.agent.set(wished[0].instance_id, AgentKind::Silent);
    let request = server.owner().request(http::Method::GET, &format!("{path}/logs?follow"), None);
    let response = server.router.clone().oneshot(request).await.unwrap();
    let ((), body) =
        within("both ends", async { tokio::join!(server.server.shutdown(), response.into_body().collect()) }).await;
    assert!(body.is_ok(), "it ends in order");
}
