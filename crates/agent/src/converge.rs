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
mod probes;
mod state;
mod step;

use std::{
    collections::{HashMap, HashSet},
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
use towline_tunnel::message::{Desired, EngineStatus, Report};

use self::{
    describe::{Scene, describe},
    memory::{ImageState, InstanceMemory, Retry},
    plan::{Step, StepKey, plan_converge},
    probes::Probes,
    state::State,
    step::{Material, Outcome, Worker},
};
use crate::{
    observed::{AgentReport, Observed},
    probe::{Health, HealthChange},
    runtime::{Container, Owner, Runtime, RuntimeError},
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
        probes: Probes::new(Arc::clone(&runtime), health_sender),
        runtime,
        observed,
        engine: None,
        owner: None,
        hint: Arc::new(Notify::new()),
        hints: None,
        tasks: JoinSet::new(),
        task_of: HashMap::new(),
        looking: false,
        look_at: Instant::now(),
        recheck_at: None,
        state: State::default(),
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = converger.run(wishes, health_changes) => {}
    }
}

struct Converger<R> {
    runtime: Arc<R>,
    worker: Worker<R>,
    observed: Arc<Observed>,
    engine: Option<EngineStatus>,
    owner: Option<Owner>,
    probes: Probes<R>,
    hint: Arc<Notify>,
    /// Asks the engine for hints about the owner's containers.
    hints: Option<AbortOnDropHandle<()>>,
    tasks: JoinSet<Outcome>,
    task_of: HashMap<Id, (Option<StepKey>, AbortHandle)>,
    /// Whether a look is in progress; there is one at a time.
    looking: bool,
    /// When to look next.
    look_at: Instant,
    /// When to look once more after that, if the engine has given a hint.
    recheck_at: Option<Instant>,
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
        self.state.begin_look();
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
        self.state.wish(&desired);
    }

    /// The server knows this agent by another id now (its database is a new one): other containers are ours.
    fn change_owner(&mut self, owner: &Owner) {
        self.tasks.abort_all();
        self.task_of.clear();
        self.tasks = JoinSet::new();
        self.state = State::default();
        self.probes.clear();
        self.observed.set_report(None);
        self.looking = false;
        self.look_at = Instant::now();
        let (runtime, hint, agent) = (Arc::clone(&self.runtime), Arc::clone(&self.hint), owner.agent_id);
        self.hints = Some(spawn_owned(async move {
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
            Some(key) => {
                self.state.end_step(key);
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
                Ok(()) => self.state.remember(instance, InstanceMemory::note_start),
                // It was removed by somebody; the next look sees that.
                Err(RuntimeError::Gone) => {}
                Err(error) => self.refused(instance, &error, now),
            },
            Outcome::Ended(instance, container, exit) => {
                tracing::warn!(%instance, %container, code = exit.code, out_of_memory = exit.out_of_memory,
                    "a container ended by itself");
                self.state.remember(instance, |memory| memory.note_end(container, &exit, now));
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
        self.state.remember(instance, |memory| memory.note_refusal(error, now));
    }

    fn note_look(&mut self, engine: EngineStatus, containers: Option<Vec<Container>>, now: Instant) {
        if self.engine.as_ref() != Some(&engine) {
            match &engine {
                EngineStatus::Ready { version } => tracing::info!(engine = %version, "the container engine is ready"),
                EngineStatus::Unavailable { reason } => tracing::info!(%reason, "no container engine"),
            }
        }
        if matches!(engine, EngineStatus::Unavailable { .. }) {
            self.look_soon(SEARCH_INTERVAL);
        }
        self.observed.set_engine(engine.clone());
        self.engine = Some(engine);
        let is_first = !self.state.has_seen;
        self.state.end_look(containers);
        if is_first && self.state.has_seen {
            self.state.settles_at = Some(now + ADOPTION_SETTLE);
        }
    }

    fn take_health(&mut self, change: HealthChange) {
        if !self.probes.take(&change) {
            return;
        }
        let HealthChange { container, health, .. } = change;
        let now = Instant::now();
        let instance = self.state.containers.iter().find(|known| known.id == container).map(|known| known.instance_id);
        if let Some(instance) = instance {
            match &health {
                Health::Unknown | Health::Starting(_) => tracing::debug!(%instance, %container, %health, "not ready"),
                Health::Passing => tracing::info!(%instance, %container, "ready"),
                Health::Failing(_) => tracing::warn!(%instance, %container, %health, "fails its probe"),
            }
            self.state.remember(instance, |memory| memory.note_health(health == Health::Passing, now));
        }
        if health != Health::Passing {
            // Perhaps it has ended.
            self.look_soon(HINT_SETTLE);
        }
    }

    fn plan(&mut self, now: Instant) {
        let plan = plan_converge(&self.state.view(), now);
        self.state.kept = plan.kept;
        self.state.wake_at = plan.wake_at;
        self.state.forget(&plan.needed_images);
        self.give_up_pulls(&plan.needed_images);
        self.probes.sync(&self.state.containers, &self.state.desired, &self.state.kept);
        let (Some(owner), Some(EngineStatus::Ready { .. })) = (self.owner.clone(), &self.engine) else { return };
        for step in plan.steps {
            let material = match &step {
                Step::Create(instance) => {
                    Material { spec: self.state.desired.get(instance).cloned(), ..Material::default() }
                }
                Step::FetchImage(image) => Material { logins: self.state.logins(image), ..Material::default() },
                _ => Material::default(),
            };
            let key = step.key();
            self.state.busy.insert(key.clone());
            let handle = self.tasks.spawn(self.worker.clone().carry_out(step, owner.clone(), material));
            self.task_of.insert(handle.id(), (Some(key), handle));
        }
    }

    /// Ends pulls that nobody waits for any more.
    fn give_up_pulls(&self, needed_images: &HashSet<String>) {
        for (key, handle) in self.task_of.values() {
            if let Some(StepKey::Image(image)) = key
                && !needed_images.contains(image)
            {
                handle.abort();
            }
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
        let scene = Scene { view: state.view(), kept: &state.kept, health: self.probes.health(), engine };
        let (instances, table) = describe(&scene);
        self.observed.set_instances(table);
        let is_settled = state.settles_at.is_none_or(|at| now >= at) || self.probes.have_asked_all();
        if is_known && !state.has_reported && !is_settled {
            return;
        }
        state.settles_at = None;
        state.has_reported = is_known;
        let revision = if is_known { state.revision } else { 0 };
        let report = Report { revision, endpoints_revision: 0, engine: engine.clone(), instances };
        self.observed.set_report(Some(AgentReport { agent_id: owner.agent_id, report: Arc::new(report) }));
    }
}

#[cfg(test)]
#[path = "converge/loop_tests.rs"]
mod tests;
