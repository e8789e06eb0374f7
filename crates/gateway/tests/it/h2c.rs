//! Containers that speak HTTP/2 with prior knowledge.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    client::SendRequest,
    server::{self, Connection, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use towline_gateway::testing::{Container, RawCaller, SimAgent, TeamSetup, World, wait_until, within};
use towline_model::{ServiceId, service::AppProtocol};

use crate::streaming::settled;

pub type Got = (Request<RecvStream>, SendResponse<Bytes>);

/// A container that does this with each request. The number counts the connections from 0.
pub async fn container<H, F>(handler: H) -> Container
where
    H: Fn(Got, usize) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    container_with(server::Builder::new(), handler).await
}

pub async fn container_with<H, F>(builder: server::Builder, handler: H) -> Container
where
    H: Fn(Got, usize) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    Container::start(move |exchange, number| {
        let (builder, handler) = (builder.clone(), handler.clone());
        async move {
            let Ok(mut connection): Result<Connection<TcpStream, Bytes>, _> = builder.handshake(exchange.socket).await
            else {
                return Ok(());
            };
            let mut requests = JoinSet::new();
            while let Some(Ok(got)) = connection.accept().await {
                requests.spawn(handler(got, number));
            }
            Ok(())
        }
    })
    .await
}

pub async fn world(container: &Container) -> (World, TeamSetup, SimAgent, ServiceId) {
    let world = World::start().await;
    let (team, agent, service) = world.hello(container).await;
    world.change(service, |route| route.protocol = AppProtocol::H2c);
    (world, team, agent, service)
}

/// A caller's HTTP/2 connection.
pub async fn caller(world: &World) -> (SendRequest<Bytes>, JoinSet<()>) {
    let socket = TcpStream::connect(world.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    (sender, driver)
}

pub fn request(method: &str, key: &str) -> Request<()> {
    let request = Request::builder().method(method).uri("http://gateway.test/api/v1/r/containers/hello/a/b?c=%2F");
    request.header("authorization", format!("Bearer {key}")).header("te", "trailers").body(()).unwrap()
}

/// Everything of a body.
pub async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

pub fn answer(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// Answers with what was asked, as lines.
async fn echo((request, mut respond): Got, _: usize) {
    let (parts, mut body) = request.into_parts();
    let Ok((body, trailers)) = read(&mut body).await else { return };
    let mut lines = vec![format!("{} {}", parts.method, parts.uri)];
    let fields = parts.headers.iter().chain(trailers.iter().flatten());
    lines.extend(fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
    lines.push(String::from_utf8(body).unwrap());
    let mut stream = respond.send_response(answer(200), false).unwrap();
    stream.send_data(lines.join("\n").into(), false).unwrap();
    stream.send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("42"))])).unwrap();
}

#[tokio::test]
async fn callers_of_both_protocols_reach_it_over_one_connection() {
    let container = container(echo).await;
    let (world, team, _agent, _) = world(&container).await;
    let mut first = world.caller().await;
    first
        .send(format!(
            "POST /api/v1/r/containers/hello/a/b?c=%2F HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {}\r\n\
             TE: trailers\r\nConnection: TE, X-Gone\r\nX-Gone: 1\r\nX-Kept: 1\r\nX-Kept: 2\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Behind: 3\r\n\r\n",
            team.key
        ))
        .await;
    let seen = first.answer().await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.trailers, ["x-sum: 42"]);
    let text = seen.text();
    assert!(text.starts_with("POST http://localhost:8080/a/b?c=%2F\n"), "{text}");
    assert!(text.ends_with("\nhello"), "{text}");
    for line in ["te: trailers", "x-kept: 1", "x-kept: 2", "x-behind: 3", "via: 1.1 towline"] {
        assert!(text.lines().any(|seen| seen == line), "{line} in {text}");
    }
    for gone in ["x-gone", "connection", "transfer-encoding", "host:", "authorization"] {
        assert!(!text.contains(&format!("\n{gone}")), "{gone} in {text}");
    }

    let (sender, _driver) = caller(&world).await;
    let mut all = JoinSet::new();
    for number in 0..20 {
        let (mut sender, key) = (sender.clone().ready().await.unwrap(), team.key.clone());
        all.spawn(async move {
            let (future, mut stream) = sender.send_request(request("POST", &key), false).unwrap();
            stream.send_data(format!("body {number}").into(), true).unwrap();
            let (_, mut body) = future.await.unwrap().into_parts();
            let (body, trailers) = read(&mut body).await.unwrap();
            let text = String::from_utf8(body).unwrap();
            assert!(text.contains("via: 2 towline") && text.ends_with(&format!("\nbody {number}")), "{text}");
            assert_eq!(trailers.unwrap()["x-sum"], "42");
        });
    }
    within("twenty answers", all.join_all()).await;
    assert_eq!(container.accepted(), 1, "all of them share a connection");
}

