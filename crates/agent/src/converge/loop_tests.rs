//! The loop on the fake engine, in virtual time.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::timeout;
use towline_model::{AgentId, InstancePhase};
use towline_tunnel::message::{InstanceReport, InstanceSpec, ReasonKind};

use super::*;
use crate::{
    runtime::{ContainerId, ContainerState, PullError, fake::FakeRuntime},
    tests::{instance, login, spec},
};

const IMAGE: &str = "towline-demo:latest";

/// A converge loop that runs, and what a session would do with it.
struct Fixture {
    engine: FakeRuntime,
    agent: AgentId,
    wishes: watch::Sender<Option<Wish>>,
    observed: Arc<Observed>,
    revision: u64,
    _loop: AbortOnDropHandle<()>,
}

impl Fixture {
    fn start(engine: &FakeRuntime) -> Self {
        Self::start_as(engine, AgentId::generate())
    }

    fn start_as(engine: &FakeRuntime, agent: AgentId) -> Self {
        let wishes = watch::Sender::new(None);
        let observed = Arc::new(Observed::default());
        let running =
            run(Arc::new(engine.clone()), wishes.subscribe(), Arc::clone(&observed), CancellationToken::new());
        Self { engine: engine.clone(), agent, wishes, observed, revision: 0, _loop: spawn_owned(running) }
    }

    fn wish(&mut self, instances: &[InstanceSpec]) {
        self.revision += 1;
        let desired = Desired {
            revision: self.revision,
            instances: instances.to_vec(),
            withheld: Vec::new(),
            endpoints: Vec::new(),
        };
        let owner = Owner { agent_id: self.agent, server: "http://server".to_owned() };
        self.wishes.send_replace(Some(Wish { owner, desired: Arc::new(desired) }));
    }

    /// Waits for a report of the newest wish in which that holds. An hour of virtual time is enough for anything.
    async fn wait_for(&self, what: &str, mut holds: impl FnMut(&[InstanceReport]) -> bool) -> Report {
        let mut reports = self.observed.reports();
        let waited = reports.wait_for(|report| {
            report
                .as_ref()
                .is_some_and(|AgentReport { report, .. }| report.revision == self.revision && holds(&report.instances))
        });
        let found = match timeout(Duration::from_secs(3600), waited).await {
            Ok(Ok(report)) => report.clone(),
            _ => None,
        };
        let newest = self.observed.reports().borrow().clone();
        let found = found.unwrap_or_else(|| panic!("waited until {what}: {newest:#?} {:?}", self.engine.log()));
        found.report.as_ref().clone()
    }

    async fn wait_for_phases(&self, phases: &[InstancePhase]) -> Report {
        self.wait_for(&format!("phases are {phases:?}"), |instances| {
            instances.iter().map(|instance| instance.phase).collect::<Vec<_>>() == phases
        })
        .await
    }
}

fn desired(number: u128, generation: i64) -> InstanceSpec {
    InstanceSpec { instance_id: instance(number), ..spec(generation) }
}

