//! What a caller sees when something behind the gateway breaks, and what a container sees when a caller goes away.

use std::{io, sync::Arc};

use tokio::sync::{Mutex, mpsc};
use towline_gateway::testing::{AgentKind, BEGUN, Container, RawCaller, World, wait_until, within};

const HELLO: &str = "/api/v1/r/containers/hello/";

fn request(method: &str, key: &str, rest: &str) -> String {
    format!("{method} {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{rest}")
}

/// A container that says this after a request and then ends its connection, in order or with a reset.
async fn dying(text: &'static str, reset: bool) -> Container {
    Container::start(move |mut exchange, _| async move {
        exchange.head().await?;
        exchange.write(text).await?;
        if reset {
            exchange.reset();
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_cut_answer_never_looks_complete() {
    for reset in [false, true] {
        for head in ["Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "Content-Length: 10\r\n\r\nhello"] {
            let container = dying(format!("HTTP/1.1 200 OK\r\n{head}").leak(), reset).await;
            let world = World::start().await;
            let (team, _agent, service) = world.hello(&container).await;
            let mut caller = world.caller().await;
            caller.send(request("GET", &team.key, "\r\n")).await;
            let error = within("the end", caller.try_answer(false)).await.unwrap_err();
            assert!(
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
                "{head:?}: {error}"
            );
            wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
        }
    }
}

#[tokio::test]
async fn what_arrived_of_a_cut_answer_is_passed_on() {
    // It ends at once behind its first bytes, so that nothing was written to the caller yet when the end is seen.
    let container = dying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false).await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("GET", &team.key, "\r\n")).await;
    let head = within("the head", caller.head()).await.unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(within("the chunk", caller.chunk()).await.unwrap().as_deref(), Some(b"hello".as_slice()));
    within("the end", caller.chunk()).await.unwrap_err();
}

#[tokio::test]
async fn an_answer_without_a_length_is_cut_by_a_reset() {
    // Neither side has any other way to tell a cut from an end.
    let container = dying("HTTP/1.0 200 OK\r\n\r\nhello", true).await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(format!("GET {HELLO} HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    let error = within("the end", caller.try_answer(false)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_container_that_says_nothing_is_a_bad_gateway() {
    for (text, reset, code, token) in [
        ("", false, "upstream_failed", "connection_terminated"),
        ("", true, "upstream_failed", "connection_terminated"),
        ("HTTP/1.1 200 OK\r\nContent-Le", false, "upstream_failed", "connection_terminated"),
        ("SSH-2.0-OpenSSH_9.2\r\n", false, "upstream_protocol_error", "http_protocol_error"),
        ("HTTP/1.1 99 x\r\n\r\n", false, "upstream_protocol_error", "http_protocol_error"),
        ("HTTP/2.0 200 OK\r\n\r\n", false, "upstream_protocol_error", "http_protocol_error"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            false,
            "upstream_protocol_error",
            "http_protocol_error",
        ),
    ] {
        let container = dying(text, reset).await;
        let world = World::start().await;
        let (team, _agent, _) = world.hello(&container).await;
        for (method, warned) in [("GET", None), ("POST", Some("false"))] {
            let answer = world.call(request(method, &team.key, "Content-Length: 0\r\n\r\n")).await;
            assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (502, code), "{text:?} {reset}");
            assert!(answer.header("proxy-status").unwrap().contains(&format!("error={token};")), "{text:?}");
            assert_eq!(answer.header("x-should-retry"), warned, "{method} {text:?}");
            assert!(answer.header("retry-after").is_none());
        }
        assert_eq!(container.accepted(), 2, "a fresh connection that fails is not tried again");
    }
}

#[tokio::test]
async fn an_agent_that_is_lost_in_the_middle_is_a_bad_gateway() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    world.instance(service, &agent, AgentKind::Silent);
    let mut caller = world.caller().await;
    caller.send(request("POST", &team.key, "Content-Length: 0\r\n\r\n")).await;
    wait_until("the request at the agent", || agent.streams() == 1).await;
    drop(agent);
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (502, "tunnel_failed"));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn an_agent_that_is_lost_cuts_the_answer() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await?;
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(request("GET", &team.key, "\r\n")).await;
    within("the head", caller.head()).await.unwrap();
    assert_eq!(within("a chunk", caller.chunk()).await.unwrap(), Some(b"hello".to_vec()));
    drop(agent);
    assert!(within("the cut", caller.chunk()).await.is_err());
}

/// How far a request has come when its caller goes away.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Sending,
    Waiting,
    Streaming,
}

/// What a container has seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Request,
    End,
    Reset,
}

#[tokio::test]
async fn a_caller_that_goes_away_is_seen_by_the_container() {
    for stage in [Stage::Sending, Stage::Waiting, Stage::Streaming] {
        for with_reset in [false, true] {
            goes_away(stage, with_reset).await;
        }
    }
}

