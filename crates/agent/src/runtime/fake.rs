//! A container engine in memory, for tests. It does what it is told, fails when it is told to, and can serve real HTTP or
//! echo bytes on loopback in place of a container's program.

mod program;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use towline_model::{AgentId, InstanceId};
use towline_tunnel::message::{EngineStatus, InstanceSpec, RegistryAuth};

pub use self::program::Program;
use super::{
    ChangeStream, Container, ContainerId, ContainerState, Exit, LogQuery, LogStream, Owner, PullError, PullProgress,
    Runtime, RuntimeError,
};
use crate::{
    fingerprint,
    probe::{self, ProbeFailure, ProbeTarget},
};

/// The engine. Clones are handles to the same one, so a test keeps one while the agent has another.
#[derive(Debug, Clone, Default)]
pub struct FakeRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

#[derive(Debug, Default)]
struct State {
    is_down: bool,
    images: HashSet<String>,
    pulls: HashMap<String, (Duration, Result<(), PullError>)>,
    logins: HashMap<String, RegistryAuth>,
    containers: BTreeMap<ContainerId, FakeContainer>,
    made: u64,
    program: Program,
    next_create: Option<RuntimeError>,
    next_start: Option<RuntimeError>,
    sick: Option<ProbeFailure>,
    log: Vec<String>,
}

#[derive(Debug)]
struct FakeContainer {
    agent_id: AgentId,
    container: Container,
    exit: Exit,
    lines: watch::Sender<Vec<String>>,
    running: Option<AbortOnDropHandle<()>>,
}

impl FakeRuntime {
    /// An engine with these images and nothing running. Containers have an address and nobody behind it; their probes
    /// pass.
    #[must_use]
    pub fn new(images: &[&str]) -> Self {
        let engine = Self::default();
        engine.state().images.extend(images.iter().map(|&image| image.to_owned()));
        engine
    }

    /// Containers started from now on run this program. With a program that serves, probes are real.
    #[must_use]
    pub fn with_program(self, program: Program) -> Self {
        self.state().program = program;
        self
    }

