//! A service's own limits: how long its calls may take in their parts, how many it takes at a time, and what becomes of an
//! instance that takes no connections.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Mutex, watch},
};
use towline_gateway::{
    snapshot::Concurrency,
    testing::{AgentKind, Answer, BEGUN, Container, RawCaller, World, wait_until, within},
};
use towline_tunnel::RefuseCode;

const HELLO: &str = "/api/v1/r/containers/hello/";
const SHORT: Option<Duration> = Some(Duration::from_millis(150));

fn request(method: &str, path: &str, key: &str, rest: &str) -> String {
    let end = if rest.contains("\r\n\r\n") { "" } else { "\r\n" };
    format!("{method} {HELLO}{path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{rest}{end}")
}

fn check(answer: &Answer, status: u16, code: &str, token: &str) {
    assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (status, code), "{}", answer.text());
    let proxy_status = answer.header("proxy-status").unwrap();
    assert!(proxy_status.contains(&format!("error={token};")), "{proxy_status}");
}

/// Waits for longer than `BEGUN`.
async fn pass_some_time() {
    let begin = Instant::now();
    wait_until("some time", || begin.elapsed() > BEGUN + SHORT.unwrap()).await;
}

#[tokio::test]
async fn connecting_has_a_time_of_its_own_and_nothing_is_lost_by_it() {
    let container = Container::echo().await;
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    world.change(service, |route| route.timeouts.connect = Some(BEGUN));
    world.instance(service, &agent, AgentKind::Unanswered);
    let answer = world.call(request("POST", "", &team.key, "Content-Length: 0\r\n")).await;
    check(&answer, 502, "upstream_timeout", "connection_timeout");
    assert!(answer.header("x-should-retry").is_none() && answer.header("retry-after").is_some());
    world.instance(service, &agent, AgentKind::Connect(container.address()));
    for _ in 0..5 {
        let answer = world.call(request("POST", "", &team.key, "Content-Length: 5\r\n\r\nhello")).await;
        assert_eq!(answer.status, 200, "another instance has it, whole: {}", answer.text());
    }
}

