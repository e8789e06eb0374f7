//! Moving the container engine from what it has to what is desired.
//!
//! Level-triggered: the loop looks at what is there, plans ([`plan::plan_converge`], pure), carries out the steps side by
//! side ([`step::Worker`]), and looks again. Hints of the engine only make it look sooner. So a pass may run at any time
//! and any number of times, a slow pull holds up nobody else, and an agent that was away takes up its containers by their
//! labels. Nothing is stopped before the first desired set of the process's life has arrived, and what has no label of this
//! agent is never touched.

mod describe;
mod memory;
mod plan;
mod step;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use towline_model::InstanceId;
use towline_tunnel::message::{Desired, EngineStatus, InstanceSpec, Report};

use self::{
    describe::{Scene, describe},
    memory::{ImageState, InstanceMemory, Retry},
    plan::{Step, StepKey, View, plan_converge},
    step::{Outcome, Worker},
};
use crate::{
    observed::{AgentReport, Observed},
    probe::{self, Health, HealthChange, ProbeRun},
    runtime::{Container, ContainerId, ContainerState, Owner, Runtime, RuntimeError},
    task::spawn_owned,
};

/// The engine is looked at this often even when nothing seems to happen.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// An engine that is not there is looked for this often.
const SEARCH_INTERVAL: Duration = Duration::from_secs(3);
/// Hints that come within so long of each other are answered by one look.
const HINT_SETTLE: Duration = Duration::from_millis(50);
/// And by another one after so long: Docker tells of an end a moment before its list does.
const HINT_RECHECK: Duration = Duration::from_millis(500);
/// How long the first report waits for the first probes of adopted containers: an agent that restarts is not to say of a
/// container that serves callers that it is still starting.
const ADOPTION_SETTLE: Duration = Duration::from_secs(2);
/// The wait before the engine's hints are asked for again.
const HINTS_PAUSE: Duration = Duration::from_secs(5);

/// What should run, and as whom. Sessions put it in; the newest counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Whose containers these are.
    pub owner: Owner,
    /// Everything that should run.
    pub desired: Arc<Desired>,
}

/// The loop, from the process's start to its end. Containers go on running after it.
pub async fn run<R: Runtime>(
    runtime: Arc<R>,
    wishes: watch::Receiver<Option<Wish>>,
    observed: Arc<Observed>,
    cancel: CancellationToken,
) {
    let (health_sender, health_changes) = mpsc::channel(64);
    let mut converger = Converger {
        worker: Worker::new(Arc::clone(&runtime)),
        runtime,
        observed,
        engine: None,
        owner: None,
        health_sender,
        hint: Arc::new(Notify::new()),
        tasks: JoinSet::new(),
        task_of: HashMap::new(),
        looking: false,
        look_at: Instant::now(),
        recheck_at: None,
        runs: 0,
        state: State::default(),
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = converger.run(wishes, health_changes) => {}
    }
}

/// Everything that is about one owner's containers.
#[derive(Default)]
struct State {
    revision: u64,
    desired: BTreeMap<InstanceId, InstanceSpec>,
    containers: Vec<Container>,
    /// Whether the containers were looked at at all.
    has_seen: bool,
    memory: HashMap<InstanceId, InstanceMemory>,
    images: HashMap<String, ImageState>,
    removals: HashMap<ContainerId, Retry>,
    /// What is worked on, or was, and no look that began after its end has come back yet: what is seen may miss it.
    busy: HashSet<StepKey>,
    /// The part of `busy` whose work has ended since the last look began.
    unseen: HashSet<StepKey>,
    /// The part of `busy` whose work had ended when the look in progress began.
    being_seen: HashSet<StepKey>,
    kept: BTreeMap<InstanceId, ContainerId>,
    probes: HashMap<ContainerId, RunningProbe>,
    health: HashMap<ContainerId, Health>,
    wake_at: Option<Instant>,
    /// Until when the first report waits; `None` once it was made.
    settles_at: Option<Instant>,
    has_reported: bool,
    hints: Option<AbortOnDropHandle<()>>,
}

struct RunningProbe {
    run: ProbeRun,
    /// Ends the probing when it is dropped.
    _task: AbortOnDropHandle<()>,
}

