//! Callers that send one small request after the other, to a container that counts what comes.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use towline_e2e::api::Api;
pub use towline_e2e::counting::Container;

use crate::keep_alive_races::is_whole;

/// Callers with a connection each, until they are stopped or something ends them.
pub struct Load {
    callers: JoinSet<Outcome>,
    stop: CancellationToken,
}

/// What became of one caller.
struct Outcome {
    /// Requests that were answered with what the container says.
    answered: Vec<String>,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    Stopped,
    /// The connection ended before the first byte of an answer.
    Unanswered,
    /// No connection is taken.
    Refused,
    Status(u16),
}

impl Load {
    pub fn start(api: &Api, slug: &str, callers: usize) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let caller = Caller {
                address: api.address(),
                prefix: format!("/api/v1/r/containers/{slug}"),
                key: api.bearer().to_owned(),
                number: caller,
            };
            tasks.spawn(caller.run(stop.clone()));
        }
        Self { callers: tasks, stop }
    }

    /// None of the callers has been ended by anything.
    pub fn assert_all_run(&mut self) {
        if let Some(ended) = self.callers.try_join_next() {
            panic!("a caller's end is {:?}", ended.unwrap().end);
        }
    }

    /// Stops the callers, none of which may have been ended by anything else. Gives the requests that were answered.
    pub async fn stop(self) -> Vec<String> {
        self.stop.cancel();
        self.ended(|end| *end == End::Stopped).await
    }

    /// Waits until no caller gets a connection any more. A request that the server had not begun to read when it closed
    /// the connection is the only one that may go without an answer.
    pub async fn ended_by_the_server(self) -> Vec<String> {
        self.ended(|end| matches!(end, End::Refused | End::Unanswered)).await
    }

    /// Waits until every caller has got this status.
    pub async fn ended_by(self, status: u16) -> Vec<String> {
        self.ended(|end| *end == End::Status(status)).await
    }

    async fn ended(self, is_right: impl Fn(&End) -> bool) -> Vec<String> {
        let mut answered = Vec::new();
        for outcome in self.callers.join_all().await {
            assert!(is_right(&outcome.end), "a caller's end is {:?}", outcome.end);
            answered.extend(outcome.answered);
        }
        answered
    }
}

struct Caller {
    address: SocketAddr,
    prefix: String,
    key: String,
    number: usize,
}

impl Caller {
    /// GET and POST by turns. A connection that the server closes in order is followed by another one.
    async fn run(self, stop: CancellationToken) -> Outcome {
        let mut answered = Vec::new();
        let mut connection = None;
        let end = loop {
            if stop.is_cancelled() {
                break End::Stopped;
            }
            let socket = match connection.take() {
                Some(socket) => socket,
                None => match TcpStream::connect(self.address).await {
                    Ok(socket) => socket,
                    Err(_) => break End::Refused,
                },
            };
            let path = format!("/{}-{}", self.number, answered.len());
            match self.call(socket, answered.len(), &path).await {
                Ok((200, left)) => {
                    answered.push(path);
                    connection = left;
                }
                Ok((status, _)) => break End::Status(status),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break End::Unanswered,
                Err(error) => panic!("{path}: {error}"),
            }
            sleep(Duration::from_micros((self.number * 613 + answered.len() * 97) as u64 % 3000)).await;
        };
        Outcome { answered, end }
    }

    /// One request: the status of its answer, and the connection if another may follow.
    async fn call(&self, mut socket: TcpStream, nth: usize, path: &str) -> io::Result<(u16, Option<TcpStream>)> {
        let Self { prefix, key, .. } = self;
        let (method, length, body) =
            if nth.is_multiple_of(2) { ("GET", "", "") } else { ("POST", "Content-Length: 5\r\n", "hello") };
        let request =
            format!("{method} {prefix}{path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{length}\r\n{body}");
        let unanswered = |_| io::Error::from(io::ErrorKind::UnexpectedEof);
        socket.write_all(request.as_bytes()).await.map_err(unanswered)?;
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let read = socket.read_buf(&mut answer).await;
            match read {
                Ok(1..) => {}
                _ if answer.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => panic!("{path}: the answer is cut: {}", String::from_utf8_lossy(&answer)),
            }
        }
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(status != 200 || answer.ends_with("\r\n\r\nhi"), "{answer}");
        assert!(status != 503 || answer.to_ascii_lowercase().contains("retry-after: "), "{answer}");
        let closes = answer.to_ascii_lowercase().contains("connection: close");
        Ok((status, (!closes).then_some(socket)))
    }
}
