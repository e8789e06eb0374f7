//! Whatever can break breaks while callers call, in an order that a seed decides: agents and the server are killed or told to
//! stop, cables are cut or fall silent. The container counts.
//!
//! No POST comes twice, none that was answered is lost, and none comes of which its caller was told that it did not. Whoever has
//! no answer, or one that says so, cannot know. And when everything is there again, everything is online and serves.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use towline_e2e::{
    api::Api,
    cable::Cable,
    counting::Container,
    system::{Agent, AgentOptions, Server, ServerOptions},
    wait::{SOON, wait_until},
};

use crate::{attached::attached, keep_alive_races::is_whole};

const CALLERS: usize = 8;
const ROUNDS: usize = 16;
/// Requests that are answered between two rounds, so that each meets a system that works.
const BETWEEN: usize = 60;
/// Between two requests of a caller.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a caller waits for an answer. A request that was cut off has an end of its own long before.
const PATIENCE: Duration = SOON;

/// Two agents with the same service, each on a cable of its own.
struct World {
    server: Server,
    agents: Vec<Agent>,
    cables: Vec<Cable>,
    container: Container,
    service: String,
}

/// Something that breaks. The number is the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    AgentIsKilled(usize),
    AgentIsToldToStop(usize),
    CableIsCut(usize),
    CableIsSilent(usize),
    ServerIsKilled,
    ServerIsToldToStop,
}

impl Fault {
    fn any(random: &mut SmallRng) -> Self {
        let agent = random.random_range(0..2);
        match random.random_range(0..6) {
            0 => Self::AgentIsKilled(agent),
            1 => Self::AgentIsToldToStop(agent),
            2 => Self::CableIsCut(agent),
            3 => Self::CableIsSilent(agent),
            4 => Self::ServerIsKilled,
            _ => Self::ServerIsToldToStop,
        }
    }

    /// What it happens to: the same thing does not break twice at a time.
    const fn thing(self) -> (u8, usize) {
        match self {
            Self::AgentIsKilled(agent) | Self::AgentIsToldToStop(agent) => (0, agent),
            Self::CableIsCut(agent) | Self::CableIsSilent(agent) => (1, agent),
            Self::ServerIsKilled | Self::ServerIsToldToStop => (2, 0),
        }
    }

    fn begin(self, world: &mut World) {
        match self {
            Self::AgentIsKilled(agent) => world.agents[agent].kill(),
            Self::AgentIsToldToStop(agent) => world.agents[agent].process.signal("TERM"),
            Self::CableIsCut(agent) => world.cables[agent].cut(),
            Self::CableIsSilent(agent) => world.cables[agent].silence(),
            Self::ServerIsKilled => world.server.kill(),
            Self::ServerIsToldToStop => world.server.process.signal("TERM"),
        }
    }

    async fn end(self, world: &mut World) {
        match self {
            Self::AgentIsKilled(agent) => world.agents[agent].start_again(),
            Self::AgentIsToldToStop(agent) => {
                world.agents[agent].process.terminate(SOON).await;
                world.agents[agent].start_again();
            }
            Self::CableIsCut(agent) | Self::CableIsSilent(agent) => world.cables[agent].mend(),
            Self::ServerIsKilled => world.server.start_again().await,
            Self::ServerIsToldToStop => {
                world.server.process.terminate(SOON).await;
                world.server.start_again().await;
            }
        }
    }
}

impl World {
    async fn start() -> Self {
        let arguments = ["--drain-timeout", "2s", "--agent-lost-after", "10m"].map(str::to_owned).to_vec();
        let server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
        let (mut agents, mut cables) = (Vec::new(), Vec::new());
        for name in ["left", "right"] {
            let cable = Cable::to(server.api().address()).await;
            let options = AgentOptions {
                name: name.to_owned(),
                docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
                server_url: Some(cable.url()),
                ..AgentOptions::default()
            };
            agents.push(server.start_agent_with(options).await);
            cables.push(cable);
        }
        let container = Container::start(Duration::from_millis(5)).await;
        let owner = server.owner().await;
        let mut spec = attached("count", &container.target());
        spec["replica_count"] = json!(2);
        let service = owner.create_service(&spec).await;
        owner.deploy(&service).await;
        owner.wait_for_ready(&service, 2).await;
        Self { server, agents, cables, container, service }
    }

    /// Everything is there again: both agents, both instances, and each serves.
    async fn assert_whole(&mut self, seed: u64) {
        let api = self.server.api();
        for agent in &mut self.agents {
            agent.wait_until_online(&api).await;
        }
        let owner = self.server.owner().await;
        owner.wait_for_ready(&self.service, 2).await;
        for instance in owner.instances(&self.service).await {
            let request = api.request(http::Method::GET, "/r/containers/count/again");
            let request = request
                .header("x-towline-affinity", "strict")
                .header("x-towline-instance", instance["id"].as_str().unwrap());
            let reply = api.send(request).await;
            assert_eq!(reply.status, 200, "seed {seed}: {instance}: {}", reply.text());
        }
    }
}

