//! What is sent again, and what never is. The containers count.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::mpsc, task::JoinSet};
use towline_gateway::testing::{AgentKind, Container, World, within};
use towline_tunnel::RefuseCode;

fn request(method: &str, key: &str, rest: &str) -> String {
    format!("{method} /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{rest}")
}

/// A container that takes one request on each connection, answers it, and closes the connection when the next request
/// arrives: the race that every keep-alive connection has, made certain.
async fn closes_on_reuse(seen: Arc<AtomicUsize>) -> Container {
    Container::start(move |mut exchange, _| {
        let seen = Arc::clone(&seen);
        async move {
            exchange.request().await?;
            seen.fetch_add(1, Ordering::SeqCst);
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
            if exchange.head().await?.is_some() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn a_get_that_meets_a_closing_connection_is_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let container = closes_on_reuse(Arc::clone(&seen)).await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    for _ in 0..10 {
        caller.send(request("GET", &team.key, "\r\n")).await;
        assert_eq!(caller.answer().await.status, 200);
    }
    for _ in 0..10 {
        caller.send(request("PUT", &team.key, "Content-Length: 5\r\n\r\nhello")).await;
        assert_eq!(caller.answer().await.status, 200, "an idempotent request with a small body is sent again, whole");
    }
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let container = closes_on_reuse(Arc::clone(&seen)).await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    let mut failed = 0;
    for _ in 0..20 {
        caller.send(request("POST", &team.key, "Content-Length: 5\r\n\r\nhello")).await;
        let answer = caller.answer().await;
        if answer.status == 502 {
            assert_eq!(answer.header("x-should-retry"), Some("false"));
            failed += 1;
        } else {
            assert_eq!(answer.status, 200);
        }
    }
    assert_eq!(seen.load(Ordering::SeqCst), 20, "each request was delivered exactly once");
    // It drops every second request of a connection on purpose. When that is known, each POST gets a connection of its own, but for
    // one that comes twice as soon.
    assert!((1..10).contains(&failed), "{failed}");
}

#[tokio::test]
async fn a_post_that_was_not_passed_on_is_sent_again() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    world.instance(service, &agent, AgentKind::ClosesIdle);
    let mut caller = world.caller().await;
    for round in 0..20 {
        caller.send(request("POST", &team.key, "Content-Length: 5\r\n\r\nhello")).await;
        let answer = caller.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"), "round {round}");
    }
}

#[tokio::test]
async fn a_connection_that_the_container_has_closed_is_not_used() {
    // The container closes after each answer without saying so. Once the end has arrived here, no request meets it.
    let (closed, mut wait) = mpsc::channel(1);
    let container = Container::start(move |mut exchange, _| {
        let closed = closed.clone();
        async move {
            exchange.request().await?;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
            drop(exchange);
            closed.send(()).await.unwrap();
            Ok(())
        }
    })
    .await;
    let world = World::start().await;
    let (team, agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    for round in 1..=10 {
        caller.send(request("POST", &team.key, "Content-Length: 5\r\n\r\nhello")).await;
        assert_eq!(caller.answer().await.status, 200, "round {round}");
        within("the close", wait.recv()).await.unwrap();
        assert_eq!(container.accepted(), round);
        towline_gateway::testing::wait_until("the end at the gateway", || agent.half_closed() >= round).await;
        // Whoever is served now is served after what had arrived before.
        world.call("GET /api/v1/anything HTTP/1.1\r\nHost: h\r\n\r\n").await;
    }
}

#[tokio::test]
async fn a_refused_request_goes_to_another_instance_whole() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, agent, service) = world.hello(&container).await;
    let other = world.agent(&team, "two").await;
    for code in [RefuseCode::UnknownInstance, RefuseCode::NotReady, RefuseCode::ConnectFailed] {
        world.instance(service, &other, AgentKind::Refuse(code));
        world.instance(service, &agent, AgentKind::Refuse(code));
    }
    let body = "x".repeat(50 << 10);
    let mut served = 0;
    for _ in 0..30 {
        let rest = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = world.call(request("POST", &team.key, &rest)).await;
        // Seven instances, four attempts: sometimes the good one is not among them.
        if answer.status == 200 {
            assert!(answer.text().ends_with(&body));
            served += 1;
        } else {
            assert!(matches!(answer.status, 502 | 503), "{}", answer.text());
        }
    }
    assert!(served > 0);
}

#[tokio::test]
async fn a_request_that_one_agent_refuses_is_served_by_the_next() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let other = world.agent(&team, "two").await;
    world.instance(service, &other, AgentKind::Refuse(RefuseCode::NotReady));
    for _ in 0..20 {
        let answer = world.call(request("POST", &team.key, "Content-Length: 5\r\n\r\nhello")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().ends_with("hello"));
    }
}

