//! The task of one session, from the first byte after the `101` to its end.
//!
//! The task owns the session: it says hello, registers it, passes messages in both directions, and cleans up. It ends
//! when the agent goes, when a newer session of the agent replaces it, when the key is revoked or expires, or when the
//! server stops.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use towline_model::{AgentId, CredentialId, SessionId, TeamId, Timestamp};
use towline_tunnel::{
    ProtocolError, SessionConfig, SessionEnd, SessionReceiver, SessionSender,
    message::{AgentMessage, Desired, Hello, PROTOCOL_VERSION, Refusal, Report, ServerMessage, Welcome},
    server_session,
    upgrade::Framing,
};

use super::{AgentEvent, accept::Upgraded, registry::Admission, session::Session};
use crate::{gateway::Shared, last_use::LastUse, lifetime::Lifetime};

/// How long an agent may take to say hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long the control plane may take to say who the agent is.
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);
/// How long one message may wait for a slow agent.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// How often a session is looked after.
const TICK: Duration = Duration::from_secs(1);

/// Who opens a session, as its key says.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub credential_id: CredentialId,
    pub team_id: TeamId,
    pub expires_at: Option<Timestamp>,
    /// An agent that is connected uses its key all along.
    pub last_use: LastUse,
    /// How long its key can be used.
    pub key: Lifetime,
    pub admission: Admission,
    /// What its frames are wrapped in.
    pub framing: Framing,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the agent's side ended: {0}")]
    Agent(SessionEnd),
    #[error("the agent looked whether it gets through this way")]
    OnlyLooked,
    #[error("the agent did not say hello in time")]
    NoHello,
    #[error("the agent spoke out of turn")]
    OutOfTurn,
    #[error("refused: {0}")]
    Refused(String),
    #[error("the agent does not take its messages")]
    Stuck,
    #[error("a newer session of the agent took its place")]
    Replaced,
    #[error("its key was revoked or expired")]
    KeyGone,
    #[error("the server is stopping")]
    Stopping,
}

impl From<SessionEnd> for Over {
    fn from(end: SessionEnd) -> Self {
        Self::Agent(end)
    }
}

/// One session's two directions.
struct Line {
    sender: SessionSender<ServerMessage>,
    receiver: SessionReceiver<AgentMessage>,
}

impl Line {
    async fn send(&self, message: &ServerMessage) -> Result<(), Over> {
        timeout(SEND_DEADLINE, self.sender.send(message)).await.map_err(|_| Over::Stuck)?.map_err(Over::from)
    }

