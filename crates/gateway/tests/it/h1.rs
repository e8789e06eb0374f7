//! HTTP/1.1 as callers speak it: what connections are good for, and that no container gets what no caller sent.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{io::AsyncWriteExt as _, sync::watch, time::Instant};
use towline_gateway::testing::{BEGUN, Container, RawCaller, World, wait_until, within};

const HELLO: &str = "/api/v1/r/containers/hello";

fn get(key: &str, target: &str, fields: &str) -> String {
    format!("GET {HELLO}{target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{fields}\r\n")
}

/// A container that answers when it is told to.
async fn waiting() -> (watch::Sender<bool>, Container) {
    let (go, wait) = watch::channel(false);
    let container = Container::start(move |mut exchange, _| {
        let mut wait = wait.clone();
        async move {
            exchange.head().await?;
            let _ = wait.wait_for(|go| *go).await;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await
        }
    })
    .await;
    (go, container)
}

#[tokio::test]
async fn names_are_spelt_and_ordered_as_they_were_sent() {
    let container = Container::start(|mut exchange, _| async move {
        let (head, _) = exchange.request().await?.unwrap();
        let first = head.split("\r\n").take(5).collect::<Vec<_>>().join("|");
        exchange
            .write(format!(
                "HTTP/1.1 200 Quite  Fine\r\nX-B: 1\r\nx-a: 2\r\nX-b: 3\r\nContent-LENGTH: {}\r\n\r\n{first}",
                first.len()
            ))
            .await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    let fields = "X-B: 1\r\nuser-AGENT: me\r\nx-b:  2 \r\nX-A: 3\r\nConnection: close\r\n";
    caller.send(get(&team.key, "/x", fields)).await;
    let line = caller.exactly("HTTP/1.1 200 Quite  Fine\r\n".len()).await.unwrap();
    assert_eq!(String::from_utf8(line).unwrap(), "HTTP/1.1 200 Quite  Fine\r\n");
    let expected = "GET /x HTTP/1.1|Host: localhost:8080|X-B: 1|user-AGENT: me|x-b: 2";
    let lines = format!("X-B: 1\r\nx-a: 2\r\nX-b: 3\r\nContent-LENGTH: {}\r\n", expected.len());
    assert_eq!(String::from_utf8(caller.exactly(lines.len()).await.unwrap()).unwrap(), lines);
    within("the end", caller.ended()).await.unwrap();
    let rest = String::from_utf8(caller.buffer.to_vec()).unwrap();
    assert!(rest.ends_with(&format!("\r\n\r\n{expected}")), "{rest}");
}

#[tokio::test]
async fn requests_in_one_piece_are_answered_in_their_order() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    let post = |n: usize| {
        format!(
            "POST {HELLO}/{n} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Length: 4\r\n\r\nbod{n}",
            team.key
        )
    };
    let all: String = (0..5).map(post).collect();
    // And all of it byte by byte.
    let text = all.clone() + &all;
    caller.send(&text[..all.len()]).await;
    for byte in &text.as_bytes()[all.len()..] {
        caller.send([*byte]).await;
    }
    for n in (0..5).chain(0..5) {
        let answer = caller.answer().await.text();
        assert!(answer.starts_with(&format!("POST /{n} ")) && answer.ends_with(&format!("bod{n}")), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_lasts_as_long_as_both_sides_want() {
    // RFC 9112 §9.3: what the caller says, and whether the connection stays.
    let container = Container::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for (version, fields, connection) in [
        ("HTTP/1.1", "", None),
        ("HTTP/1.1", "Connection: keep-alive\r\n", None),
        ("HTTP/1.1", "Connection: x, Close\r\n", Some("close")),
        ("HTTP/1.0", "", Some("close")),
        ("HTTP/1.0", "Connection: keep-alive\r\n", Some("keep-alive")),
    ] {
        for target in ["/", "x"] {
            let mut caller = world.caller().await;
            let request = format!(
                "GET {HELLO}{target} {version}\r\nHost: h\r\nAuthorization: Bearer {}\r\n{fields}\r\n",
                team.key
            );
            caller.send(&request).await;
            let answer = caller.answer().await;
            assert_eq!(answer.header("connection"), connection, "{request}");
            if connection == Some("close") {
                within("the end", caller.ended()).await.unwrap();
            } else {
                caller.send(&request).await;
                assert_eq!(caller.answer().await.status, answer.status);
            }
        }
    }
}

#[tokio::test]
async fn a_refused_request_is_read_over() {
    let world = World::start().await;
    let mut caller = world.caller().await;
    for (fields, body) in [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "2\r\nhi\r\n0\r\n\r\n")] {
        caller.send(format!("POST {HELLO}/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}")).await;
        let answer = caller.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (401, None));
    }
    // What is not here is not waited for.
    caller.send(format!("POST {HELLO}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nhello")).await;
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    within("the end", caller.ended()).await.unwrap();
}

#[tokio::test]
async fn targets_of_every_form() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    // RFC 9112 §3.2: the target, with which method, and the status.
    for (method, target, status) in [
        ("GET", format!("{HELLO}/"), 200),
        ("GET", format!("http://h{HELLO}/"), 200),
        ("GET", format!("HTTPS://h{HELLO}/"), 200),
        ("GET", format!("ftp://h{HELLO}/"), 400),
        ("GET", format!("http:{HELLO}/"), 400),
        ("GET", format!("http://{HELLO}/"), 400),
        ("GET", "h:80".to_owned(), 400),
        ("GET", "h".to_owned(), 400),
        ("CONNECT", "h:80".to_owned(), 400),
        ("CONNECT", format!("{HELLO}/"), 400),
        ("OPTIONS", "*".to_owned(), 200),
        ("GET", "*".to_owned(), 400),
        ("GET", format!("{HELLO}/#x"), 400),
        ("GET", format!("{HELLO}/?a#x"), 400),
    ] {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", team.key);
        let answer = world.call(request).await;
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
        if status == 400 {
            assert_eq!(answer.json()["error_code"], "malformed_request");
        }
    }
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0"] {
        let answer = world.call(format!("GET {HELLO}/ {version}\r\nHost: h\r\n\r\n")).await;
        let code = answer.json()["error_code"].as_str().unwrap().to_owned();
        assert_eq!((answer.status, code.as_str()), (505, "http_version_not_supported"), "{version}");
    }
}

