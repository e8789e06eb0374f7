//! The agent against real engines, with the demo service's image: this machine's Docker, and a Podman. Each test is an agent
//! of its own, so they do not see each other's containers; what a failed one leaves behind is removed by its agent's label.

mod registry;

use std::{collections::HashMap, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bollard::{
    Docker,
    models::{ContainerInspectResponse, RestartPolicyNameEnum},
    query_parameters::{KillContainerOptions, ListContainersOptions, RemoveContainerOptions},
};
use futures_util::{FutureExt, StreamExt};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use towline_model::{
    AgentId, InstanceId, InstancePhase,
    service::{EnvVar, ProbeSpec, VolumeMount},
};
use towline_tunnel::message::{Desired, EngineStatus, InstanceReport, InstanceSpec, ReasonKind, Report};

use self::registry::Registry;
use crate::{
    converge::{self, Wish},
    observed::{AgentReport, Observed},
    runtime::{
        LogQuery, Owner, Runtime,
        docker::{DockerConfig, DockerRuntime, LABEL_AGENT, states},
    },
    task::spawn_owned,
    tests::{closed_port, spec},
};

const IMAGE: &str = "towline-demo:latest";
/// An engine on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent's loop on the real engine.
struct Machine {
    engine: Engine,
    client: Docker,
    owner: Owner,
    wishes: watch::Sender<Option<Wish>>,
    observed: Arc<Observed>,
    running: Option<AbortOnDropHandle<()>>,
}

/// Runs a test, and removes its containers whatever comes of it.
async fn on_machine(engine: Engine, test: impl AsyncFnOnce(&mut Machine)) {
    let mut machine = Machine::new(engine).await;
    let outcome = AssertUnwindSafe(test(&mut machine)).catch_unwind().await;
    machine.running = None;
    machine.remove_all().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// An engine that `cargo xtask test` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Docker,
    Podman,
}

impl Engine {
    /// Its address; `None` for the usual places.
    fn host(self) -> Option<String> {
        let variable = match self {
            Self::Docker => "DOCKER_HOST",
            Self::Podman => "TOWLINE_TEST_PODMAN_HOST",
        };
        let host = std::env::var_os(variable).and_then(|host| host.into_string().ok());
        assert!(
            self == Self::Docker || host.is_some(),
            "{variable} is not set: run `cargo xtask test`, which starts a Podman and sets it"
        );
        host
    }

    fn runtime(self) -> DockerRuntime {
        DockerRuntime::new(DockerConfig { host: self.host(), ..DockerConfig::default() })
    }
}

/// Makes two tests of every named function: one for Docker, one for Podman. The function takes an `Engine`.
macro_rules! for_each_engine {
    ($($test:ident),* $(,)?) => {
        mod docker {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Engine::Docker).await;
            })*
        }

        mod podman {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Engine::Podman).await;
            })*
        }
    };
}

for_each_engine!(
    a_container_is_made_probed_reached_on_loopback_only_and_removed,
    an_agent_that_comes_back_adopts_what_runs,
    containers_of_other_agents_are_left_alone,
    a_crash_loop_is_counted_and_explained,
    a_container_that_is_killed_from_outside_is_started_again_at_once,
    an_image_that_cannot_be_had_says_why,
    a_definition_that_cannot_run_says_why,
    a_volume_that_leads_elsewhere_by_now_is_not_started_with_again,
    a_container_that_is_never_well_says_what_the_probe_saw,
    a_program_that_ignores_its_end_is_killed_after_the_grace,
    logs_are_read_and_followed_to_the_end,
    the_engine_is_named_or_its_absence_explained,
);

impl Machine {
    async fn new(engine: Engine) -> Self {
        let client = engine.host().map_or_else(Docker::connect_with_defaults, |host| Docker::connect_with_host(&host));
        let client = client.expect("there is no engine: run `cargo xtask test`, which starts one");
        let image = client.inspect_image(IMAGE).await;
        image.unwrap_or_else(|error| {
            panic!("no {engine:?} with {IMAGE} ({error}): run `cargo xtask test`, which provides both")
        });
        let owner = Owner { agent_id: AgentId::generate(), server: "http://test".to_owned() };
        let mut machine =
            Self { engine, client, owner, wishes: watch::Sender::new(None), observed: Arc::default(), running: None };
        machine.restart();
        machine
    }

