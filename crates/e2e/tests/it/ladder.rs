//! The ways to a server: what stands between, which way an agent finds by itself, and that everything passes on it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use http::{Method, header::AUTHORIZATION};
use serde_json::json;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use towline_e2e::{
    api::Api,
    between::{Between, PROXY_LOGIN, Upgrades},
    cable::Cable,
    dir::test_dir,
    process::Process,
    sse::EventStream,
    system::{Agent, AgentOptions, Server, towline},
    tls_front::Authority,
    wait::{SOON, wait_until},
};
use towline_model::{KeyKind, RawKey};

use crate::attached::LocalProcess;

/// A server and a process that agents attach to.
struct World {
    server: Server,
    local: LocalProcess,
    owner: Api,
}

impl World {
    async fn start() -> Self {
        let server = Server::start().await;
        let owner = server.owner().await;
        Self { server, local: LocalProcess::start().await, owner }
    }

    /// An agent that is told this URL, and the service `slug` on it.
    async fn serve(&self, slug: &str, url: &str, arguments: Vec<String>) -> Agent {
        let options = AgentOptions {
            name: slug.to_owned(),
            labels: vec![slug.to_owned()],
            docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
            server_url: Some(url.to_owned()),
            arguments,
            ..AgentOptions::default()
        };
        let agent = self.server.start_agent_with(options).await;
        let spec = json!({
            "service_slug": slug, "display_name": slug, "service_type": "attached",
            "attached_target": self.local.target(), "required_labels": [slug],
        });
        let id = self.owner.create_service(&spec).await;
        self.owner.deploy(&id).await;
        self.owner.wait_for_ready(&id, 1).await;
        agent
    }

    /// A request, a mebibyte in each direction, events one by one, and a WebSocket.
    async fn assert_that_everything_passes(&self, slug: &str) {
        let api = self.server.api();
        let path = |rest: &str| format!("/r/containers/{slug}/{rest}");
        assert_eq!(api.get(&path("echo/a%2Fb?x=1")).await.expect(200)["target"], "/echo/a%2Fb?x=1", "{slug}");
        let direct = reqwest::get(format!("http://{}/bytes?n=1048576", self.local.target())).await.unwrap();
        let direct = direct.bytes().await.unwrap();
        assert_eq!(direct.len(), 1 << 20);
        assert!(api.get(&path("bytes?n=1048576")).await.body == direct, "{slug}: a download");
        let echo = api.send(api.request(Method::POST, &path("echo")).body(direct)).await.expect(200);
        assert_eq!(echo["body_length"], 1 << 20, "{slug}");

        // The second event is ten minutes away when the first one is here.
        let request = api.request(Method::GET, &path("sse?n=2&interval_ms=600000"));
        let mut events = EventStream::new(request.send().await.unwrap());
        let first = tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.json()["n"], 1, "{slug}");

        let mut request = api.url(&path("ws")).replacen("http", "ws", 1).into_client_request().unwrap();
        request.headers_mut().insert(AUTHORIZATION, format!("Bearer {}", api.bearer()).parse().unwrap());
        let (mut socket, _) = connect_async(request).await.unwrap();
        let large: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
        for message in [Message::text("hello"), Message::binary(large)] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message, "{slug}");
        }
        socket.close(None).await.unwrap();
    }
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|&word| word.to_owned()).collect()
}

/// The way that an agent took last, as it says.
fn way(agent: &Agent) -> String {
    let output = agent.process.output();
    let line = output.lines().rfind(|line| line.contains("connected to the server")).unwrap_or_default();
    line.split_once("way=").map_or_else(String::new, |(_, way)| way.trim().trim_matches('"').to_owned())
}