#[tokio::test]
async fn a_body_that_is_not_here_any_more_is_not_sent_again() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    let container = Container::echo().await;
    let refusing = world.instance(service, &agent, AgentKind::Refuse(RefuseCode::NotReady));
    world.instance(service, &agent, AgentKind::Connect(container.address()));
    let body = "x".repeat(1 << 20);
    let (mut whole, mut refused) = (0, 0);
    for _ in 0..40 {
        let rest = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = world.call(request("POST", &team.key, &rest)).await;
        match answer.status {
            200 => {
                assert!(answer.text().ends_with(&body));
                whole += 1;
            }
            503 => refused += 1,
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(whole > 0, "{whole} whole, {refused} refused by {refusing}");
}

/// Containers that end their connections in every way that real ones do, at random, and that count what they get.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_request_is_lost_or_doubled_when_connections_end_at_random() {
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let count = Arc::clone(&seen);
    let container = Container::start(move |mut exchange, _| {
        let count = Arc::clone(&count);
        async move {
            loop {
                let Some((head, _)) = exchange.request().await? else { return Ok(()) };
                let id = head.split(' ').nth(1).unwrap().to_owned();
                *count.lock().unwrap().entry(id).or_default() += 1;
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
                match rand::random_range(0..10) {
                    // In order, a little later, with a reset, or when the next request has already begun.
                    0 => return Ok(()),
                    1 => tokio::task::yield_now().await,
                    2 => {
                        exchange.reset();
                        return Ok(());
                    }
                    3 => return exchange.exactly(1).await.map(drop),
                    _ => {}
                }
            }
        }
    })
    .await;
    let world = Arc::new(World::start().await);
    let (team, _agent, service) = world.hello(&container).await;
    let mut callers = JoinSet::new();
    for caller_number in 0..16 {
        let (world, key) = (Arc::clone(&world), team.key.clone());
        callers.spawn(async move {
            let mut failed = 0;
            let mut caller = world.caller().await;
            for number in 0..150 {
                let method = if (caller_number + number) % 2 == 0 { "GET" } else { "POST" };
                let target = format!("{method}-{caller_number}-{number}");
                caller
                    .send(format!(
                        "{method} /api/v1/r/containers/hello/{target} HTTP/1.1\r\nHost: h\r\n\
                         Authorization: Bearer {key}\r\nContent-Length: 5\r\n\r\nhello"
                    ))
                    .await;
                let answer = caller.answer().await;
                match (method, answer.status) {
                    (_, 200) => assert_eq!(answer.text(), "hi"),
                    ("POST", 502) => failed += 1,
                    (method, status) => panic!("{method} {status}: {}", answer.text()),
                }
            }
            failed
        });
    }
    let failed: usize = within("all callers", callers.join_all()).await.into_iter().sum();
    let seen = seen.lock().unwrap();
    let posts = |times| seen.iter().filter(|(id, n)| id.starts_with("/POST") && **n == times).count();
    assert_eq!(seen.iter().filter(|(id, n)| id.starts_with("/POST") && **n > 1).count(), 0, "a POST was sent twice");
    assert!(posts(1) + failed >= 1200, "{} delivered, {failed} failed", posts(1));
    assert_eq!(seen.keys().filter(|id| id.starts_with("/GET")).count(), 1200);
    assert_eq!(world.gateway.in_flight(service), 0);
}