    /// Ends the loop, and starts another that knows nothing of it.
    fn restart(&mut self) {
        self.running = None;
        self.wishes = watch::Sender::new(None);
        self.observed = Arc::default();
        let (wishes, observed) = (self.wishes.subscribe(), Arc::clone(&self.observed));
        let running = converge::run(Arc::new(self.engine.runtime()), wishes, observed, CancellationToken::new());
        self.running = Some(spawn_owned(running));
    }

    fn wish(&self, instances: &[InstanceSpec]) {
        let desired = Arc::new(Desired {
            revision: 1,
            instances: instances.to_vec(),
            withheld: Vec::new(),
            endpoints: Vec::new(),
        });
        self.wishes.send_replace(Some(Wish { owner: self.owner.clone(), desired }));
    }

    async fn wait_for(&self, what: &str, mut holds: impl FnMut(&[InstanceReport]) -> bool) -> Report {
        let mut reports = self.observed.reports();
        let waited = reports.wait_for(|report| report.as_ref().is_some_and(|r| holds(&r.report.instances)));
        let found = timeout(PATIENCE, waited).await.map(|report| report.unwrap().clone());
        let newest = self.observed.reports().borrow().clone();
        let AgentReport { report, .. } =
            found.ok().flatten().unwrap_or_else(|| panic!("waited until {what}: {newest:#?}"));
        report.as_ref().clone()
    }

    async fn wait_for_phase(&self, phase: InstancePhase) -> InstanceReport {
        let is_phase = |instances: &[InstanceReport]| instances.len() == 1 && instances[0].phase == phase;
        self.wait_for(&format!("it is {phase:?}"), is_phase).await.instances.remove(0)
    }

    async fn wait_for_reason(&self, kind: ReasonKind) -> InstanceReport {
        let has_reason = |instances: &[InstanceReport]| {
            instances.len() == 1 && instances[0].reason.as_ref().is_some_and(|reason| reason.kind == kind)
        };
        self.wait_for(&format!("it says {kind:?}"), has_reason).await.instances.remove(0)
    }

    fn endpoint(&self, instance: InstanceId) -> SocketAddr {
        self.observed.instance(instance).unwrap().endpoint.unwrap()
    }

    async fn inspect(&self, container: &str) -> ContainerInspectResponse {
        states::inspect(&self.client, container).await.unwrap()
    }

    async fn container_ids(&self) -> Vec<String> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL_AGENT}={}", self.owner.agent_id)])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let list = states::list(&self.client, options).await.unwrap();
        list.into_iter().filter_map(|container| container.id).collect()
    }

    async fn remove_all(&self) {
        for id in self.container_ids().await {
            let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
            let _ = self.client.remove_container(&id, Some(options)).await;
        }
    }
}

/// The demo service as an instance that nobody else has.
fn demo() -> InstanceSpec {
    let instance_id = InstanceId::generate();
    let probe = ProbeSpec { interval_seconds: 1, ..ProbeSpec::default() };
    InstanceSpec { instance_id, probe, env: Vec::new(), volumes: Vec::new(), stop_grace_seconds: 5, ..spec(1) }
}

fn with_env(name: &str, value: &str, mut spec: InstanceSpec) -> InstanceSpec {
    spec.env.push(EnvVar { env_name: name.to_owned(), env_value: value.to_owned() });
    spec
}

