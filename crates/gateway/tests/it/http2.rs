//! Callers of HTTP/2 with prior knowledge.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};
use towline_gateway::testing::{Container, World, wait_until, within};

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A caller's HTTP/2 connection.
struct Caller {
    sender: SendRequest<Body>,
    _driver: JoinSet<()>,
}

impl Caller {
    async fn connect(world: &World) -> Self {
        let socket = TcpStream::connect(world.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
        let (sender, connection) = within("the handshake", handshake).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { sender, _driver: driver }
    }

    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        within("an answer", self.sender.send_request(request)).await
    }
}

fn request(key: &str) -> http::request::Builder {
    Request::builder()
        .uri("http://gateway.test:7070/api/v1/r/containers/hello/a?b")
        .version(Version::HTTP_2)
        .header("authorization", format!("Bearer {key}"))
}

fn empty() -> Body {
    Empty::new().boxed()
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = within("the body", response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_of_http_2_becomes_one_of_http_1() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = Caller::connect(&world).await;
    let sent = request(&team.key)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-request-id", "my-id")
        .body(empty())
        .unwrap();
    let answer = caller.send(sent).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    assert_eq!(answer.headers()["x-towline-request-id"], "my-id");
    assert!(!answer.headers().contains_key("date"));
    let seen = text(answer).await;
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\n"), "{seen}");
    for line in [
        "host: localhost:8080",
        "cookie: a=1; b=2",
        "te: trailers",
        "via: 2 towline",
        "x-forwarded-host: gateway.test:7070",
        "forwarded: for=127.0.0.1;host=\"gateway.test:7070\";proto=http",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    assert!(!seen.contains("transfer-encoding") && !seen.contains("content-length"), "{seen}");
}

#[tokio::test]
async fn bodies_pass_with_and_without_a_length() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = Caller::connect(&world).await;
    let body = Full::new(Bytes::from("hello")).boxed();
    let sent = request(&team.key).method("POST").header("content-length", "5").body(body).unwrap();
    let seen = text(caller.send(sent).await.unwrap()).await;
    assert!(seen.contains("content-length: 5") && seen.ends_with("\r\n\r\nhello"), "{seen}");

    let (send, frames) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(4);
    for part in ["he", "llo"] {
        send.send(Ok(Frame::data(Bytes::from(part)))).await.unwrap();
    }
    drop(send);
    let body = StreamBody::new(tokio_stream(frames)).boxed();
    let sent = request(&team.key).method("POST").body(body).unwrap();
    let seen = text(caller.send(sent).await.unwrap()).await;
    assert!(seen.contains("transfer-encoding: chunked") && seen.contains("\r\nhe\r\n"), "{seen}");
}

fn tokio_stream<T: Send + 'static>(
    mut receiver: mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = T> + Send + Sync {
    futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))
}

#[tokio::test]
async fn trailers_arrive_without_being_announced() {
    let container = Container::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nGrpc-Status: 0\r\nGrpc-Message: fine\r\n\r\n",
    )
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = Caller::connect(&world).await;
    let answer = caller.send(request(&team.key).body(empty()).unwrap()).await.unwrap();
    let collected = within("the body", answer.into_body().collect()).await.unwrap();
    let trailers: HeaderMap = collected.trailers().cloned().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"0".parse().unwrap(), &"fine".parse().unwrap())
    );
    assert_eq!(collected.to_bytes(), "hi");
}

#[tokio::test]
async fn answers_without_a_body_end_at_once() {
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
    ] {
        let container = Container::answering(answer).await;
        let world = World::start().await;
        let (team, _agent, _) = world.hello(&container).await;
        let mut caller = Caller::connect(&world).await;
        for _ in 0..2 {
            let answer = caller.send(request(&team.key).method(method).body(empty()).unwrap()).await.unwrap();
            let found = answer.headers().get("content-length").map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(found.as_deref(), length, "{method}");
            assert_eq!(text(answer).await, "");
        }
        assert_eq!(container.accepted(), 1);
    }
}

#[tokio::test]
async fn a_cut_answer_resets_its_stream_and_no_other() {
    let container = Container::start(|mut exchange, number| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await?;
        if number == 0 { Ok(()) } else { exchange.write("world").await }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = Caller::connect(&world).await;
    // The reset may overtake the head.
    if let Ok(cut) = caller.send(request(&team.key).body(empty()).unwrap()).await {
        assert!(within("the cut", cut.into_body().collect()).await.is_err());
    }
    let whole = caller.send(request(&team.key).body(empty()).unwrap()).await.unwrap();
    assert_eq!(text(whole).await, "helloworld");
}

#[tokio::test]
async fn a_cancelled_stream_is_seen_by_the_container() {
    let (ends, mut wait) = mpsc::channel(4);
    let container = Container::start(move |mut exchange, number| {
        let ends = ends.clone();
        async move {
            exchange.head().await?;
            if number == 1 {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await?;
            }
            ends.send(exchange.ended().await.is_err()).await.unwrap();
            Ok(())
        }
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let mut caller = Caller::connect(&world).await;
    {
        let waiting = caller.sender.send_request(request(&team.key).body(empty()).unwrap());
        tokio::select! {
            _ = waiting => panic!("there is no answer"),
            () = wait_until("the request at the container", || container.accepted() == 1) => {}
        }
    }
    assert!(within("the end at the container", wait.recv()).await.unwrap());
    let streaming = caller.send(request(&team.key).body(empty()).unwrap()).await.unwrap();
    drop(streaming);
    assert!(within("the end at the container", wait.recv()).await.unwrap());
    wait_until("nothing in flight", || world.gateway.in_flight(service) == 0).await;
}

#[tokio::test]
async fn errors_are_the_same_as_on_http_1() {
    let world = World::start().await;
    let team = world.team();
    let mut caller = Caller::connect(&world).await;
    let answer = caller.send(request(&team.key).body(empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 404);
    assert!(answer.headers().contains_key("proxy-status") && answer.headers().contains_key("date"));
    let upgrade = Request::builder()
        .uri("http://gateway.test/api/v1/agent/session")
        .version(Version::HTTP_2)
        .header("authorization", format!("Bearer {}", team.agent_key))
        .body(empty())
        .unwrap();
    assert_eq!(caller.send(upgrade).await.unwrap().status(), 426);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_streams_share_a_connection() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let caller = Caller::connect(&world).await;
    let mut streams = JoinSet::new();
    for number in 0..50 {
        let mut sender = caller.sender.clone();
        let body = Full::new(Bytes::from(vec![b'x'; 20_000])).boxed();
        let sent = request(&team.key).method("POST").header("x-number", number).body(body).unwrap();
        streams.spawn(async move {
            let answer = sender.send_request(sent).await.unwrap();
            let seen = text(answer).await;
            assert!(seen.contains(&format!("x-number: {number}\r\n")));
        });
    }
    within("all streams", streams.join_all()).await;
}
