//! Sessions: who gets in, who wins, and who has to go.

use std::{io, time::Duration};

use tokio::io::AsyncReadExt as _;
use towline_gateway::{
    GatewayConfig, GatewayError,
    testing::{AgentKind, Answer, Container, RawCaller, SimAgent, TeamSetup, World, wait_until, within},
};
use towline_model::{InstanceId, InstancePhase};
use towline_tunnel::{
    LogsRequest,
    message::{AgentMessage, Desired, EngineStatus, InstanceReport, Refusal, Report},
    upgrade::{CARRIER_PATH, SESSION_PATH, SESSION_UPGRADE},
};

const HELLO: &str = "/api/v1/r/containers/hello/";

pub fn upgrade(path: &str, protocol: &str, secret: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nAuthorization: Bearer {secret}\r\n\r\n"
    )
}

pub fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error_code"].as_str().unwrap().to_owned())
}

fn report(revision: u64) -> Report {
    let instance = InstanceReport {
        instance_id: InstanceId::generate(),
        generation: 1,
        phase: InstancePhase::Ready,
        reason: None,
        restart_count: 0,
        container_id: None,
    };
    Report {
        revision,
        endpoints_revision: 0,
        engine: EngineStatus::Ready { version: "x".to_owned() },
        instances: vec![instance],
    }
}

#[tokio::test]
async fn only_an_agents_key_opens_a_session() {
    let world = World::start().await;
    let team = world.team();
    let token = world.token(team.member);
    for secret in [&team.key, &token, "ak-nonsense", "x"] {
        let answer = world.call(upgrade(SESSION_PATH, SESSION_UPGRADE, secret)).await;
        assert_eq!(code(&answer), (401, "unauthenticated".to_owned()), "{secret}");
        assert!(answer.header("www-authenticate").is_some() && answer.header("proxy-status").is_none());
    }
    world.revoke(&team.agent_key);
    let answer = world.call(upgrade(SESSION_PATH, SESSION_UPGRADE, &team.agent_key)).await;
    assert_eq!(code(&answer), (401, "unauthenticated".to_owned()));
}

