//! A whole gateway in this process, with a control plane that says yes to everything.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_model::{
    AgentId, Clock, CredentialId, InstanceId, KeyKind, RawKey, Role, Scope, ServiceId, ServiceStatus, SignInId,
    SystemClock, TeamId, UserId, service::AppProtocol,
};
use towline_tunnel::{
    Workers,
    message::{Refusal, Report},
};

use super::{AgentKind, Answer, Container, DEADLINE, RawCaller, SimAgent, wait_until, within};
use crate::{
    AccessTokens, AgentEvent, CallerBody, Credential, CredentialTable, Gateway, GatewayConfig, InstanceRoute, LastUse,
    RequestIdText, RouteTable, ServiceRoute, Snapshot,
    access_token::TokenHolder,
    snapshot::{Timeouts, Upstream},
};

type ApiBody = UnsyncBoxBody<Bytes, Infallible>;

/// A gateway that is served on loopback, and everything that its control plane would know.
#[derive(Debug)]
pub struct World {
    /// The gateway.
    pub gateway: Gateway,
    /// Where it listens.
    pub address: SocketAddr,
    /// Cancel it to stop the server.
    pub shutdown: CancellationToken,
    /// Ends when the server has stopped.
    pub served: TaskTracker,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    services: Vec<ServiceRoute>,
    keys: Vec<(RawKey, Credential)>,
    memberships: Vec<(UserId, TeamId, Role)>,
    ended_sign_ins: Vec<SignInId>,
    agents: HashMap<(TeamId, String), AgentId>,
    refusal: Option<Refusal>,
    /// While it is there, answers to hellos wait here.
    held: Option<Vec<HeldAnswer>>,
    events: Vec<String>,
    reports: Vec<(AgentId, Report)>,
}

/// Whom to answer, and what.
type HeldAnswer = (oneshot::Sender<Result<AgentId, Refusal>>, Result<AgentId, Refusal>);

/// A team with one key of each kind and a user.
#[derive(Debug, Clone)]
pub struct TeamSetup {
    /// The team.
    pub id: TeamId,
    /// An `sk-` key with the default scopes.
    pub key: String,
    /// An `ak-` key.
    pub agent_key: String,
    /// A member.
    pub member: UserId,
}