const fn running() -> ContainerState {
    ContainerState::Running {
        endpoint: Some(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9)),
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_made_started_probed_and_removed() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    let entry = fixture.observed.instance(instance(1)).unwrap();
    assert!(entry.endpoint.is_some() && entry.container.is_some());
    fixture.wish(&[]);
    fixture.wait_for_phases(&[]).await;
    assert_eq!(
        engine.log(),
        ["create container-0001", "start container-0001", "stop container-0001", "remove container-0001"]
    );
    assert_eq!(fixture.observed.instance(instance(1)), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_the_first_wish() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let fixture = Fixture::start(&engine);
    engine.put(fixture.agent, &desired(1, 1), running());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(engine.log(), Vec::<String>::new());
    assert_eq!(*fixture.observed.reports().borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_adopts_its_containers() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let agent = AgentId::generate();
    let mut first = Fixture::start_as(&engine, agent);
    first.wish(&[desired(1, 1), desired(2, 1)]);
    first.wait_for_phases(&[InstancePhase::Ready, InstancePhase::Ready]).await;
    drop(first);
    let before = engine.log();
    let mut second = Fixture::start_as(&engine, agent);
    let mut reports = second.observed.reports();
    second.wish(&[desired(1, 1), desired(2, 1)]);
    // The very first report says that they are ready: nobody is to think that they had stopped.
    reports.changed().await.unwrap();
    let report = reports.borrow_and_update().clone().unwrap().report;
    assert_eq!(report.instances.iter().map(|i| i.phase).collect::<Vec<_>>(), [InstancePhase::Ready; 2]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.log(), before);
}

#[tokio::test(start_paused = true)]
async fn duplicates_strangers_and_old_generations() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    let stranger = engine.put(AgentId::generate(), &desired(1, 1), running());
    let twin = engine.put(fixture.agent, &desired(1, 2), running());
    let kept = engine.put(fixture.agent, &desired(1, 2), running());
    let old = engine.put(fixture.agent, &desired(2, 1), running());
    fixture.wish(&[desired(1, 2), desired(2, 2)]);
    fixture.wait_for_phases(&[InstancePhase::Ready, InstancePhase::Ready]).await;
    engine.wait_until(|containers| containers.len() == 3).await;
    let left: Vec<_> = engine.containers().into_iter().map(|container| container.id).collect();
    assert!(left.contains(&stranger) && left.contains(&twin), "{left:?}");
    assert!(!left.contains(&kept) && !left.contains(&old), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_is_slowed_down_counted_and_explained() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    engine.write_line(instance(1), "panic: no model");
    for crashes in 1..=5_u32 {
        let crashed_at = Instant::now();
        engine.crash(instance(1), 3);
        let report = fixture
            .wait_for("it backs off", |instances| {
                instances[0].phase == InstancePhase::BackingOff
                    && instances[0].reason.as_ref().is_some_and(|reason| reason.message.contains("exit code 3"))
            })
            .await;
        let reason = report.instances[0].reason.clone().unwrap();
        assert_eq!(reason.kind, ReasonKind::Exited);
        assert!(reason.message.contains("panic: no model"), "{reason:?}");
        let count = |instances: &[InstanceReport]| {
            instances[0].phase == InstancePhase::Ready && instances[0].restart_count == crashes
        };
        fixture.wait_for("it is ready again", count).await;
        let waited = crashed_at.elapsed().as_secs_f64();
        let expected = f64::from(1 << (crashes - 1));
        assert!((expected..expected + 0.5).contains(&waited), "crash {crashes} was waited out for {waited} s");
    }
    assert_eq!(engine.containers().len(), 1);
    tokio::time::sleep(Duration::from_secs(61)).await;
    let crashed_at = Instant::now();
    engine.crash(instance(1), 3);
    fixture
        .wait_for("it is ready again", |instances| {
            instances[0].restart_count == 6 && instances[0].phase == InstancePhase::Ready
        })
        .await;
    assert!(crashed_at.elapsed() < Duration::from_secs(2), "a minute of health clears the backoff");
}

#[tokio::test(start_paused = true)]
async fn a_slow_pull_holds_up_nobody_else() {
    let engine = FakeRuntime::new(&[IMAGE]);
    engine.set_pull("big:1", Duration::from_secs(240), Ok(()));
    let mut fixture = Fixture::start(&engine);
    let big = InstanceSpec { image: "big:1".to_owned(), ..desired(1, 1) };
    let began = Instant::now();
    fixture.wish(&[big.clone(), desired(2, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Pulling, InstancePhase::Ready]).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    fixture.wait_for_phases(&[InstancePhase::Ready, InstancePhase::Ready]).await;
    assert_eq!(engine.log().iter().filter(|line| line.starts_with("pull")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_nobody_waits_for_any_more_is_given_up() {
    let engine = FakeRuntime::new(&[IMAGE]);
    engine.set_pull("big:1", Duration::from_secs(240), Ok(()));
    let mut fixture = Fixture::start(&engine);
    let big = InstanceSpec { image: "big:1".to_owned(), ..desired(1, 1) };
    fixture.wish(std::slice::from_ref(&big));
    fixture.wait_for_phases(&[InstancePhase::Pulling]).await;
    fixture.wish(&[]);
    fixture.wait_for_phases(&[]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    fixture.wish(&[big]);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    assert_eq!(engine.log().iter().filter(|line| line.starts_with("pull")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_login_is_said_and_the_right_one_tried_at_once() {
    let engine = FakeRuntime::new(&[]);
    engine.set_pull(IMAGE, Duration::ZERO, Ok(()));
    engine.set_login(IMAGE, login("me", "right"));
    let mut fixture = Fixture::start(&engine);
    let with = |number, password| InstanceSpec { registry_auth: Some(login("me", password)), ..desired(number, 1) };
    fixture.wish(&[with(1, "wrong")]);
    let report = fixture.wait_for_phases(&[InstancePhase::BackingOff]).await;
    let reason = report.instances[0].reason.clone().unwrap();
    assert_eq!(reason.kind, ReasonKind::ImageUnavailable);
    assert!(reason.message.contains("registry_auth_secret_id") && !reason.message.contains("wrong"), "{reason:?}");
    // It waits before it tries the same again, but not before it tries something else.
    let began = Instant::now();
    fixture.wish(&[with(1, "wrong"), with(2, "right")]);
    fixture.wait_for_phases(&[InstancePhase::Ready, InstancePhase::Ready]).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_replaces_no_container() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    let mut spec = desired(1, 1);
    spec.secret_env = vec![spec.env[0].env_name.clone()];
    fixture.wish(std::slice::from_ref(&spec));
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    spec.env[0].env_value = "another".to_owned();
    fixture.wish(&[spec.clone(), desired(2, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Ready, InstancePhase::Ready]).await;
    assert!(!engine.log().iter().any(|line| line.starts_with("stop")), "{:?}", engine.log());
    // The next container gets it.
    fixture.wish(&[InstanceSpec { generation: 2, ..spec }]);
    let is_next = |instances: &[InstanceReport]| instances.len() == 1 && instances[0].generation == 2;
    fixture.wait_for("the next generation is there", is_next).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_said_and_tried_again() {
    let engine = FakeRuntime::new(&[]);
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    let report = fixture.wait_for_phases(&[InstancePhase::BackingOff]).await;
    let reason = report.instances[0].reason.clone().unwrap();
    assert_eq!(reason.kind, ReasonKind::ImageUnavailable);
    assert!(reason.message.contains(IMAGE) && reason.message.contains("manifest unknown"), "{reason:?}");
    engine.set_pull(IMAGE, Duration::ZERO, Ok(()));
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_for_a_moment_is_no_failure() {
    let engine = FakeRuntime::new(&[]);
    let said = "timeout".to_owned();
    engine.set_pull(IMAGE, Duration::ZERO, Err(PullError::Unreachable { image: IMAGE.to_owned(), said }));
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    let began = Instant::now();
    fixture.wait_for_phases(&[InstancePhase::Pulling]).await;
    let report = fixture.wait_for_phases(&[InstancePhase::BackingOff]).await;
    assert_eq!(report.instances[0].reason.as_ref().unwrap().kind, ReasonKind::ImageUnavailable);
    assert!(began.elapsed() >= Duration::from_secs(3), "it was blamed after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_rejects_is_said_and_tried_again() {
    let engine = FakeRuntime::new(&[IMAGE]);
    engine.fail_next_create(RuntimeError::Rejected("no such device".to_owned()));
    engine.fail_next_start(RuntimeError::Rejected("executable not found".to_owned()));
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    for expected in ["no such device", "executable not found"] {
        fixture
            .wait_for(expected, |instances| {
                instances[0].phase == InstancePhase::BackingOff
                    && instances[0].reason.as_ref().is_some_and(|reason| {
                        reason.kind == ReasonKind::StartFailed && reason.message.contains(expected)
                    })
            })
            .await;
    }
    let report = fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    assert_eq!(report.instances[0].restart_count, 0);
    assert_eq!(engine.containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_comes_later_is_picked_up() {
    let engine = FakeRuntime::new(&[IMAGE]);
    engine.set_down(true);
    let mut fixture = Fixture::start(&engine);
    let mut status = fixture.observed.engine();
    status.wait_for(|status| matches!(status, Some(EngineStatus::Unavailable { .. }))).await.unwrap();
    fixture.wish(&[desired(1, 1)]);
    // Nothing is known of containers yet, so the report speaks of no wish.
    let mut reports = fixture.observed.reports();
    let report = reports.wait_for(Option::is_some).await.unwrap().clone().unwrap().report;
    assert_eq!((report.revision, report.instances[0].phase), (0, InstancePhase::Pending));
    assert_eq!(report.instances[0].reason.as_ref().unwrap().kind, ReasonKind::EngineUnavailable);
    engine.set_down(false);
    let report = fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    assert_eq!(report.engine, EngineStatus::Ready { version: "Fake 1.0".to_owned() });
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_away_changes_nothing() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    let before = engine.log();
    engine.set_down(true);
    let mut status = fixture.observed.engine();
    status.wait_for(|status| matches!(status, Some(EngineStatus::Unavailable { .. }))).await.unwrap();
    fixture.wish(&[desired(1, 1), desired(2, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Ready, InstancePhase::Pending]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(engine.log(), before);
    engine.set_down(false);
    fixture.wait_for_phases(&[InstancePhase::Ready, InstancePhase::Ready]).await;
}

#[tokio::test(start_paused = true)]
async fn a_sick_instance_takes_no_connections_until_it_is_well_and_is_not_restarted() {
    let engine = FakeRuntime::new(&[IMAGE]);
    engine.set_sick(Some("GET /health answered 503"));
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    let report = fixture
        .wait_for("it is told why", |instances| instances[0].reason.as_ref().is_some_and(|r| r.message.contains("503")))
        .await;
    assert_eq!(report.instances[0].phase, InstancePhase::Starting);
    engine.set_sick(None);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    engine.set_sick(Some("GET /health answered 500"));
    fixture.wait_for_phases(&[InstancePhase::Unhealthy]).await;
    engine.set_sick(None);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    assert_eq!(engine.log(), ["create container-0001", "start container-0001"]);
}

#[tokio::test(start_paused = true)]
async fn a_redeploy_of_an_instance_replaces_its_container() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    fixture.wish(&[desired(1, 2)]);
    let report = fixture
        .wait_for("the new one is ready", |instances| {
            instances[0].phase == InstancePhase::Ready && instances[0].generation == 2
        })
        .await;
    assert_eq!(report.instances.len(), 1);
    assert_eq!(engine.containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_identity_leaves_the_containers_of_the_old_one_alone() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    fixture.agent = AgentId::generate();
    fixture.wish(&[desired(2, 1)]);
    let report = fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    assert_eq!(report.instances[0].instance_id, instance(2));
    assert_eq!(engine.containers().len(), 2);
    assert!(!engine.log().iter().any(|line| line.starts_with("stop")));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_removed_is_made_anew() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    fixture.wish(&[desired(1, 1)]);
    let report = fixture.wait_for_phases(&[InstancePhase::Ready]).await;
    let first = report.instances[0].container_id.clone().unwrap();
    engine.remove(&ContainerId::new(first.clone())).await.unwrap();
    fixture
        .wait_for("another container is ready", |instances| {
            instances[0].phase == InstancePhase::Ready && instances[0].container_id.as_ref() != Some(&first)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn many_instances_come_and_go_without_leftovers() {
    let engine = FakeRuntime::new(&[IMAGE]);
    let mut fixture = Fixture::start(&engine);
    for round in 1..=5_i64 {
        let wish: Vec<_> =
            (1..=50).filter(|n| n % u128::try_from(round).unwrap() == 0).map(|n| desired(n, round)).collect();
        fixture.wish(&wish);
        fixture
            .wait_for("all are ready", |instances| {
                instances.len() == wish.len()
                    && instances.iter().all(|i| i.phase == InstancePhase::Ready && i.generation == round)
            })
            .await;
        assert_eq!(engine.containers().len(), wish.len());
    }
}

/// One run of chaos: wishes change, programs crash, the engine goes and fails, agents are killed and come back.
async fn reach_the_last_wish(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let engine = FakeRuntime::new(&[IMAGE]);
    let agent = AgentId::generate();
    let stranger = engine.put(AgentId::generate(), &desired(1, 1), running());
    let mut fixture = Fixture::start_as(&engine, agent);
    let mut wish = Vec::new();
    for _ in 0..40 {
        match rng.random_range(0..8) {
            0 | 1 => {
                let wished = (1..=6).filter(|_| rng.random_bool(0.5)).collect::<Vec<_>>();
                wish = wished.into_iter().map(|number| desired(number, rng.random_range(1..4))).collect();
                fixture.wish(&wish);
            }
            2 => engine.crash(instance(rng.random_range(1..=6)), rng.random_range(0..3)),
            3 => engine.set_down(rng.random_bool(0.5)),
            4 => engine.fail_next_create(RuntimeError::Failed("no space left".to_owned())),
            5 => engine.fail_next_start(RuntimeError::Rejected("no such program".to_owned())),
            6 => engine.set_sick(rng.random_bool(0.5).then_some("ill")),
            _ => {
                let revision = fixture.revision;
                drop(fixture);
                fixture = Fixture::start_as(&engine, agent);
                fixture.revision = revision;
                fixture.wish(&wish);
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..3000))).await;
    }
    engine.set_down(false);
    engine.set_sick(None);
    fixture.wish(&wish);
    fixture
        .wait_for(&format!("all is as wished (seed {seed})"), |instances| {
            instances.len() == wish.len() && instances.iter().all(|i| i.phase == InstancePhase::Ready)
        })
        .await;
    let mut there: Vec<_> = engine.containers().into_iter().filter(|container| container.id != stranger).collect();
    there.sort_by_key(|container| container.instance_id);
    let there: Vec<_> = there.iter().map(|container| (container.instance_id, container.generation)).collect();
    let wished: Vec<_> = wish.iter().map(|spec| (spec.instance_id, spec.generation)).collect();
    assert_eq!(there, wished, "seed {seed}: {:?}", engine.log());
    assert!(!engine.log().iter().any(|line| line.ends_with(stranger.as_str())), "seed {seed}: a stranger was touched");
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_last_wish_is_reached() {
    for seed in 0..100 {
        reach_the_last_wish(seed).await;
    }
}
