//! What agents say becomes state here: who they are, which session they have, and what runs on their machines.
//!
//! One task takes the gateway's events in their order. It decides nothing about services: it writes down, and wakes the
//! reconciler.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use towline_gateway::{AgentEvent, Gateway};
use towline_model::{AgentId, Clock, InstanceId, InstancePhase, SessionId, TeamId, Timestamp, service};
use towline_store::{
    AgentObservation, AgentRegistration, InstanceObservation, InstanceRow, ReportOutcome, Store, StoreError, Tx,
};
use towline_tunnel::message::{EngineStatus, Hello, InstanceReport, Refusal, Report};

use crate::{
    app::App,
    event::{EventKind, Subject, cut},
    reconcile::{DesiredSets, Wake, verdict::reason_name},
    snapshot::Publisher,
};

/// The longest sentence of an agent that is kept, in bytes.
const MAX_REASON_BYTES: usize = 1000;
/// The most labels of an agent.
const MAX_LABELS: usize = 64;

/// Takes what agents say.
pub struct AgentEvents {
    store: Store,
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    publisher: Publisher,
    desired: Arc<DesiredSets>,
    wake: Wake,
    /// The agents that have a session: their names for messages, and what they last said of their engine.
    known: HashMap<AgentId, Known>,
}

struct Known {
    name: String,
    engine: EngineStatus,
}

/// What a report changed.
#[derive(Default)]
struct Noted {
    /// The reconciler has something to look at.
    is_news: bool,
    /// Callers are served by other instances than before.
    readiness: bool,
}

impl AgentEvents {
    /// Works with the parts of the application.
    #[must_use]
    pub fn new(app: &App, desired: Arc<DesiredSets>) -> Self {
        let parts = &app.inner;
        Self {
            store: parts.store.clone(),
            gateway: parts.gateway.clone(),
            clock: Arc::clone(&parts.clock),
            publisher: parts.publisher.clone(),
            desired,
            wake: parts.wake.clone(),
            known: HashMap::new(),
        }
    }

