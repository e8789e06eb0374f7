//! Requests that meet a container that is just closing the connection, through a real agent. The container counts.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use towline_e2e::system::Server;

use crate::attached::{agent_without_engine, attached};

const CALLERS: usize = 16;
/// Connections that the container has to close while requests come. How many requests that takes depends on how fast the
/// machine is.
const CLOSES: usize = 10_000;
/// What a caller sends at most: with this many answered and too few closed, the test has not met what it is about.
const MOST_EACH: usize = 10_000;

/// What a container saw.
#[derive(Debug, Default)]
struct Seen {
    /// How often each request came.
    requests: HashMap<String, usize>,
    /// Connections that it has closed.
    closed: usize,
    /// Of these, the ones on which another request came after that: the close was on its way when the request was passed on.
    late: usize,
}

/// Answers requests, and closes a connection on which none has come for a moment, in the two ways that there are: its
/// direction first, to read what still comes, or both at once.
async fn container(seen: Arc<Mutex<Seen>>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        for number in 0_u64.. {
            let (socket, _) = listener.accept().await.unwrap();
            connections.spawn(serve(socket, number, Arc::clone(&seen)));
            while connections.try_join_next().is_some() {}
        }
    });
    (address, tasks)
}

async fn serve(mut socket: TcpStream, number: u64, seen: Arc<Mutex<Seen>>) {
    for served in 0.. {
        // From at once to four milliseconds: all around the moment at which the next request comes.
        let patience = Duration::from_micros((number * 37 + served * 611) % 4000);
        let waits = served == 0 || timeout(patience, socket.readable()).await.is_ok();
        if !waits {
            break;
        }
        let Some(id) = request(&mut socket).await else { return };
        *seen.lock().unwrap().requests.entry(id).or_default() += 1;
        if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.is_err() {
            return;
        }
    }
    seen.lock().unwrap().closed += 1;
    if number.is_multiple_of(2)
        && socket.shutdown().await.is_ok()
        && let Some(id) = request(&mut socket).await
    {
        let mut seen = seen.lock().unwrap();
        *seen.requests.entry(id).or_default() += 1;
        seen.late += 1;
    }
}

/// The id of the request that comes whole; `None` when none does.
async fn request(socket: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"hello") {
        if socket.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(text).unwrap();
    text.split(' ').nth(1).map(str::to_owned)
}

/// What a caller counted.
#[derive(Debug, Default)]
struct Sent {
    all: usize,
    /// Answered with the doubt whether they arrived.
    doubtful: usize,
}

/// Sends one POST after the other until the container has closed enough connections.
async fn call(address: SocketAddr, key: String, caller: usize, seen: Arc<Mutex<Seen>>) -> Sent {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut sent = Sent::default();
    for number in 0..MOST_EACH {
        if seen.lock().unwrap().closed >= CLOSES {
            break;
        }
        let request = format!(
            "POST /api/v1/r/containers/races/{caller}-{number} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: 5\r\n\r\nhello"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0, "the connection ended: {number}");
        }
        let answer = String::from_utf8(answer).unwrap();
        match answer.split(' ').nth(1) {
            Some("200") => assert!(answer.ends_with("hi"), "{answer}"),
            Some("502") => sent.doubtful += 1,
            _ => panic!("{answer}"),
        }
        sent.all += 1;
        tokio::time::sleep(Duration::from_micros((caller * 613 + number * 97) as u64 % 4000)).await;
    }
    sent
}

/// Whether an answer with a length has come whole.
pub fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
    });
    length.is_some_and(|length| body.len() >= length)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_posts_that_meet_closing_connections_arrive_once() {
    let server = Server::start().await;
    let _agent = agent_without_engine(&server, "bare", &[]).await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (address, _container) = container(Arc::clone(&seen)).await;
    let owner = server.owner().await;
    let id = owner.create_service(&attached("races", &address.to_string())).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;

    let (gateway, key) = (server.api().address(), server.bootstrap.api_key.clone());
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(gateway, key.clone(), caller, Arc::clone(&seen)));
    }
    let sent = callers.join_all().await;
    let all: usize = sent.iter().map(|sent| sent.all).sum();
    let doubtful: usize = sent.iter().map(|sent| sent.doubtful).sum();
    let seen = seen.lock().unwrap();
    let summary = format!("{all} sent, {} closed, {} late, {doubtful} doubtful", seen.closed, seen.late);
    assert!(seen.closed >= CLOSES, "{summary}");
    assert_eq!(seen.requests.values().filter(|times| **times > 1).count(), 0, "a POST came twice; {summary}");
    assert!(seen.requests.len() + doubtful >= all, "a POST was lost; {summary}");
    // Between the agent's look at the connection and its write there are some microseconds. Whoever meets them is told; but each time
    // the gateway learns that this container closes connections after half the idleness at most that it has believed, until it
    // gives each POST a connection of its own.
    assert!(doubtful <= all / 100, "{summary}");
}