#[tokio::test]
async fn each_rung_is_found_behind_what_lets_it_pass_and_carries_everything() {
    let world = World::start().await;
    let server = world.server.api().address();
    let directory = test_dir();
    let file = |name: &str| directory.path().join(name);
    let (ca, certificate, key): (PathBuf, PathBuf, PathBuf) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let authority = Authority::new();
    authority.write_pem(&ca);
    authority.write_certificate(&certificate, &key);
    let login = file("login");
    std::fs::write(&login, format!("{}:{}\n", PROXY_LOGIN.0, PROXY_LOGIN.1)).unwrap();
    let files = Some((certificate.as_path(), key.as_path()));

    let refuse =
        "http-request deny deny_status 403 if { req.fhdr(upgrade) -m found } !{ req.fhdr(upgrade) -i websocket }";
    let proxy = Between::connect_proxy().await;
    let nginx = async |upgrades| Between::nginx(server, upgrades, None, "60s").await;
    let all = nginx(Upgrades::All).await;
    let only_websockets = nginx(Upgrades::WebSocket).await;
    let else_400 = nginx(Upgrades::WebSocketElse400).await;
    let else_closed = nginx(Upgrades::WebSocketElseClosed).await;
    let haproxy = Between::haproxy(server, "60s", "").await;
    let strict_haproxy = Between::haproxy(server, "60s", refuse).await;
    let tls = Between::nginx(server, Upgrades::All, files, "60s").await;
    let tls_websockets = Between::nginx(server, Upgrades::WebSocket, files, "60s").await;
    let secure = |between: &Between| format!("https://localhost:{}", between.addr.port());
    let by_proxy =
        || vec!["--proxy".to_owned(), proxy.url(), "--proxy-credentials-file".to_owned(), login.display().to_string()];
    let by_ca = || vec!["--ca-file".to_owned(), ca.display().to_string()];

    let rows = [
        ("direct", world.server.bootstrap.url.clone(), vec![], "upgrade"),
        ("nginx", all.url(), vec![], "upgrade"),
        ("haproxy", haproxy.url(), vec![], "upgrade"),
        ("tls", secure(&tls), by_ca(), "upgrade"),
        ("nginx-websockets", only_websockets.url(), vec![], "websocket"),
        ("nginx-else-400", else_400.url(), vec![], "websocket"),
        ("nginx-else-closed", else_closed.url(), vec![], "websocket"),
        ("haproxy-websockets", strict_haproxy.url(), vec![], "websocket"),
        ("tls-websockets", secure(&tls_websockets), by_ca(), "websocket"),
        ("proxy", world.server.bootstrap.url.clone(), by_proxy(), "upgrade through the proxy"),
        ("proxy-tls", secure(&tls), [by_proxy(), by_ca()].concat(), "upgrade through the proxy"),
        ("proxy-websockets", only_websockets.url(), by_proxy(), "websocket through the proxy"),
        (
            "proxy-tls-websockets",
            secure(&tls_websockets),
            [by_proxy(), by_ca()].concat(),
            "websocket through the proxy",
        ),
    ];
    for (slug, url, arguments, expected) in rows {
        let asked_before = proxy.process.output().matches("CONNECT ").count();
        let agent = world.serve(slug, &url, arguments).await;
        assert_eq!(way(&agent), expected, "{slug}");
        let agents = world.server.api().get("/r/agents?per_page=100").await.expect(200);
        let row = agents["agent_list"].as_array().unwrap().iter().find(|row| row["display_name"] == slug).unwrap();
        let is_shown = (row["transport"].as_str().unwrap(), row["via_proxy"].as_bool().unwrap());
        assert_eq!(is_shown, (expected.split(' ').next().unwrap(), expected.contains("proxy")), "{slug}");
        world.assert_that_everything_passes(slug).await;
        let asked = proxy.process.output().matches("CONNECT ").count() > asked_before;
        assert_eq!(asked, expected.contains("proxy"), "{slug}");
        assert!(!agent.process.output().contains(PROXY_LOGIN.1), "the password is not logged");
    }
    let said = world.server.process.output();
    for transport in ["transport=upgrade", "transport=websocket"] {
        assert!(said.contains(transport), "the server tells {transport}");
    }
}

#[tokio::test]
async fn what_lets_nothing_pass_is_told_and_so_is_a_wrong_password() {
    let world = World::start().await;
    let none = Between::nginx(world.server.api().address(), Upgrades::None, None, "60s").await;
    let proxy = Between::connect_proxy().await;
    let wrong = format!("http://ada:wrong@{}", proxy.addr);
    let without = proxy.url();
    let server = world.server.bootstrap.url.as_str();
    for (name, arguments, expected) in [
        ("nowhere", vec!["--server", &none.url()], "passes neither"),
        ("stranger", vec!["--server", server, "--proxy", &wrong], "--proxy-credentials-file"),
        ("nobody", vec!["--server", server, "--proxy", &without], "--proxy-credentials-file"),
        ("revoked", vec!["--server", server], "towline key create --kind agent"),
    ] {
        let directory = test_dir();
        let mut command = towline(directory.path());
        // A key that could be one, and that nobody has made.
        let unknown = RawKey::generate(KeyKind::Agent, &mut rand::rng());
        let key = if name == "revoked" { unknown.expose() } else { &world.server.bootstrap.agent_key };
        command.args(["agent", "--name", name]).args(&arguments).env("TOWLINE_AGENT_KEY", key);
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
        let mut agent = Process::start(name, &mut command, &directory.path().join("log"));
        let output = wait_until(&format!("{name} says what is wrong"), SOON, async || {
            agent.assert_runs();
            let output = agent.output();
            if output.contains(expected) { Ok(output) } else { Err(output) }
        })
        .await;
        assert!(!output.contains("ada:wrong"), "{output}");
    }
}