/// A key with another last character, whatever the one was that it had.
#[must_use]
pub fn mistyped(key: &str) -> String {
    let mut key = key.to_owned();
    let last = key.pop();
    key.push(if last == Some('x') { 'y' } else { 'x' });
    key
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    /// Starts a gateway with default limits.
    pub async fn start() -> Self {
        Self::start_with(GatewayConfig::default()).await
    }

    /// Starts a gateway. It has two workers, as a gateway of the binary has some: what goes from one thread to another
    /// goes there in every test. What it cuts off has to end, and is not given up before the test is.
    pub async fn start_with(mut config: GatewayConfig) -> Self {
        config.workers = Workers::start(2, Duration::from_micros(100)).unwrap();
        config.cut_grace = DEADLINE * 2;
        let tokens = AccessTokens::from_pkcs8(AccessTokens::generate_pkcs8().expose()).unwrap();
        let (gateway, events) = Gateway::new(config, tokens, Arc::new(SystemClock));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let known = Arc::new(Mutex::new(Known::default()));
        let shutdown = CancellationToken::new();
        let served = TaskTracker::new();
        let (server, stop) = (gateway.clone(), shutdown.clone());
        let asked = gateway.clone();
        let api = tower::service_fn(move |request: Request<CallerBody>| {
            let answer =
                if request.uri().path() == "/api/v1/follow" { follow(&asked, &request) } else { api(&request) };
            let asks_where = request.uri().path() == "/api/v1/where";
            async move {
                let here = || Full::new(Bytes::from(format!("{:?}", Workers::here()))).boxed_unsync();
                Ok::<_, Infallible>(if asks_where { Response::new(here()) } else { answer })
            }
        });
        served.spawn(async move { server.serve(listener, api, stop).await.unwrap() });
        // The stand-in of the control plane ends with the gateway, whose events it takes.
        TaskTracker::new().spawn(control(Arc::clone(&known), events));
        served.close();
        Self { gateway, address, shutdown, served, known }
    }

    /// Adds a team.
    pub fn team(&self) -> TeamSetup {
        let id = TeamId::generate();
        let member = UserId::generate();
        let key = RawKey::generate(KeyKind::Integration, &mut rand::rng());
        let agent_key = RawKey::generate(KeyKind::Agent, &mut rand::rng());
        let team = TeamSetup { id, key: key.expose().clone(), agent_key: agent_key.expose().clone(), member };
        let mut known = self.known();
        known.memberships.push((member, id, Role::Member));
        for (key, scopes) in [(key, Scope::DEFAULT.into()), (agent_key, Arc::default())] {
            let credential = Credential {
                id: CredentialId::generate(),
                kind: key.kind(),
                team_id: id,
                user_id: None,
                scopes,
                services: None,
                expires_at: None,
                last_use: LastUse::default(),
            };
            known.keys.push((key, credential));
        }
        drop(known);
        self.publish();
        team
    }

    /// Adds a key to a team.
    pub fn add_key(&self, credential: Credential) -> String {
        let key = RawKey::generate(credential.kind, &mut rand::rng());
        let text = key.expose().clone();
        self.known().keys.push((key, credential));
        self.publish();
        text
    }

    /// Takes a key away.
    pub fn revoke(&self, key: &str) {
        self.known().keys.retain(|(raw, _)| raw.expose() != key);
        self.publish();
    }

    /// Puts a user into a team.
    pub fn add_member(&self, user: UserId, team: TeamId, role: Role) {
        self.known().memberships.push((user, team, role));
        self.publish();
    }

    /// Gives a user another role in a team, or takes it away.
    pub fn set_role(&self, user: UserId, team: TeamId, role: Option<Role>) {
        let mut known = self.known();
        known.memberships.retain(|row| (row.0, row.1) != (user, team));
        known.memberships.extend(role.map(|role| (user, team, role)));
        drop(known);
        self.publish();
    }

    /// Ends a sign-in.
    pub fn end_sign_in(&self, sign_in: SignInId) {
        self.known().ended_sign_ins.push(sign_in);
        self.publish();
    }

    /// An access token of a user, good for an hour.
    #[must_use]
    pub fn token(&self, user: UserId) -> String {
        self.token_of(TokenHolder { user_id: user, sign_in: SignInId::generate() })
    }

    /// An access token of a user's sign-in, good for an hour.
    #[must_use]
    pub fn token_of(&self, holder: TokenHolder) -> String {
        self.gateway.tokens().issue(holder, SystemClock.now(), Duration::from_secs(3600)).expose().clone()
    }

    /// Connects an agent and waits until it has carriers.
    pub async fn agent(&self, team: &TeamSetup, name: &str) -> SimAgent {
        let agent = SimAgent::connect(self.address, &team.agent_key, SimAgent::hello(name)).await.unwrap();
        self.wait_for_carriers(&agent).await;
        agent
    }

    /// Waits until the gateway has carriers of this very session.
    pub async fn wait_for_carriers(&self, agent: &SimAgent) {
        wait_until("carriers", || {
            self.gateway.sessions().iter().any(|s| s.session_id == agent.session_id() && s.carriers >= 4)
        })
        .await;
    }

    /// Adds a running service without instances.
    pub fn service(&self, team: &TeamSetup, slug: &str) -> ServiceId {
        let service_id = ServiceId::generate();
        self.known().services.push(ServiceRoute {
            service_id,
            team_id: team.id,
            slug: slug.to_owned(),
            status: ServiceStatus::Running,
            upstream: Upstream::Container { exposed_port: 8080 },
            protocol: AppProtocol::default(),
            timeouts: Timeouts::default(),
            concurrency: None,
            instances: Vec::new(),
        });
        self.publish();
        service_id
    }

    /// Changes a service.
    pub fn change(&self, service: ServiceId, change: impl FnOnce(&mut ServiceRoute)) {
        let mut known = self.known();
        change(known.services.iter_mut().find(|route| route.service_id == service).unwrap());
        drop(known);
        self.publish();
    }

    /// Adds a ready instance to a service.
    pub fn instance(&self, service: ServiceId, agent: &SimAgent, kind: AgentKind) -> InstanceId {
        let instance_id = InstanceId::generate();
        agent.set(instance_id, kind);
        let route = InstanceRoute { instance_id, agent_id: agent.agent_id(), ready: true };
        self.change(service, |service| service.instances.push(route));
        instance_id
    }

    /// A team with an agent and a running service of one instance, which is that container.
    pub async fn hello(&self, container: &Container) -> (TeamSetup, SimAgent, ServiceId) {
        let team = self.team();
        let agent = self.agent(&team, "one").await;
        let service = self.service(&team, "hello");
        self.instance(service, &agent, AgentKind::Connect(container.address()));
        (team, agent, service)
    }

    /// Makes the control plane refuse agents.
    pub fn refuse_agents(&self, refusal: Refusal) {
        self.known().refusal = Some(refusal);
    }

    /// From now on the control plane is slow: it hears hellos and does not answer.
    pub fn hold_agents(&self) {
        self.known().held = Some(Vec::new());
    }

    /// Answers the hellos that were held back.
    pub fn answer_agents(&self) {
        for (reply, answer) in self.known().held.take().unwrap_or_default() {
            let _ = reply.send(answer);
        }
    }

    /// What agents did, in order: `hello <name>`, `joined`, `gone` with session ids where there are any.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.known().events.clone()
    }

    /// What agents reported.
    #[must_use]
    pub fn reports(&self) -> Vec<(AgentId, Report)> {
        self.known().reports.clone()
    }

    /// A caller's connection.
    pub async fn caller(&self) -> RawCaller {
        RawCaller::connect(self.address).await
    }

    /// Sends one request on a connection of its own: a request line, header lines, and no body.
    pub async fn get(&self, key: &str, target: &str) -> Answer {
        self.call(format!("GET {target} HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {key}\r\n\r\n")).await
    }

    /// Sends a POST with JSON.
    pub async fn post_json(&self, key: &str, target: &str, json: &str) -> Answer {
        self.call(format!(
            "POST {target} HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
            json.len()
        ))
        .await
    }

    /// Sends bytes on a connection of their own and reads one answer.
    pub async fn call(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut caller = self.caller().await;
        caller.send(request).await;
        caller.answer().await
    }

    /// Stops the server and waits until it has stopped.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        within("the server's end", self.served.wait()).await;
    }

    fn publish(&self) {
        let known = self.known();
        let keys = known.keys.iter().map(|(key, credential)| (key.hash(), credential.clone()));
        let snapshot = Snapshot {
            routes: RouteTable::from_services(known.services.iter().cloned()),
            credentials: CredentialTable::new(keys, known.memberships.iter().copied())
                .with_ended_sign_ins(known.ended_sign_ins.iter().copied()),
        };
        drop(known);
        self.gateway.swap(snapshot);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The management API: tells what it was given.
fn api(request: &Request<CallerBody>) -> Response<ApiBody> {
    let id = request.extensions().get::<RequestIdText>().map_or("", RequestIdText::as_str);
    let text = format!("api {} {} {id}", request.method(), request.uri());
    Response::new(Full::new(Bytes::from(text)).boxed_unsync())
}

/// An answer of the management API that does not end by itself. With the query `?flood` it never pauses either.
fn follow(gateway: &Gateway, request: &Request<CallerBody>) -> Response<ApiBody> {
    let (_, standing) = gateway.admit(request.headers()).unwrap();
    let piece = || Ok(Frame::data(Bytes::from_static(&[b'x'; 1000])));
    let body = match request.uri().query() {
        Some("flood") => StreamBody::new(stream::repeat_with(piece)).boxed_unsync(),
        _ => StreamBody::new(stream::iter([piece()]).chain(stream::pending())).boxed_unsync(),
    };
    let mut response = Response::new(body);
    response.extensions_mut().insert(standing);
    response
}

async fn control(known: Arc<Mutex<Known>>, mut events: mpsc::Receiver<AgentEvent>) {
    while let Some(event) = events.recv().await {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            AgentEvent::Hello { team_id, hello, reply, .. } => {
                known.events.push(format!("hello {}", hello.name));
                let answer = match &known.refusal {
                    Some(refusal) => Err(refusal.clone()),
                    None => Ok(*known.agents.entry((team_id, hello.name)).or_insert_with(AgentId::generate)),
                };
                match &mut known.held {
                    Some(held) => held.push((reply, answer)),
                    None => drop(reply.send(answer)),
                }
            }
            AgentEvent::Joined { session_id, .. } => known.events.push(format!("joined {session_id}")),
            AgentEvent::Report { agent_id, report, .. } => known.reports.push((agent_id, report)),
            AgentEvent::Gone { session_id, .. } => known.events.push(format!("gone {session_id}")),
        }
    }
}
