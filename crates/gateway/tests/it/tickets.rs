//! WebSocket tickets (contract §6): what they open, once, and what the container sees of them.

use http::{HeaderMap, HeaderValue, header};
use towline_gateway::{
    Credential, GatewayError, LastUse,
    testing::{Answer, Container, RawCaller, World, wait_until, within},
};
use towline_model::{CredentialId, KeyKind, Principal, Scope, ServiceStatus, SignInId};

const SOCKET: &str = "/api/v1/r/containers/hello/ws";

/// A container that switches, takes the subprotocol `chat` if it is offered, and then sends the head that it got.
async fn telling() -> Container {
    Container::start(|mut exchange, _| async move {
        let head = exchange.head().await?.unwrap();
        let protocol = if head.contains("chat") { "Sec-WebSocket-Protocol: chat\r\n" } else { "" };
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        exchange.write(format!("{switch}{protocol}\r\n{head}")).await?;
        exchange.ended().await
    })
    .await
}

fn principal(world: &World, key: &str) -> Principal {
    let value = HeaderValue::try_from(format!("Bearer {key}")).unwrap();
    world.gateway.authenticate(&HeaderMap::from_iter([(header::AUTHORIZATION, value)])).unwrap().principal
}

fn ticket(world: &World, key: &str) -> String {
    world.gateway.issue_ticket(&principal(world, key), "hello").unwrap().expose().clone()
}

fn handshake(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{lines}\r\n")
}

/// Opens a WebSocket: the answer, and the head that the container got.
async fn open(world: &World, target: &str, lines: &str) -> (Answer, String, RawCaller) {
    let mut caller = world.caller().await;
    caller.send(handshake(target, lines)).await;
    let answer = within("101", caller.head()).await.unwrap();
    assert_eq!(answer.status, 101, "{target} {lines}");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(within("the head", caller.exactly(1)).await.unwrap()[0]));
    }
    (answer, head, caller)
}

async fn refused(world: &World, target: &str, lines: &str, status: u16, words: &str) {
    let answer = world.call(handshake(target, lines)).await;
    assert_eq!(answer.status, status, "{target} {lines}: {}", answer.text());
    assert!(answer.text().contains(words), "{target} {lines}: {}", answer.text());
}

#[tokio::test]
async fn a_ticket_opens_one_websocket_and_the_container_does_not_see_it() {
    let container = telling().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    // All headers are the container's, also those that could hold a key.
    let theirs = "Authorization: Bearer sk-theirs\r\nX-Api-Key: theirs\r\nX-A: 1\r\nX-A: 2\r\n";
    let is_whole = |head: &str| {
        ["Authorization: Bearer sk-theirs\r\n", "X-Api-Key: theirs\r\n", "X-A: 1\r\nX-A: 2\r\n"]
            .iter()
            .all(|l| head.contains(l))
    };
    for (query, left) in [("?towline_ticket=T", ""), ("?a=%20&towline_ticket=T&b", "?a=%20&b")] {
        let ticket = ticket(&world, &team.key);
        let target = format!("{SOCKET}{}", query.replace('T', &ticket));
        let (answer, head, _caller) = open(&world, &target, theirs).await;
        assert!(head.starts_with(&format!("GET /ws{left} HTTP/1.1\r\n")), "{head}");
        assert!(!head.contains(&ticket) && is_whole(&head), "{head}");
        assert_eq!(answer.header("sec-websocket-protocol"), None);
        refused(&world, &target, theirs, 401, "was used already").await;
    }
    for (offered, left, chosen) in [
        ("towline.ticket.T", None, "towline.ticket.T"),
        ("chat, towline.ticket.T,  x", Some("Sec-WebSocket-Protocol: chat,  x\r\n"), "chat"),
    ] {
        let ticket = ticket(&world, &team.key);
        let lines = format!("{theirs}Sec-WebSocket-Protocol: {}\r\n", offered.replace('T', &ticket));
        let (answer, head, _caller) = open(&world, &format!("{SOCKET}?a"), &lines).await;
        assert!(head.starts_with("GET /ws?a HTTP/1.1\r\n") && !head.contains(&ticket), "{head}");
        assert!(is_whole(&head), "{head}");
        assert_eq!(left.is_some_and(|left| head.contains(left)), left.is_some(), "{head}");
        assert_eq!(head.contains("Sec-WebSocket-Protocol"), left.is_some(), "{head}");
        assert_eq!(answer.header("sec-websocket-protocol"), Some(chosen.replace('T', &ticket).as_str()));
        refused(&world, SOCKET, &lines, 401, "was used already").await;
    }
}

