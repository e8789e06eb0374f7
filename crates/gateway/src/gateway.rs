//! The gateway as the control plane sees it: one cloneable handle.

use std::{
    convert::Infallible,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use rustls::pki_types::CertificateDer;
use tokio::{io::AsyncRead, net::TcpListener, sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;
use towline_model::{AgentId, Clock, CredentialId, Principal, Secret, ServiceId, SessionId, Timestamp, UserId};
use towline_tunnel::{Budget, LogsRequest, Workers, message::Desired, placement::PlacementLimits};

use crate::{
    AccessTokens, AgentEvent, AgentSession, AuthError, Authenticated, GatewayError, Snapshot,
    agents::registry::{Registry, SessionLimits},
    authenticate::{self, Authority},
    caller::{Caller, Callers},
    caller_body::CallerBody,
    external::ExternalTls,
    forwarded::{self, AddressRange},
    h1::head::MAX_HEAD,
    invoke::memory::InvokeMemory,
    line::LineStatus,
    listener, logs, metrics,
    presented::Doors,
    proxy,
    server_tls::ServerTls,
    standing::{SignIns, Standing},
    state::State,
    tickets::Tickets,
};

/// What agents tell waits here for the control plane.
const EVENT_QUEUE: usize = 256;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The address of whoever made a request, in the request's extensions: that of its connection, or, behind a trusted proxy,
/// the one that the proxy tells.
#[derive(Debug, Clone, Copy)]
pub struct CallerAddr(pub IpAddr);

/// Limits and deadlines. The defaults are what a production server should run with.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The version that agents are told.
    pub server_version: String,
    /// Bytes that all receive windows of the tunnel together may grow by. Default 256 MiB.
    pub tunnel_budget_bytes: usize,
    /// How streams are placed on carriers, and how many carriers an agent has.
    pub placement: PlacementLimits,
    /// The most agents of one team that may be connected. Default 1000.
    pub max_agents_per_team: usize,
    /// The most agents that may be connected from one address. Default 1000.
    pub max_agents_per_address: usize,
    /// The most connections, callers' and agents' together. Default 50 000.
    pub max_connections: usize,
    /// Proxies in front of this gateway whose `Forwarded` and `X-Forwarded-` fields are believed. Default none.
    pub trusted_proxies: Vec<AddressRange>,
    /// TLS with callers and agents; `None` for plain HTTP. Default none.
    pub tls: Option<ServerTls>,
    /// The longest request body of an invoke, decoded, in bytes. Default 32 MiB.
    pub invoke_request_limit: usize,
    /// The longest response body of an invoke, before encoding, in bytes. Default 32 MiB.
    pub invoke_response_limit: usize,
    /// Bytes that the head of a request, and of a container's answer, may have, as it stands in HTTP/1.1 and as RFC 9113
    /// §10.5.1 counts it in HTTP/2. Default 64 KiB.
    pub head_limit: usize,
    /// Bytes that the bodies of all invokes may take at a time, as they come and go on the wire; making the one from the other
    /// takes up to three times as much for a moment. Default 256 MiB.
    pub invoke_memory_bytes: usize,
    /// How long a request waits for a carrier of an agent that is connected and has none free. Default 5 s.
    pub carrier_wait: Duration,
    /// How long requests in flight may go on when the server stops. Default 30 s.
    pub drain_timeout: Duration,
    /// How long after that what is cut off may take to end. Default 5 s.
    pub cut_grace: Duration,
    /// How long a caller's connection is kept that has no request, and how long a request's head may take to arrive. Default 60 s.
    pub caller_idle: Duration,
    /// How long a caller of HTTP/2 may say nothing before it is pinged. Default 30 s.
    pub ping_after: Duration,
    /// How long it may go on saying nothing then. Default 20 s.
    pub ping_patience: Duration,
    /// The threads that connections are dealt out to. Default none: they run where the gateway is served.
    pub workers: Workers,
    /// The age at which something before the gateway cuts agents' connections, at least 5 seconds. Agents replace them before.
    pub agent_connection_lifetime: Option<Duration>,
    /// Certificates that those of external services are checked against beside the machine's trusted roots. Default none.
    pub external_roots: Vec<CertificateDer<'static>>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            tunnel_budget_bytes: 256 << 20,
            placement: PlacementLimits::default(),
            max_agents_per_team: 1000,
            max_agents_per_address: 1000,
            max_connections: 50_000,
            trusted_proxies: Vec::new(),
            tls: None,
            invoke_request_limit: 32 << 20,
            invoke_response_limit: 32 << 20,
            head_limit: MAX_HEAD,
            invoke_memory_bytes: 256 << 20,
            carrier_wait: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            cut_grace: Duration::from_secs(5),
            caller_idle: Duration::from_secs(60),
            ping_after: Duration::from_secs(30),
            ping_patience: Duration::from_secs(20),
            workers: Workers::default(),
            agent_connection_lifetime: None,
            external_roots: Vec::new(),
        }
    }
}