async fn goes_away(stage: Stage, with_reset: bool) {
    let (tells, mut wait) = mpsc::channel(1);
    let container = Container::start(move |mut exchange, _| {
        let tells = tells.clone();
        async move {
            exchange.head().await?;
            tells.send(Seen::Request).await.unwrap();
            if matches!(stage, Stage::Streaming) {
                exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await?;
            }
            let end = exchange.ended().await;
            tells.send(if end.is_err() { Seen::Reset } else { Seen::End }).await.unwrap();
            Ok(())
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut caller = world.caller().await;
    let rest = if matches!(stage, Stage::Sending) { "Content-Length: 1000\r\n\r\nabc" } else { "\r\n" };
    caller.send(request("POST", &team.key, rest)).await;
    assert_eq!(within("the request at the container", wait.recv()).await, Some(Seen::Request));
    if matches!(stage, Stage::Streaming) {
        within("the head", caller.head()).await.unwrap();
    }
    leave(caller, with_reset);
    let end = within(&format!("the end at the container: {stage:?}"), wait.recv()).await;
    assert_eq!(end, Some(Seen::Reset), "an unfinished request must not look finished: {stage:?}");
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

fn leave(caller: RawCaller, with_reset: bool) {
    if with_reset {
        caller.socket.set_zero_linger().unwrap();
    }
    drop(caller);
}

#[tokio::test]
async fn a_revoked_key_cancels_what_it_has_in_flight() {
    let container = Container::start(|mut exchange, number| async move {
        exchange.head().await?;
        if number == 1 {
            exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await?;
        }
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut waiting = world.caller().await;
    waiting.send(request("GET", &team.key, "\r\n")).await;
    wait_until("the first request", || container.accepted() == 1).await;
    let mut streaming = world.caller().await;
    streaming.send(request("GET", &team.key, "\r\n")).await;
    within("the head", streaming.head()).await.unwrap();
    assert_eq!(within("a chunk", streaming.chunk()).await.unwrap(), Some(b"x".to_vec()));
    world.revoke(&team.key);
    let answer = waiting.answer().await;
    assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (401, "unauthenticated"));
    assert!(within("the cut", streaming.chunk()).await.is_err());
    assert_eq!(world.get(&team.key, HELLO).await.status, 401, "the very next request is refused");
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn a_service_that_takes_too_long_in_the_middle_is_cut() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await?;
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| route.timeouts.total = Some(BEGUN));
    let mut caller = world.caller().await;
    caller.send(request("GET", &team.key, "\r\n")).await;
    within("the head", caller.head()).await.unwrap();
    assert_eq!(within("a chunk", caller.chunk()).await.unwrap(), Some(b"x".to_vec()));
    assert!(within("the cut", caller.chunk()).await.is_err());
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_through_arrives() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for _ in 0..20 {
        let mut caller = world.caller().await;
        caller.send(request("POST", &team.key, "Content-Length: 100000000\r\n\r\n")).await;
        let (mut reader, mut writer) = caller.socket.into_split();
        // A caller that only looks for an answer when it cannot send any more.
        let send = async {
            let block = vec![0; 64 << 10];
            while tokio::io::AsyncWriteExt::write_all(&mut writer, &block).await.is_ok() {}
        };
        let receive = async {
            let mut text = Vec::new();
            let mut buffer = [0; 1024];
            while !text.ends_with(b"no!") {
                match tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await {
                    Ok(0) => panic!("closed after {:?}", String::from_utf8_lossy(&text)),
                    Ok(count) => text.extend_from_slice(&buffer[..count]),
                    Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&text)),
                }
            }
            String::from_utf8(text).unwrap()
        };
        let text = within("the answer", async {
            tokio::select! {
                biased;
                text = receive => text,
                () = send => panic!("the connection broke before the answer was read"),
            }
        })
        .await;
        assert!(text.starts_with("HTTP/1.1 413 Too Large\r\n"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_callers_that_come_and_go_leave_nothing_behind() {
    let container = Container::echo().await;
    let world = Arc::new(World::start().await);
    let (team, agent, service) = world.hello(&container).await;
    let done = Arc::new(Mutex::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..60 {
        let (world, key, done) = (Arc::clone(&world), team.key.clone(), Arc::clone(&done));
        callers.spawn(async move {
            let mut caller = world.caller().await;
            for _ in 0..5 {
                caller.send(request("POST", &key, "Content-Length: 5\r\n\r\nhello")).await;
                if number % 3 == 0 {
                    return;
                }
                assert_eq!(caller.answer().await.status, 200);
                *done.lock().await += 1;
            }
        });
    }
    within("all callers", callers.join_all()).await;
    assert_eq!(*done.lock().await, 40 * 5);
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
    drop(container);
    wait_until("no stream left", || agent.streams() == 0).await;
}
