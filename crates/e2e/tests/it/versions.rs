//! Agents and servers of different versions (the tunnel protocol's section 9): what is new is passed over, and who cannot be
//! understood is told what to do. One side is the program, the other is played here, frame by frame.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use towline_e2e::{
    api::Api,
    dir::test_dir,
    process::Process,
    system::{Server, towline},
    wait::{SOON, wait_until},
};
use towline_model::{AgentId, InstanceId, KeyKind, RawKey, ServiceId, SessionId};
use towline_tunnel::{
    ProtocolError,
    frame::{self, Frame, IGNORABLE, MAX_FIXED},
    upgrade::{SESSION_PATH, SESSION_UPGRADE},
};

use crate::attached::LocalProcess;

/// A type of frame that this version does not know.
const LATER: u8 = 0x2a;

/// The other end of a session.
struct Peer {
    socket: TcpStream,
    received: BytesMut,
}

/// What the program said.
#[derive(Debug, PartialEq)]
enum Said {
    Message(Value),
    GoAway(u16),
    End,
}

impl Peer {
    /// Opens a session at a server, as an agent does.
    async fn dial(server: &Server) -> Self {
        let mut socket = TcpStream::connect(server.api().address()).await.unwrap();
        let key = &server.bootstrap.agent_key;
        let request = format!(
            "GET {SESSION_PATH} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {SESSION_UPGRADE}\r\n\
             Authorization: Bearer {key}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut socket).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { socket, received: BytesMut::new() }
    }

    /// Takes an agent's session, as a server does.
    async fn accept(listener: &TcpListener) -> Self {
        let (mut socket, _) = timeout(SOON, listener.accept()).await.expect("the agent dials").unwrap();
        let head = read_head(&mut socket).await;
        assert!(head.starts_with(&format!("GET {SESSION_PATH} ")), "{head}");
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade:";
        socket.write_all(format!("{switch} {SESSION_UPGRADE}\r\n\r\n").as_bytes()).await.unwrap();
        Self { socket, received: BytesMut::new() }
    }

    async fn say(&mut self, message: &Value) {
        let mut wire = BytesMut::new();
        Frame::Message { more: false, payload: Bytes::from(message.to_string()) }.encode(&mut wire);
        self.socket.write_all(&wire).await.unwrap();
    }

    /// Sends a frame of the connection byte by byte.
    async fn send(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let header = [&[kind, flags][..], &length, &[0; 4]].concat();
        self.socket.write_all(&[&header, payload].concat()).await.unwrap();
    }

    /// What it says next. Its pings are answered.
    async fn hear(&mut self) -> Said {
        let mut message = Vec::new();
        loop {
            match frame::decode(&mut self.received).unwrap() {
                Some(Frame::Message { more, payload }) => {
                    message.extend_from_slice(&payload);
                    if !more {
                        return Said::Message(serde_json::from_slice(&message).unwrap());
                    }
                }
                Some(Frame::GoAway { code, .. }) => return Said::GoAway(code),
                Some(Frame::Ping(number)) => self.send(0x09, 0, &number.to_be_bytes()).await,
                Some(Frame::Pong(_)) => {}
                Some(other) => panic!("on a session: {other:?}"),
                None => {
                    let read =
                        timeout(SOON, self.socket.read_buf(&mut self.received)).await.expect("it says something");
                    if !matches!(read, Ok(1..)) {
                        return Said::End;
                    }
                }
            }
        }
    }

    /// The next message of this type. Others may come before it.
    async fn message(&mut self, kind: &str) -> Value {
        loop {
            match self.hear().await {
                Said::Message(message) if message["type"] == kind => return message,
                Said::Message(_) => {}
                other => panic!("{other:?} instead of {kind}"),
            }
        }
    }
}

async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, socket.read_u8()).await.expect("a head").unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn hello(name: &str, versions: &[u32]) -> Value {
    json!({
        "type": "hello", "protocol_versions": versions, "name": name, "machine_id": name, "agent_version": "9.0.0",
        "engine": {"state": "ready", "version": "Podman 9", "since": "next year"},
        "capabilities": ["attached", "telepathy"], "moods": ["fine"],
    })
}

/// An agent as the API shows it.
async fn shown(api: &Api, name: &str) -> Option<Value> {
    let agents = api.get("/r/agents").await.expect(200);
    agents["agent_list"].as_array().unwrap().iter().find(|row| row["display_name"] == name).cloned()
}

