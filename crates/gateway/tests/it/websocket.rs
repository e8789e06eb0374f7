//! WebSockets through the gateway as without it, case by case: each runs straight at the container and through the gateway, with
//! HTTP/1.1 and with HTTP/2 (RFC 8441) at either end, and what both ends see is compared, bit for bit.
//!
//! The cases are those of the Autobahn test suite whose bytes are unlike each other; names give its numbers. Both ends are raw sockets
//! that send the same frames at the same time, the caller's masked and the container's not, so nothing here judges a frame: what an
//! endpoint makes of it is its own affair, and whatever it would answer is bytes once more.

mod frames;

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use frames::Case;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{mpsc, watch},
};
use towline_gateway::testing::{AgentKind, Container, Exchange, RawCaller, SimAgent, World, within};
use towline_model::service::AppProtocol;

use crate::{
    h2c::{self, Got},
    h2c_websocket::{self, Speaks},
    http2_client::Client,
    http2_websocket::{accept_of, bridge, connect},
};

/// What a side's count says once the other side has ended.
const ENDED: usize = usize::MAX;
/// Octets that wait for each other, at most; beyond that, pieces are sent without waiting.
const STEPS: usize = 1200;
/// A case of so many octets takes its time.
const LARGE: usize = 1 << 20;
/// What is spoken by the caller and by the container.
const WAYS: [(Speaks, Speaks); 4] = [
    (Speaks::Http1, Speaks::Http1),
    (Speaks::Http2, Speaks::Http1),
    (Speaks::Http1, Speaks::Http2),
    (Speaks::Http2, Speaks::Http2),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The caller's frames follow its request in the same write, the container's its 101. The caller ends first.
    Together,
    /// In pieces of the case's size. The container ends first, the caller when it has noticed.
    Chopped,
}

/// What both ends have seen.
#[derive(PartialEq, Eq)]
struct Seen {
    asked: Vec<String>,
    answered: Vec<String>,
    by_container: Vec<u8>,
    by_caller: Vec<u8>,
}

/// The lines of a head that are about the WebSocket.
fn websocket_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let about = |line: &&str| {
        let name = line.split(':').next().unwrap().to_ascii_lowercase();
        name.starts_with("sec-websocket-") || name == "upgrade" || name == "connection"
    };
    lines.into_iter().filter(about).map(str::to_owned).collect()
}

/// The same of a head of HTTP/2.
fn websocket_fields(fields: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
    websocket_lines(fields.iter().map(line).collect::<Vec<_>>().iter().map(String::as_str))
}

fn extensions(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("Sec-WebSocket-Extensions: {line}\r\n")).collect()
}

fn request(path: &str, key: &str, case: &Case) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n{}\r\n",
        extensions(case.offer)
    )
}

fn answer(accept: &str, case: &Case) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n{}\r\n",
        extensions(case.taken)
    )
}

/// Those lines as they are without what HTTP/2 has in another way (RFC 8441 §5), in no order.
fn without_handshake(lines: &[String]) -> Vec<String> {
    const GONE: [&str; 4] = ["connection", "upgrade", "sec-websocket-key", "sec-websocket-accept"];
    let parts = lines.iter().map(|line| line.split_once(':').unwrap());
    let left =
        parts.map(|(name, value)| (name.to_ascii_lowercase(), value)).filter(|(name, _)| !GONE.contains(&&**name));
    let mut left: Vec<_> = left.map(|(name, value)| format!("{name}:{value}")).collect();
    left.sort_unstable();
    left
}

/// One end of a WebSocket: what it sends, and how.
struct Side {
    socket: TcpStream,
    seen: BytesMut,
    pieces: Vec<Vec<u8>>,
    /// Wait until a piece has arrived before the next is sent: nobody between may wait for the rest of a frame.
    in_step: bool,
    ends_first: bool,
    here: watch::Sender<usize>,
    there: watch::Receiver<usize>,
}

impl Side {
    /// Sends everything, reads up to the other side's end, and gives what was read.
    async fn run(mut self) -> Vec<u8> {
        let (mut reader, mut writer) = self.socket.into_split();
        let mut noticed = self.here.subscribe();
        self.here.send_replace(self.seen.len());
        let write = async {
            let mut sent = 0;
            for piece in self.pieces {
                writer.write_all(&piece).await.unwrap();
                sent += piece.len();
                if self.in_step {
                    self.there.wait_for(|count| *count >= sent).await.unwrap();
                }
            }
            if !self.ends_first {
                noticed.wait_for(|count| *count == ENDED).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        let read = async {
            while reader.read_buf(&mut self.seen).await.unwrap() > 0 {
                self.here.send_replace(self.seen.len());
            }
            self.here.send_replace(ENDED);
            self.seen.to_vec()
        };
        tokio::join!(write, read).1
    }
}

/// One run of a case: how its ends send.
struct Run<'a> {
    case: &'a Case,
    manner: Manner,
    caller_has: watch::Sender<usize>,
    container_has: watch::Sender<usize>,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, manner: Manner) -> Self {
        Self { case, manner, caller_has: watch::Sender::new(0), container_has: watch::Sender::new(0) }
    }

