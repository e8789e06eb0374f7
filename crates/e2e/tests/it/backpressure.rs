//! Callers that read a byte a second, and a container that does, through a real server and a real agent: the fast side is
//! held back, and what a connection costs either process stays under the bound that `docs/operations.md` states.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};
use towline_e2e::{
    api::Api,
    process::Process,
    system::{Server, ServerOptions},
    wait::{SOON, wait_until},
};

use crate::attached::{agent_without_engine, attached};

const CONNECTIONS: usize = 100;
/// The bound: what one connection may take of a process's memory beside the windows' budget, in bytes.
const EACH: u64 = 512 << 10;
/// What all windows together may grow by in the server, as it is told.
const SERVER_BUDGET: (&str, u64) = ("16MiB", 16 << 20);
/// The same in an agent.
const AGENT_BUDGET: u64 = 64 << 20;
/// A slow side reads a byte, and waits so long.
const PAUSE: Duration = Duration::from_secs(1);

/// What a connection may hold in the machine's socket buffers, of which there are three pairs on the way: each grows with what
/// is written before it is read, so that it depends on who gets to run.
fn kernel() -> u64 {
    let longest = |name| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        text.split_whitespace().next_back().unwrap().parse::<u64>().unwrap()
    };
    3 * (longest("tcp_rmem") + longest("tcp_wmem"))
}

/// Byte `n` of what is sent in either direction.
const fn byte(n: u64) -> u8 {
    (n % 251) as u8
}

/// Writes without end, and counts.
async fn write_on(socket: &mut TcpStream, written: &AtomicU64) {
    let pattern: Vec<u8> = (0..64 << 10).chain(0..251).map(byte).collect();
    for start in 0_u64.. {
        let from = usize::from(byte(start * (32 << 10)));
        if socket.write_all(&pattern[from..from + (32 << 10)]).await.is_err() {
            return;
        }
        written.fetch_add(32 << 10, Ordering::Relaxed);
    }
}

/// Reads a byte a second for ever; what it reads must be what was sent.
async fn read_slowly(socket: &mut TcpStream, read: &AtomicU64) {
    for number in 0.. {
        assert_eq!(socket.read_u8().await.expect("it goes on"), byte(number));
        read.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    read: AtomicU64,
}

/// A container that answers GET without end, and reads what is POSTed a byte a second.
async fn container(counts: Arc<Counts>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let counts = Arc::clone(&counts);
            connections.spawn(async move {
                let Some(head) = read_head(&mut socket).await else { return };
                if head.starts_with("POST") {
                    return read_slowly(&mut socket, &counts.read).await;
                }
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n").await.unwrap();
                write_on(&mut socket, &counts.written).await;
            });
        }
    });
    (address, tasks)
}

/// A head, byte by byte, so that nothing of what follows is taken. `None` for a connection that only looks.
async fn read_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).expect("a head is ASCII"))
}

async fn caller(api: Api, method: &'static str, length: &'static str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut socket = socket.connect(api.address()).await.unwrap();
    let key = api.bearer();
    let request = format!(
        "{method} /api/v1/r/containers/slow/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{length}\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

/// Waits until the fast side has not got further for a while, although the slow side reads on. Gives how far it got.
async fn wait_until_held_back(written: &AtomicU64, read: &AtomicU64) -> u64 {
    let mut last = (0, Instant::now(), 0);
    wait_until("the fast side is held back", SOON * 2, async || {
        let now = written.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now(), read.load(Ordering::Relaxed));
        }
        let goes_on = read.load(Ordering::Relaxed) >= last.2 + 2 * CONNECTIONS as u64;
        if now > 0 && goes_on { Ok(now) } else { Err(format!("{now} bytes, for {:?}", last.1.elapsed())) }
    })
    .await
}

fn assert_bounded(process: &Process, before: u64, budget: u64) {
    let grown = process.memory().peak.saturating_sub(before);
    let bound = CONNECTIONS as u64 * EACH + budget;
    assert!(grown <= bound, "{} KiB for each connection", (grown / CONNECTIONS as u64) >> 10);
}

async fn start() -> (Server, towline_e2e::system::Agent, Arc<Counts>, JoinSet<()>) {
    let arguments = ["--tunnel-memory", SERVER_BUDGET.0].map(str::to_owned).to_vec();
    let server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
    let agent = agent_without_engine(&server, "bare", &[]).await;
    let counts = Arc::<Counts>::default();
    let (address, tasks) = container(Arc::clone(&counts)).await;
    let owner = server.owner().await;
    let id = owner.create_service(&attached("slow", &address.to_string())).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    (server, agent, counts, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_read_a_byte_a_second_hold_the_container_back() {
    let (server, agent, counts, _container) = start().await;
    let before = (server.process.memory().now, agent.process.memory().now);
    let mut readers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (api, counts) = (server.api(), Arc::clone(&counts));
        readers.spawn(async move {
            let mut socket = caller(api, "GET", "").await;
            let head = read_head(&mut socket).await.expect("an answer");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            read_slowly(&mut socket, &counts.read).await;
        });
    }
    let written = wait_until_held_back(&counts.written, &counts.read).await;
    let most = CONNECTIONS as u64 * (2 * EACH + kernel()) + SERVER_BUDGET.1 + AGENT_BUDGET;
    assert!(
        written <= most,
        "{} KiB for each connection have left the container",
        (written / CONNECTIONS as u64) >> 10
    );
    assert_bounded(&server.process, before.0, SERVER_BUDGET.1);
    assert_bounded(&agent.process, before.1, AGENT_BUDGET);
    assert!(readers.try_join_next().is_none(), "every reader reads on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_reads_a_byte_a_second_holds_callers_back() {
    let (server, agent, counts, _container) = start().await;
    let before = (server.process.memory().now, agent.process.memory().now);
    let mut writers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (api, counts) = (server.api(), Arc::clone(&counts));
        writers.spawn(async move {
            let mut socket = caller(api, "POST", "Content-Length: 1099511627776\r\n").await;
            write_on(&mut socket, &counts.written).await;
        });
    }
    let written = wait_until_held_back(&counts.written, &counts.read).await;
    let most = CONNECTIONS as u64 * (2 * EACH + kernel()) + SERVER_BUDGET.1 + AGENT_BUDGET;
    assert!(written <= most, "{} KiB for each connection have left the callers", (written / CONNECTIONS as u64) >> 10);
    assert_bounded(&server.process, before.0, SERVER_BUDGET.1);
    assert_bounded(&agent.process, before.1, AGENT_BUDGET);
    assert!(writers.try_join_next().is_none(), "no caller was sent away");
}
