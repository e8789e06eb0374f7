//! Three machines: a server and two agents, each in a network namespace of its own, the agents each with a Docker engine of its own.
//!
//! An agent's machine has one cable, to the server; its firewall lets TCP to the server's port out and nothing else, and lets nothing in.

use std::{collections::BTreeSet, process::Command, time::Duration};

use http::Method;
use tokio::{task::JoinSet, time::timeout};
use towline_e2e::{
    api::{Api, Reply},
    claim::Claim,
    engine::{DEMO_IMAGE, Engine},
    nested_engine::NestedEngine,
    netns::Namespace,
    process::Process,
    system::{Agent, AgentOptions, Server, ServerOptions, demo_service},
    wait::{SOON, wait_until},
};

/// The longest until a machine that has vanished without a word is taken for gone: heartbeats, and their absence.
const NOTICED: Duration = Duration::from_secs(90);

/// A machine with an agent. The order of the fields is the order of their end.
struct Machine {
    agent: Agent,
    engine: NestedEngine,
    namespace: Namespace,
}

impl Machine {
    fn unplug(&self) {
        self.namespace.ip(&["link", "set", "up0", "down"]);
    }

    fn plug_in(&self) {
        self.namespace.ip(&["link", "set", "up0", "up"]);
    }
}

struct Net {
    machines: [Machine; 2],
    server: Server,
    _server_namespace: Namespace,
    _number: Claim,
}

const PORT: u16 = 7070;

impl Net {
    async fn start() -> Self {
        let image = Engine::of_this_machine().await;
        let namespace = Namespace::new();
        // The caller's cable. What is outside of the namespaces must not be in anybody's way, so each test has a network of its own.
        let number = Claim::one_of("net", 1..250);
        let net = format!("10.213.{}", number.number());
        namespace.connect_to_host(&format!("{net}.1/30"), &format!("{net}.2/30"));
        let cable = |number: u8| (format!("up{number}"), format!("10.214.{number}"));
        let mut prepared = Vec::new();
        for number in [1, 2] {
            let machine = Namespace::new();
            let (cable, net) = cable(number);
            namespace.connect(&cable, &format!("{net}.1/30"), &machine, &format!("{net}.2/30"));
            machine.ip(&["link", "set", &cable, "down"]);
            machine.ip(&["link", "set", &cable, "name", "up0"]);
            machine.ip(&["link", "set", "up0", "up"]);
            close_all_but_the_way_out(&machine, &format!("{net}.1"));
            let engine = NestedEngine::start(&machine).await;
            engine.engine().load_image(DEMO_IMAGE, &image).await;
            prepared.push((machine, engine, format!("http://{net}.1:{PORT}")));
        }
        let options = ServerOptions {
            namespace: Some(namespace.name().to_owned()),
            listen: Some(format!("0.0.0.0:{PORT}")),
            arguments: vec!["--public-url".to_owned(), format!("http://{net}.2:{PORT}")],
            ..ServerOptions::default()
        };
        let server = Server::start_with(options).await;
        let mut machines = Vec::new();
        for (number, (namespace, engine, url)) in prepared.into_iter().enumerate() {
            let options = AgentOptions {
                name: format!("machine-{number}"),
                namespace: Some(namespace.name().to_owned()),
                docker_host: Some(engine.engine().host().to_owned()),
                server_url: Some(url),
                ..AgentOptions::default()
            };
            let agent = server.start_agent_with(options).await;
            machines.push(Machine { agent, engine, namespace });
        }
        let machines: [Machine; 2] = machines.try_into().unwrap_or_else(|_| unreachable!("two were prepared"));
        Self { machines, server, _server_namespace: namespace, _number: number }
    }
}