    fn is_chopped(&self) -> bool {
        self.manner == Manner::Chopped
    }

    /// An end with what it sends, behind a head where that was not sent before.
    fn side(&self, is_caller: bool, (socket, seen): (TcpStream, BytesMut), head: &str) -> Side {
        let (bytes, here, there) = match is_caller {
            true => (&self.case.masked, &self.caller_has, &self.container_has),
            false => (&self.case.unmasked, &self.container_has, &self.caller_has),
        };
        Side {
            socket,
            seen,
            pieces: match self.manner {
                Manner::Together => vec![[head.as_bytes(), bytes].concat()],
                Manner::Chopped => bytes.chunks(self.case.chop).map(<[u8]>::to_vec).collect(),
            },
            in_step: self.is_chopped() && self.case.masked.len() / self.case.chop <= STEPS,
            ends_first: is_caller != self.is_chopped(),
            here: here.clone(),
            there: there.subscribe(),
        }
    }

    /// The container's end: the lines that it was asked with, and the bytes that came behind them.
    async fn container(&self, at: &mut mpsc::Receiver<Exchange>) -> (Vec<String>, Vec<u8>) {
        let mut exchange = at.recv().await.unwrap();
        let head = exchange.head().await.unwrap().unwrap();
        let answer = answer(&accept_of(&head), self.case);
        if self.is_chopped() {
            exchange.write(&answer).await.unwrap();
        }
        let side = self.side(false, (exchange.socket, exchange.buffer), &answer);
        (websocket_lines(head.split("\r\n")), side.run().await)
    }

    /// The same of a container of HTTP/2.
    async fn container_of_http2(&self, at: &mut mpsc::Receiver<Got>) -> (Vec<String>, Vec<u8>) {
        let (request, mut respond) = at.recv().await.unwrap();
        let (head, body) = request.into_parts();
        let mut answer = h2c::answer(200);
        answer.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        for line in self.case.taken {
            answer.headers_mut().append("sec-websocket-extensions", HeaderValue::from_static(line));
        }
        let send = respond.send_response(answer, false).unwrap();
        (websocket_fields(&head.headers), self.on_stream(false, body, send).await)
    }

    /// An end that is a stream of HTTP/2: what it has seen.
    async fn on_stream(&self, is_caller: bool, receive: RecvStream, send: SendStream<Bytes>) -> Vec<u8> {
        let (socket, between) = bridge(receive, send).await;
        let seen = self.side(is_caller, (socket, BytesMut::new()), "").run().await;
        // The last that was said is on its way only then.
        between.join_all().await;
        seen
    }

    /// A caller of HTTP/1.1, of whoever listens there.
    async fn caller(&self, address: SocketAddr, request: &str) -> (Vec<String>, Vec<u8>) {
        let mut caller = RawCaller::connect(address).await;
        let mut answered = Vec::new();
        if self.is_chopped() {
            caller.send(request).await;
            answered = caller.head().await.unwrap().lines;
        }
        let side = self.side(true, (caller.socket, caller.buffer), request);
        let mut seen = side.run().await;
        if !self.is_chopped() {
            let end = seen.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let rest = seen.split_off(end);
            let head = String::from_utf8(std::mem::replace(&mut seen, rest)).unwrap();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            answered = head.split("\r\n").map(str::to_owned).collect();
        }
        (websocket_lines(answered.iter().map(String::as_str)), seen)
    }

    /// A caller of HTTP/2.
    async fn caller_of_http2(&self, client: &Client, path: &str, key: &str) -> (Vec<String>, Vec<u8>) {
        let mut request =
            connect(path, "websocket").header("x-towline-key", key).header("sec-websocket-protocol", "chat, superchat");
        for line in self.case.offer {
            request = request.header("sec-websocket-extensions", *line);
        }
        let (answer, send) = client.send(request.body(()).unwrap(), false).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "{}", self.case.name);
        let answered = websocket_fields(answer.headers());
        (answered, self.on_stream(true, answer.into_body(), send).await)
    }

    /// Both ends at once.
    async fn both(
        &self,
        container: impl Future<Output = (Vec<String>, Vec<u8>)>,
        caller: impl Future<Output = (Vec<String>, Vec<u8>)>,
    ) -> Seen {
        let both = async { tokio::join!(container, caller) };
        let ((asked, by_container), (answered, by_caller)) = within(&self.case.name, both).await;
        Seen { asked, answered, by_container, by_caller }
    }
}

/// Bytes that are long are not for the eye: where they part is.
fn assert_same(what: &str, found: &[u8], expected: &[u8]) {
    if found != expected {
        let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
        panic!("{what}: {} bytes of {}, the same up to {at}", found.len(), expected.len());
    }
}

/// A gateway with a service for each kind of container, which the test plays itself.
struct Scene {
    world: World,
    key: String,
    client: Client,
    _agent: SimAgent,
    http1: Container,
    _http2: Container,
    at_http1: mpsc::Receiver<Exchange>,
    at_http2: mpsc::Receiver<Got>,
}