impl GatewayConfig {
    pub(crate) const fn session_limits(&self) -> SessionLimits {
        SessionLimits { per_team: self.max_agents_per_team, per_address: self.max_agents_per_address }
    }
}

/// What all parts of the gateway share.
pub(crate) struct Shared {
    pub config: GatewayConfig,
    pub tokens: AccessTokens,
    pub clock: Arc<dyn Clock>,
    pub state: ArcSwap<State>,
    /// One swap at a time, because the next state is made from the one before.
    swapping: Mutex<()>,
    pub agents: Arc<Registry>,
    pub events: mpsc::Sender<AgentEvent>,
    pub callers: Arc<Callers>,
    /// What signed-in users have in flight.
    pub sign_ins: Arc<SignIns>,
    /// WebSocket tickets that may be used.
    pub tickets: Tickets,
    /// TLS with external services.
    pub external_tls: ExternalTls,
    /// What the windows of all carriers grow under.
    pub budget: Budget,
    /// What the bodies of invokes take.
    pub invoke_memory: InvokeMemory,
    /// Sessions, carriers and other work that no caller waits for. It ends on `cut`.
    pub tasks: TaskTracker,
    /// Cancelled when nothing new is to begin.
    pub stopping: CancellationToken,
    /// Cancelled when everything is to end.
    pub cut: CancellationToken,
}

impl Shared {
    /// What credentials are judged by now.
    pub(crate) fn authority<'a>(&'a self, state: &'a State) -> Authority<'a> {
        Authority { credentials: &state.snapshot.credentials, tokens: &self.tokens, now: self.clock.now() }
    }

    /// Who made a request: see [`forwarded::client_address`].
    pub(crate) fn client_address(&self, caller: &Caller, headers: &HeaderMap) -> IpAddr {
        forwarded::client_address(caller.peer.ip(), &self.config.trusted_proxies, headers)
    }

    /// What a request of this principal lives by that was let in by `state`.
    pub(crate) fn standing(&self, principal: &Principal, state: &State) -> Standing {
        match principal {
            Principal::Device { credential_id, .. } | Principal::Integration { credential_id, .. } => {
                Standing::of_key(state.key(*credential_id))
            }
            Principal::User { user_id, team_id, sign_in, .. } => {
                let standing = self.sign_ins.enter(*sign_in, state.member(*user_id, *team_id));
                // The swap that told of the sign-in's end may have passed before the request was written down.
                if self.state.load().snapshot.credentials.has_ended(*sign_in) {
                    standing.sign_out();
                }
                standing
            }
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }
}

/// The way in to one gateway. Clones are the same gateway.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

impl Gateway {
    /// A gateway that knows no service, no key and no agent yet. The receiver gives what agents tell.
    #[must_use]
    pub fn new(
        config: GatewayConfig,
        tokens: AccessTokens,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::Receiver<AgentEvent>) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let shared = Shared {
            budget: Budget::new(config.tunnel_budget_bytes),
            invoke_memory: InvokeMemory::new(config.invoke_memory_bytes),
            external_tls: ExternalTls::new(&config.external_roots),
            config,
            tokens,
            clock,
            state: ArcSwap::default(),
            swapping: Mutex::default(),
            agents: Arc::default(),
            events,
            callers: Arc::default(),
            sign_ins: Arc::default(),
            tickets: Tickets::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        (Self { shared: Arc::new(shared) }, receiver)
    }

    /// Takes over new tables; every request from now on is decided by them. Closes the sessions of agents' keys that
    /// are gone, and cancels what keys, memberships and sign-ins that are gone have in flight.
    pub fn swap(&self, snapshot: Snapshot) {
        let _one_at_a_time = self.shared.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, leftovers) =
            self.shared.state.load().next(snapshot, &self.shared.agents, self.shared.config.workers.count());
        self.shared.state.store(Arc::new(next));
        for lifetime in &leftovers.revoked {
            lifetime.end();
        }
        let ended = self.shared.sign_ins.end(&self.shared.state.load().snapshot.credentials);
        if ended || !leftovers.revoked.is_empty() {
            // Callers' connections look at their standing when they are woken.
            self.shared.callers.wake_all();
        }
        drop(leftovers.connections);
        self.shared.agents.forget_unused_slots();
    }

