//! Sessions: one control connection at a time, and a next one when it is lost.
//!
//! [`Sessions::run`] owns the backoff, `connect_once` owns one session from the dial to its end. A lost session stops
//! nothing: containers run on, and so do the streams on its carriers. A session that is about to be cut on its way to the
//! server is replaced before: the new one first, then the old one ends. One whose server is about to end is kept until that
//! server ends it, beside the next one: requests that the server has taken may still need streams.

mod hello;
mod said;
mod sleep_watch;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use towline_model::{Clock, SessionId};
use towline_tunnel::{
    SessionConfig, SessionEnd, SessionReceiver, SessionSender, agent_session,
    message::{AgentMessage, Desired, Refusal, ServerMessage, Welcome},
    upgrade::ConnectionKind,
};

use self::{said::Said, sleep_watch::SleepWatch};
use crate::{
    AgentStatus,
    backoff::Reconnect,
    carriers::{Carriers, SessionCarriers},
    config::AgentConfig,
    connect::{ConnectError, Dialled, Dialler, Rung},
    converge::Wish,
    observed::{AgentReport, Observed},
    runtime::{Owner, Runtime},
    task::spawn_owned,
};

/// How long a message may wait for the server to take it.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// How long the server may take to answer hello. It asks its database.
const WELCOME_DEADLINE: Duration = Duration::from_secs(20);
/// A report is sent this often even when nothing changes.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Reports are at least so far apart: changes that come together are told together.
const REPORT_GAP: Duration = Duration::from_millis(100);
/// How long the last words of a session may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How long to wait before a session that is to follow another one is opened anew.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
/// How often the clocks are compared.
const CLOCK_TICK: Duration = Duration::from_secs(2);

/// Opens sessions, one after the other.
pub struct Sessions<R> {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) dialler: Arc<Dialler>,
    pub(crate) carriers: Arc<Carriers<R>>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) wishes: watch::Sender<Option<Wish>>,
    pub(crate) status: watch::Sender<AgentStatus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gpu_count: u32,
}

/// Why a session is over, or never began.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the server refuses this agent: {}", .0.reason)]
    Refused(Refusal),
    #[error(
        "the server speaks version {0} of the agents' protocol, which this agent does not; install an agent of the server's version"
    )]
    Version(u32),
    #[error("the server did not answer in time ({0})")]
    Silent(&'static str),
    #[error("the connection to the server was lost: {0}")]
    Lost(#[from] SessionEnd),
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the server has ended")]
    GoAway,
    #[error("the machine was asleep")]
    Slept,
}

impl Failure {
    /// Whether trying again soon is in vain.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_lasting(),
            Self::Refused(refusal) => !refusal.retry,
            Self::Version(_) => true,
            _ => false,
        }
    }
}

/// How a session that was welcomed ended, and how long it had lasted.
enum Ended {
    /// The agent was told to stop, and has said goodbye.
    Left,
    Failed(Failure, Duration),
}

/// What became of a session that was welcomed.
enum Held<R> {
    /// Another one has taken its place.
    Renewed(Box<Session<R>>),
    /// The agent was told to stop, and has said goodbye.
    Left,
    Failed(Failure),
}

/// One welcomed session.
struct Session<R> {
    sender: SessionSender<AgentMessage>,
    receiver: SessionReceiver<ServerMessage>,
    owner: Owner,
    id: SessionId,
    carriers: SessionCarriers<R>,
    driver: AbortOnDropHandle<SessionEnd>,
    rung: Rung,
    opened: Instant,
    /// How long its server finishes what runs, once it has said that it is about to end.
    told_to_go: watch::Sender<Option<Duration>>,
}

/// Sessions that others have followed and that their servers have not ended yet.
type Farewells = Vec<AbortOnDropHandle<()>>;

