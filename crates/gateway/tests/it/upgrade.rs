//! WebSocket and any other protocol: bytes pass both ways after the container's 101, and not before.

use std::io;

use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest, protocol::CloseFrame};
use towline_gateway::testing::{Container, RawCaller, World, wait_until, within};

use crate::containers::{try_messages, websocket_echo};

fn request(key: &str, protocol: &str) -> String {
    format!(
        "GET /api/v1/r/containers/hello/socket HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\
         Connection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    )
}

/// A container that switches to a protocol of its own: every byte comes back in upper case.
async fn shouting() -> Container {
    Container::start(|mut exchange, _| async move {
        let head = exchange.head().await?.unwrap();
        assert!(head.to_lowercase().contains("\r\nupgrade: shout/1\r\n"), "{head}");
        assert!(head.to_lowercase().contains("\r\nconnection: upgrade\r\n"), "{head}");
        exchange
            .write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout/1\r\nX-A: 1\r\n\r\nHELLO")
            .await?;
        let mut rest = exchange.buffer.split();
        loop {
            exchange.write(rest.to_ascii_uppercase()).await?;
            rest.clear();
            if exchange.socket.read_buf(&mut rest).await? == 0 {
                // The caller has finished; what is still to be said is said.
                return exchange.write("BYE").await;
            }
        }
    })
    .await
}

async fn switched(world: &World, key: &str) -> RawCaller {
    let mut caller = world.caller().await;
    caller.send(request(key, "shout/1")).await;
    let answer = within("101", caller.head()).await.unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), Some("shout/1"));
    assert_eq!(answer.header("connection"), Some("Upgrade"));
    assert_eq!(answer.header("x-a"), Some("1"));
    assert!(answer.header("x-towline-request-id").is_some() && answer.header("date").is_none());
    assert_eq!(within("the first bytes", caller.exactly(5)).await.unwrap(), b"HELLO");
    caller
}

#[tokio::test]
async fn any_protocol_passes_with_half_close() {
    let container = shouting().await;
    let world = World::start().await;
    let (team, agent, service) = world.hello(&container).await;
    let mut caller = switched(&world, &team.key).await;
    for text in ["one", "two", "three"] {
        caller.send(text).await;
        assert_eq!(within("the echo", caller.exactly(text.len())).await.unwrap(), text.to_uppercase().as_bytes());
    }
    assert_eq!(world.gateway.in_flight(service), 1);
    caller.socket.shutdown().await.unwrap();
    assert_eq!(within("what comes after the half-close", caller.exactly(3)).await.unwrap(), b"BYE");
    within("the end", caller.ended()).await.unwrap();
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0 && agent.streams() == 0).await;
}

#[tokio::test]
async fn bytes_sent_with_the_request_wait_for_the_101() {
    let container = shouting().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request(&team.key, "shout/1") + "early").await;
    assert_eq!(within("101", caller.head()).await.unwrap().status, 101);
    assert_eq!(within("the echo", caller.exactly(10)).await.unwrap(), b"HELLOEARLY");
}

#[tokio::test]
async fn websockets_work() {
    let container = websocket_echo().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut request = format!("ws://{}/api/v1/r/containers/hello/ws", world.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", team.key).parse().unwrap());
    let socket = TcpStream::connect(world.address).await.unwrap();
    let (mut socket, _) = within("the handshake", tokio_tungstenite::client_async(request, socket)).await.unwrap();
    try_messages(&mut socket).await;
    let frame = CloseFrame { code: 4321.into(), reason: "enough".into() };
    socket.close(Some(frame.clone())).await.unwrap();
    assert_eq!(within("the close", socket.next()).await.unwrap().unwrap(), Message::Close(Some(frame)));
    drop(socket);
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn an_upgrade_that_is_not_taken_is_an_ordinary_answer() {
    let container = Container::answering("HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nno!").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    // What follows is meant for the other protocol; it must not be read as a request.
    let smuggled = format!("GET /api/v1/x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key);
    caller.send(request(&team.key, "websocket") + &smuggled).await;
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "no!"));
    assert_eq!(answer.header("connection"), Some("close"));
    // An end or a reset, and nothing more.
    drop(within("the end", caller.ended()).await);
    assert!(caller.buffer.is_empty(), "{:?}", caller.buffer);
}

#[tokio::test]
async fn h2c_is_not_passed_on() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let answer = world
        .call(format!(
            "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\
             Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
            team.key
        ))
        .await;
    let seen = answer.text().to_lowercase();
    assert_eq!(answer.status, 200);
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
}

#[tokio::test]
async fn a_break_on_one_side_is_a_break_on_the_other() {
    let (ends, mut wait) = mpsc::channel(1);
    let container = Container::start(move |mut exchange, number| {
        let ends = ends.clone();
        async move {
            exchange.head().await?;
            exchange.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await?;
            if number == 0 {
                exchange.exactly(2).await?;
                exchange.write("last words").await?;
                exchange.reset();
            } else {
                ends.send(exchange.ended().await.is_err()).await.unwrap();
            }
            Ok(())
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;

    let mut caller = world.caller().await;
    caller.send(request(&team.key, "x")).await;
    assert_eq!(within("101", caller.head()).await.unwrap().status, 101);
    caller.send("go").await;
    let end = within("the end", caller.ended()).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "a reset of the container is a reset here");

    let mut caller = world.caller().await;
    caller.send(request(&team.key, "x")).await;
    assert_eq!(within("101", caller.head()).await.unwrap().status, 101);
    caller.socket.set_zero_linger().unwrap();
    drop(caller);
    assert!(within("the end at the container", wait.recv()).await.unwrap(), "a reset of the caller is a reset there");
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn a_revoked_key_ends_its_sockets() {
    let container = shouting().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut caller = switched(&world, &team.key).await;
    world.revoke(&team.key);
    assert!(within("the end", caller.ended()).await.is_err());
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}