#[tokio::test]
async fn where_others_were_offered_the_container_chooses_as_without_us() {
    let container = telling().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let lines = format!("Sec-WebSocket-Protocol: towline.ticket.{}, mqtt\r\n", ticket(&world, &team.key));
    let (answer, ..) = open(&world, SOCKET, &lines).await;
    assert_eq!(answer.header("sec-websocket-protocol"), None);
}

#[tokio::test]
async fn a_ticket_opens_nothing_else() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let other = world.service(&team, "other");
    let ticket = ticket(&world, &team.key);
    let target = format!("{SOCKET}?towline_ticket={ticket}");
    // Not an ordinary request, nor another protocol's.
    for (line, words) in [
        (format!("GET {target}"), "opens a WebSocket and nothing else"),
        (format!("POST {target}"), "opens a WebSocket and nothing else"),
        (
            format!("GET {target} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: shout/1\r\nHost: h\r\n\r\n"),
            "nothing else",
        ),
    ] {
        let request = if line.ends_with("\r\n\r\n") { line } else { format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n") };
        let answer = world.call(&request).await;
        assert_eq!(answer.status, 401, "{request}");
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    // With a key it is the container's query, byte for byte.
    let seen = world.get(&team.key, &target).await.text();
    assert!(seen.starts_with(&format!("GET /ws?towline_ticket={ticket} HTTP/1.1\r\n")), "{seen}");
    // A key of ours beside it would reach the container.
    for header in ["Authorization: Bearer", "X-Api-Key:", "X-Towline-Key:"] {
        refused(&world, &target, &format!("{header} {}\r\n", team.key), 400, "second key").await;
    }
    refused(&world, &format!("{target}&towline_ticket={ticket}"), "", 400, "more than one ticket").await;
    refused(&world, &format!("{SOCKET}?towline_ticket="), "", 401, "was used already").await;
    assert_eq!(container.accepted(), 1, "only the call with a key");
    // It was not used up by any of this; but it is, at another service.
    let elsewhere = format!("/api/v1/r/containers/other/?towline_ticket={ticket}");
    refused(&world, &elsewhere, "", 401, "is for another service").await;
    refused(&world, &target, "", 401, "was used already").await;
    assert_eq!(world.gateway.in_flight(other), 0);
}

#[tokio::test]
async fn a_ticket_dies_with_the_key_that_made_it_and_so_does_the_socket() {
    let container = telling().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let [used, unused] = [(); 2].map(|()| format!("{SOCKET}?towline_ticket={}", ticket(&world, &team.key)));
    let (_, _, mut caller) = open(&world, &used, "").await;
    world.revoke(&team.key);
    assert!(within("the end", caller.ended()).await.is_err());
    refused(&world, &unused, "", 401, "its holder may not use it any more").await;
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn a_ticket_is_made_for_what_could_be_called_now() {
    let world = World::start().await;
    let team = world.team();
    let service = world.service(&team, "hello");
    let reader = world.add_key(Credential {
        id: CredentialId::generate(),
        kind: KeyKind::Integration,
        team_id: team.id,
        user_id: None,
        scopes: [Scope::Read].into(),
        services: None,
        expires_at: None,
        last_use: LastUse::default(),
    });
    let user = Principal::User {
        user_id: team.member,
        team_id: team.id,
        role: towline_model::Role::Member,
        sign_in: SignInId::generate(),
    };
    let code = |principal: &Principal, slug: &str| {
        world.gateway.issue_ticket(principal, slug).map_err(|error: GatewayError| error.code().as_str()).err()
    };
    let ours = principal(&world, &team.key);
    assert_eq!((code(&ours, "hello"), code(&user, "hello")), (None, None));
    assert_eq!(code(&principal(&world, &reader), "hello"), Some("forbidden"));
    assert_eq!(code(&ours, "hullo"), Some("not_found"));
    assert_eq!(code(&principal(&world, &world.team().key), "hello"), Some("not_found"));
    world.change(service, |route| route.status = ServiceStatus::Stopped);
    assert_eq!(code(&ours, "hello"), Some("service_not_running"));
}

#[tokio::test]
async fn only_a_post_of_exactly_ticket_is_not_the_containers() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let path = "/api/v1/r/containers/hello/ticket";
    assert!(world.post_json(&team.key, path, "{}").await.text().starts_with("api POST "));
    assert!(world.post_json(&team.key, &format!("{path}?"), "{}").await.text().starts_with("POST /ticket? "));
    assert!(world.get(&team.key, path).await.text().starts_with("GET /ticket "));
}