async fn a_container_is_made_probed_reached_on_loopback_only_and_removed(engine: Engine) {
    on_machine(engine, async |machine| {
        let demo = InstanceSpec { memory_limit_bytes: Some(64 << 20), cpu_limit: Some(0.5), ..demo() };
        machine.wish(std::slice::from_ref(&demo));
        let ready = machine.wait_for_phase(InstancePhase::Ready).await;
        let container = machine.inspect(&ready.container_id.unwrap()).await;
        let labels = container.config.unwrap().labels.unwrap();
        assert_eq!(labels["towline.instance"], demo.instance_id.to_string());
        assert_eq!(labels["towline.generation"], "1");
        assert_eq!(labels["towline.service"], demo.service_id.to_string());
        assert_eq!(labels["towline.agent"], machine.owner.agent_id.to_string());
        let host = container.host_config.unwrap();
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!((host.memory, host.nano_cpus), (Some(64 << 20), Some(500_000_000)));
        let ports = container.network_settings.unwrap().ports.unwrap();
        let published: Vec<_> = ports.values().flatten().flatten().collect();
        let endpoint = machine.endpoint(demo.instance_id);
        assert_eq!(published.len(), 1, "{published:?}");
        assert_eq!(published[0].host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(published[0].host_port, Some(endpoint.port().to_string()));
        assert!(endpoint.ip().is_loopback());
        let socket = TcpStream::connect(endpoint).await.unwrap();
        drop(socket);
        if let Some(outside) = outside_address() {
            let refused = TcpStream::connect((outside, endpoint.port())).await;
            assert!(refused.is_err(), "the port is open on {outside}");
        }
        machine.wish(&[]);
        machine.wait_for("it is gone", <[_]>::is_empty).await;
        assert_eq!(machine.container_ids().await, Vec::<String>::new());
    })
    .await;
}

/// An address of this machine that others can reach; nothing is sent.
fn outside_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

async fn an_agent_that_comes_back_adopts_what_runs(engine: Engine) {
    on_machine(engine, async |machine| {
        let demo = demo();
        machine.wish(std::slice::from_ref(&demo));
        let before = machine.wait_for_phase(InstancePhase::Ready).await.container_id.unwrap();
        let started = machine.inspect(&before).await.state.unwrap().started_at;
        machine.restart();
        let mut reports = machine.observed.reports();
        machine.wish(std::slice::from_ref(&demo));
        timeout(PATIENCE, reports.changed()).await.unwrap().unwrap();
        let first = reports.borrow().clone().unwrap().report;
        assert_eq!(first.instances[0].phase, InstancePhase::Ready, "{first:?}");
        assert_eq!(machine.container_ids().await, std::slice::from_ref(&before));
        assert_eq!(machine.inspect(&before).await.state.unwrap().started_at, started);
        // A deploy of the same instance is another generation, and takes its place.
        let next = InstanceSpec { generation: 2, ..demo };
        machine.wish(&[next]);
        let is_next = |instances: &[InstanceReport]| {
            instances.iter().any(|i| i.generation == 2 && i.phase == InstancePhase::Ready)
        };
        machine.wait_for("the next generation is ready", is_next).await;
        let after = machine.container_ids().await;
        assert!(after.len() == 1 && after[0] != before, "{after:?}");
    })
    .await;
}

async fn containers_of_other_agents_are_left_alone(engine: Engine) {
    on_machine(engine, async |machine| {
        let other = Owner { agent_id: AgentId::generate(), ..machine.owner.clone() };
        let engine = machine.engine.runtime();
        let theirs = engine.create(&other, &demo()).await.unwrap();
        engine.start(&theirs).await.unwrap();
        let demo = demo();
        machine.wish(std::slice::from_ref(&demo));
        machine.wait_for_phase(InstancePhase::Ready).await;
        machine.wish(&[]);
        machine.wait_for("ours is gone", <[_]>::is_empty).await;
        let left = engine.list(other.agent_id).await.unwrap();
        engine.remove(&theirs).await.unwrap();
        assert_eq!(left.len(), 1);
    })
    .await;
}

async fn a_crash_loop_is_counted_and_explained(engine: Engine) {
    on_machine(engine, async |machine| {
        let demo = with_env("DEMO_EXIT_AFTER_MS", "300", with_env("DEMO_EXIT_CODE", "3", demo()));
        machine.wish(&[demo]);
        let is_looping = |instances: &[InstanceReport]| {
            instances.iter().any(|i| i.restart_count >= 2 && i.phase == InstancePhase::BackingOff)
        };
        let report = machine.wait_for("it was restarted twice", is_looping).await;
        let reason = report.instances[0].reason.clone().unwrap();
        assert_eq!(reason.kind, ReasonKind::Exited);
        assert!(reason.message.contains("exit code 3") && reason.message.contains("listening on"), "{reason:?}");
        assert_eq!(machine.container_ids().await.len(), 1);
    })
    .await;
}

async fn a_container_that_is_killed_from_outside_is_started_again_at_once(engine: Engine) {
    on_machine(engine, async |machine| {
        let demo = demo();
        machine.wish(std::slice::from_ref(&demo));
        let ready = machine.wait_for_phase(InstancePhase::Ready).await;
        let container = ready.container_id.unwrap();
        let began = tokio::time::Instant::now();
        machine.client.kill_container(&container, None::<KillContainerOptions>).await.unwrap();
        let is_back = |instances: &[InstanceReport]| {
            instances.iter().any(|i| i.restart_count == 1 && i.phase == InstancePhase::Ready)
        };
        machine.wait_for("it is back", is_back).await;
        // A second of backoff, and what the engine needs; probes alone would take longer to notice.
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
        TcpStream::connect(machine.endpoint(demo.instance_id)).await.unwrap();
    })
    .await;
}

async fn an_image_that_cannot_be_had_says_why(engine: Engine) {
    on_machine(engine, async |machine| {
        let registry = Registry::start().await;
        for (name, expected) in [("absent", "manifest unknown"), ("secret", "login")] {
            let image = format!("{}/{name}:1", registry.address);
            machine.wish(&[InstanceSpec { image: image.clone(), ..demo() }]);
            let has_reason = |instances: &[InstanceReport]| {
                instances[0].reason.as_ref().is_some_and(|reason| reason.message.contains(&image))
            };
            let report = machine.wait_for("it says why", has_reason).await;
            let reason = report.instances[0].reason.clone().unwrap();
            assert_eq!(reason.kind, ReasonKind::ImageUnavailable, "{reason:?}");
            assert!(reason.message.contains(expected), "{reason:?}");
        }
        let (_held, closed) = closed_port();
        machine.wish(&[InstanceSpec { image: format!("{closed}/any:1"), ..demo() }]);
        let has_reason = |instances: &[InstanceReport]| {
            instances[0].reason.as_ref().is_some_and(|reason| reason.message.contains("cannot be reached"))
        };
        let report = machine.wait_for("it says that nobody answers", has_reason).await;
        assert_eq!(report.instances[0].reason.as_ref().unwrap().kind, ReasonKind::ImageUnavailable);
    })
    .await;
}

async fn a_definition_that_cannot_run_says_why(engine: Engine) {
    on_machine(engine, async |machine| {
        machine.wish(&[InstanceSpec { command: Some(vec!["/no/such/program".to_owned()]), ..demo() }]);
        let reason = machine.wait_for_reason(ReasonKind::StartFailed).await.reason.unwrap();
        assert!(reason.message.contains("/no/such/program"), "{reason:?}");
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        for path in [missing.to_str().unwrap(), "/var/run/docker.sock", "/"] {
            let volumes =
                vec![VolumeMount { host_path: path.to_owned(), container_path: "/data".to_owned(), read_only: false }];
            machine.wish(&[InstanceSpec { volumes, ..demo() }]);
            let has_reason = |instances: &[InstanceReport]| {
                let reason = instances.first().and_then(|instance| instance.reason.as_ref());
                instances.len() == 1 && reason.is_some_and(|r| r.message.contains(&format!("host_path {path} ")))
            };
            let report = machine.wait_for(&format!("{path} is refused"), has_reason).await;
            assert_eq!(report.instances[0].reason.as_ref().unwrap().kind, ReasonKind::StartFailed);
        }
        assert!(!missing.exists());
    })
    .await;
}

async fn a_volume_that_leads_elsewhere_by_now_is_not_started_with_again(engine: Engine) {
    on_machine(engine, async |machine| {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("data"));
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let host_path = link.to_str().unwrap().to_owned();
        let volumes = vec![VolumeMount { host_path, container_path: "/data".to_owned(), read_only: false }];
        machine.wish(&[InstanceSpec { volumes, ..demo() }]);
        let ready = machine.wait_for_phase(InstancePhase::Ready).await;
        let container = ready.container_id.unwrap();
        let source = machine.inspect(&container).await.mounts.unwrap()[0].source.clone().unwrap();
        assert_eq!(source, target.canonicalize().unwrap().to_str().unwrap(), "the engine sees no link");
        // Somebody who may write there lets it lead to the system, and the program ends.
        std::fs::remove_dir(&target).unwrap();
        std::os::unix::fs::symlink("/etc", &target).unwrap();
        machine.client.kill_container(&container, None::<KillContainerOptions>).await.unwrap();
        let reason = machine.wait_for_reason(ReasonKind::StartFailed).await.reason.unwrap();
        assert!(reason.message.contains("belongs to the system"), "{reason:?}");
        assert_eq!(machine.inspect(&container).await.state.unwrap().running, Some(false));
    })
    .await;
}