#[tokio::test]
async fn an_agent_of_another_age_is_told_which_protocol_is_spoken() {
    let world = World::start().await;
    let team = world.team();
    for request in [
        upgrade(SESSION_PATH, "towline-session/9", &team.agent_key),
        format!("GET {SESSION_PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.agent_key),
        upgrade(SESSION_PATH, SESSION_UPGRADE, &team.agent_key).replacen("GET", "POST", 1),
    ] {
        let answer = world.call(request).await;
        assert_eq!(code(&answer), (426, "upgrade_required".to_owned()));
        assert_eq!(answer.header("upgrade"), Some("towline-session/1, websocket"));
    }
    let answer = world.call(upgrade(CARRIER_PATH, "websocket", "x")).await;
    assert_eq!((answer.status, answer.header("upgrade")), (426, Some("towline-carrier/1, websocket")));

    let mut hello = SimAgent::hello("future");
    hello.protocol_versions = vec![7, 8];
    let refusal = SimAgent::connect(world.address, &team.agent_key, hello).await.unwrap_err();
    assert!(!refusal.retry && refusal.reason.contains("version 1"), "{refusal:?}");
    assert!(world.gateway.sessions().is_empty());
}

#[tokio::test]
async fn a_websocket_is_a_session_when_everything_about_it_is_right() {
    let world = World::start().await;
    let team = world.team();
    let fields = [
        ("Connection: keep-alive, Upgrade", "Connection: close"),
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: dGhlIHNhbXBsZQ=="),
        ("Sec-WebSocket-Protocol: chat, towline-session.1", "Sec-WebSocket-Protocol: towline-carrier.1"),
    ];
    let ask = async |wrong: Option<usize>, secret: &str| {
        let lines: Vec<_> = fields
            .iter()
            .enumerate()
            .map(|(index, field)| if Some(index) == wrong { field.1 } else { field.0 })
            .collect();
        let head = format!("GET {SESSION_PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {secret}\r\n");
        world.call(format!("{head}{}\r\n\r\n", lines.join("\r\n"))).await
    };
    for (wrong, field) in fields.iter().enumerate() {
        let answer = ask(Some(wrong), &team.agent_key).await;
        assert_eq!(code(&answer), (426, "upgrade_required".to_owned()), "{field:?}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    }
    assert_eq!(ask(None, "ak-nonsense").await.status, 401);
    let answer = ask(None, &team.agent_key).await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    // The example of RFC 6455 §1.3.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("towline-session.1"));
}

#[tokio::test]
async fn a_refused_agent_learns_why() {
    let world = World::start().await;
    let team = world.team();
    let refusal = Refusal { reason: "the name is taken by another machine".to_owned(), retry: false };
    world.refuse_agents(refusal.clone());
    let told = SimAgent::connect(world.address, &team.agent_key, SimAgent::hello("one")).await.unwrap_err();
    assert_eq!(told, refusal);
    assert_eq!(world.events(), ["hello one"]);
    assert!(world.gateway.sessions().is_empty());
}

#[tokio::test]
async fn an_agent_that_says_something_else_first_is_sent_away() {
    let world = World::start().await;
    let team = world.team();
    let mut caller = world.caller().await;
    caller.send(upgrade(SESSION_PATH, SESSION_UPGRADE, &team.agent_key)).await;
    assert_eq!(within("101", caller.head()).await.unwrap().status, 101);
    let (sender, _receiver, driver) =
        towline_tunnel::agent_session(caller.socket, towline_tunnel::SessionConfig::default());
    let talk = async {
        sender.send(&AgentMessage::Leaving).await.unwrap();
        sender.closed().await
    };
    within("the end of the session", async { tokio::join!(driver.run(), talk) }).await;
    assert!(world.events().is_empty());
}

#[tokio::test]
async fn an_agent_that_goes_before_its_welcome_has_gone() {
    let world = World::start().await;
    let team = world.team();
    world.hold_agents();
    let mut caller = world.caller().await;
    caller.send(upgrade(SESSION_PATH, SESSION_UPGRADE, &team.agent_key)).await;
    assert_eq!(within("101", caller.head()).await.unwrap().status, 101);
    let (sender, _receiver, driver) =
        towline_tunnel::agent_session(caller.socket, towline_tunnel::SessionConfig::default());
    let talk = async {
        sender.send(&AgentMessage::Hello(SimAgent::hello("one"))).await.unwrap();
        wait_until("the hello", || world.events() == ["hello one"]).await;
        sender.close();
    };
    within("the end of the connection", async { tokio::join!(driver.run(), talk) }).await;
    world.answer_agents();
    wait_until("the goodbye", || world.events().last().is_some_and(|event| event.starts_with("gone "))).await;
    assert!(world.gateway.sessions().is_empty());
}

#[tokio::test]
async fn a_session_can_be_ended() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    assert!(world.gateway.has_session(agent.session_id()));
    world.gateway.end_session(agent.session_id());
    agent.session_ended().await;
    wait_until("its end", || !world.gateway.has_session(agent.session_id())).await;
}

#[tokio::test]
async fn garbage_after_the_101_ends_the_session() {
    let world = World::start().await;
    let team = world.team();
    let mut caller = world.caller().await;
    caller.send(upgrade(SESSION_PATH, SESSION_UPGRADE, &team.agent_key)).await;
    assert_eq!(within("101", caller.head()).await.unwrap().status, 101);
    caller.send([0xff; 64]).await;
    drop(within("the end", caller.ended()).await);
    assert!(world.gateway.sessions().is_empty());
}

#[tokio::test]
async fn a_session_carries_wishes_and_reports() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let session = agent.session_id();
    assert_eq!(world.events(), ["hello one".to_owned(), format!("joined {session}")]);
    let sessions = world.gateway.sessions();
    assert_eq!((sessions.len(), sessions[0].agent_id, sessions[0].session_id), (1, agent.agent_id(), session));

    for revision in 1..=100 {
        assert!(world.gateway.send_desired(
            agent.agent_id(),
            Desired { revision, instances: Vec::new(), withheld: Vec::new(), endpoints: Vec::new() }
        ));
    }
    let mut desired = agent.desired();
    let newest = |wish: &Option<Desired>| wish.as_ref().is_some_and(|wish| wish.revision == 100);
    within("the newest wish", desired.wait_for(newest)).await.unwrap();

    for revision in 1..=50 {
        agent.report(report(revision)).await;
    }
    wait_until("the newest report", || world.reports().last().is_some_and(|(_, r)| r.revision == 50)).await;
    let revisions: Vec<_> = world.reports().iter().map(|(_, report)| report.revision).collect();
    assert!(revisions.is_sorted(), "{revisions:?}");

    let agent_id = agent.agent_id();
    drop(agent);
    wait_until("the end", || world.events().last() == Some(&format!("gone {session}"))).await;
    assert!(!world.gateway.send_desired(
        agent_id,
        Desired { revision: 101, instances: Vec::new(), withheld: Vec::new(), endpoints: Vec::new() }
    ));
    assert!(world.gateway.sessions().is_empty());
}

#[tokio::test]
async fn the_newest_session_of_an_agent_wins() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, old, service) = world.hello(&container).await;
    let new = world.agent(&team, "one").await;
    assert_eq!(old.agent_id(), new.agent_id());
    assert_ne!(old.session_id(), new.session_id());
    old.session_ended().await;
    wait_until("the old one's goodbye", || world.events().contains(&format!("gone {}", old.session_id()))).await;

    // The late goodbye has not pushed out the successor.
    let sessions = world.gateway.sessions();
    assert_eq!(sessions.iter().map(|s| s.session_id).collect::<Vec<_>>(), [new.session_id()]);
    let instance = world.gateway.snapshot().routes.get(team.id, "hello").unwrap().instances[0].instance_id;
    new.set(instance, AgentKind::Connect(container.address()));
    drop(old);
    for _ in 0..10 {
        assert_eq!(world.get(&team.key, HELLO).await.status, 200);
    }
    assert_eq!(world.gateway.in_flight(service), 0);
}

