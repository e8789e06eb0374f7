//! WebSockets on streams of HTTP/2 (RFC 8441). That what they carry is the same as over HTTP/1.1 is tried with the cases in
//! `websocket.rs`.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::{Reason, RecvStream, SendStream, ext::Protocol};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};
use towline_gateway::testing::{Container, Exchange, World, wait_until, within};

use crate::{
    containers::{try_messages, websocket_echo},
    http2_client::{Client, read},
};

pub(super) const SOCKET: &str = "/api/v1/r/containers/hello/ws";

/// A request for a WebSocket.
pub(super) fn connect(path: &str, protocol: &'static str) -> http::request::Builder {
    Request::builder()
        .method("CONNECT")
        .uri(format!("http://gateway.test{path}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
}

pub(super) fn with_key(key: &str) -> Request<()> {
    connect(SOCKET, "websocket").header("authorization", format!("Bearer {key}")).body(()).unwrap()
}

/// Asks for a WebSocket, and gives the answer with the way to the container.
pub(super) async fn open(client: &Client, request: Request<()>) -> (Response<RecvStream>, SendStream<Bytes>) {
    let (answer, send) = client.send(request, false).await;
    (within("the answer", answer).await.unwrap(), send)
}

/// What answers to the key in that head.
pub(super) fn accept_of(head: &str) -> String {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let (_, key) = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).unwrap();
    derive_accept_key(key.as_bytes())
}

pub(super) async fn switch(exchange: &mut Exchange, more: &str) -> io::Result<String> {
    let head = exchange.head().await?.unwrap();
    let accept = accept_of(&head);
    let lines = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    exchange.write(format!("{lines}Sec-WebSocket-Accept: {accept}\r\n{more}\r\n")).await?;
    Ok(head)
}

/// A container that switches, and lets every byte come back in upper case.
pub(super) async fn shouting() -> Container {
    Container::start(|mut exchange, _| async move {
        switch(&mut exchange, "X-A: 1\r\nContent-Length: 7\r\nSec-WebSocket-Protocol: chat\r\n").await?;
        exchange.write("HELLO").await?;
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

pub(super) async fn exactly(stream: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let data = within("more", stream.data()).await.unwrap().unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

#[tokio::test]
async fn bytes_pass_with_half_close_after_a_200() {
    let container = shouting().await;
    let world = World::start().await;
    let (team, agent, service) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    // What is sent before the answer waits for it.
    let (answer, mut send) = client.send(with_key(&team.key), false).await;
    send.send_data(Bytes::from_static(b"early"), false).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    // RFC 8441 §5: a 2xx, without the fields that speak of a connection or of the key.
    assert_eq!(answer.status(), 200);
    let fields = answer.headers();
    assert!(fields["x-a"] == "1" && fields["sec-websocket-protocol"] == "chat", "{fields:?}");
    for gone in ["connection", "upgrade", "sec-websocket-accept", "content-length", "date"] {
        assert!(!fields.contains_key(gone), "{gone}");
    }
    assert!(fields.contains_key("x-towline-request-id"));
    let mut receive = answer.into_body();
    assert_eq!(exactly(&mut receive, 10).await, b"HELLOEARLY");
    for text in ["one", "two"] {
        send.send_data(text.into(), false).unwrap();
        assert_eq!(exactly(&mut receive, text.len()).await, text.to_uppercase().as_bytes());
    }
    assert_eq!(world.gateway.in_flight(service), 1);
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read(&mut receive).await.unwrap(), b"BYE");
    assert!(receive.is_end_stream());
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0 && agent.streams() == 0).await;
}

#[tokio::test]
async fn the_container_gets_a_handshake_of_http_1() {
    let (heads, mut wait) = mpsc::channel(2);
    let container = Container::start(move |mut exchange, _| {
        let heads = heads.clone();
        async move {
            let head = switch(&mut exchange, "").await?;
            heads.send(head).await.unwrap();
            exchange.ended().await
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    let request = connect(&format!("{SOCKET}?a=%2F"), "WebSocket")
        .header("x-towline-key", &team.key)
        .header("origin", "https://page.test")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("sec-websocket-key", "bm90IGZvciB5b3U=")
        .header("sec-websocket-protocol", "chat, v2")
        .header("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")
        .header("content-length", "0");
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (answer, _send) = open(&client, request_again(&request)).await;
        assert_eq!(answer.status(), 200);
        let head = within("the head", wait.recv()).await.unwrap();
        assert!(head.starts_with("GET /ws?a=%2F HTTP/1.1\r\n"), "{head}");
        for line in [
            "connection: Upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-protocol: chat, v2",
            "sec-websocket-extensions: permessage-deflate; client_max_window_bits",
            "origin: https://page.test",
            "cookie: a=1; b=2",
            "host: localhost:8080",
            "via: 2 towline",
            "x-forwarded-host: gateway.test",
        ] {
            assert!(head.lines().any(|seen| seen == line), "{line} in {head}");
        }
        for gone in ["content-length", "transfer-encoding", "x-towline-key", "bm90IGZvciB5b3U="] {
            assert!(!head.contains(gone), "{gone} in {head}");
        }
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap().to_owned();
        assert_eq!(key.len(), 24, "16 bytes in base64 (RFC 6455 §4.1): {key}");
        keys.push(key);
    }
    assert_ne!(keys[0], keys[1]);
}

fn request_again(builder: &http::request::Builder) -> Request<()> {
    let mut request = Request::builder()
        .method(builder.method_ref().unwrap())
        .uri(builder.uri_ref().unwrap())
        .extension(builder.extensions_ref().unwrap().get::<Protocol>().unwrap().clone())
        .body(())
        .unwrap();
    request.headers_mut().clone_from(builder.headers_ref().unwrap());
    request
}

#[tokio::test]
async fn what_is_no_websocket_is_refused_as_it_would_be() {
    let answers = [
        ("no", "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nX-A: 1\r\n\r\nno!", 403),
        ("elsewhere", "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", 302),
        ("page", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage", 502),
        ("none", "HTTP/1.1 204 No Content\r\n\r\n", 502),
        (
            "key",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
        ),
        ("bare", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502),
        ("other", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", 502),
    ];
    let container = Container::start(move |mut exchange, _| async move {
        let head = exchange.head().await?.unwrap();
        let (_, answer, _) = answers.into_iter().find(|(name, ..)| head.contains(&format!("/{name} "))).unwrap();
        exchange.write(answer).await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    for (name, _, status) in answers {
        let path = format!("/api/v1/r/containers/hello/{name}");
        let request = connect(&path, "websocket").header("x-towline-key", &team.key).body(()).unwrap();
        let (mut answer, _send) = open(&client, request).await;
        assert_eq!(answer.status(), status, "{name}");
        let body = String::from_utf8(read(answer.body_mut()).await.unwrap()).unwrap();
        if status == 502 {
            assert!(answer.headers()["proxy-status"].to_str().unwrap().contains("http_protocol_error"), "{name}");
            assert!(body.contains("upstream_protocol_error"), "{name}: {body}");
        } else {
            assert!(!answer.headers().contains_key("proxy-status"), "{name}");
            assert_eq!(body, if status == 403 { "no!" } else { "" });
        }
    }
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn the_gateways_own_refusals_say_why() {
    let container = shouting().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    for (path, protocol, key, status, words) in [
        // RFC 8441 §4: what `:protocol` names is not spoken here.
        (SOCKET, "connect-udp", team.key.as_str(), 501, "protocol_not_supported"),
        (SOCKET, "websocket2", &team.key, 501, "protocol_not_supported"),
        ("/api/v1/services", "websocket", &team.key, 501, "only a service"),
        ("/api/v1/agent/session", "websocket", &team.agent_key, 501, "only a service"),
        (SOCKET, "websocket", "sk-wrong", 401, "unauthenticated"),
        ("/api/v1/r/containers/none/ws", "websocket", &team.key, 404, "not_found"),
    ] {
        let request = connect(path, protocol).header("x-towline-key", key).body(()).unwrap();
        let (mut answer, _send) = open(&client, request).await;
        assert_eq!(answer.status(), status, "{path} {protocol}");
        assert!(answer.headers().contains_key("proxy-status") && answer.headers().contains_key("date"));
        let body = String::from_utf8(read(answer.body_mut()).await.unwrap()).unwrap();
        assert!(body.contains(words), "{path} {protocol}: {body}");
    }
    assert_eq!(container.accepted(), 0);
}

#[tokio::test]
async fn a_break_on_one_side_is_a_break_on_the_other() {
    // RFC 8441 §5: a reset of a connection is a RST_STREAM with CANCEL.
    let (ends, mut wait) = mpsc::channel(1);
    let container = Container::start(move |mut exchange, number| {
        let ends = ends.clone();
        async move {
            switch(&mut exchange, "").await?;
            if number == 0 {
                exchange.exactly(2).await?;
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
    let client = Client::connect(&world).await;

    let (answer, mut send) = open(&client, with_key(&team.key)).await;
    send.send_data(Bytes::from_static(b"go"), false).unwrap();
    let error = read(&mut answer.into_body()).await.unwrap_err();
    assert_eq!((error.is_remote(), error.reason()), (true, Some(Reason::CANCEL)), "{error:?}");

    for half_closed in [false, true] {
        let (answer, mut send) = open(&client, with_key(&team.key)).await;
        if half_closed {
            send.send_data(Bytes::new(), true).unwrap();
        }
        drop((answer, send));
        // An end comes before the reset where there was one.
        let is_reset = within("the end at the container", wait.recv()).await.unwrap();
        assert!(is_reset || half_closed);
        wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
    }
}

#[tokio::test]
async fn a_revoked_key_ends_its_sockets_and_no_others() {
    let container = shouting().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let other = world.add_key(towline_gateway::Credential {
        id: towline_model::CredentialId::generate(),
        kind: towline_model::KeyKind::Integration,
        team_id: team.id,
        user_id: None,
        scopes: towline_model::Scope::DEFAULT.into(),
        services: None,
        expires_at: None,
        last_use: towline_gateway::LastUse::default(),
    });
    let client = Client::connect(&world).await;
    let (lost, _lost_send) = open(&client, with_key(&team.key)).await;
    let (kept, mut kept_send) = open(&client, with_key(&other)).await;
    world.revoke(&team.key);
    assert!(read(&mut lost.into_body()).await.is_err());
    wait_until("one in flight", || world.gateway.in_flight(service) == 1).await;
    kept_send.send_data(Bytes::from_static(b"still"), false).unwrap();
    assert_eq!(exactly(&mut kept.into_body(), 10).await, b"HELLOSTILL");
}

#[tokio::test]
async fn a_ticket_opens_one_websocket() {
    let (heads, mut wait) = mpsc::channel(1);
    let container = Container::start(move |mut exchange, _| {
        let heads = heads.clone();
        async move {
            heads.send(switch(&mut exchange, "").await?).await.unwrap();
            exchange.ended().await
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    let value = HeaderValue::try_from(format!("Bearer {}", team.key)).unwrap();
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let principal = world.gateway.authenticate(&headers).unwrap().principal;
    for in_query in [true, false] {
        let ticket = world.gateway.issue_ticket(&principal, "hello").unwrap().expose().clone();
        let path = if in_query { format!("{SOCKET}?a&towline_ticket={ticket}") } else { format!("{SOCKET}?a") };
        let offered = format!("towline.ticket.{ticket}");
        let request = || {
            let request = connect(&path, "websocket");
            let request = if in_query { request } else { request.header("sec-websocket-protocol", &offered) };
            request.body(()).unwrap()
        };
        let (answer, _send) = open(&client, request()).await;
        assert_eq!(answer.status(), 200);
        let named = answer.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap());
        assert_eq!(named, (!in_query).then_some(offered.as_str()));
        let head = within("the head", wait.recv()).await.unwrap();
        assert!(head.starts_with("GET /ws?a HTTP/1.1\r\n") && !head.contains(&ticket), "{head}");
        let (again, _send) = open(&client, request()).await;
        assert_eq!(again.status(), 401, "it was used already");
    }
}

/// A socket whose other end is that stream.
pub(super) async fn bridge(mut receive: RecvStream, mut send: SendStream<Bytes>) -> (TcpStream, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (other, _) = listener.accept().await.unwrap();
    for end in [&socket, &other] {
        end.set_nodelay(true).unwrap();
    }
    let (mut reader, mut writer) = other.into_split();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let mut data = Bytes::copy_from_slice(&buffer[..count]);
            while !data.is_empty() {
                send.reserve_capacity(data.len());
                let room = match send.capacity() {
                    0 => match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                        Some(Ok(room)) => room,
                        _ => return,
                    },
                    room => room,
                };
                send.send_data(data.split_to(room.min(data.len())), false).unwrap();
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    });
    tasks.spawn(async move {
        while let Some(Ok(data)) = receive.data().await {
            receive.flow_control().release_capacity(data.len()).unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut writer, &data).await.unwrap();
        }
    });
    (socket, tasks)
}

#[tokio::test]
async fn a_stock_websocket_works() {
    let container = websocket_echo().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    let (answer, send) = open(&client, with_key(&team.key)).await;
    assert_eq!(answer.status(), 200);
    let (socket, _tasks) = bridge(answer.into_body(), send).await;
    let mut socket = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
    try_messages(&mut socket).await;
    socket.close(None).await.unwrap();
    assert!(within("the close", socket.next()).await.unwrap().unwrap().is_close());
    drop(socket);
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}
