//! A server for one agent: it takes the upgrades, and the test plays the server's part.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use towline_model::{AgentId, SessionId};
use towline_tunnel::{
    Carrier, CarrierConfig, SessionConfig, SessionReceiver, SessionSender, gateway_carrier,
    message::{
        AgentMessage, Desired, Hello, InstanceReport, InstanceSpec, PROTOCOL_VERSION, Report, ServerMessage, Welcome,
    },
    server_session,
    upgrade::{CARRIER_PATH, ConnectionKind, SESSION_PATH},
    websocket::{WebSocketIo, derive_accept_key},
};

use crate::task::spawn_owned;

/// The server.
pub struct TestServer {
    pub address: SocketAddr,
    pub agent_id: AgentId,
    sessions: mpsc::Receiver<TestSession>,
    carriers: mpsc::Receiver<(String, Carrier)>,
    /// What it tells agents of how long connections live.
    pub connection_lifetime_seconds: Option<u64>,
    /// What stands before the server lets pass.
    pub passes: Arc<Mutex<Passes>>,
    /// Whether what comes over carriers is read.
    pub reads: watch::Sender<bool>,
    _accept: AbortOnDropHandle<()>,
}

/// What of the agents' upgrades reaches a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    Everything,
    /// The others are answered with 400.
    WebSockets,
    /// The others are switched, and nothing comes through after that.
    WebSocketsInTruth,
}

/// One session, from the server's side. Dropped, its connection is closed.
pub struct TestSession {
    pub key: String,
    pub sender: SessionSender<ServerMessage>,
    pub receiver: SessionReceiver<AgentMessage>,
    _driver: AbortOnDropHandle<()>,
}

struct Queues {
    sessions: mpsc::Sender<TestSession>,
    carriers: mpsc::Sender<(String, Carrier)>,
    /// Answered instead of a switch of protocols.
    rejection: Option<&'static str>,
    passes: Arc<Mutex<Passes>>,
    reads: watch::Sender<bool>,
}

impl TestServer {
    /// A server that takes every agent.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// A server that answers every upgrade with these words, if any.
    pub async fn start_with(rejection: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (session_sender, sessions) = mpsc::channel(16);
        let (carrier_sender, carriers) = mpsc::channel(64);
        let passes = Arc::new(Mutex::new(Passes::Everything));
        let reads = watch::Sender::new(true);
        let queues = Queues {
            sessions: session_sender,
            carriers: carrier_sender,
            rejection,
            passes: Arc::clone(&passes),
            reads: reads.clone(),
        };
        let queues = Arc::new(queues);
        let accept = spawn_owned(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(answer(socket, Arc::clone(&queues)));
            }
        });
        Self {
            address,
            agent_id: AgentId::generate(),
            sessions,
            carriers,
            connection_lifetime_seconds: None,
            passes,
            reads,
            _accept: accept,
        }
    }

    /// The next session that an agent opens, before hello.
    pub async fn next_session(&mut self) -> TestSession {
        soon("a session", self.sessions.recv()).await.unwrap()
    }

    /// A session that was opened and not taken yet.
    pub fn opened_session(&mut self) -> Option<TestSession> {
        self.sessions.try_recv().ok()
    }

    /// The next session, after hello and welcome.
    pub async fn welcome(&mut self) -> (TestSession, Hello) {
        let mut session = self.next_session().await;
        let AgentMessage::Hello(hello) = session.next().await else { panic!("the first message is not hello") };
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            agent_id: self.agent_id,
            session_id: SessionId::generate(),
            server_version: "0.0.0-test".to_owned(),
            connection_lifetime_seconds: self.connection_lifetime_seconds,
        };
        session.send(ServerMessage::Welcome(welcome)).await;
        (session, hello)
    }

    /// The next carrier that an agent brings, with its ticket.
    pub async fn next_carrier(&mut self) -> (String, Carrier) {
        soon("a carrier", self.carriers.recv()).await.unwrap()
    }

    /// Whether a carrier is there that nobody has taken.
    pub fn has_carrier(&self) -> bool {
        !self.carriers.is_empty()
    }
}

impl TestSession {
    pub async fn send(&self, message: ServerMessage) {
        soon("a message to be taken", self.sender.send(&message)).await.unwrap();
    }

    pub async fn next(&mut self) -> AgentMessage {
        soon("a message", self.receiver.next()).await.unwrap()
    }

    pub async fn desire(&self, revision: u64, instances: Vec<InstanceSpec>) {
        self.send(ServerMessage::Desired(Desired { revision, instances, withheld: Vec::new(), endpoints: Vec::new() }))
            .await;
    }

    pub async fn ask_for_carriers(&self, tickets: &[&str]) {
        let tickets = tickets.iter().map(|&ticket| ticket.to_owned()).collect();
        self.send(ServerMessage::DialCarriers { tickets }).await;
    }

    /// The next report in which that holds.
    pub async fn report(&mut self, holds: impl Fn(&[InstanceReport]) -> bool) -> Report {
        loop {
            match self.next().await {
                AgentMessage::Report(report) if holds(&report.instances) => return report,
                AgentMessage::Report(_) => {}
                other => panic!("not a report: {other:?}"),
            }
        }
    }
}

async fn answer(mut socket: TcpStream, queues: Arc<Queues>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = socket.read_u8().await else { return };
        head.push(byte);
    }
    if let Some(rejection) = queues.rejection {
        let _ = socket.write_all(rejection.as_bytes()).await;
        return;
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let bearer = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap().to_owned();
    let kind = if path == SESSION_PATH { ConnectionKind::Session } else { ConnectionKind::Carrier };
    let passes = *queues.passes.lock().unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
    let protocol = match key {
        Some(key) => format!(
            "websocket\r\nsec-websocket-accept: {}\r\nsec-websocket-protocol: {}",
            derive_accept_key(key.as_bytes()),
            kind.subprotocol()
        ),
        None if passes == Passes::WebSockets => {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            return;
        }
        None => kind.upgrade().to_owned(),
    };
    assert!(head.contains(&format!("upgrade: {}\r\n", protocol.lines().next().unwrap())), "{head}");
    let switch = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
    socket.write_all(switch.as_bytes()).await.unwrap();
    if key.is_some() {
        serve(path, bearer, WebSocketIo::server(socket).await, queues).await;
    } else if passes == Passes::Everything {
        serve(path, bearer, socket, queues).await;
    }
}

async fn serve<T>(path: &str, bearer: String, socket: T, queues: Arc<Queues>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    if path == SESSION_PATH {
        let (sender, receiver, driver) = server_session(socket, SessionConfig::default());
        let driver = spawn_owned(async move { drop(driver.run().await) });
        let session = TestSession { key: bearer, sender, receiver, _driver: driver };
        let _ = queues.sessions.send(session).await;
    } else {
        assert_eq!(path, CARRIER_PATH);
        let (carrier, driver) = gateway_carrier(socket, CarrierConfig::default());
        let _ = queues.carriers.send((bearer, carrier)).await;
        let (mut reads, mut driver) = (queues.reads.subscribe(), pin!(driver.run()));
        while reads.wait_for(|reads| *reads).await.is_ok() {
            tokio::select! {
                biased;
                _ = reads.wait_for(|reads| !reads) => {}
                _ = &mut driver => return,
            }
        }
    }
}

/// Waits for something that comes soon or never.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(45), future).await.unwrap_or_else(|_| panic!("waited for {what}"))
}
