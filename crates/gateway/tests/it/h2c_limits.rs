//! What holds for containers of HTTP/2 as for all others, and is done otherwise for them because many requests share a
//! connection: lines, affinity, instances that take no connections, times.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::Response;
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};
use towline_gateway::{
    snapshot::Concurrency,
    testing::{AgentKind, BEGUN, Container, World, wait_until, within},
};
use towline_model::service::AppProtocol;
use towline_tunnel::RefuseCode;

use super::h2c::{Got, answer, caller, container, read, request, world};

const SHORT: Option<Duration> = Some(Duration::from_millis(150));

/// A container that answers every request with these words.
async fn saying(words: &'static str) -> Container {
    container(move |(request, mut respond), _| async move {
        let mut body = request.into_body();
        if read(&mut body).await.is_ok() {
            let mut stream = respond.send_response(answer(200), false).unwrap();
            stream.send_data(Bytes::from_static(words.as_bytes()), true).unwrap();
        }
    })
    .await
}

/// Whatever is done with a request, it is kept and gets no more.
async fn silent(begins: bool) -> Container {
    container(move |(_request, mut respond): Got, _| async move {
        let mut stream = begins.then(|| respond.send_response(answer(200), false).unwrap());
        if let Some(stream) = &mut stream {
            stream.send_data(Bytes::from_static(b"first"), false).unwrap();
        }
        std::future::pending().await
    })
    .await
}

/// Sends a POST and gives its whole answer.
async fn post(sender: &SendRequest<Bytes>, key: &str) -> Result<(u16, String), h2::Error> {
    let (future, mut stream) = sender.clone().ready().await?.send_request(request("POST", key), false)?;
    stream.send_data(Bytes::from_static(b"hello"), true)?;
    let mut response: Response<_> = future.await?;
    let (body, _) = read(response.body_mut()).await?;
    Ok((response.status().as_u16(), String::from_utf8(body).unwrap()))
}

#[tokio::test]
async fn a_line_counts_requests_and_not_connections() {
    let (go, wait) = watch::channel(0);
    let seen: Arc<Mutex<usize>> = Arc::default();
    let counted = Arc::clone(&seen);
    let container = container(move |(_request, mut respond): Got, _| {
        let (seen, mut wait) = (Arc::clone(&counted), wait.clone());
        async move {
            let number = {
                let mut seen = seen.lock().await;
                *seen += 1;
                *seen
            };
            let _ = wait.wait_for(|answered| *answered >= number).await;
            respond.send_response(answer(200), true).unwrap();
        }
    })
    .await;
    let (world, team, _agent, service) = world(&container).await;
    world.change(service, |route| route.concurrency = Some(Concurrency { running: 2, waiting: 1 }));
    let status = || world.gateway.line(service).unwrap();
    let (sender, _driver) = caller(&world).await;
    let mut calls = JoinSet::new();
    for (running, waiting) in [(1, 0), (2, 0), (2, 1)] {
        let (sender, key) = (sender.clone(), team.key.clone());
        calls.spawn(async move { post(&sender, &key).await.unwrap().0 });
        wait_until("its place", || (status().running, status().waiting) == (running, waiting)).await;
    }
    let (code, text) = within("a refusal", post(&sender, &team.key)).await.unwrap();
    assert!(code == 503 && text.contains("service_busy") && text.contains("1 more wait"), "{code} {text}");
    assert_eq!(*seen.lock().await, 2, "the one that waits is not at the container");
    go.send_replace(3);
    assert_eq!(within("the answers", calls.join_all()).await, [200; 3]);
    wait_until("nobody left", || (status().running, status().waiting) == (0, 0)).await;
    assert_eq!(container.accepted(), 1, "over one connection");
}

#[tokio::test]
async fn a_caller_that_leaves_the_line_never_comes_to_the_container() {
    let container = silent(false).await;
    let (world, team, agent, service) = world(&container).await;
    world.change(service, |route| route.concurrency = Some(Concurrency { running: 1, waiting: 5 }));
    let status = || world.gateway.line(service).unwrap();
    let (sender, _driver) = caller(&world).await;
    let send = || async {
        let sender = sender.clone().ready().await;
        sender.unwrap().send_request(request("GET", &team.key), true).unwrap()
    };
    let (_first, mut running) = send().await;
    wait_until("the first", || status().running == 1).await;
    let (_second, mut waiting) = send().await;
    wait_until("the second", || status().waiting == 1).await;
    waiting.send_reset(Reason::CANCEL);
    wait_until("an empty line", || status().waiting == 0).await;
    running.send_reset(Reason::CANCEL);
    wait_until("nobody", || status().running == 0).await;
    assert!(agent.streams() <= 1);
    assert!(world.gateway.metrics().contains("towline_line_left_total"));
}