struct Converger<R> {
    runtime: Arc<R>,
    worker: Worker<R>,
    observed: Arc<Observed>,
    engine: Option<EngineStatus>,
    owner: Option<Owner>,
    health_sender: mpsc::Sender<HealthChange>,
    hint: Arc<Notify>,
    tasks: JoinSet<Outcome>,
    task_of: HashMap<Id, (Option<StepKey>, AbortHandle)>,
    /// Whether a look is in progress; there is one at a time.
    looking: bool,
    /// When to look next.
    look_at: Instant,
    /// When to look once more after that, if the engine has given a hint.
    recheck_at: Option<Instant>,
    /// Numbers the probed runs of containers.
    runs: u64,
    state: State,
}

impl<R: Runtime> Converger<R> {
    async fn run(
        &mut self,
        mut wishes: watch::Receiver<Option<Wish>>,
        mut health_changes: mpsc::Receiver<HealthChange>,
    ) {
        wishes.mark_changed();
        let hint = Arc::clone(&self.hint);
        loop {
            let next_turn = self.next_turn();
            tokio::select! {
                Ok(()) = wishes.changed() => {
                    let wish = wishes.borrow_and_update().clone();
                    self.take_wish(wish);
                }
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.take_outcome(ended),
                Some(change) = health_changes.recv() => self.take_health(change),
                () = hint.notified() => {
                    self.look_soon(HINT_SETTLE);
                    self.recheck_at = Some(Instant::now() + HINT_RECHECK);
                }
                () = sleep_until(next_turn) => {}
            }
            self.turn();
        }
    }