impl Scene {
    async fn set() -> Self {
        let (exchanges, at_http1) = mpsc::channel(1);
        let http1 = Container::start(move |exchange, _| {
            let exchanges = exchanges.clone();
            async move {
                exchanges.send(exchange).await.unwrap();
                Ok(())
            }
        })
        .await;
        let (requests, at_http2) = mpsc::channel(1);
        let http2 = h2c_websocket::container(move |got, _| {
            let requests = requests.clone();
            async move { requests.send(got).await.unwrap() }
        })
        .await;
        let world = World::start().await;
        let (team, agent, _) = world.hello(&http1).await;
        let service = world.service(&team, "http2");
        world.instance(service, &agent, AgentKind::Connect(http2.address()));
        world.change(service, |route| route.protocol = AppProtocol::H2c);
        let client = Client::connect(&world).await;
        Self { key: team.key, client, _agent: agent, http1, _http2: http2, at_http1, at_http2, world }
    }

    /// Without the gateway.
    async fn straight(&mut self, run: &Run<'_>) -> Seen {
        let request = request("/ws", &self.key, run.case);
        run.both(run.container(&mut self.at_http1), run.caller(self.http1.address(), &request)).await
    }

    /// Through it.
    async fn through(&mut self, run: &Run<'_>, caller: Speaks, container: Speaks) -> Seen {
        let slug = if container == Speaks::Http1 { "hello" } else { "http2" };
        let path = format!("/api/v1/r/containers/{slug}/ws");
        let container = async {
            match container {
                Speaks::Http1 => run.container(&mut self.at_http1).await,
                Speaks::Http2 => run.container_of_http2(&mut self.at_http2).await,
            }
        };
        let caller = async {
            match caller {
                Speaks::Http1 => run.caller(self.world.address, &request(&path, &self.key, run.case)).await,
                Speaks::Http2 => run.caller_of_http2(&self.client, &path, &self.key).await,
            }
        };
        run.both(container, caller).await
    }
}

/// Runs each case without the gateway and through it, in both manners. A large one is not run with HTTP/2 in every way each time:
/// they take turns, so that it is run with containers of both.
async fn compare(cases: Vec<Case>) {
    let mut scene = Scene::set().await;
    let mut turns = 0;
    for case in cases {
        for manner in [Manner::Together, Manner::Chopped] {
            let without = scene.straight(&Run::new(&case, manner)).await;
            let name = format!("{} ({manner:?})", case.name);
            assert_same(&format!("{name}, at the container, straight"), &without.by_container, &case.masked);
            assert_same(&format!("{name}, at the caller, straight"), &without.by_caller, &case.unmasked);
            assert_eq!(without.asked.len(), 5 + case.offer.len(), "{name}: {:?}", without.asked);
            turns += 1;
            let ways = if case.masked.len() < LARGE { &WAYS[..] } else { &[WAYS[0], WAYS[1 + turns % 3]] };
            for (caller, container) in ways.iter().copied() {
                let with = scene.through(&Run::new(&case, manner), caller, container).await;
                let name = format!("{name}, caller {caller:?}, container {container:?}");
                assert_same(&format!("{name}, at the container"), &with.by_container, &without.by_container);
                assert_same(&format!("{name}, at the caller"), &with.by_caller, &without.by_caller);
                let comparable = match (caller, container) {
                    (Speaks::Http1, Speaks::Http1) => <[String]>::to_vec,
                    _ => without_handshake,
                };
                assert_eq!(comparable(&with.asked), comparable(&without.asked), "{name}: what the container was asked");
                let answered = [&with, &without].map(|seen| comparable(&seen.answered));
                assert_eq!(answered[0], answered[1], "{name}: what the caller was answered");
            }
        }
    }
}

#[tokio::test]
async fn case_1_framing() {
    compare(frames::framing()).await;
}

#[tokio::test]
async fn case_2_pings_and_pongs() {
    compare(frames::pings()).await;
}

#[tokio::test]
async fn case_3_reserved_bits() {
    compare(frames::reserved_bits()).await;
}

#[tokio::test]
async fn case_4_reserved_opcodes() {
    compare(frames::reserved_opcodes()).await;
}

#[tokio::test]
async fn case_5_fragmentation() {
    compare(frames::fragmentation()).await;
}

#[tokio::test]
async fn case_6_utf8() {
    compare(frames::utf8()).await;
}

#[tokio::test]
async fn case_7_closes() {
    compare(frames::closes()).await;
}

#[tokio::test]
async fn case_9_1_and_9_2_large_messages() {
    compare(frames::large_messages()).await;
}

#[tokio::test]
async fn case_9_3_to_9_6_large_messages_in_fragments_and_pieces() {
    compare(frames::large_in_parts()).await;
}

#[tokio::test]
async fn case_9_7_and_9_8_many_messages() {
    compare(frames::many_messages()).await;
}

#[tokio::test]
async fn case_10_automatic_fragments() {
    compare(frames::automatic_fragments()).await;
}

#[tokio::test]
async fn case_12_and_13_permessage_deflate() {
    compare(frames::deflate()).await;
}
