//! A running demo service, and a caller that sees every byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towline_demo::{Config, Ended, serve};

/// Far longer than anything here takes; a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(45);

/// A server in this process. Ends with the test.
pub struct Server {
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    task: JoinSet<Ended>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, config, shutdown.clone()));
        Self { address, shutdown, task }
    }

    /// Waits until the server has ended, and tells how.
    pub async fn ended(mut self) -> Ended {
        tokio::time::timeout(DEADLINE, self.task.join_next()).await.expect("the server did not end").unwrap().unwrap()
    }

    pub async fn connect(&self) -> Caller {
        Caller::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub async fn send(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        send(self.address, method, target, body).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, b"").await
    }

    /// Waits until `/disconnects` shows `count` callers that went away under `key`.
    pub async fn wait_for_disconnects(&self, key: &str, count: u64) {
        self.wait_for(&format!("/disconnects?key={key}"), |answer| answer["count"] == count).await;
    }

    /// Waits until this many requests, besides the one that asks, are being answered.
    pub async fn wait_for_in_flight(&self, count: u64) {
        self.wait_for("/disconnects", |answer| answer["in_flight"] == count).await;
    }

    async fn wait_for(&self, target: &str, reached: impl Fn(&Value) -> bool) {
        wait_for(self.address, target, reached).await;
    }
}

/// Asks again until the answer is as it should be.
pub async fn wait_for(address: SocketAddr, target: &str, reached: impl Fn(&Value) -> bool) {
    let asking = async {
        while !reached(&send(address, "GET", target, b"").await.json()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("{target} never got there"));
}

pub async fn send(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Answer {
    let mut caller = Caller::connect(address).await;
    let length = body.len();
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    caller.write(head.as_bytes()).await;
    caller.write(body).await;
    Answer::parse(&caller.read_to_end().await)
}

/// A TCP connection with a deadline on everything.
pub struct Caller {
    pub socket: TcpStream,
    received: Vec<u8>,
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { socket: TcpStream::connect(address).await.unwrap(), received: Vec::new() }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        tokio::time::timeout(DEADLINE, self.socket.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    /// What has come up to and including `end`. The rest stays.
    pub async fn read_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end.as_bytes()) {
                let taken: Vec<u8> = self.received.drain(..at + end.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            let so_far = String::from_utf8_lossy(&self.received).into_owned();
            assert!(self.read_more().await.unwrap() > 0, "the connection ended before {end:?}, after {so_far:?}");
        }
    }

    /// Exactly this many bytes.
    pub async fn read_exact(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.read_more().await.unwrap() > 0, "the connection ended early");
        }
        self.received.drain(..length).collect()
    }

    /// All until the orderly end of the connection.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        self.try_read_to_end().await.unwrap()
    }

    /// The same, or how the connection failed.
    pub async fn try_read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        while self.read_more().await? > 0 {}
        Ok(std::mem::take(&mut self.received))
    }

    async fn read_more(&mut self) -> std::io::Result<usize> {
        tokio::time::timeout(DEADLINE, self.socket.read_buf(&mut self.received)).await.expect("nothing came in time")
    }
}

/// An answer on HTTP/1.1.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut answer = Self { head, body: bytes[end..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = dechunk(&answer.body);
        }
        answer
    }

    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// Panics when the last chunk is missing.
fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n").expect("a whole chunk size");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

/// `i % 251`, as `/bytes` sends it.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position % 251) as u8).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