async fn a_container_that_is_never_well_says_what_the_probe_saw(engine: Engine) {
    on_machine(engine, async |machine| {
        machine.wish(&[with_env("DEMO_HEALTH_STATUS", "500", demo())]);
        let reason = machine.wait_for_reason(ReasonKind::ProbeFailed).await.reason.unwrap();
        let sees_status = |instances: &[InstanceReport]| {
            instances[0].reason.as_ref().is_some_and(|reason| reason.message.contains("answered 500"))
        };
        machine.wait_for(&format!("the status is told after {reason:?}"), sees_status).await;
        machine.wish(&[with_env("PORT", "9999", demo())]);
        let says_port = |instances: &[InstanceReport]| {
            instances.len() == 1 && instances[0].reason.as_ref().is_some_and(|r| r.message.contains("0.0.0.0:8080"))
        };
        machine.wait_for("the port is named", says_port).await;
    })
    .await;
}

async fn a_program_that_ignores_its_end_is_killed_after_the_grace(engine: Engine) {
    on_machine(engine, async |machine| {
        machine.wish(&[InstanceSpec { stop_grace_seconds: 1, ..with_env("DEMO_IGNORE_SIGTERM", "1", demo()) }]);
        machine.wait_for_phase(InstancePhase::Ready).await;
        let began = tokio::time::Instant::now();
        machine.wish(&[]);
        machine.wait_for_phase(InstancePhase::Stopping).await;
        machine.wait_for("it is gone", <[_]>::is_empty).await;
        let took = began.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&took), "it took {took:?}");
    })
    .await;
}