#[tokio::test]
async fn a_caller_that_closes_its_side_still_gets_its_answer() {
    let (go, container) = waiting().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(get(&team.key, "/", "")).await;
    wait_until("the request at the container", || container.accepted() == 1).await;
    caller.socket.shutdown().await.unwrap();
    // Whoever is served now is served after the close has arrived.
    world.call("GET /api/v1/anything HTTP/1.1\r\nHost: h\r\n\r\n").await;
    go.send_replace(true);
    assert_eq!(caller.answer().await.text(), "hi");
    within("the end", caller.ended()).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_takes_long_reaches_a_caller_that_has_closed_its_side() {
    let (go, wait) = watch::channel(false);
    let container = Container::start(move |mut exchange, _| {
        let mut wait = wait.clone();
        async move {
            exchange.head().await?;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await?;
            let _ = wait.wait_for(|go| *go).await;
            exchange.write("cd").await
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(get(&team.key, "/", "")).await;
    caller.socket.shutdown().await.unwrap();
    within("the head", caller.head()).await.unwrap();
    assert_eq!(within("the first half", caller.exactly(2)).await.unwrap(), b"ab");
    // Longer than a caller is doubted.
    let begin = Instant::now();
    wait_until("some time", || begin.elapsed() > Duration::from_millis(2500)).await;
    assert_eq!(world.gateway.in_flight(service), 1);
    go.send_replace(true);
    assert_eq!(within("the second half", caller.exactly(2)).await.unwrap(), b"cd");
}

#[tokio::test]
async fn a_stalled_reader_is_cut_when_its_time_is_over_or_its_key_revoked() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await?;
        loop {
            exchange.write(vec![b'x'; 64 << 10]).await?;
        }
    })
    .await;
    for revoke in [false, true] {
        let world = World::start().await;
        let (team, _agent, service) = world.hello(&container).await;
        if !revoke {
            world.change(service, |route| route.timeouts.total = Some(BEGUN));
        }
        let mut stalled = world.caller().await;
        stalled.send(get(&team.key, "/", "")).await;
        within("the head", stalled.head()).await.unwrap();
        if revoke {
            world.revoke(&team.key);
        }
        wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
        assert!(within("the cut", stalled.ended()).await.is_err(), "a cut answer must not look finished");
    }
}

#[tokio::test]
async fn a_bad_trailer_cuts_the_answer_and_others_are_left_out() {
    for (trailers, expected) in [
        ("X-Sum: 1\r\nContent-Length: 5\r\nx-Other: 2\r\n", Some(vec!["X-Sum: 1".to_owned(), "x-Other: 2".to_owned()])),
        ("", Some(Vec::new())),
        ("X-Sum : 1\r\n", None),
        ("no field\r\n", None),
    ] {
        let text =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=\"y\"\r\nhi\r\n0\r\n{trailers}\r\n");
        let container = Container::answering(text.leak()).await;
        let world = World::start().await;
        let (team, _agent, _) = world.hello(&container).await;
        let mut caller = world.caller().await;
        caller.send(get(&team.key, "/", "")).await;
        let answer = within("the end", caller.try_answer(false)).await;
        match expected {
            Some(expected) => {
                let answer = answer.unwrap();
                assert_eq!((answer.text().as_str(), answer.trailers), ("hi", expected));
            }
            None => assert!(answer.is_err(), "{trailers:?}"),
        }
    }
}