    /// The current tables.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.state.load().snapshot)
    }

    /// When each of the current keys was last used here, for those that were: by a request that it let in, by a ticket that
    /// it had made, or by an agent that is connected. To a second.
    #[must_use]
    pub fn last_uses(&self) -> Vec<(CredentialId, Timestamp)> {
        let state = self.shared.state.load();
        let keys = state.snapshot.credentials.keys();
        keys.filter_map(|key| Some((key.id, key.last_use.get()?))).collect()
    }

    /// The access tokens that this gateway accepts; the control plane issues them here.
    #[must_use]
    pub fn tokens(&self) -> &AccessTokens {
        &self.shared.tokens
    }

    /// Finds out who sent a request to the API about a team's things.
    ///
    /// # Errors
    /// When no valid credential was sent, or none for the team that the request names.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Authenticated, AuthError> {
        let state = self.shared.state.load();
        authenticate::authenticate(headers, Doors::Api, self.shared.authority(&state))
    }

    /// The same, with what the answer lives by: see [`Standing`].
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate).
    pub fn admit(&self, headers: &HeaderMap) -> Result<(Principal, Standing), AuthError> {
        let state = self.shared.state.load();
        let principal = authenticate::authenticate(headers, Doors::Api, self.shared.authority(&state))?.principal;
        let standing = self.shared.standing(&principal, &state);
        Ok((principal, standing))
    }

    /// Finds out which user sent a request that is not about a team.
    ///
    /// # Errors
    /// When no valid access token was sent.
    pub fn authenticate_user(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        let state = self.shared.state.load();
        authenticate::authenticate_user(headers, self.shared.authority(&state))
    }

    /// A ticket for one WebSocket to the service of that slug, good once and for
    /// [`TICKET_LIFETIME`](crate::TICKET_LIFETIME), at this gateway.
    ///
    /// # Errors
    /// When the principal could not call the service now, or too many tickets are about.
    pub fn issue_ticket(&self, principal: &Principal, slug: &str) -> Result<Secret<String>, GatewayError> {
        proxy::issue_ticket(&self.shared, principal, slug)
    }

    /// Sends an agent everything that it should run; of several, only the latest arrives for sure. `false` when the
    /// agent has no session here.
    pub fn send_desired(&self, agent: AgentId, desired: Desired) -> bool {
        let Some(session) = self.shared.agents.session_of(agent) else { return false };
        session.desired.send_replace(Some(Arc::new(desired)));
        true
    }

    /// The agents that have a session here.
    #[must_use]
    pub fn sessions(&self) -> Vec<AgentSession> {
        self.shared.agents.current_sessions()
    }

    /// Whether the session was accepted here and has not ended. True also for one that is not among
    /// [`sessions`](Self::sessions) any more, because its agent is leaving.
    #[must_use]
    pub fn has_session(&self, session: SessionId) -> bool {
        self.shared.agents.find(session).is_some()
    }

    /// Ends a session; its agent opens another. Requests that run on its carriers are finished.
    pub fn end_session(&self, session: SessionId) {
        if let Some(session) = self.shared.agents.find(session) {
            session.end.cancel();
        }
    }

    /// Requests of the service that are in flight here, upgraded connections included.
    #[must_use]
    pub fn in_flight(&self, service: ServiceId) -> usize {
        self.shared.state.load().in_flight(service)
    }

    /// The line before the service; `None` when it takes as many requests as come.
    #[must_use]
    pub fn line(&self, service: ServiceId) -> Option<LineStatus> {
        self.shared.state.load().line(service).map(|line| line.status(Instant::now()))
    }

    /// What can be measured, as OpenMetrics 1.0 text (`application/openmetrics-text; version=1.0.0`).
    #[must_use]
    pub fn metrics(&self) -> String {
        metrics::text(&self.shared)
    }

    /// Bytes that the tunnel's windows have grown by at the moment, of
    /// [`GatewayConfig::tunnel_budget_bytes`].
    #[must_use]
    pub fn tunnel_budget_used(&self) -> usize {
        self.shared.budget.used()
    }

    /// Reads an instance's log lines.
    ///
    /// # Errors
    /// When the agent has no session here or refuses.
    pub async fn logs(
        &self,
        agent: AgentId,
        request: LogsRequest,
    ) -> Result<impl AsyncRead + Send + Unpin + 'static, GatewayError> {
        logs::open(&self.shared.agents, agent, request, Instant::now()).await
    }

    /// Serves callers, agents and the management API until `shutdown` is cancelled and everything in flight has ended
    /// or the drain's deadline has passed. A gateway is served once.
    ///
    /// Requests reach `api` with [`RequestIdText`](crate::RequestIdText) and [`CallerAddr`] in their extensions; its
    /// answers get `X-Request-Id` and `Date`.
    ///
    /// # Errors
    /// When the listener cannot be used at all.
    pub async fn serve<S, B>(&self, listener: TcpListener, api: S, shutdown: CancellationToken) -> io::Result<()>
    where
        S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        listener::serve(Arc::clone(&self.shared), listener, api, shutdown).await
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