impl<R: Runtime> Sessions<R> {
    /// Keeps a session until `shutdown`. Then says goodbye, lets streams finish, and returns.
    pub async fn run(&self, shutdown: &CancellationToken) {
        let mut backoff = Reconnect::default();
        let mut said = Said::default();
        let mut farewells = Farewells::new();
        loop {
            let (failure, healthy) = match self.connect_once(&mut farewells, shutdown).await {
                Ended::Left => return,
                Ended::Failed(failure, healthy) => (failure, healthy),
            };
            if !healthy.is_zero() {
                said = Said::default();
            }
            let wait = match &failure {
                failure if failure.is_lasting() => backoff.slow(&mut rand::rng()),
                Failure::Slept => Duration::ZERO,
                _ => backoff.next(healthy, &mut rand::rng()),
            };
            said.say(&failure.to_string(), wait);
            self.status.send_replace(AgentStatus::Disconnected { reason: failure.to_string() });
            tokio::select! {
                () = sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One session, from the dial to its end, and those that take its place in time.
    async fn connect_once(&self, farewells: &mut Farewells, shutdown: &CancellationToken) -> Ended {
        let opened = tokio::select! {
            opened = self.open() => opened,
            () = shutdown.cancelled() => return Ended::Left,
        };
        let mut session = match opened {
            Ok(opened) => opened,
            Err(failure) => return Ended::Failed(failure, Duration::ZERO),
        };
        let began = Instant::now();
        loop {
            let (agent, id) = (session.owner.agent_id, session.id);
            tracing::info!(%agent, session = %id, way = %session.rung, "connected to the server");
            self.status.send_replace(AgentStatus::Connected { agent_id: session.owner.agent_id });
            match self.hold(&mut session, shutdown).await {
                // With the old session its carriers take no new streams; those that run are finished.
                Held::Renewed(next) => {
                    let old = std::mem::replace(&mut session, *next);
                    farewells.retain(|farewell| !farewell.is_finished());
                    farewells.extend(old.linger());
                }
                Held::Left => return Ended::Left,
                Held::Failed(failure) => return Ended::Failed(failure, began.elapsed()),
            }
        }
    }

    /// Keeps a session until another one has taken its place, it fails, or the agent is stopped.
    async fn hold(&self, session: &mut Session<R>, shutdown: &CancellationToken) -> Held<R> {
        let is_renewing = AtomicBool::new(false);
        let told_to_go = session.told_to_go.subscribe();
        let mut successor = pin!(self.succeed(session.rung, session.opened, told_to_go.clone(), &is_renewing));
        let failure = tokio::select! {
            failure = self.attend(session) => failure,
            next = &mut successor => return Held::Renewed(Box::new(next)),
            () = shutdown.cancelled() => {
                self.leave(session).await;
                session.sender.close();
                let _ = timeout(CLOSE_DEADLINE, &mut session.driver).await;
                return Held::Left;
            }
        };
        if told_to_go.borrow().is_some() {
            return Held::Failed(Failure::GoAway);
        }
        if let Failure::Lost(end @ (SessionEnd::PeerClosed | SessionEnd::Io(_))) = &failure {
            // The server ends a session whose successor it has welcomed; this may be heard before the welcome.
            if is_renewing.load(Ordering::Relaxed)
                && let Ok(next) = timeout(WELCOME_DEADLINE, successor).await
            {
                return Held::Renewed(Box::new(next));
            }
            tracing::debug!(%end, age = ?session.opened.elapsed(), "the session was cut");
            self.dialler.lifetimes().note_cut(session.rung, session.opened, Instant::now());
        }
        Held::Failed(failure)
    }

    /// Opens the session that follows one in time, before that one is cut on its way or ended by its server.
    async fn succeed(
        &self,
        rung: Rung,
        opened: Instant,
        mut told_to_go: watch::Receiver<Option<Duration>>,
        is_renewing: &AtomicBool,
    ) -> Session<R> {
        tokio::select! {
            () = self.dialler.lifetimes().wait_until_old(rung, opened) => {}
            true = async { told_to_go.wait_for(Option::is_some).await.is_ok() } => {}
        }
        is_renewing.store(true, Ordering::Relaxed);
        loop {
            match self.open().await {
                Ok(next) => return next,
                Err(failure) => {
                    tracing::debug!("the session that is to follow was not opened: {failure}");
                    sleep(RENEW_AGAIN).await;
                }
            }
        }
    }

    /// Dials, says hello and waits to be welcomed.
    async fn open(&self) -> Result<Session<R>, Failure> {
        let dialled = self.dialler.dial(ConnectionKind::Session, self.config.key.expose()).await?;
        let rung = dialled.rung;
        let opened = self.introduce(dialled).await;
        if let Err(Failure::Lost(_) | Failure::Silent(_)) = &opened {
            // The request has passed, and what came behind it has not.
            self.dialler.ladder().broke(rung);
        }
        opened
    }

    async fn introduce(&self, Dialled { transport, rung, at: opened }: Dialled) -> Result<Session<R>, Failure> {
        let (sender, mut receiver, driver) = agent_session(transport, SessionConfig::default());
        let driver = spawn_owned(driver.run());
        let hello = hello::hello(&self.config, &self.observed, self.gpu_count, rung.via_proxy).await;
        send(&sender, &AgentMessage::Hello(hello)).await?;
        let answer = timeout(WELCOME_DEADLINE, receiver.next()).await.map_err(|_| Failure::Silent("hello"))??;
        let welcome = match answer {
            ServerMessage::Welcome(welcome) => hello::check_version(welcome)?,
            ServerMessage::Refused(refusal) => return Err(Failure::Refused(refusal)),
            _ => return Err(Failure::Protocol("it did not answer hello")),
        };
        let Welcome { agent_id, session_id: id, connection_lifetime_seconds, .. } = welcome;
        self.dialler.lifetimes().note_told(connection_lifetime_seconds.map(Duration::from_secs));
        let owner = Owner { agent_id, server: self.config.server.to_string() };
        let carriers = self.carriers.for_session();
        let told_to_go = watch::Sender::new(None);
        Ok(Session { sender, receiver, owner, id, carriers, driver, rung, opened, told_to_go })
    }

    /// Passes wishes in and reports out until the session is lost.
    async fn attend(&self, session: &mut Session<R>) -> Failure {
        let mut reports = self.observed.reports();
        reports.mark_changed();
        let mut next_report = Instant::now();
        let mut heartbeat = interval(REPORT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_due = false;
        let mut clocks = interval(CLOCK_TICK);
        clocks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sleep_watch = SleepWatch::new(self.clock.now(), Instant::now());
        loop {
            let step = tokio::select! {
                message = session.receiver.next() => match message {
                    Ok(message) => self.hear(session, message),
                    Err(end) => Err(end.into()),
                },
                Ok(()) = reports.changed(), if !is_due => {
                    is_due = true;
                    Ok(())
                }
                () = sleep_until(next_report), if is_due => {
                    is_due = false;
                    next_report = Instant::now() + REPORT_GAP;
                    heartbeat.reset();
                    let report = reports.borrow_and_update().clone();
                    session.report(report).await
                }
                _ = heartbeat.tick() => {
                    let report = reports.borrow().clone();
                    session.report(report).await
                }
                _ = clocks.tick() => {
                    let slept = sleep_watch.has_slept(self.clock.now(), Instant::now());
                    if slept { Err(Failure::Slept) } else { Ok(()) }
                }
            };
            if let Err(failure) = step {
                return failure;
            }
        }
    }

    fn hear(&self, session: &Session<R>, message: ServerMessage) -> Result<(), Failure> {
        match message {
            ServerMessage::Desired(desired) => {
                self.wish(session, desired);
                Ok(())
            }
            ServerMessage::DialCarriers { tickets } => {
                session.carriers.dial(tickets);
                Ok(())
            }
            ServerMessage::GoAway { drain_millis } => {
                tracing::info!(drain_millis, "the server is about to end; connecting anew");
                session.told_to_go.send_replace(Some(Duration::from_millis(drain_millis)));
                Ok(())
            }
            ServerMessage::Refused(refusal) => Err(Failure::Refused(refusal)),
            ServerMessage::Welcome(_) => Err(Failure::Protocol("it said welcome twice")),
        }
    }

    fn wish(&self, session: &Session<R>, desired: Desired) {
        let (containers, places) = (desired.instances.len() + desired.withheld.len(), desired.endpoints.len());
        tracing::info!(revision = desired.revision, containers, places, "told what should run");
        let wish = Wish { owner: session.owner.clone(), desired: Arc::new(desired) };
        self.wishes.send_replace(Some(wish));
    }

    /// Says goodbye and lets streams finish. The session stays open meanwhile: without it the server would cut them.
    async fn leave(&self, session: &mut Session<R>) {
        let _ = send(&session.sender, &AgentMessage::Leaving).await;
        let drained = self.carriers.drain(self.config.leave_deadline);
        tokio::pin!(drained);
        loop {
            tokio::select! {
                () = &mut drained => return,
                // What the server still says is of no interest any more, and must not stop its pings.
                message = session.receiver.next() => if message.is_err() {
                    return drained.await;
                },
            }
        }
    }
}

impl<R: Runtime> Session<R> {
    /// Keeps a session that another one has followed, if its server is about to end, until the server ends it.
    fn linger(self) -> Option<AbortOnDropHandle<()>> {
        let drain = (*self.told_to_go.borrow())?;
        Some(spawn_owned(self.last(drain)))
    }

    async fn last(mut self, drain: Duration) {
        // Whatever that server still says, the next one knows better.
        let _ = timeout(drain, async { while self.receiver.next().await.is_ok() {} }).await;
    }
}

impl<R> Session<R> {
    async fn report(&self, report: Option<AgentReport>) -> Result<(), Failure> {
        match report {
            // A report that was made as another agent (of a server before) is nobody's business here.
            Some(AgentReport { agent_id, report }) if agent_id == self.owner.agent_id => {
                send(&self.sender, &AgentMessage::Report(report.as_ref().clone())).await
            }
            _ => Ok(()),
        }
    }
}

async fn send(sender: &SessionSender<AgentMessage>, message: &AgentMessage) -> Result<(), Failure> {
    timeout(SEND_DEADLINE, sender.send(message)).await.map_err(|_| Failure::Silent("message"))?.map_err(Failure::from)
}

#[cfg(test)]
#[path = "session/session_tests.rs"]
mod tests;
