//! What is told of an instance, as a table.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::*;
use crate::{
    fingerprint,
    tests::{instance, spec},
};

/// A scene with one desired instance.
struct Case {
    containers: Vec<Container>,
    memory: InstanceMemory,
    image: Option<ImageState>,
    busy: HashSet<StepKey>,
    health: Option<Health>,
    engine: EngineStatus,
    desired: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            containers: Vec::new(),
            memory: InstanceMemory::of(1),
            image: None,
            busy: HashSet::new(),
            health: None,
            engine: EngineStatus::Ready { version: "Fake".to_owned() },
            desired: true,
        }
    }
}

fn endpoint() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 49153).into()
}

fn container(generation: i64, state: ContainerState) -> Container {
    Container {
        id: ContainerId::new("c1"),
        instance_id: instance(1),
        generation,
        fingerprint: Some(fingerprint::of(&spec(generation))),
        stop_grace: Duration::from_secs(10),
        created_at: 1,
        state,
    }
}

fn running() -> Container {
    container(1, ContainerState::Running { endpoint: Some(endpoint()) })
}

fn reason(kind: ReasonKind) -> Reason {
    Reason { kind, message: "why".to_owned() }
}

impl Case {
    fn with(container: Container) -> Self {
        Self { containers: vec![container], ..Self::default() }
    }

    fn told(&self) -> (InstanceReport, InstanceEntry) {
        let desired = if self.desired { BTreeMap::from([(instance(1), spec(1))]) } else { BTreeMap::new() };
        let memory = HashMap::from([(instance(1), self.memory.clone())]);
        let images = self.image.clone().map(|state| (spec(1).image, state)).into_iter().collect();
        let view = View {
            desired: &desired,
            containers: &self.containers,
            memory: &memory,
            images: &images,
            removals: &HashMap::new(),
            busy: &self.busy,
        };
        let kept = super::super::plan::plan_converge(&view, Instant::now()).kept;
        let health = self.health.clone().map(|health| (ContainerId::new("c1"), health)).into_iter().collect();
        let scene = Scene { view, kept: &kept, health: &health, engine: &self.engine };
        let (mut reports, mut table) = describe(&scene);
        assert_eq!((reports.len(), table.len()), (1, 1));
        (reports.remove(0), table.remove(&instance(1)).unwrap())
    }

    #[track_caller]
    fn check(&self, phase: InstancePhase, kind: Option<ReasonKind>) {
        let (report, entry) = self.told();
        assert_eq!((report.phase, report.reason.map(|reason| reason.kind)), (phase, kind));
        assert_eq!(entry.phase, phase);
        let is_open = matches!(phase, InstancePhase::Ready | InstancePhase::Unhealthy);
        assert_eq!(entry.endpoint, is_open.then(endpoint), "only a container that has been ready takes connections");
    }
}

#[test]
fn an_instance_without_a_container() {
    let missing = |kind: Option<ReasonKind>| {
        Some(ImageState::Missing { failures: 1, not_before: Instant::now(), reason: kind.map(reason) })
    };
    let instance_is_busy = || HashSet::from([StepKey::Instance(instance(1))]);
    let away = EngineStatus::Unavailable { reason: "away".to_owned() };
    Case::default().check(InstancePhase::Pulling, None);
    Case { image: missing(None), ..Case::default() }.check(InstancePhase::Pulling, None);
    Case { image: missing(Some(ReasonKind::ImageUnavailable)), ..Case::default() }
        .check(InstancePhase::BackingOff, Some(ReasonKind::ImageUnavailable));
    Case { image: Some(ImageState::Present), ..Case::default() }.check(InstancePhase::Pending, None);
    Case { image: Some(ImageState::Present), busy: instance_is_busy(), ..Case::default() }
        .check(InstancePhase::Starting, None);
    let mut refused = Case { image: Some(ImageState::Present), ..Case::default() };
    refused.memory.reason = Some(reason(ReasonKind::StartFailed));
    refused.check(InstancePhase::BackingOff, Some(ReasonKind::StartFailed));
    Case { engine: away, ..Case::default() }.check(InstancePhase::Pending, Some(ReasonKind::EngineUnavailable));
}

#[test]
fn an_instance_with_a_container() {
    let fails = || crate::probe::ProbeFailure("no".to_owned());
    Case::with(running()).check(InstancePhase::Starting, None);
    Case { health: Some(Health::Passing), ..Case::with(running()) }.check(InstancePhase::Ready, None);
    Case { health: Some(Health::Starting(fails())), ..Case::with(running()) }
        .check(InstancePhase::Starting, Some(ReasonKind::ProbeFailed));
    Case { health: Some(Health::Failing(fails())), ..Case::with(running()) }
        .check(InstancePhase::Unhealthy, Some(ReasonKind::ProbeFailed));
    let mut restarted = Case { health: Some(Health::Starting(fails())), ..Case::with(running()) };
    restarted.memory.reason = Some(reason(ReasonKind::Exited));
    restarted.check(InstancePhase::Starting, Some(ReasonKind::Exited));
    Case::with(container(1, ContainerState::Running { endpoint: None }))
        .check(InstancePhase::Starting, Some(ReasonKind::StartFailed));
    Case::with(container(1, ContainerState::Created)).check(InstancePhase::Starting, None);
    Case::with(container(1, ContainerState::Exited)).check(InstancePhase::BackingOff, Some(ReasonKind::Exited));
    let mut starting = Case::with(container(1, ContainerState::Exited));
    starting.memory.ended = Some(ContainerId::new("c1"));
    starting.busy.insert(StepKey::Instance(instance(1)));
    starting.check(InstancePhase::Starting, None);
    Case { desired: false, ..Case::with(running()) }.check(InstancePhase::Stopping, None);
    Case { health: Some(Health::Passing), ..Case::with(container(0, running().state)) }
        .check(InstancePhase::Stopping, None);
}

#[test]
fn an_engine_that_is_away_takes_no_container_out_of_service() {
    let engine = EngineStatus::Unavailable { reason: "away".to_owned() };
    Case { engine, health: Some(Health::Passing), ..Case::with(running()) }.check(InstancePhase::Ready, None);
}

#[test]
fn reports_carry_what_is_counted_and_stay_small() {
    let mut case = Case::with(container(1, ContainerState::Exited));
    case.memory.restart_count = 7;
    case.memory.reason = Some(Reason { kind: ReasonKind::Exited, message: "ä".repeat(10_000) });
    let (report, _) = case.told();
    assert_eq!((report.restart_count, report.generation, report.container_id.as_deref()), (7, 1, Some("c1")));
    assert!(report.reason.unwrap().message.len() <= MAX_REASON_BYTES + '…'.len_utf8());
    let (stopping, _) = Case::with(container(9, running().state)).told();
    assert_eq!(stopping.generation, 9);
}