/// What callers have seen.
#[derive(Debug, Default)]
struct Sent {
    answered: Vec<String>,
    /// Told that nothing of them came to a container.
    refused: Vec<String>,
    /// Nobody knows.
    doubtful: usize,
}

/// Callers that go on whatever happens.
struct Load {
    callers: JoinSet<Sent>,
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn start(api: &Api) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let caller = Caller {
                address: api.address(),
                key: api.bearer().to_owned(),
                number,
                answered: Arc::clone(&answered),
            };
            callers.spawn(caller.run(stop.clone()));
        }
        Self { callers, stop, answered }
    }

    /// Waits until so many more are answered.
    async fn goes_on(&self, what: &str) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until(what, SOON * 2, async || {
            let more = self.answered.load(Ordering::Relaxed) - before;
            if more >= BETWEEN { Ok(()) } else { Err(format!("{more} answers since")) }
        })
        .await;
    }

    async fn stop(self) -> Sent {
        self.stop.cancel();
        let mut all = Sent::default();
        for sent in self.callers.join_all().await {
            all.answered.extend(sent.answered);
            all.refused.extend(sent.refused);
            all.doubtful += sent.doubtful;
        }
        all
    }
}

struct Caller {
    address: SocketAddr,
    key: String,
    number: usize,
    answered: Arc<AtomicUsize>,
}

impl Caller {
    async fn run(self, stop: CancellationToken) -> Sent {
        let (mut sent, mut connection) = (Sent::default(), None);
        for number in 0.. {
            if stop.is_cancelled() {
                break;
            }
            let socket = match connection.take() {
                Some(socket) => socket,
                None => match TcpStream::connect(self.address).await {
                    Ok(socket) => socket,
                    // The server is away.
                    Err(_) => {
                        sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            let path = format!("/{}-{number}", self.number);
            let Some((status, may_have_come, left)) = self.post(socket, &path).await else {
                sent.doubtful += 1;
                continue;
            };
            connection = left;
            match (status, may_have_come) {
                (200, _) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    sent.answered.push(path);
                }
                (500.., false) => sent.refused.push(path),
                (500.., true) => sent.doubtful += 1,
                _ => panic!("{path}: {status}"),
            }
            sleep(PAUSE).await;
        }
        sent
    }

    /// Sends one POST: the status of its answer, whether that says that it may have come, and the connection if another may
    /// follow. `None` without a whole answer.
    async fn post(&self, mut socket: TcpStream, path: &str) -> Option<(u16, bool, Option<TcpStream>)> {
        let request = format!(
            "POST /api/v1/r/containers/count{path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Length: 5\r\n\r\nhello",
            self.key
        );
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let read = timeout(PATIENCE, socket.read_buf(&mut answer)).await;
            match read.unwrap_or_else(|_| panic!("{path} has neither an answer nor an end")) {
                Ok(1..) => {}
                _ => return None,
            }
        }
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let lower = answer.to_ascii_lowercase();
        let closes = lower.contains("connection: close");
        Some((status, lower.contains("x-should-retry: false"), (!closes).then_some(socket)))
    }
}

async fn survive(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut world = World::start().await;
    let load = Load::start(&world.server.api());
    for round in 0..ROUNDS {
        load.goes_on(&format!("callers are served before round {round} of seed {seed}")).await;
        let mut faults = vec![Fault::any(&mut random)];
        let other = Fault::any(&mut random);
        if other.thing() != faults[0].thing() {
            faults.push(other);
        }
        for fault in &faults {
            fault.begin(&mut world);
            // So that they meet each other in every state.
            sleep(Duration::from_millis(random.random_range(0..150))).await;
        }
        faults.shuffle(&mut random);
        for fault in &faults {
            fault.end(&mut world).await;
        }
    }
    load.goes_on(&format!("callers are served after everything of seed {seed}")).await;
    world.assert_whole(seed).await;
    let sent = load.stop().await;
    let summary = format!(
        "seed {seed}: {} answered, {} refused, {} doubtful",
        sent.answered.len(),
        sent.refused.len(),
        sent.doubtful
    );
    let times = |path: &String| world.container.times(path);
    let lost: Vec<_> = sent.answered.iter().filter(|path| times(path) == 0).collect();
    assert!(lost.is_empty(), "answered and lost: {lost:?}; {summary}");
    let came: Vec<_> = sent.refused.iter().filter(|path| times(path) > 0).collect();
    assert!(came.is_empty(), "came although their callers were told that they did not: {came:?}; {summary}");
    assert_eq!(world.container.doubled(), HashSet::new(), "{summary}");
    assert!(sent.answered.len() >= ROUNDS * BETWEEN, "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_once_comes_once_whatever_breaks() {
    survive(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_once_comes_once_whatever_breaks_in_another_order() {
    survive(2).await;
}
