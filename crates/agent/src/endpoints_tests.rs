//! Places against real sockets of this machine.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use towline_model::{
    ServiceId,
    service::{AppProtocol, ProbeSpec, place::HostPort},
};
use towline_tunnel::message::{Desired, EngineStatus, Report};

use super::*;
use crate::{
    observed::AgentReport,
    reach::policy::ReachPolicy,
    runtime::Owner,
    tests::{closed_port, instance, listen_on},
};

struct Fixture {
    wishes: watch::Sender<Option<Wish>>,
    observed: Arc<Observed>,
    agent: AgentId,
    revision: u64,
    _loop: AbortOnDropHandle<()>,
}

impl Fixture {
    fn start() -> Self {
        let wishes = watch::Sender::new(None);
        let observed = Arc::new(Observed::default());
        let reach = Reach::new(ReachPolicy::default());
        let running = run(reach, wishes.subscribe(), Arc::clone(&observed), CancellationToken::new());
        Self { wishes, observed, agent: AgentId::generate(), revision: 0, _loop: spawn_owned(running) }
    }

    fn wish(&mut self, endpoints: &[EndpointSpec]) {
        self.revision += 1;
        let desired = Desired {
            revision: self.revision,
            instances: Vec::new(),
            withheld: Vec::new(),
            endpoints: endpoints.to_vec(),
        };
        let owner = Owner { agent_id: self.agent, server: "http://server".to_owned() };
        self.wishes.send_replace(Some(Wish { owner, desired: Arc::new(desired) }));
    }

    async fn wait_for(&self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let mut reports = self.observed.reports();
        let found = timeout(
            Duration::from_secs(20),
            reports.wait_for(|report| report.as_ref().is_some_and(|AgentReport { report, .. }| holds(report))),
        );
        let found = match found.await {
            Ok(Ok(report)) => report.clone(),
            _ => None,
        };
        let newest = self.observed.reports().borrow().clone();
        found.unwrap_or_else(|| panic!("waited until {what}: {newest:#?}")).report.as_ref().clone()
    }

    async fn wait_for_phase(&self, phase: InstancePhase) -> InstanceReport {
        let report = self
            .wait_for(&format!("it is {phase:?}"), |report| {
                report.endpoints_revision == self.revision && report.instances.iter().all(|one| one.phase == phase)
            })
            .await;
        report.instances.into_iter().next().unwrap()
    }
}

fn no_engine() -> EngineStatus {
    EngineStatus::Unavailable { reason: "there is none".to_owned() }
}

fn spec(number: u128, at: SocketAddr) -> EndpointSpec {
    EndpointSpec {
        instance_id: instance(number),
        service_id: ServiceId::from_uuid(uuid::Uuid::from_u128(2)),
        service_slug: "ollama".to_owned(),
        generation: 1,
        place: Place::Attached(HostPort::parse(&at.to_string()).unwrap()),
        app_protocol: AppProtocol::default(),
        health_path: None,
        probe: ProbeSpec { interval_seconds: 1, ..ProbeSpec::default() },
    }
}

#[tokio::test]
async fn a_process_that_goes_is_missed_at_once_and_found_again() {
    let (_held, at) = closed_port();
    let listener = listen_on(at);
    let mut fixture = Fixture::start();
    fixture.wish(&[spec(1, at)]);
    fixture.wait_for_phase(InstancePhase::Ready).await;
    let endpoint = fixture.observed.endpoint(instance(1)).unwrap();
    drop(listener);
    endpoint.suspicion.notify_one();
    let report = fixture.wait_for_phase(InstancePhase::Unhealthy).await;
    let reason = report.reason.unwrap();
    assert_eq!((reason.kind, reason.message), (ReasonKind::ProbeFailed, format!("nothing listens on {at}")));
    let _listener = listen_on(at);
    fixture.wait_for_phase(InstancePhase::Ready).await;
    // The last one goes: what is said is put together with what is said of containers.
    let report = Report { revision: 0, endpoints_revision: 0, engine: no_engine(), instances: Vec::new() };
    fixture.observed.set_report(Some(AgentReport { agent_id: fixture.agent, report: Arc::new(report) }));
    fixture.wish(&[]);
    let report = fixture.wait_for("it is gone", |report| report.instances.is_empty()).await;
    assert_eq!((report.endpoints_revision, report.revision), (2, 0));
    assert!(fixture.observed.endpoint(instance(1)).is_none());
}

#[tokio::test]
async fn it_needs_no_engine_and_says_that_there_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fixture = Fixture::start();
    fixture.observed.set_engine(no_engine());
    fixture.wish(&[spec(1, listener.local_addr().unwrap())]);
    fixture.wait_for_phase(InstancePhase::Ready).await;
    let report = fixture.wait_for("it is told", |report| !report.instances.is_empty()).await;
    assert_eq!(report.engine, no_engine());
}

#[tokio::test]
async fn what_is_not_allowed_is_said_as_such() {
    let mut fixture = Fixture::start();
    let denied = EndpointSpec {
        place: Place::External(HostPort { host: "127.0.0.1".to_owned(), port: 443 }),
        ..spec(1, ([127, 0, 0, 1], 443).into())
    };
    fixture.wish(&[denied]);
    let reason = fixture.wait_for_phase(InstancePhase::Starting).await.reason.unwrap();
    assert_eq!(reason.kind, ReasonKind::Denied);
    assert!(reason.message.contains("--external-allow"), "{reason:?}");
}

#[tokio::test]
async fn a_health_path_is_asked_with_the_places_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut fixture = Fixture::start();
    let probed = EndpointSpec { health_path: Some("/api/tags".to_owned()), ..spec(1, at) };
    fixture.wish(&[probed]);
    let mut heads = Vec::new();
    for answer in ["HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
    {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 1024];
        let length = socket.read(&mut head).await.unwrap();
        heads.push(String::from_utf8_lossy(&head[..length]).into_owned());
        socket.write_all(answer.as_bytes()).await.unwrap();
        let phase = if answer.contains("503") { InstancePhase::Starting } else { InstancePhase::Ready };
        let report = fixture.wait_for_phase(phase).await;
        let told = report.reason.map(|reason| reason.message).unwrap_or_default();
        assert_eq!(told.contains("GET /api/tags answered 503"), answer.contains("503"), "{told}");
    }
    assert!(heads[0].starts_with(&format!("GET /api/tags HTTP/1.1\r\nhost: {at}\r\n")), "{heads:?}");
}