#[tokio::test]
async fn the_beginning_of_an_answer_has_a_time_of_its_own() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.request().await?;
        exchange.write("HTTP/1.1 103 Early Hints\r\n\r\n").await?;
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| route.timeouts.first_byte = Some(BEGUN));
    let mut caller = world.caller().await;
    caller.send(request("POST", "", &team.key, "Content-Length: 5\r\n\r\nhello")).await;
    assert_eq!(within("the interim answer", caller.head()).await.unwrap().status, 103);
    let answer = caller.answer().await;
    check(&answer, 502, "upstream_timeout", "connection_read_timeout");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn a_container_that_takes_no_more_of_a_request_is_given_up() {
    let container = Container::start(|exchange, _| async move {
        let _unread = exchange;
        std::future::pending().await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| route.timeouts.idle = SHORT);
    let mut caller = world.caller().await;
    caller.send(request("PUT", "", &team.key, "Content-Length: 1000000000\r\n")).await;
    let (mut reader, mut writer) = caller.socket.into_split();
    let send = async {
        let block = vec![0; 64 << 10];
        while writer.write_all(&block).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let receive = async {
        let mut text = vec![0; 4096];
        let count = reader.read(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    let text = within("the answer", async {
        tokio::select! {
            text = receive => text,
            () = send => unreachable!(),
        }
    })
    .await;
    assert!(text.starts_with("HTTP/1.1 502 ") && text.contains("error=connection_write_timeout;"), "{text}");
}

#[tokio::test]
async fn a_caller_that_takes_its_time_is_not_the_containers_fault() {
    const LENGTH: usize = 20 << 20;
    let container = Container::start(|mut exchange, _| async move {
        while let Some((_, body)) = exchange.request().await? {
            assert_eq!(body, b"hello");
            exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await?;
            exchange.write(vec![b'x'; LENGTH]).await?;
        }
        Ok(())
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| (route.timeouts.idle, route.timeouts.first_byte) = (Some(BEGUN), Some(BEGUN)));
    let mut caller = world.caller().await;
    caller.send(request("POST", "", &team.key, "Content-Length: 5\r\n\r\nhe")).await;
    pass_some_time().await;
    caller.send("llo").await;
    assert_eq!(within("the head", caller.head()).await.unwrap().status, 200);
    pass_some_time().await;
    assert_eq!(within("the body", caller.exactly(LENGTH)).await.unwrap().len(), LENGTH);
}

#[tokio::test]
async fn a_pause_within_an_answer_or_a_websocket_has_a_time_of_its_own() {
    let container = Container::start(|mut exchange, _| async move {
        let head = exchange.head().await?.unwrap_or_default();
        let answer = if head.contains("/ws ") {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
        };
        exchange.write(answer).await?;
        exchange.ended().await
    })
    .await;
    let world = World::start().await;
    let (team, agent, service) = world.hello(&container).await;
    world.change(service, |route| route.timeouts.idle = SHORT);
    let mut caller = world.caller().await;
    caller.send(request("GET", "", &team.key, "")).await;
    within("the head", caller.head()).await.unwrap();
    within("a chunk", caller.chunk()).await.unwrap();
    assert!(within("the cut", caller.chunk()).await.is_err());

    let invoke = r#"{"method": "GET", "path": "/"}"#;
    let answer = world.post_json(&team.key, "/api/v1/r/invoke/hello", invoke).await;
    check(&answer, 502, "upstream_timeout", "http_response_incomplete");

    let mut caller = world.caller().await;
    caller.send(request("GET", "ws", &team.key, "Connection: upgrade\r\nUpgrade: x\r\n")).await;
    assert_eq!(within("the head", caller.head()).await.unwrap().status, 101);
    assert!(within("the cut", caller.ended()).await.is_err());
    wait_until("nothing at the agent", || agent.streams() == 0).await;
}

/// A container that tells which requests it has and answers when it may.
async fn held() -> (Container, watch::Sender<usize>, Arc<Mutex<Vec<String>>>) {
    let (go, wait) = watch::channel(0);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&seen);
    let container = Container::start(move |mut exchange, _| {
        let (mut wait, log) = (wait.clone(), Arc::clone(&log));
        async move {
            while let Some((head, _)) = exchange.request().await? {
                let number = {
                    let mut log = log.lock().await;
                    log.push(head.split(' ').nth(1).unwrap().to_owned());
                    log.len()
                };
                let _ = wait.wait_for(|answered| *answered >= number).await;
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
            }
            Ok(())
        }
    })
    .await;
    (container, go, seen)
}

#[tokio::test]
async fn requests_wait_in_line_for_a_service_that_takes_only_so_many() {
    let (container, go, seen) = held().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| route.concurrency = Some(Concurrency { running: 1, waiting: 2 }));
    let status = || world.gateway.line(service).unwrap();
    let mut callers = Vec::new();
    for number in 0..3 {
        let mut caller = world.caller().await;
        caller.send(request("GET", &number.to_string(), &team.key, "")).await;
        wait_until("its place", || (status().running, status().waiting) == (1, number)).await;
        callers.push(caller);
    }
    let answer = world.get(&team.key, HELLO).await;
    check(&answer, 503, "service_busy", "connection_limit_reached");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert!(answer.text().contains("2 more wait"), "{}", answer.text());
    for (number, caller) in callers.iter_mut().enumerate() {
        go.send_replace(number + 1);
        assert_eq!(caller.answer().await.status, 200);
    }
    assert_eq!(*seen.lock().await, ["/0", "/1", "/2"], "by the order of arrival, one at a time");
    wait_until("nobody left", || (status().running, status().waiting) == (0, 0)).await;
    let metrics = world.gateway.metrics();
    let labels = format!("team=\"{}\",service=\"hello\"", team.id);
    for line in [
        format!("towline_line_running{{{labels}}} 0"),
        format!("towline_line_waiting{{{labels}}} 0"),
        format!("towline_line_position_count{{{labels}}} 2"),
        format!("towline_line_position_sum{{{labels}}} 3.0"),
        format!("towline_line_wait_seconds_count{{{labels}}} 3"),
        format!("towline_line_wait_seconds_bucket{{le=\"0.0\",{labels}}} 1"),
        format!("towline_line_refused_total{{{labels}}} 1"),
        format!("towline_line_left_total{{{labels}}} 0"),
        format!("towline_requests_in_flight{{{labels}}} 0"),
        "towline_agent_sessions 1".to_owned(),
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line} is not in\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[tokio::test]
async fn whoever_waits_in_vain_leaves_the_line_at_once() {
    let (container, _go, seen) = held().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| route.concurrency = Some(Concurrency { running: 1, waiting: 5 }));
    let waiting = || world.gateway.line(service).unwrap().waiting;
    let mut first = world.caller().await;
    first.send(request("GET", "0", &team.key, "")).await;
    wait_until("the first", || world.gateway.line(service).unwrap().running == 1).await;

    let mut gone = world.caller().await;
    gone.send(request("GET", "gone", &team.key, "")).await;
    wait_until("one in line", || waiting() == 1).await;
    gone.socket.set_zero_linger().unwrap();
    drop(gone);
    wait_until("nobody in line", || waiting() == 0).await;

    world.change(service, |route| route.timeouts.total = Some(Duration::from_millis(200)));
    let answer = world.get(&team.key, HELLO).await;
    check(&answer, 503, "service_busy", "connection_limit_reached");
    assert_eq!(waiting(), 0);
    world.change(service, |route| route.timeouts.total = None);

    let mut revoked = world.caller().await;
    revoked.send(request("GET", "revoked", &team.key, "")).await;
    wait_until("one in line", || waiting() == 1).await;
    world.revoke(&team.key);
    assert_eq!(revoked.answer().await.status, 401);
    assert_eq!(first.answer().await.status, 401);
    wait_until("nobody at all", || {
        let status = world.gateway.line(service).unwrap();
        (status.running, status.waiting) == (0, 0)
    })
    .await;
    assert_eq!(*seen.lock().await, ["/0"]);
    let metrics = world.gateway.metrics();
    assert!(
        metrics.contains(&format!("towline_line_left_total{{team=\"{}\",service=\"hello\"}} 3\n", team.id)),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_instance_that_takes_no_connections_is_left_out_and_comes_back() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, agent, service) = world.hello(&container).await;
    let bad = world.instance(service, &agent, AgentKind::Refuse(RefuseCode::ConnectFailed));
    // Each on a connection of its own to the instance.
    let call = || world.call(request("POST", "", &team.key, "Content-Length: 5\r\n\r\nhello"));
    wait_until_async("three failures", async || {
        assert_eq!(call().await.status, 200);
        agent.asked(bad) >= 3
    })
    .await;
    let (asked, begin) = (agent.asked(bad), Instant::now());
    for _ in 0..20 {
        assert_eq!(call().await.status, 200);
    }
    // One a second at most tries it again.
    let tries = usize::try_from(begin.elapsed().as_secs()).unwrap() + 1;
    assert!(agent.asked(bad) - asked <= tries, "{} in {:?}", agent.asked(bad) - asked, begin.elapsed());
    let other = Container::echo().await;
    agent.set(bad, AgentKind::Connect(other.address()));
    wait_until_async("its return", async || {
        assert_eq!(call().await.status, 200);
        other.accepted() >= 1
    })
    .await;
}

async fn wait_until_async(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async { while !is_so().await {} }).await;
}

#[tokio::test]
async fn the_last_instance_is_always_tried() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    let only = world.instance(service, &agent, AgentKind::Refuse(RefuseCode::ConnectFailed));
    for number in 1..=6 {
        let answer = world.get(&team.key, HELLO).await;
        check(&answer, 502, "upstream_failed", "connection_refused");
        assert_eq!(agent.asked(only), number);
    }
}

/// Ten thousand requests, each of which may meet a connection that its container is just closing.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn ten_thousand_keep_alive_races_lose_and_double_nothing() {
    const CALLERS: usize = 20;
    const EACH: usize = 500;
    let delivered: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let deliveries = Arc::clone(&delivered);
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let container = Container::start(move |mut exchange, number| {
        let (delivered, count) = (Arc::clone(&delivered), Arc::clone(&count));
        async move {
            // A connection serves one to three requests, and ends while the next one is on its way.
            for _ in 0..=number % 3 {
                let Some((head, _)) = exchange.request().await? else { return Ok(()) };
                let id = head.split(' ').nth(1).unwrap_or_default().to_owned();
                *delivered.lock().await.entry(id).or_default() += 1;
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
            }
            for _ in 0..number % 7 {
                tokio::task::yield_now().await;
            }
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await;
    let world = Arc::new(World::start().await);
    let (team, _agent, _) = world.hello(&container).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller_number in 0..CALLERS {
        let (world, key) = (Arc::clone(&world), team.key.clone());
        callers.spawn(async move {
            let (mut caller, mut refused) = (world.caller().await, 0);
            for number in 0..EACH {
                refused += usize::from(!race(&mut caller, &key, (caller_number, number)).await);
            }
            refused
        });
    }
    let refused: usize = within("all callers", callers.join_all()).await.into_iter().sum();
    let counts = deliveries.lock().await;
    assert!(closed.load(Ordering::Relaxed) >= CALLERS * EACH / 4, "there were races");
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "delivered twice: {doubled:?}");
    // Of a POST that had left already nobody can know whether it arrived; its caller is told so.
    assert!(counts.len() + refused >= CALLERS * EACH, "{} delivered, {refused} refused", counts.len());
}

/// Sends one request; `false` when it was answered with the doubt whether it arrived.
async fn race(caller: &mut RawCaller, key: &str, (caller_number, number): (usize, usize)) -> bool {
    let method = ["GET", "PUT", "POST", "DELETE"][number % 4];
    let path = format!("{method}-{caller_number}-{number}");
    caller.send(request(method, &path, key, "Content-Length: 5\r\n\r\nhello")).await;
    let answer = caller.answer().await;
    match (method, answer.status) {
        (_, 200) => true,
        ("POST", 502) => {
            assert_eq!(answer.header("x-should-retry"), Some("false"));
            false
        }
        (method, status) => panic!("{method} {status}: {}", answer.text()),
    }
}
