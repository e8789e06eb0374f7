//! WebSockets to containers of HTTP/2 (RFC 8441), for callers of both protocols. That what they carry is the same as with containers
//! of HTTP/1.1 is tried with the cases in `websocket.rs`.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};
use h2::{Reason, RecvStream, SendStream, ext::Protocol, server};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use tokio::{io::AsyncWriteExt as _, sync::mpsc, task::JoinSet};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use towline_gateway::{
    GatewayConfig,
    snapshot::Concurrency,
    testing::{Answer, Container, RawCaller, SimAgent, TeamSetup, World, wait_until, within},
};
use towline_model::{ServiceId, service::AppProtocol};

use crate::{
    containers::{echo_messages, try_messages},
    h2c::{self, Got, answer, container_with},
    http2_client::{Client, read},
    http2_websocket::{self, SOCKET, bridge, with_key},
};

/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A container that takes WebSockets.
pub(super) async fn container<H, F>(handler: H) -> Container
where
    H: Fn(Got, usize) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol();
    container_with(builder, handler).await
}

/// One that lets every byte come back in upper case.
async fn shouting() -> Container {
    container(|got, _| shout(got)).await
}

async fn shout((request, mut respond): Got) {
    let mut head = answer(200);
    head.headers_mut().insert("x-a", HeaderValue::from_static("1"));
    head.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
    let mut send = respond.send_response(head, false).unwrap();
    send.send_data(Bytes::from_static(b"HELLO"), false).unwrap();
    let mut receive = request.into_body();
    while let Some(Ok(data)) = receive.data().await {
        receive.flow_control().release_capacity(data.len()).unwrap();
        send.send_data(data.to_ascii_uppercase().into(), false).unwrap();
    }
    // The caller has finished; what is still to be said is said.
    let _ = send.send_data(Bytes::from_static(b"BYE"), true);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

const BOTH: [Speaks; 2] = [Speaks::Http1, Speaks::Http2];

/// A caller's WebSocket, or what it got instead.
struct Opened {
    answer: Answer,
    /// What passes bytes, when it was opened.
    line: RawCaller,
    _client: Option<(Client, JoinSet<()>)>,
}

/// Asks for a WebSocket with these fields.
async fn open(world: &World, speaks: Speaks, path: &str, fields: &[(&str, &str)]) -> Opened {
    match speaks {
        Speaks::Http1 => {
            let mut line = world.caller().await;
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            line.send(format!(
                "GET {path} HTTP/1.1\r\nHost: gateway.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
            ))
            .await;
            Opened { answer: line.answer().await, line, _client: None }
        }
        Speaks::Http2 => {
            let client = Client::connect(world).await;
            let mut request = http2_websocket::connect(path, "websocket");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let (got, send) = http2_websocket::open(&client, request.body(()).unwrap()).await;
            let lines = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            let lines = got.headers().iter().map(lines).collect();
            let mut answer = Answer { status: got.status().as_u16(), lines, body: Vec::new(), trailers: Vec::new() };
            let mut receive = got.into_body();
            if answer.status != 200 {
                answer.body = read(&mut receive).await.unwrap();
            }
            let (socket, tasks) = bridge(receive, send).await;
            Opened { answer, line: RawCaller { socket, buffer: BytesMut::new() }, _client: Some((client, tasks)) }
        }
    }
}

/// The same with a key, and nothing else.
async fn open_with_key(world: &World, speaks: Speaks, key: &str) -> Opened {
    open(world, speaks, SOCKET, &[("x-towline-key", key)]).await
}

impl Opened {
    fn has_opened(&self) -> bool {
        matches!(self.answer.status, 101 | 200)
    }
}

#[tokio::test]
async fn bytes_pass_with_half_close_for_callers_of_both_protocols() {
    let container = shouting().await;
    let (world, team, agent, service) = h2c::world(&container).await;
    for speaks in BOTH {
        let Opened { answer, mut line, _client } = open_with_key(&world, speaks, &team.key).await;
        let fields = |name| answer.header(name);
        match speaks {
            Speaks::Http1 => {
                // RFC 6455 §4.2.2.
                let switching = ["connection", "upgrade", "sec-websocket-accept"].map(fields);
                assert_eq!((answer.status, switching), (101, [Some("Upgrade"), Some("websocket"), Some(ACCEPT)]));
            }
            Speaks::Http2 => {
                assert_eq!(answer.status, 200);
                for gone in ["connection", "upgrade", "sec-websocket-accept"] {
                    assert_eq!(fields(gone), None, "{gone}");
                }
            }
        }
        assert_eq!((fields("x-a"), fields("sec-websocket-protocol")), (Some("1"), Some("chat")));
        assert!(fields("x-towline-request-id").is_some() && fields("content-length").is_none());
        assert_eq!(within("the first", line.exactly(5)).await.unwrap(), b"HELLO");
        for text in ["one", "two"] {
            line.send(text).await;
            assert_eq!(within("the echo", line.exactly(3)).await.unwrap(), text.to_uppercase().as_bytes());
        }
        assert_eq!(world.gateway.in_flight(service), 1);
        line.socket.shutdown().await.unwrap();
        assert_eq!(within("what comes after the half-close", line.exactly(3)).await.unwrap(), b"BYE");
        within("the end", line.ended()).await.unwrap();
        wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
    }
    assert_eq!((container.accepted(), agent.streams()), (1, 1), "they share the container's connection");
}

#[tokio::test]
async fn bytes_sent_with_the_request_wait_for_the_answer() {
    let container = shouting().await;
    let (world, team, _agent, _) = h2c::world(&container).await;
    let mut line = world.caller().await;
    line.send(handshake(SOCKET, &team.key) + "early").await;
    assert_eq!(within("101", line.head()).await.unwrap().status, 101);
    assert_eq!(within("the echo", line.exactly(10)).await.unwrap(), b"HELLOEARLY");
}

#[tokio::test]
async fn the_container_gets_a_handshake_of_http_2() {
    // RFC 8441 §4 and §5.
    let (heads, mut wait) = mpsc::channel(1);
    let container = container(move |(request, mut respond), _| {
        let heads = heads.clone();
        async move {
            let _send = respond.send_response(answer(200), false).unwrap();
            let (parts, mut body) = request.into_parts();
            heads.send(parts).await.unwrap();
            while let Some(Ok(_)) = body.data().await {}
        }
    })
    .await;
    let (world, team, _agent, _) = h2c::world(&container).await;
    for speaks in BOTH {
        let path = format!("{SOCKET}?a=%2F");
        let fields = [
            ("x-towline-key", &*team.key),
            ("origin", "https://page.test"),
            ("cookie", "a=1; b=2"),
            ("sec-websocket-protocol", "chat, v2"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
            ("content-length", "0"),
        ];
        let opened = open(&world, speaks, &path, &fields).await;
        assert!(opened.has_opened());
        let head = within("the head", wait.recv()).await.unwrap();
        assert_eq!((&head.method, &*head.uri.to_string()), (&Method::CONNECT, "http://localhost:8080/ws?a=%2F"));
        assert_eq!(head.extensions.get::<Protocol>().unwrap().as_str(), "websocket");
        let all = |name| head.headers.get_all(name).iter().collect::<Vec<_>>();
        for (name, value) in fields[1..5].iter().copied().chain([
            ("sec-websocket-version", "13"),
            ("x-forwarded-host", "gateway.test"),
            ("via", if speaks == Speaks::Http1 { "1.1 towline" } else { "2 towline" }),
        ]) {
            assert_eq!(all(name), [value], "{speaks:?} {name}");
        }
        for gone in ["sec-websocket-key", "connection", "upgrade", "host", "x-towline-key", "content-length"] {
            assert!(all(gone).is_empty(), "{speaks:?} {gone}");
        }
    }
}

#[tokio::test]
async fn what_is_no_websocket_is_passed_on_as_it_is() {
    let (ends, mut wait) = mpsc::channel(1);
    let container = container(move |(request, mut respond), _| {
        let ends = ends.clone();
        async move {
            let mut head = answer(if request.uri().path() == "/no" { 403 } else { 302 });
            head.headers_mut().insert("x-a", HeaderValue::from_static("1"));
            let mut hints = answer(103);
            hints.headers_mut().insert("link", HeaderValue::from_static("</x>"));
            respond.send_informational(hints).unwrap();
            let mut send = respond.send_response(head, false).unwrap();
            send.send_data(Bytes::from_static(b"no!"), true).unwrap();
            // The other direction is closed then, and not reset.
            ends.send(until_the_end(request.into_body()).await).await.unwrap();
        }
    })
    .await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    for (path, status) in [("no", 403), ("elsewhere", 302)] {
        let path = format!("/api/v1/r/containers/hello/{path}");
        let request = http2_websocket::connect(&path, "websocket");
        let client = Client::connect(&world).await;
        let request = request.header("x-towline-key", &team.key).body(()).unwrap();
        let (mut got, _send) = http2_websocket::open(&client, request).await;
        assert_eq!((got.status().as_u16(), &got.headers()["x-a"]), (status, &HeaderValue::from_static("1")));
        assert!(!got.headers().contains_key("proxy-status"));
        assert_eq!(read(got.body_mut()).await.unwrap(), b"no!");
        assert_eq!(within("its end", wait.recv()).await.unwrap(), None);

        let mut line = world.caller().await;
        line.send(handshake(&path, &team.key)).await;
        assert_eq!(within("the hints", line.head()).await.unwrap().header("link"), Some("</x>"));
        let got = line.answer().await;
        assert_eq!((got.status, got.text().as_str(), got.header("x-a")), (status, "no!", Some("1")));
        assert!(got.header("upgrade").is_none() && got.header("sec-websocket-accept").is_none());
        assert_eq!(within("its end", wait.recv()).await.unwrap(), None);
    }
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn a_container_that_takes_none_is_not_asked() {
    // RFC 8441 §3: not without its SETTINGS_ENABLE_CONNECT_PROTOCOL.
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let container = h2c::container(move |(_, mut respond), _| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { drop(respond.send_response(answer(204), true)) }
    })
    .await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    for speaks in BOTH {
        for _ in 0..2 {
            let refused = open_with_key(&world, speaks, &team.key).await.answer;
            assert_eq!((refused.status, refused.json()["error_code"].as_str()), (501, Some("protocol_not_supported")));
            assert!(refused.text().contains("ENABLE_CONNECT_PROTOCOL"), "{}", refused.text());
            assert!(refused.header("proxy-status").unwrap().contains("http_request_error"));
            assert_eq!(refused.header("retry-after"), None, "it would be the same then");
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // It is no fault of the connection: other requests take it, and a wish for another protocol is only left out.
    let plain = world
        .call(format!(
            "GET {SOCKET} HTTP/1.1\r\nHost: h\r\nX-Towline-Key: {}\r\nConnection: Upgrade\r\nUpgrade: x/1\r\n\r\n",
            team.key
        ))
        .await;
    assert_eq!((plain.status, container.accepted(), asked.load(Ordering::SeqCst)), (204, 1, 1));
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn a_container_may_take_its_time_to_say_that_it_takes_them() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let container = Container::start(move |exchange, _| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|go| *go).await;
            let mut builder = server::Builder::new();
            let handshake = builder.enable_connect_protocol().handshake(exchange.socket);
            let mut connection = handshake.await.map_err(std::io::Error::other)?;
            let mut requests = JoinSet::new();
            while let Some(Ok(got)) = connection.accept().await {
                requests.spawn(shout(got));
            }
            Ok(())
        }
    })
    .await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    let mut opening = JoinSet::new();
    let world = Arc::new(world);
    for speaks in [BOTH, BOTH].concat() {
        let (world, key) = (Arc::clone(&world), team.key.clone());
        opening.spawn(async move { open_with_key(&world, speaks, &key).await.has_opened() });
    }
    wait_until("all of them wait", || world.gateway.in_flight(service) == 4 && container.accepted() == 1).await;
    // One that goes away while it waits takes nothing with it.
    let client = Client::connect(&world).await;
    let (left, mut send) = client.send(with_key(&team.key), false).await;
    wait_until("another one", || world.gateway.in_flight(service) == 5).await;
    send.send_reset(Reason::CANCEL);
    wait_until("it has gone", || world.gateway.in_flight(service) == 4).await;
    drop(left);
    assert!(opening.try_join_next().is_none(), "nobody knows yet");
    go.send_replace(true);
    assert_eq!(within("all answers", opening.join_all()).await, [true; 4]);
    assert_eq!(container.accepted(), 1);
}

#[tokio::test]
async fn a_handshake_that_cannot_be_translated_is_refused() {
    let container = shouting().await;
    let (world, team, _agent, _) = h2c::world(&container).await;
    let good = format!("Sec-WebSocket-Key: {KEY}\r\n");
    for (fields, words) in [
        ("", "one Sec-WebSocket-Key"),
        ("Sec-WebSocket-Key: short\r\n", "one Sec-WebSocket-Key"),
        (&*good.repeat(2), "one Sec-WebSocket-Key"),
        (&*format!("{good}Content-Length: 1\r\n"), "cannot have a body"),
        (&*format!("{good}Transfer-Encoding: chunked\r\n"), "cannot have a body"),
    ] {
        let head = format!("GET {SOCKET} HTTP/1.1\r\nHost: h\r\nX-Towline-Key: {}\r\n", team.key);
        let mut line = world.caller().await;
        line.send(format!("{head}Connection: Upgrade\r\nUpgrade: websocket\r\n{fields}\r\n")).await;
        let refused = line.answer().await;
        assert_eq!((refused.status, refused.json()["error_code"].as_str()), (400, Some("malformed_request")));
        assert!(refused.text().contains(words), "{fields}: {}", refused.text());
    }
    assert_eq!(container.accepted(), 0);
}

/// Tells how a WebSocket's bytes ended: with what reset, or in order.
async fn until_the_end(mut receive: RecvStream) -> Option<Reason> {
    loop {
        match receive.data().await {
            Some(Ok(data)) => receive.flow_control().release_capacity(data.len()).unwrap(),
            Some(Err(error)) => return error.reason(),
            None => return None,
        }
    }
}

/// A container that takes WebSockets, when it answers at all. It tells of each that it was asked for, and how it ended.
async fn ending(answers: bool) -> (Container, mpsc::Receiver<()>, mpsc::Receiver<Option<Reason>>) {
    let (asks, asked) = mpsc::channel(8);
    let (ends, ended) = mpsc::channel(1);
    let container = container(move |(request, mut respond), _| {
        let (asks, ends) = (asks.clone(), ends.clone());
        async move {
            asks.send(()).await.unwrap();
            let _send = answers.then(|| respond.send_response(answer(200), false).unwrap());
            ends.send(until_the_end(request.into_body()).await).await.unwrap();
        }
    })
    .await;
    (container, asked, ended)
}

/// A whole handshake of HTTP/1.1, and no more than it needs.
fn handshake(path: &str, key: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nX-Towline-Key: {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_caller_that_breaks_off_resets_its_stream_at_the_container_and_no_other() {
    for answers in [true, false] {
        let (container, mut asked, mut ended) = ending(answers).await;
        let (world, team, _agent, service) = h2c::world(&container).await;
        let kept = Client::connect(&world).await;
        let (_kept_answer, _kept_send) = kept.send(with_key(&team.key), false).await;
        within("the first", asked.recv()).await.unwrap();

        let mut line = world.caller().await;
        line.send(handshake(SOCKET, &team.key)).await;
        within("another", asked.recv()).await.unwrap();
        if answers {
            assert_eq!(within("101", line.head()).await.unwrap().status, 101);
        }
        line.socket.set_zero_linger().unwrap();
        drop(line);
        assert_eq!(within("its end", ended.recv()).await.unwrap(), Some(Reason::CANCEL), "answered: {answers}");

        let client = Client::connect(&world).await;
        let (got, mut send) = client.send(with_key(&team.key), false).await;
        within("another", asked.recv()).await.unwrap();
        if answers {
            assert_eq!(within("the answer", got).await.unwrap().status(), 200);
        }
        send.send_reset(Reason::CANCEL);
        assert_eq!(within("its end", ended.recv()).await.unwrap(), Some(Reason::CANCEL), "answered: {answers}");

        wait_until("one in flight", || world.gateway.in_flight(service) == 1).await;
        assert_eq!(container.accepted(), 1);
        drop(kept);
        assert_eq!(within("the last end", ended.recv()).await.unwrap(), Some(Reason::CANCEL));
        wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
    }
}

#[tokio::test]
async fn a_container_that_breaks_off_is_a_reset_for_the_caller() {
    // RFC 8441 §5.
    let container = container(|(request, mut respond), _| async move {
        let mut send = respond.send_response(answer(200), false).unwrap();
        request.into_body().data().await.unwrap().unwrap();
        send.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    let mut line = open_with_key(&world, Speaks::Http1, &team.key).await.line;
    line.send("go").await;
    let end = within("the end", line.ended()).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);

    let client = Client::connect(&world).await;
    let (got, mut send) = http2_websocket::open(&client, with_key(&team.key)).await;
    send.send_data(Bytes::from_static(b"go"), false).unwrap();
    let error = read(&mut got.into_body()).await.unwrap_err();
    assert_eq!((error.is_remote(), error.reason()), (true, Some(Reason::CANCEL)), "{error:?}");
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn what_resets_a_handshake_is_told_or_tried_again() {
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    let container = container(move |(request, mut respond), _| {
        let refused = Arc::clone(&counted);
        async move {
            match request.uri().path() {
                "/broken" => respond.send_reset(Reason::INTERNAL_ERROR),
                // RFC 9113 §8.7: it was not looked at.
                _ if refused.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                }
                _ => shout((request, respond)).await,
            }
        }
    })
    .await;
    let (world, team, _agent, _) = h2c::world(&container).await;
    for speaks in BOTH {
        let broken = "/api/v1/r/containers/hello/broken";
        let answer = open(&world, speaks, broken, &[("x-towline-key", &team.key)]).await.answer;
        assert_eq!((answer.status, answer.json()["error_code"].as_str()), (502, Some("upstream_protocol_error")));
        assert!(answer.header("proxy-status").unwrap().contains("http_protocol_error"), "{speaks:?}");
        assert!(open_with_key(&world, speaks, &team.key).await.has_opened(), "{speaks:?}");
    }
    assert_eq!(refused.load(Ordering::SeqCst), 4, "each was asked for twice");
}

#[tokio::test]
async fn one_that_speaks_something_else_is_told_apart() {
    let container = Container::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let (world, team, _agent, _) = h2c::world(&container).await;
    for speaks in BOTH {
        let refused = open_with_key(&world, speaks, &team.key).await.answer;
        assert_eq!((refused.status, refused.json()["error_code"].as_str()), (502, Some("upstream_protocol_error")));
        assert!(refused.text().contains("h2c"), "{}", refused.text());
    }
}

#[tokio::test]
async fn a_revoked_key_ends_its_sockets() {
    let (container, _asked, mut ended) = ending(true).await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    let mut all = Vec::new();
    for speaks in BOTH {
        all.push(open_with_key(&world, speaks, &team.key).await);
    }
    world.revoke(&team.key);
    for _ in BOTH {
        assert_eq!(within("its end", ended.recv()).await.unwrap(), Some(Reason::CANCEL));
    }
    for mut opened in all {
        let _ = within("the caller's end", opened.line.ended()).await;
    }
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn they_have_a_place_among_those_that_run_at_a_time() {
    let container = shouting().await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    world.change(service, |route| route.concurrency = Some(Concurrency { running: 1, waiting: 0 }));
    for speaks in BOTH {
        let first = open_with_key(&world, speaks, &team.key).await;
        assert!(first.has_opened());
        for other in BOTH {
            let refused = open_with_key(&world, other, &team.key).await.answer;
            assert_eq!((refused.status, refused.json()["error_code"].as_str()), (503, Some("service_busy")));
        }
        drop(first);
        wait_until("its place is free", || world.gateway.line(service).unwrap().running == 0).await;
    }
}

#[tokio::test]
async fn a_ticket_opens_one() {
    let (heads, mut wait) = mpsc::channel(1);
    let container = container(move |(request, mut respond), _| {
        let heads = heads.clone();
        async move {
            let _send = respond.send_response(answer(200), false).unwrap();
            let (parts, body) = request.into_parts();
            heads.send(parts).await.unwrap();
            until_the_end(body).await;
        }
    })
    .await;
    let (world, team, _agent, _) = h2c::world(&container).await;
    let value = HeaderValue::try_from(format!("Bearer {}", team.key)).unwrap();
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let principal = world.gateway.authenticate(&headers).unwrap().principal;
    for speaks in BOTH {
        for in_query in [true, false] {
            let ticket = world.gateway.issue_ticket(&principal, "hello").unwrap().expose().clone();
            let path = if in_query { format!("{SOCKET}?a&towline_ticket={ticket}") } else { format!("{SOCKET}?a") };
            let offered = format!("towline.ticket.{ticket}");
            let fields = [("sec-websocket-protocol", &*offered)];
            let fields = if in_query { &[][..] } else { &fields };
            let opened = open(&world, speaks, &path, fields).await;
            assert!(opened.has_opened(), "{speaks:?}: {}", opened.answer.text());
            let named = opened.answer.header("sec-websocket-protocol");
            assert_eq!(named, (!in_query).then_some(&*offered));
            let head = within("the head", wait.recv()).await.unwrap();
            assert_eq!(head.uri.path_and_query().unwrap(), "/ws?a");
            assert!(!head.headers.contains_key("sec-websocket-protocol"));
            let again = open(&world, speaks, &path, fields).await.answer;
            assert_eq!(again.status, 401, "it was used already");
        }
    }
}

#[tokio::test]
async fn who_reads_nothing_holds_its_sender_back_and_no_other() {
    const PIECE: usize = 16 << 10;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    // What is read of one stream must not depend on another's (RFC 9113 §5.2): it has room for all of them.
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol().initial_connection_window_size(16 << 20);
    let container = container_with(builder, move |(request, mut respond), _| {
        let sent = Arc::clone(&counted);
        async move {
            match request.uri().path() {
                // It sends without an end, and reads nothing.
                "/flood" => {
                    let mut send = respond.send_response(answer(200), false).unwrap();
                    let _unread = request.into_body();
                    while fill(&mut send, PIECE).await {
                        sent.fetch_add(PIECE, Ordering::SeqCst);
                    }
                }
                _ => shout((request, respond)).await,
            }
        }
    })
    .await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    let mut other = open_with_key(&world, Speaks::Http1, &team.key).await.line;
    within("the first", other.exactly(5)).await.unwrap();
    let key = [("x-towline-key", &*team.key)];
    let flood = "/api/v1/r/containers/hello/flood";

    // Both directions of one WebSocket for each kind of caller.
    let mut line = open(&world, Speaks::Http1, flood, &key).await.line;
    let client = Client::connect(&world).await;
    let request = http2_websocket::connect(flood, "websocket").header(key[0].0, key[0].1).body(()).unwrap();
    let (_unread, mut send) = http2_websocket::open(&client, request).await;
    let (mut by_line, mut by_stream) = (0, 0);
    // That they are held back is seen when nothing more goes while others have had many turns.
    let settled = async {
        let mut still = 0;
        while still < 50 {
            let before = (by_line, by_stream, sent.load(Ordering::SeqCst));
            while let Some(Ok(count)) = line.socket.write(&[7; PIECE]).now_or_never() {
                by_line += count;
            }
            while let Some(true) = fill(&mut send, PIECE).now_or_never() {
                by_stream += PIECE;
            }
            for _ in 0..20 {
                other.send([b'a'; 1000]).await;
                assert_eq!(other.exactly(1000).await.unwrap(), [b'A'; 1000]);
            }
            still = if before == (by_line, by_stream, sent.load(Ordering::SeqCst)) { still + 1 } else { 0 };
        }
    };
    within("nothing moves any more", settled).await;
    let sent = sent.load(Ordering::SeqCst);
    // Windows of 256 KiB, the sockets' own memory, and what the tunnel takes of a stream.
    assert!(sent > 512 << 10 && sent < 2 * (12 << 20), "{sent} bytes were taken from the container");
    assert!(by_line < 12 << 20 && by_stream < 2 << 20, "{by_line} and {by_stream} bytes were taken from the callers");
    drop((line, client));
    wait_until("one in flight", || world.gateway.in_flight(service) == 1).await;
}

/// Sends so many bytes when there is room for them; `false` when the stream is over.
async fn fill(send: &mut SendStream<Bytes>, count: usize) -> bool {
    send.reserve_capacity(count);
    while send.capacity() < count {
        if !matches!(poll_fn(|cx| send.poll_capacity(cx)).await, Some(Ok(_))) {
            return false;
        }
    }
    send.send_data(vec![7; count].into(), false).is_ok()
}

#[tokio::test]
async fn a_server_that_stops_lets_them_go_on_until_its_time_is_over() {
    let (container, _asked, _ended) = ending(true).await;
    let shouting = shouting().await;
    for outlasts in [false, true] {
        let drain_timeout = Duration::from_millis(if outlasts { 500 } else { 60_000 });
        let config = GatewayConfig { drain_timeout, ..GatewayConfig::default() };
        let world = World::start_with(config).await;
        let (team, _agent, _) = hello(&world, if outlasts { &container } else { &shouting }).await;
        let mut all = Vec::new();
        for speaks in BOTH {
            all.push(open_with_key(&world, speaks, &team.key).await);
        }
        world.shutdown.cancel();
        for opened in &mut all {
            if !outlasts {
                within("the first", opened.line.exactly(5)).await.unwrap();
                opened.line.send("still").await;
                assert_eq!(within("the echo", opened.line.exactly(5)).await.unwrap(), b"STILL");
                opened.line.socket.shutdown().await.unwrap();
                assert_eq!(within("its last", opened.line.exactly(3)).await.unwrap(), b"BYE");
            }
            // After the drain's deadline it is cut.
            let ended = within("the end", opened.line.ended()).await;
            assert!(ended.is_ok() || outlasts);
        }
        drop(all);
        within("the server's end", world.served.wait()).await;
    }
}

async fn hello(world: &World, container: &Container) -> (TeamSetup, SimAgent, ServiceId) {
    let (team, agent, service) = world.hello(container).await;
    world.change(service, |route| route.protocol = AppProtocol::H2c);
    (team, agent, service)
}

#[tokio::test]
async fn stock_websockets_work_at_both_ends() {
    let container = container(|(request, mut respond), _| async move {
        let send = respond.send_response(Response::new(()), false).unwrap();
        let (socket, tasks) = bridge(request.into_body(), send).await;
        echo_messages(WebSocketStream::from_raw_socket(socket, Role::Server, None).await).await;
        // The last that was said is on its way only then.
        tasks.join_all().await;
    })
    .await;
    let (world, team, _agent, service) = h2c::world(&container).await;
    for speaks in BOTH {
        let opened = open_with_key(&world, speaks, &team.key).await;
        assert!(opened.has_opened() && opened.line.buffer.is_empty());
        let mut socket = WebSocketStream::from_raw_socket(opened.line.socket, Role::Client, None).await;
        try_messages(&mut socket).await;
        socket.close(None).await.unwrap();
        assert!(within("the close", socket.next()).await.unwrap().unwrap().is_close());
        drop(socket);
        wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
    }
}