    /// When there is something to do even if nothing happens.
    fn next_turn(&self) -> Instant {
        let look_at = (!self.looking).then_some(self.look_at);
        let times = [look_at, self.state.wake_at, self.state.settles_at];
        times.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + LOOK_INTERVAL)
    }

    fn turn(&mut self) {
        let now = Instant::now();
        if !self.looking && now >= self.look_at {
            self.start_look(now);
        }
        if self.state.has_seen {
            self.plan(now);
        }
        self.publish(now);
    }

    fn look_soon(&mut self, wait: Duration) {
        self.look_at = self.look_at.min(Instant::now() + wait);
    }

    fn start_look(&mut self, now: Instant) {
        self.looking = true;
        let recheck_at = self.recheck_at.take().filter(|at| *at > now);
        self.look_at = recheck_at.unwrap_or(now + LOOK_INTERVAL);
        self.state.being_seen.extend(self.state.unseen.drain());
        let look = self.worker.clone().look(self.engine.clone(), self.owner.clone());
        let handle = self.tasks.spawn(look);
        self.task_of.insert(handle.id(), (None, handle));
    }

    fn take_wish(&mut self, wish: Option<Wish>) {
        let Some(Wish { owner, desired }) = wish else { return };
        if self.owner.as_ref().map(|owner| owner.agent_id) != Some(owner.agent_id) {
            self.change_owner(&owner);
        }
        self.owner = Some(owner);
        let state = &mut self.state;
        state.revision = desired.revision;
        state.desired = desired.instances.iter().map(|spec| (spec.instance_id, spec.clone())).collect();
        for spec in &desired.instances {
            let memory = state.memory.entry(spec.instance_id).or_default();
            if memory.generation != spec.generation {
                *memory = InstanceMemory::of(spec.generation);
            }
        }
    }

    /// The server knows this agent by another id now (its database is a new one): other containers are ours.
    fn change_owner(&mut self, owner: &Owner) {
        self.tasks.abort_all();
        self.task_of.clear();
        self.tasks = JoinSet::new();
        self.state = State::default();
        self.observed.set_report(None);
        self.looking = false;
        self.look_at = Instant::now();
        let (runtime, hint, agent) = (Arc::clone(&self.runtime), Arc::clone(&self.hint), owner.agent_id);
        self.state.hints = Some(spawn_owned(async move {
            loop {
                if let Ok(mut changes) = runtime.changes(agent).await {
                    hint.notify_one();
                    while changes.next().await.is_some() {
                        hint.notify_one();
                    }
                }
                sleep(HINTS_PAUSE).await;
            }
        }));
    }

    fn take_outcome(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a step of the converge loop panicked");
                }
                (error.id(), None)
            }
        };
        // An aborted task of an owner before is not known any more.
        let Some((key, _)) = self.task_of.remove(&id) else { return };
        match key {
            // Images are not looked at: what the step says of one is all there is to know.
            Some(key @ StepKey::Image(_)) => {
                self.state.busy.remove(&key);
            }
            Some(key) => {
                self.state.unseen.insert(key);
                self.look_soon(Duration::ZERO);
            }
            None => self.looking = false,
        }
        if let Some(outcome) = outcome {
            self.note(outcome, Instant::now());
        }
    }

    fn note(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Looked { engine, containers } => self.note_look(engine, containers, now),
            Outcome::Fetched(image, Ok(())) => {
                self.state.images.insert(image, ImageState::Present);
            }
            Outcome::Fetched(image, Err(error)) => {
                let state = ImageState::after_failure(self.state.images.get(&image), &error, now);
                self.state.images.insert(image, state);
            }
            Outcome::Created(instance, Err(RuntimeError::ImageMissing)) => {
                let image = self.state.desired.get(&instance).map(|spec| &spec.image);
                if let Some(image) = image {
                    self.state.images.remove(image);
                }
                self.refused(instance, &RuntimeError::ImageMissing, now);
            }
            Outcome::Created(instance, result) | Outcome::Started(instance, result) => match result {
                Ok(()) => self.remember(instance, InstanceMemory::note_start),
                // It was removed by somebody; the next look sees that.
                Err(RuntimeError::Gone) => {}
                Err(error) => self.refused(instance, &error, now),
            },
            Outcome::Ended(instance, container, exit) => {
                tracing::warn!(%instance, %container, code = exit.code, out_of_memory = exit.out_of_memory,
                    "a container ended by itself");
                self.remember(instance, |memory| memory.note_end(container, &exit, now));
            }
            Outcome::Removed(container, Ok(())) => {
                self.state.removals.remove(&container);
            }
            Outcome::Removed(container, Err(error)) => {
                tracing::warn!(%container, %error, "a container cannot be removed yet");
                let retry = Retry::after(self.state.removals.get(&container), now);
                self.state.removals.insert(container, retry);
            }
        }
    }

    fn refused(&mut self, instance: InstanceId, error: &RuntimeError, now: Instant) {
        tracing::warn!(%instance, %error, "a container cannot be started");
        self.remember(instance, |memory| memory.note_refusal(error, now));
    }

    fn remember(&mut self, instance: InstanceId, note: impl FnOnce(&mut InstanceMemory)) {
        if let Some(memory) = self.state.memory.get_mut(&instance) {
            note(memory);
        }
    }

    fn note_look(&mut self, engine: EngineStatus, containers: Option<Vec<Container>>, now: Instant) {
        if self.engine.as_ref() != Some(&engine) {
            match &engine {
                EngineStatus::Ready { version } => tracing::info!(engine = %version, "the container engine is ready"),
                EngineStatus::Unavailable { reason } => tracing::warn!(%reason, "no container engine"),
            }
        }
        if matches!(engine, EngineStatus::Unavailable { .. }) {
            self.look_soon(SEARCH_INTERVAL);
        }
        self.observed.set_engine(engine.clone());
        self.engine = Some(engine);
        let state = &mut self.state;
        let Some(containers) = containers else {
            state.unseen.extend(state.being_seen.drain());
            return;
        };
        for key in state.being_seen.drain() {
            state.busy.remove(&key);
        }
        state.containers = containers;
        if !state.has_seen {
            state.has_seen = true;
            state.settles_at = Some(now + ADOPTION_SETTLE);
        }
    }

    fn take_health(&mut self, change: HealthChange) {
        let HealthChange { container, run, health } = change;
        // A late word about an earlier run of the container.
        if self.state.probes.get(&container).is_none_or(|probe| probe.run.run != run) {
            return;
        }
        let now = Instant::now();
        let instance = self.state.containers.iter().find(|known| known.id == container).map(|known| known.instance_id);
        if let Some(instance) = instance {
            tracing::info!(%instance, %container, %health, "health changed");
            self.remember(instance, |memory| memory.note_health(health == Health::Passing, now));
        }
        let has_failed = health != Health::Passing;
        self.state.health.insert(container, health);
        if has_failed {
            // Perhaps it has ended.
            self.look_soon(HINT_SETTLE);
        }
    }

    fn plan(&mut self, now: Instant) {
        let plan = plan_converge(&self.state.view(), now);
        self.state.kept = plan.kept;
        self.state.wake_at = plan.wake_at;
        self.forget(&plan.needed_images);
        self.sync_probes();
        let (Some(owner), Some(EngineStatus::Ready { .. })) = (self.owner.clone(), &self.engine) else { return };
        for step in plan.steps {
            let spec = match &step {
                Step::Create(instance) => self.state.desired.get(instance).cloned(),
                _ => None,
            };
            let key = step.key();
            self.state.busy.insert(key.clone());
            let handle = self.tasks.spawn(self.worker.clone().carry_out(step, owner.clone(), spec));
            self.task_of.insert(handle.id(), (Some(key), handle));
        }
    }

    /// Lets go of what is about nothing that is there or wished.
    fn forget(&mut self, needed_images: &HashSet<String>) {
        let state = &mut self.state;
        let present: HashSet<_> = state.containers.iter().map(|container| &container.id).collect();
        state.removals.retain(|container, _| present.contains(container));
        state.images.retain(|image, _| needed_images.contains(image));
        let desired = &state.desired;
        state.memory.retain(|instance, _| desired.contains_key(instance));
        for container in &state.containers {
            // Somebody else started it again; its next end is news.
            if let (ContainerState::Running { .. }, Some(memory)) =
                (container.state, state.memory.get_mut(&container.instance_id))
                && memory.ended.as_ref() == Some(&container.id)
            {
                memory.ended = None;
            }
        }
        for (key, handle) in self.task_of.values() {
            if let Some(StepKey::Image(image)) = key
                && !needed_images.contains(image)
            {
                handle.abort();
            }
        }
    }

    /// Probes exactly the containers that run and are wished.
    fn sync_probes(&mut self) {
        let mut wanted = HashMap::new();
        for container in &self.state.containers {
            let ContainerState::Running { endpoint: Some(endpoint) } = container.state else { continue };
            let Some(spec) = self.state.desired.get(&container.instance_id) else { continue };
            if self.state.kept.get(&container.instance_id) == Some(&container.id) {
                wanted.insert(container.id.clone(), (probe::target_of(spec, endpoint), spec.probe));
            }
        }
        self.state.probes.retain(|id, probe| wanted.get(id) == Some(&(probe.run.target.clone(), probe.run.spec)));
        let probes = &self.state.probes;
        self.state.health.retain(|id, _| probes.contains_key(id));
        for (container, (target, spec)) in wanted {
            if self.state.probes.contains_key(&container) {
                continue;
            }
            self.runs += 1;
            let run = ProbeRun { container: container.clone(), run: self.runs, target, spec };
            let (runtime, changes) = (Arc::clone(&self.runtime), self.health_sender.clone());
            let probing = run.clone();
            let task = spawn_owned(async move { probe::watch_health(&*runtime, probing, changes).await });
            self.state.probes.insert(container, RunningProbe { run, _task: task });
        }
    }

    fn publish(&mut self, now: Instant) {
        let (Some(owner), Some(engine)) = (&self.owner, &self.engine) else { return };
        let state = &mut self.state;
        let is_known = state.has_seen;
        // Of containers that nobody has looked at nothing can be said, except that the engine is away.
        if !is_known && matches!(engine, EngineStatus::Ready { .. }) {
            return;
        }
        let scene = Scene { view: state.view(), kept: &state.kept, health: &state.health, engine };
        let (instances, table) = describe(&scene);
        self.observed.set_instances(table);
        if is_known && !state.has_reported && !state.is_settled(now) {
            return;
        }
        state.settles_at = None;
        state.has_reported = is_known;
        let revision = if is_known { state.revision } else { 0 };
        let report = Report { revision, engine: engine.clone(), instances };
        self.observed.set_report(Some(AgentReport { agent_id: owner.agent_id, report: Arc::new(report) }));
    }
}

impl State {
    fn view(&self) -> View<'_> {
        View {
            desired: &self.desired,
            containers: &self.containers,
            memory: &self.memory,
            images: &self.images,
            removals: &self.removals,
            busy: &self.busy,
        }
    }

    /// Whether every adopted container was asked for its health, or has had the time.
    fn is_settled(&self, now: Instant) -> bool {
        let is_asked = |container: &ContainerId| self.health.contains_key(container);
        self.settles_at.is_none_or(|at| now >= at) || self.probes.keys().all(is_asked)
    }
}

#[cfg(test)]
#[path = "converge/loop_tests.rs"]
mod tests;
