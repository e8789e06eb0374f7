//! An agent that speaks the real protocol and has no containers of its own: its instances are addresses, or refusals.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{
        TcpSocket, TcpStream,
        tcp::{ReadHalf as TcpRead, WriteHalf as TcpWrite},
    },
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_model::{AgentId, InstanceId, SessionId};
use towline_tunnel::{
    CarrierConfig, Incoming, IncomingStream, OpenTarget, RefuseCode, Refused, ResetCode, SessionConfig,
    SessionReceiver, SessionSender, TunnelStream, agent_carrier, agent_session,
    message::{AgentMessage, Desired, EngineStatus, Hello, PROTOCOL_VERSION, Refusal, Report, ServerMessage, Welcome},
    upgrade::{CARRIER_PATH, CARRIER_UPGRADE, SESSION_PATH, SESSION_UPGRADE},
};

use super::{narrow, within};

/// What an instance of a simulated agent does with a stream.
#[derive(Debug, Clone)]
pub enum AgentKind {
    /// Connects to this address and passes bytes.
    Connect(SocketAddr),
    /// The same, with as little room in the socket as the system lets it have.
    ConnectNarrowly(SocketAddr),
    /// Refuses it.
    Refuse(RefuseCode),
    /// Sends these bytes when it is asked for logs.
    Logs(&'static str),
    /// Accepts it and does nothing at all.
    Silent,
    /// Neither accepts nor refuses it.
    Unanswered,
    /// Answers one request, whose body ends with `hello`, and finds its container's connection closed when the next comes.
    ClosesIdle,
}

/// A simulated agent. It is gone, like a machine that lost its power, when this is dropped.
#[derive(Debug)]
pub struct SimAgent {
    /// What the server said in its welcome.
    pub welcome: Welcome,
    sender: SessionSender<AgentMessage>,
    shared: Arc<Shared>,
    desired: watch::Receiver<Option<Desired>>,
    going_away: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    instances: Mutex<HashMap<InstanceId, AgentKind>>,
    asked: Mutex<HashMap<InstanceId, usize>>,
    tasks: TaskTracker,
    gone: CancellationToken,
    carriers: AtomicUsize,
    streams: AtomicUsize,
    half_closed: AtomicUsize,
    /// Whether carriers are dialled when they are asked for.
    dials: bool,
    tickets: watch::Sender<Vec<String>>,
}

impl Drop for SimAgent {
    fn drop(&mut self) {
        self.shared.gone.cancel();
    }
}

impl SimAgent {
    /// What an agent of that name says of itself.
    #[must_use]
    pub fn hello(name: &str) -> Hello {
        Hello {
            protocol_versions: vec![PROTOCOL_VERSION],
            name: name.to_owned(),
            machine_id: format!("machine-{name}"),
            agent_version: "0.0.0-sim".to_owned(),
            labels: Vec::new(),
            capabilities: ["attached".to_owned(), "external".to_owned()].into(),
            gpu_count: 0,
            via_proxy: false,
            engine: EngineStatus::Ready { version: "Simulated 1.0".to_owned() },
        }
    }

    /// Connects to a server and waits to be welcomed.
    ///
    /// # Errors
    /// Why the server refuses.
    pub async fn connect(server: SocketAddr, key: &str, hello: Hello) -> Result<Self, Refusal> {
        Self::connect_as(server, key, hello, true).await
    }

    /// Connects, and leaves tickets for carriers unused; see [`SimAgent::tickets`].
    ///
    /// # Errors
    /// Why the server refuses.
    pub async fn connect_without_carriers(server: SocketAddr, key: &str, hello: Hello) -> Result<Self, Refusal> {
        Self::connect_as(server, key, hello, false).await
    }

    async fn connect_as(server: SocketAddr, key: &str, hello: Hello, dials: bool) -> Result<Self, Refusal> {
        let socket = within("the upgrade of a session", upgrade(server, SESSION_PATH, SESSION_UPGRADE, key)).await;
        let (sender, mut receiver, driver) = agent_session(socket.unwrap(), SessionConfig::default());
        let shared = Arc::new(Shared {
            server,
            instances: Mutex::default(),
            asked: Mutex::default(),
            tasks: TaskTracker::new(),
            gone: CancellationToken::new(),
            carriers: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            half_closed: AtomicUsize::new(0),
            dials,
            tickets: watch::Sender::new(Vec::new()),
        });
        shared.spawn(async move { drop(driver.run().await) });
        within("saying hello", sender.send(&AgentMessage::Hello(hello))).await.unwrap();
        let welcome = match within("a welcome", receiver.next()).await.unwrap() {
            ServerMessage::Welcome(welcome) => welcome,
            ServerMessage::Refused(refusal) => return Err(refusal),
            other => panic!("not a welcome: {other:?}"),
        };
        let (desired_sender, desired) = watch::channel(None);
        let (go_sender, going_away) = watch::channel(false);
        shared.spawn(listen(Arc::clone(&shared), receiver, desired_sender, go_sender));
        Ok(Self { welcome, sender, shared, desired, going_away })
    }