/// Everything that anybody could take for a request, in places where it is none.
#[tokio::test]
async fn no_request_arrives_that_no_caller_sent() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&seen);
    let container = Container::start(move |mut exchange, _| {
        let log = Arc::clone(&log);
        async move {
            while let Some((head, _)) = exchange.request().await? {
                log.lock().unwrap().push(head.split(' ').nth(1).unwrap().to_owned());
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
            }
            Ok(())
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let inner = get(&team.key, "/smuggled", "");
    let with_length = |fields: &str, length: usize| format!("{fields}Content-Length: {length}\r\n\r\n{inner}");
    for rest in [
        with_length("", inner.len()),
        with_length("", 3),
        with_length("Content-Length: 0\r\n", inner.len()),
        with_length("Transfer-Encoding: chunked\r\n", 0),
        with_length("Transfer-Encoding:\u{b}chunked\r\n", 0),
        with_length("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", 0),
        with_length("Transfer-Encoding : chunked\r\n", 0),
        with_length("X: y\n", 0),
        with_length("X: y\r", 0),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x};a\n\r\n{inner}\r\n0\r\n\r\n", inner.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n1\r\nZ{inner}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n{inner}"),
        format!("Transfer-Encoding: gzip\r\n\r\n{inner}"),
        format!("Connection: Upgrade\r\nUpgrade: x\r\n\r\n{inner}"),
        format!("Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello\r\n\r\n\r\n{inner}"),
        format!("Connection: close\r\n\r\n{inner}"),
        format!("X: y\r\n {inner}"),
    ] {
        let mut caller = world.caller().await;
        caller
            .send(format!("POST {HELLO}/sent HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n{rest}", team.key))
            .await;
        caller.socket.shutdown().await.unwrap();
        drop(within("the end", caller.ended()).await);
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert!(seen.iter().all(|target| target == "/sent"), "{rest:?}: {seen:?}");
        assert!(seen.len() <= 1, "{rest:?}: {seen:?}");
    }
}

#[tokio::test]
async fn slow_and_silent_callers_do_not_hold_the_server_up() {
    let (_go, container) = waiting().await;
    let config = towline_gateway::GatewayConfig { drain_timeout: Duration::from_millis(300), ..Default::default() };
    let world = World::start_with(config).await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut idle = world.caller().await;
    idle.send("GET /api/v1/x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    idle.answer().await;
    let mut half = world.caller().await;
    half.send("GET / HT").await;
    let mut waiting = world.caller().await;
    waiting.send(get(&team.key, "/", "")).await;
    wait_until("the request at the container", || container.accepted() == 1).await;
    world.shutdown.cancel();
    within("the end of the idle one", idle.ended()).await.unwrap();
    within("the end of the server", world.served.wait()).await;
    for caller in [&mut half, &mut waiting] {
        drop(within("the end", RawCaller::ended(caller)).await);
    }
}

/// The test and the listener share a thread: nothing is accepted before the server is told to stop.
#[tokio::test]
async fn requests_that_wait_to_be_accepted_when_the_server_stops_are_answered() {
    let container = Container::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let request = get(&team.key, "/", "");
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut socket = std::net::TcpStream::connect(world.address).unwrap();
        io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
        waiting.push(socket);
    }
    let silent = std::net::TcpStream::connect(world.address).unwrap();
    world.stop().await;
    for mut socket in waiting {
        let mut answer = String::new();
        io::Read::read_to_string(&mut socket, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhi"), "{answer:?}");
        assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer:?}");
    }
    assert_eq!(io::Read::read(&mut &silent, &mut [0]).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_alike_here_and_at_the_container(
        parts in proptest::collection::vec(prop_oneof![
            4 => Just(b"POST /a HTTP/1.1\r\nHost: h\r\n".to_vec()),
            2 => Just(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
            3 => Just(b"Content-Length: 5\r\n".to_vec()),
            3 => Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            1 => Just(b"Connection: content-length, transfer-encoding, x\r\n".to_vec()),
            1 => Just(b"X: y\r\n".to_vec()),
            4 => Just(b"\r\n".to_vec()),
            2 => Just(b"5\r\nhello\r\n".to_vec()),
            2 => Just(b"0\r\n\r\n".to_vec()),
            2 => Just(b"hello".to_vec()),
            1 => Just(b"0\r\nContent-Length: 3\r\nX: y\r\n\r\n".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => Just(b" ".to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..3),
        ], 0..12),
    ) {
        towline_gateway::testing::fuzz::whole_path(&parts.concat());
    }

    #[test]
    fn any_bytes_can_be_read(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        towline_gateway::testing::fuzz::request_head(&data);
        towline_gateway::testing::fuzz::response_head(&data);
        towline_gateway::testing::fuzz::chunked_body(&data);
        towline_gateway::testing::fuzz::whole_path(&data);
    }
}