    /// Tells the agent what it should run. What is too long to be told ends nothing: the agent keeps to what it was told
    /// before, and everything else that it runs stays reachable.
    async fn tell(&self, session: &Session, wish: &Desired) -> Result<(), Over> {
        match self.send(&ServerMessage::Desired(wish.clone())).await {
            Err(Over::Agent(SessionEnd::Protocol(ProtocolError::MessageTooLong))) if self.sender.end().is_none() => {
                let (agent, instances) = (session.agent_id(), wish.instances.len());
                tracing::error!(%agent, instances, "what the agent should run is too long to be told; it keeps what it has");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Runs a session to its end.
pub(crate) async fn run(shared: Arc<Shared>, io: Upgraded, newcomer: Newcomer) {
    let (sender, receiver, driver) = server_session(io, SessionConfig::default());
    let mut line = Line { sender: sender.clone(), receiver };
    let mut driver = std::pin::pin!(driver.run());
    let ended = {
        let mut work = std::pin::pin!(serve(&shared, &mut line, &newcomer));
        tokio::select! {
            over = &mut work => {
                // What was said last still has to be written.
                sender.close();
                let _ = timeout(SEND_DEADLINE, driver).await;
                over
            }
            // The driver's end reaches the work through its queues, after everything that was received before.
            _ = &mut driver => work.await,
        }
    };
    let (team, credential) = (newcomer.team_id, newcomer.credential_id);
    match ended {
        Over::OnlyLooked => tracing::debug!(%team, %credential, "{ended}"),
        ended => tracing::info!(%team, %credential, reason = %ended, "agent session ended"),
    }
    drop(newcomer.admission);
}

async fn serve(shared: &Arc<Shared>, line: &mut Line, newcomer: &Newcomer) -> Over {
    let session_id = SessionId::generate();
    let agent_id = match say_hello(shared, line, newcomer, session_id).await {
        Ok(agent_id) => agent_id,
        Err(over) => return over,
    };
    // From here on the control plane takes the agent for online, so every way out says goodbye.
    let over = match welcome(shared, line, session_id, agent_id).await {
        Ok(()) => hold(shared, line, newcomer, session_id, agent_id).await,
        Err(over) => over,
    };
    let _ = shared.events.send(AgentEvent::Gone { session_id, agent_id }).await;
    over
}

/// Registers an accepted session and keeps it until it is over.
async fn hold(
    shared: &Arc<Shared>,
    line: &mut Line,
    newcomer: &Newcomer,
    session_id: SessionId,
    agent_id: AgentId,
) -> Over {
    let slot = shared.agents.slot(agent_id);
    let session = Session::new(session_id, slot, shared.clock.now(), shared.config.placement);
    let session = Arc::new(session.under(newcomer.key.clone()));
    let guard = Registered::enter(shared, &session);
    tracing::info!(agent = %agent_id, session = %session_id, transport = %newcomer.framing, "agent session accepted");
    let _ = shared.events.send(AgentEvent::Joined { session_id, agent_id }).await;
    let over = attend(shared, line, newcomer, &session).await;
    match over {
        // Whoever lost the right to be here loses its streams too; otherwise requests that run may finish.
        Over::KeyGone | Over::Stopping => session.cut(),
        _ => session.go_away(),
    }
    drop(guard);
    over
}

/// Hears the agent's hello and asks the control plane who it is.
async fn say_hello(
    shared: &Arc<Shared>,
    line: &mut Line,
    newcomer: &Newcomer,
    session_id: SessionId,
) -> Result<AgentId, Over> {
    let hello = match timeout(HELLO_DEADLINE, line.receiver.next()).await.map_err(|_| Over::NoHello)? {
        Ok(AgentMessage::Hello(hello)) => hello,
        Ok(_) => return Err(Over::OutOfTurn),
        Err(SessionEnd::PeerClosed) => return Err(Over::OnlyLooked),
        Err(end) => return Err(end.into()),
    };
    match ask_control(shared, newcomer, session_id, hello).await {
        Ok(agent_id) => Ok(agent_id),
        Err(refusal) => {
            let reason = refusal.reason.clone();
            line.send(&ServerMessage::Refused(refusal)).await?;
            Err(Over::Refused(reason))
        }
    }
}

async fn welcome(shared: &Shared, line: &Line, session_id: SessionId, agent_id: AgentId) -> Result<(), Over> {
    let welcome = Welcome {
        protocol_version: PROTOCOL_VERSION,
        agent_id,
        session_id,
        server_version: shared.config.server_version.clone(),
        connection_lifetime_seconds: shared.config.agent_connection_lifetime.map(|limit| limit.as_secs()),
    };
    line.send(&ServerMessage::Welcome(welcome)).await
}

async fn ask_control(
    shared: &Arc<Shared>,
    newcomer: &Newcomer,
    session_id: SessionId,
    hello: Hello,
) -> Result<AgentId, Refusal> {
    if !hello.protocol_versions.contains(&PROTOCOL_VERSION) {
        let reason = format!(
            "this server speaks version {PROTOCOL_VERSION} of the agents' protocol and the agent only {:?}; \
             install an agent of the server's version ({})",
            hello.protocol_versions, shared.config.server_version
        );
        return Err(Refusal { reason, retry: false });
    }
    let (reply, answer) = oneshot::channel();
    let event = AgentEvent::Hello {
        session_id,
        team_id: newcomer.team_id,
        credential_id: newcomer.credential_id,
        framing: newcomer.framing,
        hello,
        reply,
    };
    let ask = async {
        shared.events.send(event).await.ok()?;
        answer.await.ok()
    };
    match timeout(CONTROL_DEADLINE, ask).await {
        Ok(Some(answer)) => answer,
        _ => Err(Refusal { reason: "the server is not ready for agents yet".to_owned(), retry: true }),
    }
}

/// A session's registration; undone on drop.
struct Registered<'a> {
    shared: &'a Shared,
    session: Arc<Session>,
}

impl<'a> Registered<'a> {
    fn enter(shared: &'a Shared, session: &Arc<Session>) -> Self {
        if let Some(old) = shared.agents.enter(session) {
            old.end.cancel();
        }
        Self { shared, session: Arc::clone(session) }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.session.go_away();
        self.shared.agents.leave(&self.session);
    }
}

/// Passes messages until the session is over.
async fn attend(shared: &Arc<Shared>, line: &mut Line, newcomer: &Newcomer, session: &Arc<Session>) -> Over {
    let mut outbox = Outbox { events: shared.events.clone(), session: Arc::clone(session), latest: None };
    let mut desired = session.desired.subscribe();
    // Whatever was set between the registration and now counts as new.
    desired.mark_changed();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_to_go = false;
    loop {
        let step = tokio::select! {
            message = line.receiver.next() => match message {
                Ok(message) => hear(session, message, &mut outbox),
                Err(end) => Err(Over::Agent(end)),
            },
            () = outbox.deliver(), if outbox.latest.is_some() => Ok(()),
            Ok(()) = desired.changed() => {
                let wish = desired.borrow_and_update().clone();
                match wish {
                    Some(wish) => line.tell(session, &wish).await,
                    None => Ok(()),
                }
            }
            () = session.grow.notified() => ask_for_carriers(line, session).await,
            _ = ticks.tick() => look_after(shared, line, newcomer, session).await,
            () = session.end.cancelled() => Err(Over::Replaced),
            () = newcomer.key.ended() => Err(Over::KeyGone),
            () = shared.stopping.cancelled(), if !told_to_go => {
                told_to_go = true;
                let drain_millis = u64::try_from(shared.config.drain_timeout.as_millis()).unwrap_or(u64::MAX);
                line.send(&ServerMessage::GoAway { drain_millis }).await
            }
            () = shared.cut.cancelled() => Err(Over::Stopping),
        };
        if let Err(over) = step {
            return over;
        }
    }
}

fn hear(session: &Arc<Session>, message: AgentMessage, outbox: &mut Outbox) -> Result<(), Over> {
    match message {
        AgentMessage::Hello(_) => Err(Over::OutOfTurn),
        AgentMessage::Report(report) => {
            outbox.latest = Some(report);
            Ok(())
        }
        AgentMessage::Leaving => {
            // No new streams; the agent closes the session when those that run are finished.
            session.slot.release(session.id);
            session.go_away();
            Ok(())
        }
    }
}

async fn ask_for_carriers(line: &Line, session: &Arc<Session>) -> Result<(), Over> {
    let tickets = session.issue_tickets(Instant::now());
    if tickets.is_empty() { Ok(()) } else { line.send(&ServerMessage::DialCarriers { tickets }).await }
}

async fn look_after(shared: &Shared, line: &Line, newcomer: &Newcomer, session: &Arc<Session>) -> Result<(), Over> {
    if newcomer.expires_at.is_some_and(|expiry| expiry <= shared.clock.now()) {
        return Err(Over::KeyGone);
    }
    newcomer.last_use.note(shared.clock.now());
    session.retire_idle(Instant::now());
    ask_for_carriers(line, session).await
}

/// The way of reports to the control plane: only the newest waits.
struct Outbox {
    events: mpsc::Sender<AgentEvent>,
    session: Arc<Session>,
    latest: Option<Report>,
}

impl Outbox {
    /// Delivers the newest report once there is room for it. Cancel safe.
    async fn deliver(&mut self) {
        match self.events.reserve().await {
            Ok(permit) => {
                if let Some(report) = self.latest.take() {
                    let (session_id, agent_id) = (self.session.id, self.session.agent_id());
                    permit.send(AgentEvent::Report { session_id, agent_id, report });
                }
            }
            Err(_) => self.latest = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use towline_model::{
        InstanceId, ServiceId,
        service::{AppProtocol, EnvVar, ProbeSpec},
    };
    use towline_tunnel::{message::InstanceSpec, placement::PlacementLimits};

    use super::*;
    use crate::agents::slot::AgentSlot;

    fn instance(env_bytes: usize) -> InstanceSpec {
        InstanceSpec {
            instance_id: InstanceId::generate(),
            service_id: ServiceId::generate(),
            service_slug: "hello".to_owned(),
            generation: 1,
            image: "demo:1".to_owned(),
            exposed_port: 8080,
            app_protocol: AppProtocol::default(),
            health_path: "/health".to_owned(),
            probe: ProbeSpec::default(),
            registry_auth: None,
            secret_env: Vec::new(),
            env: vec![EnvVar { env_name: "A".to_owned(), env_value: "x".repeat(env_bytes) }],
            volumes: Vec::new(),
            command: None,
            args: None,
            cpu_limit: None,
            memory_limit_bytes: None,
            gpu_count: 0,
            stop_grace_seconds: 10,
            withheld: None,
        }
    }

    #[tokio::test]
    async fn a_wish_that_is_too_long_does_not_end_the_session() {
        let (io, _peer) = tokio::io::duplex(1024);
        let (sender, receiver, _driver) = server_session(io, SessionConfig::default());
        let line = Line { sender, receiver };
        let slot = Arc::new(AgentSlot::new(AgentId::generate()));
        let since = Timestamp::from_micros(0);
        let session = Session::new(SessionId::generate(), slot, since, PlacementLimits::default());
        for bytes in [5 << 20, 10] {
            let wish =
                Desired { revision: 1, instances: vec![instance(bytes)], withheld: Vec::new(), endpoints: Vec::new() };
            assert!(line.tell(&session, &wish).await.is_ok(), "{bytes}");
        }
        assert!(line.sender.end().is_none());
    }
}
