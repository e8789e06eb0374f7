//! A container that counts what comes to it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// How often each request came, by its path.
type Seen = Arc<Mutex<HashMap<String, usize>>>;

/// A container that takes its time for each answer and keeps its connections. It ends when it is dropped.
#[derive(Debug)]
pub struct Container {
    address: SocketAddr,
    seen: Seen,
    _tasks: JoinSet<()>,
}

impl Container {
    /// Starts one that answers a request after this time.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start(time: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port of loopback");
        let (address, seen) = (listener.local_addr().expect("a listener has an address"), Seen::default());
        let mut tasks = JoinSet::new();
        let counted = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, time, Arc::clone(&counted)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    /// Where it listens.
    #[must_use]
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// Requests that have come so far.
    #[must_use]
    pub fn seen(&self) -> usize {
        lock(&self.seen).len()
    }

    /// How often the request with this path came.
    #[must_use]
    pub fn times(&self, path: &str) -> usize {
        lock(&self.seen).get(path).copied().unwrap_or_default()
    }

    /// The paths of the requests that came more than once.
    #[must_use]
    pub fn doubled(&self) -> HashSet<String> {
        lock(&self.seen).iter().filter(|(_, times)| **times > 1).map(|(path, _)| path.clone()).collect()
    }

    /// How many requests came whose callers have no answer, or did not come although they have one; and how many came
    /// more than once.
    #[must_use]
    pub fn lost_or_doubled(&self, answered: &[String]) -> (usize, usize) {
        let seen = lock(&self.seen);
        let came = answered.iter().filter(|path| seen.contains_key(*path)).count();
        let unanswered = seen.len() - came;
        (answered.len() - came + unanswered, seen.values().filter(|times| **times > 1).count())
    }
}

fn lock(seen: &Seen) -> MutexGuard<'_, HashMap<String, usize>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut socket: TcpStream, time: Duration, seen: Seen) {
    let mut text = Vec::new();
    loop {
        while !is_whole_request(&text) {
            match socket.read_buf(&mut text).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&text).into_owned();
        text.clear();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if !path.starts_with("/again") {
            *lock(&seen).entry(path).or_default() += 1;
        }
        sleep(time).await;
        if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.is_err() {
            return;
        }
    }
}

/// The requests of those who call it end with their head, or with these words behind it.
fn is_whole_request(text: &[u8]) -> bool {
    text.ends_with(if text.starts_with(b"POST") { b"hello" } else { b"\r\n\r\n" })
}