    /// Takes the engine away or brings it back. Containers go on.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
        self.changed();
    }

    /// What pulling that image takes and comes to.
    pub fn set_pull(&self, image: &str, takes: Duration, result: Result<(), PullError>) {
        self.state().pulls.insert(image.to_owned(), (takes, result));
    }

    /// Lets an image be pulled with this login only.
    pub fn set_login(&self, image: &str, login: RegistryAuth) {
        self.state().logins.insert(image.to_owned(), login);
    }

    /// Makes the next container that is made fail.
    pub fn fail_next_create(&self, error: RuntimeError) {
        self.state().next_create = Some(error);
    }

    /// Makes the next start fail.
    pub fn fail_next_start(&self, error: RuntimeError) {
        self.state().next_start = Some(error);
    }

    /// Makes every probe fail, or pass again.
    pub fn set_sick(&self, why: Option<&str>) {
        self.state().sick = why.map(|why| ProbeFailure(why.to_owned()));
    }

    /// Ends the program of an instance's container.
    pub fn crash(&self, instance: InstanceId, code: i64) {
        for fake in self.state().containers.values_mut().filter(|fake| fake.container.instance_id == instance) {
            fake.end(Exit { code: Some(code), ..Exit::default() });
        }
        self.changed();
    }

    /// Lets an instance's program write a line.
    pub fn write_line(&self, instance: InstanceId, line: &str) {
        for fake in self.state().containers.values().filter(|fake| fake.container.instance_id == instance) {
            fake.lines.send_modify(|lines| lines.push(format!("{line}\n")));
        }
    }

    /// Puts a container there that the agent did not make in this life.
    pub fn put(&self, agent_id: AgentId, spec: &InstanceSpec, state: ContainerState) -> ContainerId {
        let id = self.state().make(agent_id, spec);
        if let Some(fake) = self.state().containers.get_mut(&id) {
            fake.container.state = state;
        }
        self.changed();
        id
    }

    /// Every container, whosoever it is.
    #[must_use]
    pub fn containers(&self) -> Vec<Container> {
        self.state().containers.values().map(|fake| fake.container.clone()).collect()
    }

    /// What the engine was made to do, in order: `create a`, `start a`, `stop a`, `remove a`, `pull image`.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// Waits until the containers are as wished.
    pub async fn wait_until(&self, mut holds: impl FnMut(&[Container]) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        while !holds(&self.containers()) {
            changes.changed().await.expect("the sender is held by self");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panic while the lock is held")
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// Does something with a container if the engine is there and has it.
    fn with_container<T>(
        &self,
        id: &ContainerId,
        act: impl FnOnce(&mut FakeContainer) -> T,
    ) -> Result<T, RuntimeError> {
        let mut state = self.state();
        state.check_up()?;
        let result = state.containers.get_mut(id).map(act).ok_or(RuntimeError::Gone)?;
        drop(state);
        self.changed();
        Ok(result)
    }
}

impl State {
    fn check_up(&self) -> Result<(), RuntimeError> {
        if self.is_down { Err(RuntimeError::Unavailable("the engine was taken away".to_owned())) } else { Ok(()) }
    }

    fn make(&mut self, agent_id: AgentId, spec: &InstanceSpec) -> ContainerId {
        self.made += 1;
        let id = ContainerId::new(format!("container-{:04}", self.made));
        let container = Container {
            id: id.clone(),
            instance_id: spec.instance_id,
            generation: spec.generation,
            fingerprint: Some(fingerprint::of(spec)),
            stop_grace: Duration::from_secs(u64::from(spec.stop_grace_seconds)),
            created_at: i64::try_from(self.made).unwrap_or(i64::MAX),
            state: ContainerState::Created,
        };
        let lines = watch::Sender::new(Vec::new());
        let fake = FakeContainer { agent_id, container, exit: Exit::default(), lines, running: None };
        self.containers.insert(id.clone(), fake);
        id
    }

    fn note(&mut self, what: &str, id: &ContainerId) {
        self.log.push(format!("{what} {}", id.as_str()));
    }
}

impl FakeContainer {
    fn end(&mut self, exit: Exit) {
        if matches!(self.container.state, ContainerState::Running { .. }) {
            self.container.state = ContainerState::Exited;
            let last = self.lines.borrow().last().cloned();
            self.exit = Exit { last_lines: last.into_iter().map(|line| line.trim_end().to_owned()).collect(), ..exit };
        }
        self.running = None;
    }
}

impl Runtime for FakeRuntime {
    async fn status(&self) -> EngineStatus {
        match self.state().check_up() {
            Ok(()) => EngineStatus::Ready { version: "Fake 1.0".to_owned() },
            Err(error) => EngineStatus::Unavailable { reason: error.to_string() },
        }
    }

    async fn list(&self, agent: AgentId) -> Result<Vec<Container>, RuntimeError> {
        let state = self.state();
        state.check_up()?;
        let own = state.containers.values().filter(|fake| fake.agent_id == agent);
        Ok(own.map(|fake| fake.container.clone()).collect())
    }

    async fn changes(&self, _agent: AgentId) -> Result<ChangeStream, RuntimeError> {
        let changes = self.shared.changes.subscribe();
        Ok(stream::unfold(changes, async |mut changes| changes.changed().await.ok().map(|()| ((), changes))).boxed())
    }

    async fn has_image(&self, image: &str) -> Result<bool, RuntimeError> {
        let state = self.state();
        state.check_up()?;
        Ok(state.images.contains(image))
    }

    async fn pull(
        &self,
        image: &str,
        login: Option<&RegistryAuth>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), PullError> {
        let script = {
            let mut state = self.state();
            state.check_up()?;
            state.log.push(format!("pull {image}"));
            state.pulls.get(image).cloned()
        };
        let wanted = self.state().logins.get(image).cloned();
        if wanted.is_some() && wanted.as_ref() != login {
            let (image, said) = (image.to_owned(), "unauthorized".to_owned());
            return Err(match login {
                Some(_) => PullError::LoginRefused { image, said },
                None => PullError::Denied { image, said },
            });
        }
        let said = "manifest unknown".to_owned();
        let unknown = (Duration::ZERO, Err(PullError::NotFound { image: image.to_owned(), said }));
        let (takes, result) = script.unwrap_or(unknown);
        progress.send_modify(|progress| progress.messages += 1);
        sleep(takes).await;
        result.inspect(|()| {
            self.state().images.insert(image.to_owned());
        })
    }

    async fn create(&self, owner: &Owner, spec: &InstanceSpec) -> Result<ContainerId, RuntimeError> {
        let mut state = self.state();
        state.check_up()?;
        if let Some(error) = state.next_create.take() {
            return Err(error);
        }
        if !state.images.contains(&spec.image) {
            return Err(RuntimeError::ImageMissing);
        }
        let id = state.make(owner.agent_id, spec);
        state.note("create", &id);
        drop(state);
        self.changed();
        Ok(id)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let program = {
            let mut state = self.state();
            if let Some(error) = state.next_start.take() {
                return Err(error);
            }
            state.note("start", id);
            state.program
        };
        let (endpoint, running) = program.start().await;
        let replaced = self.with_container(id, |fake| {
            fake.container.state = ContainerState::Running { endpoint: Some(endpoint) };
            std::mem::replace(&mut fake.running, running)
        })?;
        drop(replaced);
        Ok(())
    }

    async fn exit(&self, id: &ContainerId) -> Result<Exit, RuntimeError> {
        self.with_container(id, |fake| fake.exit.clone())
    }

    async fn stop(&self, id: &ContainerId, _grace: Duration) -> Result<(), RuntimeError> {
        self.state().note("stop", id);
        match self.with_container(id, |fake| fake.end(Exit { code: Some(143), ..Exit::default() })) {
            Err(RuntimeError::Gone) => Ok(()),
            other => other,
        }
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut state = self.state();
        state.check_up()?;
        state.note("remove", id);
        let removed = state.containers.remove(id);
        drop(state);
        drop(removed);
        self.changed();
        Ok(())
    }

    async fn logs(&self, id: &ContainerId, query: LogQuery) -> Result<LogStream, RuntimeError> {
        let lines = self.with_container(id, |fake| fake.lines.subscribe())?;
        let there = lines.borrow().len();
        let first = query.tail.map_or(0, |tail| there.saturating_sub(tail as usize));
        let lines = stream::unfold((lines, first), async |(mut lines, next)| {
            loop {
                let line = lines.borrow_and_update().get(next).cloned();
                match line {
                    Some(line) => return Some((Ok(Bytes::from(line)), (lines, next + 1))),
                    None => lines.changed().await.ok()?,
                }
            }
        });
        Ok(if query.follow { lines.boxed() } else { lines.take(there - first).boxed() })
    }

    async fn probe(&self, target: &ProbeTarget) -> Result<(), ProbeFailure> {
        let (program, sick) = {
            let state = self.state();
            (state.program, state.sick.clone())
        };
        match (sick, program) {
            (Some(why), _) => Err(why),
            (None, Program::Http) => probe::get(target).await,
            (None, Program::Nothing | Program::Echo) => Ok(()),
        }
    }
}
