//! Servers and agents that are told to stop while callers are served, and that start again: what was taken is finished, and
//! the container counts that nothing is lost and nothing comes twice.

mod load;

use std::{io::ErrorKind, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{Method, header::AUTHORIZATION};
use serde_json::json;
use tokio::{net::TcpStream, sync::Notify, task::JoinSet, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};
use towline_e2e::{
    api::Api,
    sse::EventStream,
    system::{Agent, Server},
    wait::{SOON, wait_until},
};

use self::load::{Container, Load};
use crate::attached::{LocalProcess, agent_without_engine, attached};

/// Until what runs here is finished, in all.
const FINISHED: Duration = Duration::from_secs(20);
/// Between the pieces of what takes its time: about three seconds in all, within the ten that an agent takes to leave.
const PAUSE: Duration = Duration::from_millis(100);

/// Deploys a service to where it runs already.
async fn deploy(server: &Server, spec: &serde_json::Value, instances: u64) -> String {
    let owner = server.owner().await;
    let id = owner.create_service(spec).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, instances).await;
    id
}

/// What takes its time: each has begun when it is returned, and is checked to its end.
async fn begin_slow_work(api: &Api) -> JoinSet<()> {
    let mut work = JoinSet::new();

    let request = api.request(Method::GET, "/r/containers/demo/sse?n=30&interval_ms=100");
    let mut events = EventStream::new(request.send().await.unwrap());
    assert_eq!(events.next().await.unwrap().unwrap().json()["n"], 1);
    work.spawn(async move {
        for number in 2..=30 {
            assert_eq!(events.next().await.unwrap().expect("an event").json()["n"], number);
        }
        assert!(events.next().await.unwrap().is_none());
    });

    let request = api.request(Method::GET, "/r/containers/demo/bytes?n=300000&chunk=10000&delay_ms=100");
    let mut answer = request.send().await.unwrap();
    let mut length = answer.chunk().await.unwrap().expect("a first piece").len();
    work.spawn(async move {
        while let Some(piece) = answer.chunk().await.expect("it is not cut") {
            length += piece.len();
        }
        assert_eq!(length, 300_000);
    });

    let begun = Arc::new(Notify::new());
    let pieces = stream::iter(0..30).then({
        let begun = Arc::clone(&begun);
        move |number| {
            if number == 3 {
                begun.notify_one();
            }
            async { tokio::time::sleep(PAUSE).await }
        }
    });
    let body = reqwest::Body::wrap_stream(pieces.map(|()| Ok::<_, std::io::Error>(vec![7_u8; 1000])));
    let (upload, sender) = (api.request(Method::POST, "/r/containers/demo/upload").body(body), api.clone());
    work.spawn(async move {
        let answer = sender.send(upload).await.expect(200);
        assert_eq!(answer["body_length"], 30_000);
    });
    begun.notified().await;
    work
}

/// A WebSocket that has been spoken on.
async fn open_websocket(api: &Api) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("ws://{}/api/v1/r/containers/demo/ws", api.address());
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {}", api.bearer()).parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    talk(&mut socket, "before").await;
    socket
}

async fn talk(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
}

/// Closes it as both sides do, and waits for the end.
async fn hang_up(mut socket: WebSocketStream<MaybeTlsStream<TcpStream>>) {
    socket.close(None).await.unwrap();
    while let Some(message) = socket.next().await {
        assert!(message.unwrap().is_close());
    }
}