    /// The agent's id.
    #[must_use]
    pub const fn agent_id(&self) -> AgentId {
        self.welcome.agent_id
    }

    /// The session's id.
    #[must_use]
    pub const fn session_id(&self) -> SessionId {
        self.welcome.session_id
    }

    /// Says what the instance does from now on.
    pub fn set(&self, instance: InstanceId, kind: AgentKind) {
        self.shared.instances().insert(instance, kind);
    }

    /// Tells what runs.
    pub async fn report(&self, report: Report) {
        within("sending a report", self.sender.send(&AgentMessage::Report(report))).await.unwrap();
    }

    /// Says that it is about to end.
    pub async fn leave(&self) {
        within("saying goodbye", self.sender.send(&AgentMessage::Leaving)).await.unwrap();
    }

    /// What the server last wanted to run.
    #[must_use]
    pub fn desired(&self) -> watch::Receiver<Option<Desired>> {
        self.desired.clone()
    }

    /// Whether the server said that it goes away.
    #[must_use]
    pub fn going_away(&self) -> watch::Receiver<bool> {
        self.going_away.clone()
    }

    /// Tickets that were received, when they are not used.
    #[must_use]
    pub fn tickets(&self) -> watch::Receiver<Vec<String>> {
        self.shared.tickets.subscribe()
    }

    /// Carriers that are connected.
    #[must_use]
    pub fn carriers(&self) -> usize {
        self.shared.carriers.load(Ordering::SeqCst)
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::SeqCst)
    }

    /// How often a stream to this instance was asked for.
    #[must_use]
    pub fn asked(&self, instance: InstanceId) -> usize {
        self.shared.asked().get(&instance).copied().unwrap_or_default()
    }

    /// Containers' connections whose end was passed on, in all.
    #[must_use]
    pub fn half_closed(&self) -> usize {
        self.shared.half_closed.load(Ordering::SeqCst)
    }

    /// Waits until the server has ended the session.
    pub async fn session_ended(&self) {
        within("the end of the session", self.sender.closed()).await;
    }
}

impl Shared {
    fn instances(&self) -> MutexGuard<'_, HashMap<InstanceId, AgentKind>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<InstanceId, usize>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a part of the agent until the agent is gone.
    fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let gone = self.gone.clone();
        self.tasks.spawn(async move { gone.run_until_cancelled(part).await });
    }
}

async fn listen(
    shared: Arc<Shared>,
    mut receiver: SessionReceiver<ServerMessage>,
    desired: watch::Sender<Option<Desired>>,
    going_away: watch::Sender<bool>,
) {
    while let Ok(message) = receiver.next().await {
        match message {
            ServerMessage::Desired(wish) => drop(desired.send_replace(Some(wish))),
            ServerMessage::DialCarriers { tickets } if shared.dials => {
                for ticket in tickets {
                    shared.spawn(dial(Arc::clone(&shared), ticket));
                }
            }
            ServerMessage::DialCarriers { tickets } => shared.tickets.send_modify(|all| all.extend(tickets)),
            ServerMessage::GoAway { .. } => drop(going_away.send_replace(true)),
            ServerMessage::Welcome(_) | ServerMessage::Refused(_) => panic!("out of turn"),
        }
    }
}

async fn dial(shared: Arc<Shared>, ticket: String) {
    let Ok(socket) = upgrade(shared.server, CARRIER_PATH, CARRIER_UPGRADE, &ticket).await else { return };
    let (_carrier, incoming, driver) = agent_carrier(socket, CarrierConfig::default());
    shared.carriers.fetch_add(1, Ordering::SeqCst);
    shared.spawn(accept(Arc::clone(&shared), incoming));
    driver.run().await;
    shared.carriers.fetch_sub(1, Ordering::SeqCst);
}

async fn accept(shared: Arc<Shared>, mut incoming: Incoming) {
    while let Some(stream) = incoming.next().await {
        shared.spawn(serve(Arc::clone(&shared), stream));
    }
}