fn close_all_but_the_way_out(namespace: &Namespace, server: &str) {
    let port = PORT.to_string();
    let rules: [&[&str]; 7] = [
        &["-A", "OUTPUT", "-o", "lo", "-j", "ACCEPT"],
        &["-A", "INPUT", "-i", "lo", "-j", "ACCEPT"],
        // The engine's own bridge, to its containers.
        &["-A", "OUTPUT", "-o", "docker0", "-j", "ACCEPT"],
        &["-A", "INPUT", "-i", "docker0", "-j", "ACCEPT"],
        &["-A", "OUTPUT", "-o", "up0", "-p", "tcp", "-d", server, "--dport", &port, "-j", "ACCEPT"],
        &["-A", "INPUT", "-i", "up0", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT"],
        &["-P", "OUTPUT", "DROP"],
    ];
    for rule in rules {
        namespace.run("iptables", rule);
    }
    namespace.run("iptables", &["-P", "INPUT", "DROP"]);
}

async fn hostnames(api: &Api, calls: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..calls {
        let answer = api.get("/r/containers/hello/instance").await;
        if answer.status == 200 {
            seen.insert(answer.json()["hostname"].as_str().unwrap().to_owned());
        }
    }
    seen
}

async fn wait_for_hostnames(api: &Api, count: usize) -> BTreeSet<String> {
    wait_until(&format!("{count} instances answer"), NOTICED, async || {
        let seen = hostnames(api, 32).await;
        if seen.len() == count { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await
}

#[tokio::test]
async fn agents_need_one_way_out_and_one_may_vanish() {
    let net = Net::start().await;
    let api = net.server.api();
    let owner = net.server.owner().await;

    // The agents listen nowhere, and their machines can be reached from nowhere.
    for machine in &net.machines {
        let listening = machine.namespace.listening(machine.agent.process.id());
        assert!(listening.is_empty(), "an agent listens: {listening:?}");
    }

    let id = owner.create_service(&demo_service("hello", 2)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 2).await;
    for machine in &net.machines {
        assert_eq!(machine.engine.engine().container_ids(&id).await.len(), 1, "one instance on each machine");
        let listening = machine.namespace.listening(machine.agent.process.id());
        assert!(listening.is_empty(), "an agent listens: {listening:?}");
    }
    let all = wait_for_hostnames(&api, 2).await;
    let mut before = Vec::new();
    for machine in &net.machines {
        before.push(machine.engine.engine().started_at(&id).await);
    }

    // Requests that change something are in flight on both when one machine is cut off.
    let mut in_flight = JoinSet::new();
    for _ in 0..8 {
        let api = api.clone();
        in_flight.spawn(async move { api.act("/r/containers/hello/slow?ms=10000").await });
    }
    let busy = async || {
        let counts = net.machines.iter().map(|machine| established(&machine.namespace)).collect::<Vec<_>>();
        if counts.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{counts:?}")) }
    };
    wait_until("both machines have requests in flight", SOON, busy).await;
    net.machines[0].unplug();

    // Meanwhile the others are served by the second agent. Until the first one is known to be gone, some are sent to it and
    // fail as cleanly as those that were in flight; nobody waits for longer than it takes to notice, and who asks again is served.
    let others: JoinSet<usize> = (0..16)
        .map(|_| {
            let api = api.clone();
            async move {
                let mut failures = 0;
                loop {
                    let reply: Reply = api.get("/r/containers/hello/echo").await;
                    if reply.status == 200 {
                        return failures;
                    }
                    reply.gateway_problem(502, "tunnel_failed");
                    failures += 1;
                }
            }
        })
        .collect();
    let failures = timeout(NOTICED, others.join_all()).await.expect("every request has an end");
    assert!(failures.contains(&0), "nobody was served by the second agent at once: {failures:?}");

    let ended = timeout(NOTICED, in_flight.join_all()).await.expect("every request in flight has an end");
    let (fine, failed): (Vec<_>, Vec<_>) = ended.iter().partition(|reply| reply.status == 200);
    assert!(!fine.is_empty() && !failed.is_empty(), "{} fine, {} failed", fine.len(), failed.len());
    for reply in failed {
        reply.gateway_problem(502, "tunnel_failed");
        assert_eq!(reply.header("x-should-retry"), "false");
    }
    let rest = wait_for_hostnames(&api, 1).await;
    for _ in 0..50 {
        api.get("/r/containers/hello/echo").await.expect(200);
    }

    // The cable is back: the same containers, nothing restarted, nothing doubled.
    net.machines[0].plug_in();
    let again = wait_for_hostnames(&api, 2).await;
    assert_eq!(again, all);
    assert!(again.is_superset(&rest));
    for (machine, before) in net.machines.iter().zip(before) {
        assert_eq!(machine.engine.engine().started_at(&id).await, before);
    }
    owner.wait_for_ready(&id, 2).await;

    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    for machine in &net.machines {
        assert!(machine.engine.engine().container_ids(&id).await.is_empty());
    }
}

/// Connections of the engine's port forwarding to its containers: requests that are with a container.
fn established(namespace: &Namespace) -> usize {
    let sockets = namespace.run("ss", &["-H", "-t", "-n", "state", "established", "dst", "172.30.255.0/24"]);
    sockets.lines().count()
}

#[tokio::test]
async fn a_stream_on_the_machine_that_vanishes_is_cut_and_not_ended() {
    let net = Net::start().await;
    let api = net.server.api();
    let owner = net.server.owner().await;
    let id = owner.create_service(&demo_service("hello", 2)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 2).await;
    let mut streams = JoinSet::new();
    let (started, mut all_started) = tokio::sync::mpsc::channel(8);
    for _ in 0..8 {
        let request = api.request(Method::GET, "/r/containers/hello/sse?n=200&interval_ms=50");
        let started = started.clone();
        streams.spawn(async move {
            let mut events = towline_e2e::sse::EventStream::new(request.send().await.expect("a head"));
            let mut count = 0;
            loop {
                match events.next().await {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => return (count, true),
                    Err(_) => return (count, false),
                }
                if count == 1 {
                    let _ = started.send(()).await;
                }
            }
        });
    }
    for _ in 0..8 {
        timeout(SOON, all_started.recv()).await.expect("every stream starts").expect("every stream says so");
    }
    net.machines[0].unplug();
    let ends = timeout(NOTICED, streams.join_all()).await.expect("every stream has an end");
    let (whole, cut): (Vec<_>, Vec<_>) = ends.iter().partition(|(_, ended)| *ended);
    assert!(!whole.is_empty() && !cut.is_empty(), "{ends:?}");
    assert!(whole.iter().all(|(count, _)| *count == 200), "{ends:?}");
    assert!(cut.iter().all(|(count, _)| *count < 200), "{ends:?}");
    net.machines[0].plug_in();
    wait_for_hostnames(&api, 2).await;
}

/// What the firewall of the tests is worth: from an agent's machine, nothing but the server's port can be reached.
#[tokio::test]
async fn the_machines_are_as_closed_as_they_claim() {
    let outside = Namespace::new();
    let machine = Namespace::new();
    outside.connect("up0", "10.215.0.1/30", &machine, "10.215.0.2/30");
    close_all_but_the_way_out(&machine, "10.215.0.1");
    let can_connect = |from: &Namespace, to: &str, port: u16| {
        let url = format!("http://{to}:{port}/");
        let mut curl: Command = from.command("curl");
        curl.args(["-s", "-o", "/dev/null", "--noproxy", "*", "--max-time", "2", &url]);
        curl.status().expect("curl runs").success()
    };
    let directory = towline_e2e::dir::test_dir();
    let listen = |namespace: &Namespace, port: u16| {
        let mut listener: Command = namespace.command("python3");
        listener.args(["-m", "http.server", &port.to_string()]).current_dir(directory.path());
        Process::start("a web server", &mut listener, &directory.path().join("log"))
    };
    let _listeners = [listen(&outside, PORT), listen(&outside, PORT + 1), listen(&machine, PORT)];
    wait_until("the server's port is reached", SOON, async || {
        if can_connect(&machine, "10.215.0.1", PORT) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert!(!can_connect(&machine, "10.215.0.1", PORT + 1), "another port of the server is open to the agent");
    assert!(!can_connect(&outside, "10.215.0.2", PORT), "the agent's machine can be reached");
}