async fn finish(mut work: JoinSet<()>) {
    let all = async {
        while let Some(ended) = work.join_next().await {
            ended.expect("what was taken is finished");
        }
    };
    timeout(FINISHED, all).await.expect("it is finished in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_finishes_what_it_has_taken() {
    let mut server = Server::start().await;
    let mut agent = agent_without_engine(&server, "bare", &[]).await;
    let demo = LocalProcess::start().await;
    deploy(&server, &attached("demo", &demo.target()), 1).await;
    let counting = Container::start(Duration::from_millis(20)).await;
    deploy(&server, &attached("count", &counting.target()), 1).await;
    // One at a time, so that most of what is taken waits for its turn when the server is told to stop.
    let slow = Container::start(Duration::from_millis(200)).await;
    let mut one_at_a_time = attached("line", &slow.target());
    one_at_a_time["max_concurrent_requests"] = json!(1);
    deploy(&server, &one_at_a_time, 1).await;

    let api = server.api();
    let work = begin_slow_work(&api).await;
    let mut socket = open_websocket(&api).await;
    let load = Load::start(&api, "count", 8);
    let mut line = JoinSet::new();
    for number in 0..10 {
        let api = api.clone();
        line.spawn(async move { api.get(&format!("/r/containers/line/{number}")).await.assert_status(200) });
    }
    wait_until("the line's first is served and the load runs", SOON, async || {
        let seen = (slow.seen(), counting.seen());
        if seen.0 > 0 && seen.1 > 100 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;

    server.process.signal("TERM");
    wait_until("new connections are refused", SOON, async || match TcpStream::connect(api.address()).await {
        Ok(_) => Err("one is taken".to_owned()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        // The kernel had taken it for a listener that was closed at that moment.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(error.to_string()),
        Err(error) => panic!("{error}"),
    })
    .await;
    talk(&mut socket, "while it drains").await;
    finish(line).await;
    finish(work).await;
    let answered = load.ended_by_the_server().await;
    assert_eq!(counting.lost_or_doubled(&answered), (0, 0), "of {} requests", answered.len());
    talk(&mut socket, "after everything else").await;
    hang_up(socket).await;
    server.process.wait_for_end(0, FINISHED).await;

    // The agent has been calling it all along.
    server.start_again().await;
    agent.wait_until_online(&api).await;
    api.wait_for_answer("/r/containers/count/again", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_told_to_stop_finishes_what_it_has_taken() {
    let server = Server::start().await;
    let mut agent = agent_without_engine(&server, "bare", &[]).await;
    let demo = LocalProcess::start().await;
    deploy(&server, &attached("demo", &demo.target()), 1).await;
    let counting = Container::start(Duration::from_millis(20)).await;
    deploy(&server, &attached("count", &counting.target()), 1).await;

    let api = server.api();
    let work = begin_slow_work(&api).await;
    let mut socket = open_websocket(&api).await;
    let load = Load::start(&api, "count", 8);
    wait_until("the load runs", SOON, async || {
        let seen = counting.seen();
        if seen > 100 { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;

    agent.process.signal("TERM");
    // Nobody is left who could take a request: the callers are told so, and to come again.
    let answered = load.ended_by(503).await;
    talk(&mut socket, "while it leaves").await;
    finish(work).await;
    assert_eq!(counting.lost_or_doubled(&answered), (0, 0), "of {} requests", answered.len());
    talk(&mut socket, "after everything else").await;
    hang_up(socket).await;
    agent.process.wait_for_end(0, FINISHED).await;

    agent.start_again();
    agent.wait_until_online(&api).await;
    api.wait_for_answer("/r/containers/count/again", 200).await;
}

/// Of two agents with the same service one is always there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_start_again_one_at_a_time_lose_no_request() {
    let server = Server::start().await;
    let mut agents: Vec<Agent> = Vec::new();
    for name in ["left", "right"] {
        agents.push(agent_without_engine(&server, name, &[]).await);
    }
    let counting = Container::start(Duration::from_millis(5)).await;
    let mut twice = attached("count", &counting.target());
    twice["replica_count"] = json!(2);
    let id = deploy(&server, &twice, 2).await;
    let owner = server.owner().await;
    let places: Vec<_> = owner.instances(&id).await.iter().map(|instance| instance["agent_name"].clone()).collect();
    assert!(places.contains(&json!("left")) && places.contains(&json!("right")), "{places:?}");

    let api = server.api();
    let mut load = Load::start(&api, "count", 8);
    for round in 0..2 {
        for agent in &mut agents {
            let before = counting.seen();
            let status = agent.process.terminate(FINISHED).await;
            assert!(status.success(), "round {round}: {}", agent.process.output());
            // The server hears of the end a moment later, and until then it lists what there was.
            agent.wait_until_offline(&api).await;
            let printed = agent.process.output().len();
            agent.start_again();
            wait_until("the agent reaches the container again", SOON, async || {
                let said = agent.process.output().split_off(printed);
                if said.contains("reached instance") { Ok(()) } else { Err(said) }
            })
            .await;
            owner.wait_for_ready(&id, 2).await;
            wait_until("callers are served all along", SOON, async || {
                load.assert_all_run();
                let seen = counting.seen() - before;
                if seen > 100 { Ok(()) } else { Err(seen.to_string()) }
            })
            .await;
        }
    }
    let answered = load.stop().await;
    assert_eq!(counting.lost_or_doubled(&answered), (0, 0), "of {} requests", answered.len());
}