#[tokio::test]
async fn affinity_finds_the_instance_again() {
    let containers = [saying("one").await, saying("two").await];
    let (world, team, agent, service) = world(&containers[0]).await;
    world.instance(service, &agent, AgentKind::Connect(containers[1].address()));
    let (sender, _driver) = caller(&world).await;
    let ask = async |mode: &str, instance: Option<&str>| {
        let mut asked = request("GET", &team.key);
        asked.headers_mut().insert("x-towline-affinity", mode.parse().unwrap());
        if let Some(instance) = instance {
            asked.headers_mut().insert("x-towline-instance", instance.parse().unwrap());
        }
        let (future, _) = sender.clone().ready().await.unwrap().send_request(asked, true).unwrap();
        let mut response = within("an answer", future).await.unwrap();
        let (body, _) = read(response.body_mut()).await.unwrap();
        let name = response.headers().get("x-towline-instance").map(|name| name.to_str().unwrap().to_owned());
        (response.status().as_u16(), name, String::from_utf8(body).unwrap())
    };
    for mode in ["soft", "strict"] {
        let (_, first, words) = ask(mode, None).await;
        for _ in 0..20 {
            assert_eq!(ask(mode, first.as_deref()).await, (200, first.clone(), words.clone()), "{mode}");
        }
    }
    let (_, gone, words) = ask("soft", None).await;
    world.change(service, |route| {
        route.instances.retain(|instance| Some(instance.instance_id.to_string()) != gone);
    });
    let (status, name, other) = ask("soft", gone.as_deref()).await;
    assert!(status == 200 && name != gone && other != words, "{status} {name:?} {other}");
    let (status, _, text) = ask("strict", gone.as_deref()).await;
    assert!(status == 503 && text.contains("is gone"), "{status} {text}");
}

#[tokio::test]
async fn an_instance_that_takes_no_connections_is_left_out_and_comes_back() {
    let good = saying("good").await;
    let (world, team, agent, service) = world(&good).await;
    let bad = world.instance(service, &agent, AgentKind::Refuse(RefuseCode::ConnectFailed));
    let (sender, _driver) = caller(&world).await;
    let call = async || {
        let (status, words) = post(&sender, &team.key).await.unwrap();
        assert_eq!(status, 200, "nothing is lost by it: {words}");
        words
    };
    within("three failures", async {
        while agent.asked(bad) < 3 {
            assert_eq!(call().await, "good");
        }
    })
    .await;
    let other = saying("other").await;
    agent.set(bad, AgentKind::Connect(other.address()));
    within("its return", async { while call().await != "other" {} }).await;
    assert_eq!(good.accepted(), 1);
}

#[tokio::test]
async fn connecting_has_a_time_of_its_own_and_nothing_is_lost_by_it() {
    let world = World::start().await;
    let team = world.team();
    let agent = world.agent(&team, "one").await;
    let service = world.service(&team, "hello");
    world.change(service, |route| (route.protocol, route.timeouts.connect) = (AppProtocol::H2c, Some(BEGUN)));
    world.instance(service, &agent, AgentKind::Unanswered);
    let (sender, _driver) = caller(&world).await;
    let (status, text) = within("an answer", post(&sender, &team.key)).await.unwrap();
    assert!(status == 502 && text.contains("upstream_timeout"), "{status} {text}");
    let good = saying("good").await;
    world.instance(service, &agent, AgentKind::Connect(good.address()));
    for _ in 0..5 {
        assert_eq!(within("an answer", post(&sender, &team.key)).await.unwrap(), (200, "good".to_owned()));
    }
}

#[tokio::test]
async fn the_beginning_of_an_answer_and_its_pauses_have_times_of_their_own() {
    let container = silent(false).await;
    let (first, team, _agent, service) = world(&container).await;
    first.change(service, |route| route.timeouts.first_byte = SHORT);
    let (sender, _driver) = caller(&first).await;
    let (status, text) = within("an answer", post(&sender, &team.key)).await.unwrap();
    assert!(status == 502 && text.contains("upstream_timeout"), "{status} {text}");
    first.change(service, |route| (route.timeouts.first_byte, route.timeouts.total) = (None, SHORT));
    let (status, text) = within("an answer", post(&sender, &team.key)).await.unwrap();
    assert!(status == 502 && text.contains("upstream_timeout"), "{status} {text}");
    assert_eq!(container.accepted(), 1, "the connection serves others on");

    let container = silent(true).await;
    let (second, team, _agent, service) = world(&container).await;
    second.change(service, |route| route.timeouts.idle = SHORT);
    let (sender, _driver) = caller(&second).await;
    let error = within("the cut", post(&sender, &team.key)).await.unwrap_err();
    assert!(error.is_reset(), "a cut answer does not look complete: {error}");
}
