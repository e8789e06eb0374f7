//! WebSockets through the gateway as without it, case by case: each runs straight at the container and through the gateway, over
//! HTTP/1.1 and over HTTP/2 (RFC 8441), and what either end sees is compared, bit for bit.
//!
//! The cases are those of the Autobahn test suite whose bytes are unlike each other; names give its numbers. Both ends are raw sockets
//! that send the same frames at the same time, the caller's masked and the container's not, so nothing here judges a frame: what an
//! endpoint makes of it is its own affair, and whatever it would answer is bytes once more.

mod frames;

use std::net::SocketAddr;

use bytes::BytesMut;
use frames::Case;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{mpsc, watch},
};
use towline_gateway::testing::{Container, Exchange, RawCaller, World, within};

use crate::{
    http2_client::Client,
    http2_websocket::{accept_of, bridge, connect},
};

/// What a side's count says once the other side has ended.
const ENDED: usize = usize::MAX;
/// Octets that wait for each other, at most; beyond that, pieces are sent without waiting.
const STEPS: usize = 1200;

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
    async fn caller_over_http2(&self, client: &Client, key: &str) -> (Vec<String>, Vec<u8>) {
        let mut request = connect("/api/v1/r/containers/hello/ws", "websocket")
            .header("x-towline-key", key)
            .header("sec-websocket-protocol", "chat, superchat");
        for line in self.case.offer {
            request = request.header("sec-websocket-extensions", *line);
        }
        let (answer, send) = client.send(request.body(()).unwrap(), false).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "{}", self.case.name);
        let lines = answer.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        let answered = websocket_lines(lines.collect::<Vec<_>>().iter().map(String::as_str));
        let (socket, between) = bridge(answer.into_body(), send).await;
        let seen = self.side(true, (socket, BytesMut::new()), "").run().await;
        // The last that was said is on its way only then.
        between.join_all().await;
        (answered, seen)
    }

    /// Both ends at once.
    async fn with(
        &self,
        at: &mut mpsc::Receiver<Exchange>,
        caller: impl Future<Output = (Vec<String>, Vec<u8>)>,
    ) -> Seen {
        let both = async { tokio::join!(self.container(at), caller) };
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

/// Runs each case without the gateway and through it, in both manners.
async fn compare(cases: Vec<Case>) {
    let (exchanges, mut at) = mpsc::channel(1);
    let container = Container::start(move |exchange, _| {
        let exchanges = exchanges.clone();
        async move {
            // The test plays the container itself.
            exchanges.send(exchange).await.unwrap();
            Ok(())
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    for case in cases {
        for manner in [Manner::Together, Manner::Chopped] {
            let straight = request("/ws", &team.key, &case);
            let through = request("/api/v1/r/containers/hello/ws", &team.key, &case);
            let run = Run::new(&case, manner);
            let without = run.with(&mut at, run.caller(container.address(), &straight)).await;
            let run = Run::new(&case, manner);
            let with = run.with(&mut at, run.caller(world.address, &through)).await;
            let name = format!("{} ({manner:?})", case.name);
            assert_same(&format!("{name}, at the container, straight"), &without.by_container, &case.masked);
            assert_same(&format!("{name}, at the caller, straight"), &without.by_caller, &case.unmasked);
            assert_same(&format!("{name}, at the container"), &with.by_container, &without.by_container);
            assert_same(&format!("{name}, at the caller"), &with.by_caller, &without.by_caller);
            assert_eq!(with.asked, without.asked, "{name}: what the container was asked");
            assert_eq!(with.answered, without.answered, "{name}: what the caller was answered");
            assert_eq!(with.asked.len(), 5 + case.offer.len(), "{name}: {:?}", with.asked);

            let run = Run::new(&case, manner);
            let over_http2 = run.with(&mut at, run.caller_over_http2(&client, &team.key)).await;
            let name = format!("{name} over HTTP/2");
            assert_same(&format!("{name}, at the container"), &over_http2.by_container, &without.by_container);
            assert_same(&format!("{name}, at the caller"), &over_http2.by_caller, &without.by_caller);
            assert_eq!(without_handshake(&over_http2.asked), without_handshake(&without.asked), "{name}");
            assert_eq!(without_handshake(&over_http2.answered), without_handshake(&without.answered), "{name}");
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