#[tokio::test]
async fn what_runs_on_an_older_session_is_finished() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let container = Container::start(move |mut exchange, _| {
        let mut wait = wait.clone();
        async move {
            exchange.head().await?;
            let _ = wait.wait_for(|go| *go).await;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await
        }
    })
    .await;
    let world = World::start().await;
    let (team, old, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(format!("POST {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    wait_until("the request at the container", || container.accepted() == 1).await;
    let _new = world.agent(&team, "one").await;
    old.session_ended().await;
    go.send_replace(true);
    assert_eq!(caller.answer().await.text(), "hi");
}

#[tokio::test]
async fn a_revoked_agents_key_ends_everything_of_it() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await?;
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    assert_eq!(within("the head", caller.head()).await.unwrap().status, 200);
    world.revoke(&team.agent_key);
    agent.session_ended().await;
    wait_until("no carrier", || agent.carriers() == 0).await;
    assert!(within("the cut", caller.exactly(10)).await.is_err());
    assert_eq!(world.get(&team.key, HELLO).await.status, 503);
}

#[tokio::test]
async fn a_revoked_agents_key_ends_what_an_earlier_session_left() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await?;
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, earlier, service) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    assert_eq!(within("the head", caller.head()).await.unwrap().status, 200);
    let _later = world.agent(&team, "one").await;
    earlier.session_ended().await;
    assert_eq!(caller.exactly(5).await.unwrap(), b"hello");
    assert_eq!(world.gateway.in_flight(service), 1, "what runs on the earlier session's carrier goes on");
    world.revoke(&team.agent_key);
    assert!(within("the cut", caller.exactly(5)).await.is_err());
    wait_until("no carrier", || earlier.carriers() == 0).await;
}