#[tokio::test]
async fn heads_without_bodies_end_at_once() {
    let container = container(|(request, mut respond), _| async move {
        let mut head = answer(if request.uri().path() == "/a/b" { 200 } else { 204 });
        head.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
        respond.send_response(head, true).unwrap();
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let (sender, _driver) = caller(&world).await;
    let (future, _) = sender.ready().await.unwrap().send_request(request("POST", &team.key), true).unwrap();
    let response = within("an answer", future).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(response.body().is_end_stream(), "what is trailers only stays so");

    let mut raw = world.caller().await;
    for (method, status) in [
        ("GET /api/v1/r/containers/hello/a/b", 200),
        ("HEAD /api/v1/r/containers/hello/a/b", 200),
        ("GET /api/v1/r/containers/hello/none", 204),
    ] {
        raw.send(format!("{method} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
        let seen = if method.starts_with("HEAD") { raw.answer_to_head().await } else { raw.answer().await };
        assert_eq!(
            (seen.status, seen.header("grpc-status"), seen.text()),
            (status, Some("5"), String::new()),
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_length_stays_a_length_and_both_it_and_trailers_pass() {
    let container = container(|(request, mut respond), _| async move {
        let mut head = answer(200);
        head.headers_mut().insert("content-length", HeaderValue::from_static("5"));
        let with_trailers = request.uri().path() == "/trailers";
        if with_trailers {
            head.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        }
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), !with_trailers).unwrap();
        if with_trailers {
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("42"))]);
            stream.send_trailers(trailers).unwrap();
        }
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let mut raw = world.caller().await;
    for (path, length, trailers) in [("/plain", Some("5"), &[][..]), ("/trailers", None, &["x-sum: 42"])] {
        let line = format!("GET /api/v1/r/containers/hello{path} HTTP/1.1\r\nHost: a\r\n");
        raw.send(format!("{line}Authorization: Bearer {}\r\n\r\n", team.key)).await;
        let seen = raw.answer().await;
        assert_eq!((seen.header("content-length"), &*seen.text()), (length, "hello"), "{path}");
        assert_eq!(seen.trailers, trailers, "{path}");
    }
    let (sender, _driver) = caller(&world).await;
    let mut asked = request("GET", &team.key);
    *asked.uri_mut() = "http://a/api/v1/r/containers/hello/trailers".parse().unwrap();
    let (future, _) = sender.ready().await.unwrap().send_request(asked, true).unwrap();
    let mut response = within("an answer", future).await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
    let (body, trailers) = read(response.body_mut()).await.unwrap();
    assert_eq!((&body[..], &trailers.unwrap()["x-sum"]), (&b"hello"[..], &HeaderValue::from_static("42")));
}

#[tokio::test]
async fn both_directions_go_on_at_once() {
    let container = container(|(request, mut respond), _| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(answer(200), false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            stream.send_data(data, false).unwrap();
        }
        stream.send_trailers(HeaderMap::new()).unwrap();
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let (sender, _driver) = caller(&world).await;
    let (future, mut stream) = sender.ready().await.unwrap().send_request(request("POST", &team.key), false).unwrap();
    let mut body = within("an answer", future).await.unwrap().into_body();
    for number in 0..5 {
        stream.send_data(format!("{number}").into(), false).unwrap();
        let echoed = within("an echo", body.data()).await.unwrap().unwrap();
        assert_eq!(echoed, format!("{number}"));
    }
    stream.send_data(Bytes::new(), true).unwrap();
    let (rest, _) = within("the end", read(&mut body)).await.unwrap();
    assert!(rest.is_empty());
}

/// What a container tells of a request.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It is there.
    Came,
    /// It was reset.
    Reset(Reason),
}

/// Tells of a request when it has come, and what reset it ended with.
async fn until_reset((_request, mut respond): Got, begins: bool, told: mpsc::Sender<Told>) {
    told.send(Told::Came).await.unwrap();
    let reason = if begins {
        let mut stream = respond.send_response(answer(200), false).unwrap();
        stream.send_data(Bytes::from_static(b"first"), false).unwrap();
        poll_fn(|cx| stream.poll_reset(cx)).await
    } else {
        poll_fn(|cx| respond.poll_reset(cx)).await
    };
    told.send(Told::Reset(reason.unwrap())).await.unwrap();
}

#[tokio::test]
async fn who_goes_away_cancels_at_the_container_at_once() {
    for begins in [false, true] {
        let (told, mut tells) = mpsc::channel(8);
        let container = container(move |got, _| until_reset(got, begins, told.clone())).await;
        let (world, team, _agent, _) = world(&container).await;
        let (sender, _driver) = caller(&world).await;
        let sender = sender.ready().await.unwrap();
        for ends in [true, false] {
            let (future, mut stream) = sender.clone().send_request(request("POST", &team.key), ends).unwrap();
            assert_eq!(within("the request at the container", tells.recv()).await, Some(Told::Came));
            let response = match begins {
                true => Some(within("an answer", future).await.unwrap()),
                false => {
                    drop(future);
                    None
                }
            };
            stream.send_reset(Reason::CANCEL);
            let end = within("the container is told", tells.recv()).await;
            assert_eq!(end, Some(Told::Reset(Reason::CANCEL)), "begun: {begins}, sent: {ends}");
            drop(response);
        }
        // Others on the same connection are not touched by that.
        assert_eq!(container.accepted(), 1);

        let mut raw = world.caller().await;
        let line = "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\n";
        raw.send(format!("{line}Authorization: Bearer {}\r\n\r\n", team.key)).await;
        assert_eq!(within("the request at the container", tells.recv()).await, Some(Told::Came));
        if begins {
            within("the head", raw.head()).await.unwrap();
        }
        raw.socket.set_zero_linger().unwrap();
        drop(raw);
        assert_eq!(within("the container is told", tells.recv()).await, Some(Told::Reset(Reason::CANCEL)));
    }
}

#[tokio::test]
async fn what_was_refused_is_sent_again_whatever_it_is() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let container = container(move |(request, mut respond), number| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            match first {
                true => respond.send_reset(Reason::REFUSED_STREAM),
                false => echo((request, respond), number).await,
            }
        }
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let mut raw = world.caller().await;
    let line = "POST /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n";
    raw.send(format!("{line}Authorization: Bearer {}\r\n\r\nhi", team.key)).await;
    let seen = raw.answer().await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert!(seen.text().ends_with("\nhi"));
    assert_eq!(count.load(Ordering::SeqCst), 2);

    // Any other reset is not.
    let container = container_resetting(Reason::INTERNAL_ERROR).await;
    let (world, team, _agent, _) = crate::h2c::world(&container).await;
    let mut raw = world.caller().await;
    raw.send(format!("{line}Authorization: Bearer {}\r\n\r\nhi", team.key)).await;
    let seen = raw.answer().await;
    assert_eq!((seen.status, seen.header("x-should-retry")), (502, Some("false")));
    assert!(seen.text().contains("reset the request"), "{}", seen.text());
}

async fn container_resetting(reason: Reason) -> Container {
    container(move |(_, mut respond), _| async move { respond.send_reset(reason) }).await
}

#[tokio::test]
async fn a_connection_that_says_goodbye_gets_no_more_requests() {
    let container = Container::start(|exchange, number| async move {
        let mut connection = server::handshake(exchange.socket).await.map_err(std::io::Error::other)?;
        let mut requests = JoinSet::new();
        while let Some(Ok(got)) = connection.accept().await {
            requests.spawn(echo(got, number));
            connection.graceful_shutdown();
        }
        Ok(())
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let mut raw = world.caller().await;
    for _ in 0..5 {
        let line = "POST /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n";
        raw.send(format!("{line}Authorization: Bearer {}\r\n\r\nhi", team.key)).await;
        let seen = raw.answer().await;
        assert_eq!(seen.status, 200, "{}", seen.text());
    }
    assert!(container.accepted() >= 2);
}

#[tokio::test]
async fn a_container_gets_no_more_at_a_time_on_a_connection_than_it_takes() {
    let (seen, go) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(1));
    let (count, wait) = (Arc::clone(&seen), go.subscribe());
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(2);
    let container = container_with(builder, move |(_, mut respond), _| {
        let (number, mut wait) = (count.fetch_add(1, Ordering::SeqCst) + 1, wait.clone());
        async move {
            wait.wait_for(|answered| *answered >= number).await.unwrap();
            respond.send_response(answer(200), true).unwrap();
        }
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let (sender, _driver) = caller(&world).await;
    let ask = |sender: SendRequest<Bytes>| {
        let key = team.key.clone();
        async move {
            let (future, _) = sender.ready().await.unwrap().send_request(request("POST", &key), true).unwrap();
            future.await.unwrap().status()
        }
    };
    assert_eq!(within("one", ask(sender.clone())).await, 200);
    let mut all = JoinSet::new();
    for _ in 0..6 {
        all.spawn(ask(sender.clone()));
    }
    wait_until("six at a time", || seen.load(Ordering::SeqCst) == 7).await;
    assert_eq!(container.accepted(), 3, "two on each of three");
    go.send_replace(7);
    assert_eq!(within("six", all.join_all()).await, [200; 6]);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_stops_no_other_and_is_not_kept() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let container = container(move |(request, mut respond), number| {
        let sent = Arc::clone(&counted);
        async move {
            if request.method() == "POST" {
                return echo((request, respond), number).await;
            }
            let mut stream = respond.send_response(answer(200), false).unwrap();
            loop {
                stream.reserve_capacity(16 << 10);
                let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                sent.fetch_add(room as u64, Ordering::SeqCst);
                stream.send_data(vec![0; room].into(), false).unwrap();
            }
        }
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let mut stalled = Vec::new();
    for _ in 0..5 {
        let mut raw: RawCaller = world.caller().await;
        let line = "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\n";
        raw.send(format!("{line}Authorization: Bearer {}\r\n\r\n", team.key)).await;
        raw.head().await.unwrap();
        stalled.push(raw);
    }
    let taken = settled(&sent).await;
    assert!(taken < 5 * (12 << 20), "{taken} bytes were taken from it");
    let mut raw = world.caller().await;
    let line = "POST /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n";
    raw.send(format!("{line}Authorization: Bearer {}\r\n\r\nhi", team.key)).await;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(container.accepted(), 1);
}

#[tokio::test]
async fn one_that_speaks_something_else_is_told_apart() {
    let container = Container::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let (world, team, _agent, _) = world(&container).await;
    let mut raw = world.caller().await;
    let line = "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\n";
    raw.send(format!("{line}Authorization: Bearer {}\r\n\r\n", team.key)).await;
    let seen = raw.answer().await;
    assert_eq!((seen.status, seen.json()["error_code"].as_str()), (502, Some("upstream_protocol_error")));
    assert!(seen.text().contains("h2c"), "{}", seen.text());
}

#[tokio::test]
async fn a_cut_answer_does_not_look_complete() {
    let cut = Arc::new(Notify::new());
    let wait = Arc::clone(&cut);
    let container = container(move |(_, mut respond), _| {
        let wait = Arc::clone(&wait);
        async move {
            let mut stream = respond.send_response(answer(200), false).unwrap();
            stream.send_data(Bytes::from_static(b"some"), false).unwrap();
            wait.notified().await;
            stream.send_reset(Reason::NO_ERROR);
        }
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let mut raw = world.caller().await;
    let line = "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\n";
    raw.send(format!("{line}Authorization: Bearer {}\r\n\r\n", team.key)).await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    assert_eq!(raw.chunk().await.unwrap().unwrap(), b"some");
    cut.notify_one();
    within("the cut", raw.chunk()).await.unwrap_err();

    let (sender, _driver) = caller(&world).await;
    let (future, _) = sender.ready().await.unwrap().send_request(request("GET", &team.key), true).unwrap();
    let mut body = within("an answer", future).await.unwrap().into_body();
    cut.notify_one();
    within("the cut", read(&mut body)).await.unwrap_err();
}

#[tokio::test]
async fn interim_answers_of_it_reach_callers_of_http_1() {
    let container = container(|(request, mut respond), number| async move {
        let mut hints = answer(103);
        hints.headers_mut().insert("link", HeaderValue::from_static("</style.css>"));
        respond.send_informational(hints).unwrap();
        echo((request, respond), number).await;
    })
    .await;
    let (world, team, _agent, _) = world(&container).await;
    let mut raw = world.caller().await;
    let line = "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: a\r\n";
    raw.send(format!("{line}Authorization: Bearer {}\r\n\r\n", team.key)).await;
    let hints = raw.head().await.unwrap();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</style.css>")));
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn a_lost_key_ends_what_it_has_in_flight() {
    let (told, mut tells) = mpsc::channel(8);
    let container = container(move |got, _| until_reset(got, true, told.clone())).await;
    let (world, team, _agent, _) = world(&container).await;
    let (sender, _driver) = caller(&world).await;
    let (future, _) = sender.ready().await.unwrap().send_request(request("POST", &team.key), true).unwrap();
    let mut body = within("an answer", future).await.unwrap().into_body();
    body.data().await.unwrap().unwrap();
    world.revoke(&team.key);
    assert_eq!(within("the request at the container", tells.recv()).await, Some(Told::Came));
    assert_eq!(within("the container is told", tells.recv()).await, Some(Told::Reset(Reason::CANCEL)));
    within("the cut", read(&mut body)).await.unwrap_err();
}

#[tokio::test]
async fn grpc_callers_name_the_service_in_a_field_and_can_read_errors() {
    let container = container(echo).await;
    let (world, team, _agent, service) = world(&container).await;
    let (sender, _driver) = caller(&world).await;
    let ask = |slug: &'static str, key: &str| {
        let asked = Request::builder()
            .method("POST")
            .uri("http://gateway.test/demo.Greeter/Hello")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-towline-service", slug)
            .header("authorization", format!("Bearer {key}"))
            .body(())
            .unwrap();
        let sender = sender.clone();
        async move {
            let (future, _) = sender.ready().await.unwrap().send_request(asked, true).unwrap();
            within("an answer", future).await.unwrap()
        }
    };
    let mut answered = ask("hello", &team.key).await;
    let text = String::from_utf8(read(answered.body_mut()).await.unwrap().0).unwrap();
    assert!(text.starts_with("POST http://localhost:8080/demo.Greeter/Hello\n"), "{text}");
    assert!(text.contains("\nte: trailers") && !text.contains("x-forwarded-prefix"), "{text}");

    world.change(service, |route| route.instances.clear());
    for (slug, key, status, token) in [
        ("hello", &*team.key, "14", "destination_unavailable"),
        ("jello", &*team.key, "5", "destination_not_found"),
        ("hello", "sk-mistyped", "16", "http_request_denied"),
    ] {
        let answered = ask(slug, key).await;
        assert_eq!(answered.status(), 200, "{slug}");
        let headers = answered.headers();
        assert_eq!(
            (&headers["content-type"], &headers["grpc-status"]),
            (&"application/grpc".parse().unwrap(), &HeaderValue::from_static(status)),
            "{slug}"
        );
        assert!(headers["grpc-message"].len() > 20 && headers.contains_key("x-request-id"), "{headers:?}");
        assert!(headers["proxy-status"].to_str().unwrap().contains(token), "{headers:?}");
        assert!(answered.body().is_end_stream());
    }
    wait_until("nothing is in flight", || world.gateway.in_flight(service) == 0).await;
}