async fn wait_for_status(api: &Api, name: &str, status: &str) {
    wait_until(&format!("{name} is {status}"), SOON, async || match shown(api, name).await {
        Some(row) if row["agent_status"] == status => Ok(()),
        row => Err(format!("{row:?}")),
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_speaks_no_version_of_the_servers_is_told_what_to_install() {
    let server = Server::start().await;
    let mut agent = Peer::dial(&server).await;
    agent.say(&hello("future", &[2, 3])).await;
    let refused = agent.message("refused").await;
    assert_eq!(refused["retry"], false, "{refused}");
    let reason = refused["reason"].as_str().unwrap();
    for words in ["version 1", "[2, 3]", "install an agent of the server's version", env!("CARGO_PKG_VERSION")] {
        assert!(reason.contains(words), "{words} in {reason}");
    }
    assert_eq!(agent.hear().await, Said::End);
    assert_eq!(shown(&server.api(), "future").await, None);
}

#[tokio::test]
async fn of_a_later_agent_the_server_takes_what_it_knows() {
    let server = Server::start().await;
    let api = server.api();
    let mut agent = Peer::dial(&server).await;
    agent.send(LATER, IGNORABLE, b"whatever").await;
    agent.say(&hello("future", &[2, 1])).await;
    let welcome = agent.message("welcome").await;
    assert_eq!(welcome["protocol_version"], 1, "{welcome}");
    agent.say(&json!({"type": "weather", "sky": "blue"})).await;
    agent.send(LATER, IGNORABLE | 0x01, &[7; 1000]).await;
    // A field behind those that are known, and a flag without a meaning.
    agent.send(0x08, 0x40, &[0; MAX_FIXED]).await;
    let revision = agent.message("desired").await["revision"].clone();
    agent
        .say(&json!({
            "type": "report", "revision": revision, "endpoints_revision": revision, "instances": [], "load": 0.5,
            "engine": {"state": "unavailable", "reason": "it is being repaired", "until": "tomorrow"},
        }))
        .await;
    wait_until("the report has arrived", SOON, async || match shown(&api, "future").await {
        Some(row) if row["engine_status"] == "unavailable" => Ok(()),
        row => Err(format!("{row:?}")),
    })
    .await;
    wait_for_status(&api, "future", "online").await;

    // What may not be passed over ends the session, with the reason.
    agent.send(LATER, 0, b"").await;
    let last = loop {
        match agent.hear().await {
            Said::Message(_) => {}
            other => break other,
        }
    };
    assert_eq!(last, Said::GoAway(ProtocolError::UnknownFrame(LATER).to_wire()));
    assert_eq!(agent.hear().await, Said::End);
    wait_for_status(&api, "future", "offline").await;
}

/// An agent's program that is told to dial a server which is played here.
struct Program {
    process: Process,
    listener: TcpListener,
    _directory: tempfile::TempDir,
}

impl Program {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let directory = test_dir();
        let mut command = towline(directory.path());
        let url = format!("http://{}", listener.local_addr().unwrap());
        command.args(["agent", "--name", "present", "--server", &url]);
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
        command.env("TOWLINE_AGENT_KEY", RawKey::generate(KeyKind::Agent, &mut rand::rng()).expose());
        let process = Process::start("towline agent", &mut command, &directory.path().join("agent.log"));
        Self { process, listener, _directory: directory }
    }
}

fn welcome(version: u32) -> Value {
    json!({
        "type": "welcome", "protocol_version": version, "agent_id": AgentId::generate(), "session_id": SessionId::generate(),
        "server_version": "9.9.9", "motto": "onward",
    })
}

/// Answers every upgrade as a server does that has given version 1 up, and counts them.
async fn refuse_all(listener: TcpListener, address: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        connections.spawn(async move {
            let head = read_head(&mut socket).await;
            assert!(head.starts_with(&format!("GET {SESSION_PATH} ")), "{head}");
            let words = format!("this server at {address} speaks towline-session/2");
            let body = json!({"error_code": "upgrade_required", "error_message": words}).to_string();
            let answer = format!(
                "HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade, close\r\nUpgrade: towline-session/2\r\n\
                 Content-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        });
    }
}

#[tokio::test]
async fn an_agent_that_is_too_old_says_what_to_install() {
    let Program { mut process, listener, _directory } = Program::start().await;
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(refuse_all(listener, address));
    process.wait_for_output("install an agent of its version").await;
    process.wait_for_output(&format!("this server at {address} speaks towline-session/2")).await;
    process.assert_runs();
    let status = process.terminate(SOON).await;
    assert!(status.success(), "{status}");

    let mut program = Program::start().await;
    let mut server = Peer::accept(&program.listener).await;
    server.message("hello").await;
    server.say(&welcome(2)).await;
    program.process.wait_for_output("install an agent of the server's version").await;
    assert_eq!(server.hear().await, Said::End);
    program.process.assert_runs();
}

#[tokio::test]
async fn of_a_later_server_the_agent_takes_what_it_knows() {
    let local = LocalProcess::start().await;
    let program = Program::start().await;
    let mut server = Peer::accept(&program.listener).await;
    server.send(LATER, IGNORABLE, b"whatever").await;
    assert_eq!(server.message("hello").await["protocol_versions"], json!([1]));
    server.say(&welcome(1)).await;
    server.say(&json!({"type": "weather", "sky": "blue"})).await;
    server.send(LATER, IGNORABLE | 0x01, &[7; 1000]).await;
    let [known, unknown] = [(); 2].map(|()| InstanceId::generate());
    let (host, port) = local.target().split_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let endpoint = |id: InstanceId, kind: &str| {
        json!({
            "instance_id": id, "service_id": ServiceId::generate(), "service_slug": "hello", "generation": 1,
            "place": {"kind": kind, "host": host, "port": port.parse::<u16>().unwrap(), "floor": 3},
            "health_path": "/health", "probe": {"interval_seconds": 1, "mood": "patient"}, "colour": "blue",
        })
    };
    server
        .say(&json!({
            "type": "desired", "revision": 7, "instances": [], "ghosts": [],
            "endpoints": [endpoint(known, "attached"), endpoint(unknown, "moon")],
        }))
        .await;
    let report = timeout(SOON, async {
        loop {
            let report = server.message("report").await;
            let phase = |id: InstanceId| {
                let mut rows = report["instances"].as_array().unwrap().iter();
                rows.find(|row| row["instance_id"] == json!(id)).cloned().unwrap_or_default()
            };
            if phase(known)["phase"] == "ready" && phase(unknown)["reason"].is_object() {
                return (phase(known), phase(unknown));
            }
        }
    });
    let (_, unknown) = report.await.expect("what is known is ready, and what is not is told");
    let words = unknown["reason"]["message"].as_str().unwrap();
    assert!(words.contains("install the server's version"), "{unknown}");
}