/// Calls a service over and over for so long: none may fail, whatever happens to connections meanwhile.
async fn call_steadily(api: &Api, slug: &str, duration: Duration) -> usize {
    let deadline = Instant::now() + duration;
    let mut calls = 0;
    while Instant::now() < deadline {
        let reply = api.send(api.request(Method::POST, &format!("/r/containers/{slug}/echo")).body("x")).await;
        assert_eq!(reply.status, 200, "call {calls}: {}", reply.text());
        calls += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    calls
}

#[tokio::test]
async fn an_idle_limit_that_is_shorter_than_the_pings_cuts_no_stream_when_it_is_told() {
    let world = World::start().await;
    // Every idle connection is cut after thirteen seconds; the pings of carriers are fifteen seconds apart.
    let haproxy = Between::haproxy(world.server.api().address(), "13s", "").await;
    let arguments = words(&["--connection-lifetime", "8s", "--log-level", "info,towline_agent=debug"]);
    let agent = world.serve("short", &haproxy.url(), arguments).await;
    let api = world.server.api();
    let request = api.request(Method::GET, "/r/containers/short/sse?n=50&interval_ms=500");
    let mut events = EventStream::new(request.send().await.unwrap());
    let listen = async {
        let mut count = 0;
        while events.next().await.expect("the stream is not cut").is_some() {
            count += 1;
        }
        count
    };
    let (calls, count) = tokio::join!(call_steadily(&api, "short", Duration::from_secs(25)), listen);
    assert!(calls > 20 && count == 50, "{calls} calls, {count} events");
    let output = agent.process.output();
    let connected = output.matches("connected to the server").count();
    assert!((4..=8).contains(&connected), "sessions are replaced in time: {connected}");
    assert!(!output.contains("not connected"), "and never lost");
    assert!(!output.contains("the peer closed the connection"), "and no carrier is cut");
}

#[tokio::test]
async fn the_age_at_which_connections_are_cut_is_learned() {
    let world = World::start().await;
    let cable = Cable::with_lifetime(world.server.api().address(), Duration::from_secs(15)).await;
    let agent = world.serve("learns", &cable.url(), vec![]).await;
    wait_until("the agent has seen enough", 2 * SOON, async || {
        let output = agent.process.output();
        if output.contains("connections are cut at this age") { Ok(()) } else { Err(output) }
    })
    .await;
    let api = world.server.api();
    api.wait_for_answer("/r/containers/learns/echo", 200).await;
    let lost = agent.process.output().matches("not connected").count();
    let calls = call_steadily(&api, "learns", Duration::from_secs(35)).await;
    assert!(calls > 30, "{calls} calls");
    assert_eq!(agent.process.output().matches("not connected").count(), lost, "no session is lost any more");
}

#[tokio::test]
async fn pings_keep_what_is_silent_for_longer_than_a_balancers_patience() {
    let world = World::start().await;
    let server = world.server.api().address();
    let nginx = Between::nginx(server, Upgrades::WebSocket, None, "20s").await;
    let haproxy = Between::haproxy(server, "20s", "").await;
    let _agents =
        [world.serve("nginx", &nginx.url(), vec![]).await, world.serve("haproxy", &haproxy.url(), vec![]).await];
    let api = world.server.api();
    let silent = async |slug: &str| {
        let request = api.request(Method::GET, &format!("/r/containers/{slug}/sse?n=2&interval_ms=45000"));
        let mut events = EventStream::new(request.send().await.unwrap());
        for n in 1..=2 {
            assert_eq!(events.next().await.expect("the stream is not cut").unwrap().json()["n"], n, "{slug}");
        }
    };
    tokio::join!(silent("nginx"), silent("haproxy"));
}
