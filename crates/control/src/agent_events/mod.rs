//! What agents say becomes state here: who they are, which session they have, and what runs on their machines.
//!
//! One task takes the gateway's events in their order. It decides nothing about services: it writes down, and wakes the
//! reconciler.

mod report;

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use towline_gateway::{AgentEvent, Gateway};
use towline_model::{AgentId, Clock, SessionId, TeamId, service};
use towline_store::{AgentRegistration, Store, StoreError};
use towline_tunnel::{
    message::{EngineStatus, Hello, Refusal},
    upgrade::Framing,
};

use crate::{
    app::App,
    event::cut,
    reconcile::{DesiredSets, Wake},
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
                Some(AgentEvent::Hello { session_id, team_id, framing, hello, reply, .. }) => {
                    self.hello(session_id, team_id, (hello, framing), reply).await;
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
        (hello, framing): (Hello, Framing),
        reply: oneshot::Sender<Result<AgentId, Refusal>>,
    ) {
        let engine = hello.engine.clone();
        let name = hello.name.clone();
        let answer = match self.register(session_id, team_id, hello, framing).await {
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
        framing: Framing,
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
            capabilities: hello.capabilities,
            gpu_count: i32::try_from(hello.gpu_count).unwrap_or(i32::MAX),
            engine_ready,
            engine_message: Some(engine_message),
            transport: framing.to_string(),
            via_proxy: hello.via_proxy,
        };
        let agent = tx.upsert_agent(team_id, &hello.name, &registration, now).await?;
        tx.set_session(agent.id, session_id, now).await?;
        tx.commit().await?;
        Ok(Ok(agent.id))
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
    if hello.capabilities.len() > MAX_LABELS || !hello.capabilities.iter().all(|word| is_text(word, 100)) {
        return Err(refusal("an agent tells at most 64 capabilities of 1 to 100 characters", false));
    }
    if let Some(label) = hello.labels.iter().find(|label| label.starts_with(service::OWN_LABEL_PREFIX)) {
        let label = cut(label.clone(), 100);
        return Err(refusal(format!("the label {label:?} cannot be given: every agent has its own by itself"), false));
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