#[tokio::test]
async fn an_agent_that_leaves_finishes_and_takes_nothing_new() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let container = Container::start(move |mut exchange, _| {
        let mut wait = wait.clone();
        async move {
            exchange.head().await?;
            let _ = wait.wait_for(|go| *go).await;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await
        }
    })
    .await;
    let world = World::start().await;
    let (team, agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    wait_until("the request at the container", || container.accepted() == 1).await;
    agent.leave().await;
    wait_until("no place", || world.gateway.sessions().is_empty()).await;
    assert_eq!(world.get(&team.key, HELLO).await.status, 503);
    go.send_replace(true);
    assert_eq!(caller.answer().await.text(), "hi");
}

#[tokio::test]
async fn there_are_not_too_many_sessions() {
    let config = GatewayConfig { max_agents_per_team: 2, ..GatewayConfig::default() };
    let world = World::start_with(config).await;
    let team = world.team();
    let first = world.agent(&team, "one").await;
    let _second = world.agent(&team, "two").await;
    let answer = world.call(upgrade(SESSION_PATH, SESSION_UPGRADE, &team.agent_key)).await;
    assert_eq!(code(&answer), (429, "rate_limited".to_owned()));
    drop(first);
    wait_until("room", || world.gateway.sessions().len() == 1).await;
    let again = async || SimAgent::connect(world.address, &team.agent_key, SimAgent::hello("three")).await;
    within("a third agent", again()).await.unwrap();
}

#[tokio::test]
async fn log_lines_are_read_through_the_tunnel() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let instance = InstanceId::generate();
    agent.set(instance, AgentKind::Logs("one\ntwo\n"));
    let request = |instance| LogsRequest { instance, tail: Some(10), since: None, follow: false };
    let mut text = String::new();
    let mut logs = within("the stream", world.gateway.logs(agent.agent_id(), request(instance))).await.unwrap();
    within("the lines", logs.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "one\ntwo\n");

    let error = world.gateway.logs(agent.agent_id(), request(InstanceId::generate())).await.err().unwrap();
    assert!(matches!(error, GatewayError::Exchange(_)), "{error}");
    let id = agent.agent_id();
    drop(agent);
    wait_until("the agent to be gone", || world.gateway.sessions().is_empty()).await;
    let error = world.gateway.logs(id, request(instance)).await.err().unwrap();
    assert_eq!(error.code().status(), 503);
}

/// A world with a request that waits for `go`.
async fn with_a_slow_request(
    config: GatewayConfig,
) -> (World, TeamSetup, SimAgent, RawCaller, tokio::sync::watch::Sender<bool>, Container) {
    let (go, wait) = tokio::sync::watch::channel(false);
    let container = Container::start(move |mut exchange, _| {
        let mut wait = wait.clone();
        async move {
            exchange.head().await?;
            let _ = wait.wait_for(|go| *go).await;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await
        }
    })
    .await;
    let world = World::start_with(config).await;
    let (team, agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(format!("GET {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    wait_until("the request at the container", || container.accepted() == 1).await;
    (world, team, agent, caller, go, container)
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_runs() {
    let (world, _team, agent, mut caller, go, _container) = with_a_slow_request(GatewayConfig::default()).await;
    let mut idle = world.caller().await;
    idle.send("GET /api/v1/x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    world.shutdown.cancel();
    within("the announcement", agent.going_away().wait_for(|going| *going)).await.unwrap();
    within("the end of an idle connection", idle.ended()).await.unwrap();
    assert!(tokio::net::TcpStream::connect(world.address).await.is_err(), "nobody is let in any more");
    go.send_replace(true);
    let answer = caller.answer().await;
    assert_eq!(answer.text(), "hi");
    assert_eq!(answer.header("connection"), Some("close"));
    drop(caller);
    world.stop().await;
    agent.session_ended().await;
}

#[tokio::test]
async fn a_server_that_has_waited_long_enough_cuts() {
    let config = GatewayConfig { drain_timeout: Duration::from_millis(100), ..GatewayConfig::default() };
    let (world, _team, agent, mut caller, _go, _container) = with_a_slow_request(config).await;
    world.stop().await;
    let error = within("the cut", caller.try_answer(false)).await.unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
    agent.session_ended().await;
}