    /// Runs until `shutdown` is cancelled or the gateway is gone.
    pub async fn run(mut self, mut events: mpsc::Receiver<AgentEvent>, shutdown: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                None => return,
                Some(AgentEvent::Hello { session_id, team_id, hello, reply, .. }) => {
                    self.hello(session_id, team_id, hello, reply).await;
                }
                // The reconciler sends it what it should run.
                Some(AgentEvent::Joined { .. }) => self.wake.wake(),
                Some(AgentEvent::Report { session_id, agent_id, report }) => {
                    self.report(session_id, agent_id, report).await;
                }
                Some(AgentEvent::Gone { session_id, agent_id }) => self.gone(session_id, agent_id).await,
            }
        }
    }

    async fn hello(
        &mut self,
        session_id: SessionId,
        team_id: TeamId,
        hello: Hello,
        reply: oneshot::Sender<Result<AgentId, Refusal>>,
    ) {
        let engine = hello.engine.clone();
        let name = hello.name.clone();
        let answer = match self.register(session_id, team_id, hello).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an agent could not be registered");
                Err(refusal("the server's database does not answer; try again shortly", true))
            }
        };
        let agent_id = answer.as_ref().ok().copied();
        match &answer {
            Ok(agent_id) => tracing::info!(%agent_id, %session_id, name, "agent joined"),
            Err(refusal) => tracing::info!(name, reason = refusal.reason, "agent refused"),
        }
        let taken = reply.send(answer).is_ok();
        let Some(agent_id) = agent_id else { return };
        if !taken {
            // It gave up waiting, so there will be no goodbye either.
            self.gone(session_id, agent_id).await;
            return;
        }
        self.known.insert(agent_id, Known { name, engine });
    }

    async fn register(
        &self,
        session_id: SessionId,
        team_id: TeamId,
        hello: Hello,
    ) -> Result<Result<AgentId, Refusal>, StoreError> {
        if let Err(refusal) = check(&hello) {
            return Ok(Err(refusal));
        }
        let now = self.clock.now();
        let mut tx = self.store.write().await?;
        if let Some(holder) = tx.find_agent_by_name(team_id, &hello.name).await?
            && holder.machine_id != hello.machine_id
            && self.gateway.sessions().iter().any(|session| Some(session.session_id) == holder.session_id)
        {
            let name = &hello.name;
            let reason = format!("another machine is connected as {name:?}; start this agent with another --name");
            return Ok(Err(Refusal { reason, retry: true }));
        }
        let (engine_ready, engine_message) = engine(&hello.engine);
        let registration = AgentRegistration {
            machine_id: hello.machine_id,
            agent_version: hello.agent_version,
            labels: hello.labels,
            gpu_count: i32::try_from(hello.gpu_count).unwrap_or(i32::MAX),
            engine_ready,
            engine_message: Some(engine_message),
        };
        let agent = tx.upsert_agent(team_id, &hello.name, &registration, now).await?;
        tx.set_session(agent.id, session_id, now).await?;
        tx.commit().await?;
        Ok(Ok(agent.id))
    }

    async fn report(&mut self, session_id: SessionId, agent_id: AgentId, report: Report) {
        let engine_is_news = match self.known.get_mut(&agent_id) {
            Some(known) => std::mem::replace(&mut known.engine, report.engine.clone()) != report.engine,
            None => true,
        };
        match self.write_report(session_id, agent_id, &report).await {
            Ok(noted) => {
                if noted.readiness
                    && let Err(error) = self.publisher.refresh().await
                {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the gateway's routes are late; they follow"
                    );
                }
                if noted.is_news || engine_is_news {
                    self.wake.wake();
                }
            }
            // The agent says the same again within ten seconds.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, %agent_id, "a report was lost"),
        }
    }

    async fn write_report(
        &self,
        session_id: SessionId,
        agent_id: AgentId,
        report: &Report,
    ) -> Result<Noted, StoreError> {
        let now = self.clock.now();
        let (engine_ready, engine_message) = engine(&report.engine);
        let observation = AgentObservation { seen_at: now, engine_ready, engine_message: Some(engine_message) };
        let mut tx = self.store.write().await?;
        if !tx.touch_agent(agent_id, session_id, &observation).await? {
            // A newer session speaks for this agent.
            return Ok(Noted::default());
        }
        let placed = tx.instances_of_agent(agent_id).await?;
        let mut noted = Noted::default();
        for said in &report.instances {
            if let Some(before) = placed.iter().find(|row| row.id == said.instance_id) {
                self.note(&mut tx, agent_id, before, said, &mut noted, now).await?;
            }
        }
        if let Some(told) = self.desired.told(agent_id, session_id, report.revision) {
            let silent = placed.iter().filter(|row| !report.instances.iter().any(|said| said.instance_id == row.id));
            for before in silent {
                self.note_absence(&mut tx, agent_id, before, &told, &mut noted, now).await?;
            }
        }
        tx.commit().await?;
        Ok(noted)
    }

    /// Writes down what is said of one instance.
    async fn note(
        &self,
        tx: &mut Tx,
        agent_id: AgentId,
        before: &InstanceRow,
        said: &InstanceReport,
        noted: &mut Noted,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let observation = observation(said, now);
        if tx.record_report(agent_id, &observation).await? != ReportOutcome::Changed {
            return Ok(());
        }
        noted.is_news = true;
        if before.phase == said.phase {
            return Ok(());
        }
        noted.readiness |= before.phase == InstancePhase::Ready || said.phase == InstancePhase::Ready;
        let Some((kind, message)) = self.in_words(agent_id, before, &observation) else { return Ok(()) };
        tx.append_event(&subject(before).event(kind, message, Some(before.id), now)).await
    }

    /// An instance that the agent does not speak of: it is gone if it should be, and not there yet if it should.
    async fn note_absence(
        &self,
        tx: &mut Tx,
        agent_id: AgentId,
        before: &InstanceRow,
        told: &BTreeSet<InstanceId>,
        noted: &mut Noted,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let is_wished = told.contains(&before.id);
        if !is_wished && before.stop_requested_at.is_some() {
            noted.is_news |= tx.delete_instance(before.id).await?;
            let message = format!("an instance on {} is gone", self.name(agent_id));
            let event = subject(before).event(EventKind::Gone, message, Some(before.id), now);
            return tx.append_event(&event).await;
        }
        if is_wished && before.phase != InstancePhase::Pending {
            let absent = InstanceObservation {
                instance_id: before.id,
                generation: before.generation,
                phase: InstancePhase::Pending,
                reason_kind: None,
                reason: None,
                restart_count: before.restart_count,
                container_id: None,
                reported_at: now,
            };
            noted.is_news |= tx.record_report(agent_id, &absent).await? == ReportOutcome::Changed;
            noted.readiness |= before.phase == InstancePhase::Ready;
        }
        Ok(())
    }

    fn in_words(
        &self,
        agent_id: AgentId,
        before: &InstanceRow,
        said: &InstanceObservation,
    ) -> Option<(EventKind, String)> {
        let agent = self.name(agent_id);
        let reason = said.reason.as_deref().unwrap_or("no reason was given");
        match said.phase {
            InstancePhase::Pulling => Some((EventKind::Pulling, format!("{agent} is getting the image"))),
            // A container that is started again and again is told once.
            InstancePhase::Starting if before.started_at.is_none() => {
                Some((EventKind::Starting, format!("the container has started on {agent}")))
            }
            InstancePhase::Ready => Some((EventKind::Ready, format!("an instance on {agent} is ready"))),
            InstancePhase::Unhealthy => {
                Some((EventKind::Unhealthy, format!("an instance on {agent} fails its health probe: {reason}")))
            }
            InstancePhase::BackingOff => Some((EventKind::BackingOff, format!("{agent} will try again: {reason}"))),
            InstancePhase::Starting | InstancePhase::Pending | InstancePhase::Stopping => None,
        }
    }

    async fn gone(&mut self, session_id: SessionId, agent_id: AgentId) {
        match self.clear_session(session_id, agent_id).await {
            Ok(true) => {
                self.known.remove(&agent_id);
                tracing::info!(%agent_id, %session_id, "agent gone");
                self.wake.wake();
            }
            // A newer session of the agent is here already.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, %agent_id, "a session's end was lost")
            }
        }
    }

    async fn clear_session(&self, session_id: SessionId, agent_id: AgentId) -> Result<bool, StoreError> {
        let mut tx = self.store.write().await?;
        let cleared = tx.clear_session(agent_id, session_id).await?;
        tx.commit().await?;
        Ok(cleared)
    }

    fn name(&self, agent_id: AgentId) -> &str {
        self.known.get(&agent_id).map_or("its agent", |known| known.name.as_str())
    }
}