async fn logs_are_read_and_followed_to_the_end(engine: Engine) {
    on_machine(engine, async |machine| {
        let engine = machine.engine.runtime();
        let container = engine.create(&machine.owner, &demo()).await.unwrap();
        // Made twice, as after an answer that got lost, it is the same.
        let spec = demo();
        let first = engine.create(&machine.owner, &spec).await.unwrap();
        assert_eq!(engine.create(&machine.owner, &spec).await.unwrap(), first);
        engine.start(&container).await.unwrap();
        let mut changes = engine.changes(machine.owner.agent_id).await.unwrap();
        let mut lines = engine.logs(&container, LogQuery { follow: true, ..LogQuery::default() }).await.unwrap();
        let line = timeout(PATIENCE, lines.next()).await.unwrap().unwrap().unwrap();
        assert!(line.starts_with(b"listening on http://") && line.ends_with(b"\n"), "{line:?}");
        // Hints begin with the first question for one.
        let (hint, stopped) =
            tokio::join!(timeout(PATIENCE, changes.next()), engine.stop(&container, Duration::from_secs(5)));
        hint.unwrap().unwrap();
        stopped.unwrap();
        while let Some(line) = timeout(PATIENCE, lines.next()).await.unwrap() {
            line.unwrap();
        }
        let query = LogQuery { tail: Some(0), ..LogQuery::default() };
        assert!(engine.logs(&container, query).await.unwrap().next().await.is_none());
        let exit = engine.exit(&container).await.unwrap();
        assert_eq!(exit.code, Some(0));
        // Everything may be repeated.
        for _ in 0..2 {
            engine.stop(&container, Duration::ZERO).await.unwrap();
            engine.remove(&container).await.unwrap();
        }
    })
    .await;
}

async fn the_engine_is_named_or_its_absence_explained(engine: Engine) {
    let EngineStatus::Ready { version } = engine.runtime().status().await else { panic!() };
    assert_eq!((version.contains("Podman"), version.contains('.')), (engine == Engine::Podman, true), "{version}");
    let host = Some("unix:///does/not/exist.sock".to_owned());
    let absent = DockerRuntime::new(DockerConfig { host, ..DockerConfig::default() });
    let EngineStatus::Unavailable { reason } = absent.status().await else { panic!() };
    assert!(reason.contains("install Docker"), "{reason}");
}