async fn serve(shared: Arc<Shared>, stream: IncomingStream) {
    let (OpenTarget::Instance(instance) | OpenTarget::Logs(towline_tunnel::LogsRequest { instance, .. })) =
        stream.target();
    let kind = shared.instances().get(instance).cloned();
    *shared.asked().entry(*instance).or_default() += 1;
    let wants_logs = matches!(stream.target(), OpenTarget::Logs(_));
    shared.streams.fetch_add(1, Ordering::SeqCst);
    match kind {
        None => stream.refuse(Refused::new(RefuseCode::UnknownInstance, "there is no such instance")),
        Some(AgentKind::Refuse(code)) => stream.refuse(Refused::new(code, "because the test says so")),
        Some(AgentKind::Logs(text)) if wants_logs => {
            let mut stream = stream.accept();
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        Some(AgentKind::Unanswered) => {
            let _stream = stream;
            std::future::pending::<()>().await;
        }
        Some(AgentKind::Silent) => {
            let stream = stream.accept();
            drop(stream.monitor().ended().await);
        }
        Some(AgentKind::ClosesIdle) => drop(close_idle(stream.accept()).await),
        Some(AgentKind::Connect(address)) if !wants_logs => {
            join(&shared, stream, TcpStream::connect(address).await).await;
        }
        Some(AgentKind::ConnectNarrowly(address)) if !wants_logs => {
            let socket = TcpSocket::new_v4().unwrap();
            narrow(&SockRef::from(&socket)).unwrap();
            join(&shared, stream, socket.connect(address).await).await;
        }
        Some(_) => stream.refuse(Refused::new(RefuseCode::Unsupported, "not that kind of target")),
    }
    shared.streams.fetch_sub(1, Ordering::SeqCst);
}

/// Accepts a stream when there is a connection for it.
async fn join(shared: &Shared, stream: IncomingStream, connected: io::Result<TcpStream>) {
    match connected {
        Ok(socket) => pipe(shared, stream.accept(), socket).await,
        Err(error) => stream.refuse(Refused::new(RefuseCode::ConnectFailed, error.to_string())),
    }
}

async fn close_idle(mut stream: TunnelStream) -> std::io::Result<()> {
    assert!(stream.is_keep_alive());
    let mut request = Vec::new();
    while !request.ends_with(b"hello") {
        stream.read_buf(&mut request).await?;
    }
    stream.note_delivered(request.len() as u64);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
    stream.read_buf(&mut request).await?;
    stream.tell_delivered();
    stream.shutdown().await?;
    stream.read_to_end(&mut request).await.map(drop)
}

/// Which side of a pipe failed.
enum Broken {
    Container,
    Tunnel,
}

/// Passes bytes both ways with half-close; a side that fails is seen by the other as a reset.
async fn pipe(shared: &Shared, stream: TunnelStream, mut socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let (mut from_tunnel, mut to_tunnel) = tokio::io::split(stream);
    let broken = {
        let was_reset = AtomicBool::new(false);
        let (mut from_container, mut to_container) = socket.split();
        let up = upload(&mut from_tunnel, &mut to_container, &was_reset);
        let down = async {
            download(&mut from_container, &mut to_tunnel, &was_reset).await?;
            shared.half_closed.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        tokio::try_join!(up, down).err()
    };
    match broken {
        None => {}
        Some(Broken::Container) => from_tunnel.unsplit(to_tunnel).reset_after_data(ResetCode::ConnectionReset),
        Some(Broken::Tunnel) => {
            let _ = socket.set_zero_linger();
        }
    }
}

/// A container that takes no more may have answered before it closed, and its answer counts: what still comes for it is
/// thrown away, as by a real agent.
async fn upload(
    from: &mut ReadHalf<TunnelStream>,
    to: &mut TcpWrite<'_>,
    was_reset: &AtomicBool,
) -> Result<(), Broken> {
    let mut buffer = vec![0; 16 << 10];
    let mut takes = true;
    loop {
        let count = from.read(&mut buffer).await.map_err(|_| Broken::Tunnel)?;
        if count == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        if takes && let Err(error) = to.write_all(&buffer[..count]).await {
            takes = false;
            // The system tells of a reset once; whoever reads behind it sees an end.
            was_reset.store(error.kind() == io::ErrorKind::ConnectionReset, Ordering::SeqCst);
        }
    }
}

async fn download(
    from: &mut TcpRead<'_>,
    to: &mut WriteHalf<TunnelStream>,
    was_reset: &AtomicBool,
) -> Result<(), Broken> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await.map_err(|_| Broken::Container)?;
        if count == 0 && was_reset.load(Ordering::SeqCst) {
            return Err(Broken::Container);
        }
        if count == 0 {
            return to.shutdown().await.map_err(|_| Broken::Tunnel);
        }
        to.write_all(&buffer[..count]).await.map_err(|_| Broken::Tunnel)?;
    }
}

/// Makes one of the two upgrade requests.
async fn upgrade(server: SocketAddr, path: &str, protocol: &str, secret: &str) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Authorization: Bearer {secret}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        Ok(socket)
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()))
    }
}