fn subject(row: &InstanceRow) -> Subject {
    Subject { team_id: row.team_id, service_id: row.service_id }
}

fn observation(said: &InstanceReport, now: Timestamp) -> InstanceObservation {
    InstanceObservation {
        instance_id: said.instance_id,
        generation: said.generation,
        phase: said.phase,
        reason_kind: said.reason.as_ref().map(|reason| reason_name(reason.kind).to_owned()),
        reason: said.reason.as_ref().map(|reason| cut(reason.message.clone(), MAX_REASON_BYTES)),
        restart_count: i64::from(said.restart_count),
        container_id: said.container_id.as_ref().map(|id| cut(id.clone(), 128)),
        reported_at: now,
    }
}

/// Whether the engine can be used, and the sentence that belongs to it.
fn engine(status: &EngineStatus) -> (bool, String) {
    match status {
        EngineStatus::Ready { version } => (true, cut(version.clone(), MAX_REASON_BYTES)),
        EngineStatus::Unavailable { reason } => (false, cut(reason.clone(), MAX_REASON_BYTES)),
    }
}

/// An agent's word is not trusted further than it can be shown and compared.
fn check(hello: &Hello) -> Result<(), Refusal> {
    let is_text =
        |text: &str, max: usize| (1..=max).contains(&text.chars().count()) && !text.contains(char::is_control);
    if !is_text(&hello.name, 100) {
        return Err(refusal("an agent's --name must have 1 to 100 characters and no control characters", false));
    }
    if !is_text(&hello.machine_id, 200) || !is_text(&hello.agent_version, 200) {
        return Err(refusal("the agent's machine id and version must have 1 to 200 characters", false));
    }
    if hello.labels.len() > MAX_LABELS {
        return Err(refusal("an agent has at most 64 labels; start it with fewer --label", false));
    }
    match hello.labels.iter().find(|label| !service::is_label(label)) {
        Some(label) => {
            let label = cut(label.clone(), 100);
            Err(refusal(format!("the label {label:?} cannot be used: a label {}", service::LABEL_RULE), false))
        }
        None => Ok(()),
    }
}

fn refusal(reason: impl Into<String>, retry: bool) -> Refusal {
    Refusal { reason: reason.into(), retry }
}
