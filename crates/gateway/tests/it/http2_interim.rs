//! Interim answers (RFC 9110 §15.2) to callers of HTTP/2 (RFC 9113 §8.1): those of containers of either protocol, and those
//! of the gateway where it reads a body itself.

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response};
use towline_gateway::testing::{Container, World, wait_until, within};
use towline_model::service::AppProtocol;

use crate::{
    containers::{continuing, hinting, refusing_to_continue},
    http2_client::{Client, interim, read, request},
};

#[tokio::test]
async fn a_containers_interim_answers_are_passed_on() {
    let container = Container::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nLink: </y>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\nHTTP/1.1 102 Busy\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    )
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    for _ in 0..2 {
        let (mut answer, _) = client.send(request("GET", &team.key).body(()).unwrap(), true).await;
        let hints = interim(&mut answer).await.unwrap();
        assert_eq!((hints.status().as_u16(), hints.headers().len()), (103, 2), "{hints:?}");
        assert_eq!(hints.headers().get_all("link").iter().collect::<Vec<_>>(), ["</x>", "</y>"]);
        let busy = interim(&mut answer).await.unwrap();
        assert_eq!((busy.status().as_u16(), busy.headers().len()), (102, 0), "{busy:?}");
        assert!(interim(&mut answer).await.is_none());
        let mut answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(read(answer.body_mut()).await.unwrap(), b"hi");
    }
}

#[tokio::test]
async fn those_that_come_at_once_all_come_through() {
    const HINTS: usize = 300;
    let container = hinting(HINTS).await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    let (mut answer, _) = client.send(request("GET", &team.key).body(()).unwrap(), true).await;
    for _ in 0..HINTS {
        assert_eq!(interim(&mut answer).await.unwrap().status(), 103);
    }
    assert!(interim(&mut answer).await.is_none());
    let mut answer = within("the answer", answer).await.unwrap();
    assert_eq!(read(answer.body_mut()).await.unwrap(), b"hi");
}

#[tokio::test]
async fn those_of_an_http_2_container_too() {
    let container = Container::start(|exchange, _| async move {
        let Ok(mut connection) = h2::server::handshake(exchange.socket).await else { return Ok(()) };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut hints = Response::builder().status(103).body(()).unwrap();
            hints.headers_mut().insert("link", HeaderValue::from_static("</x>"));
            respond.send_informational(hints).unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"hi"), true).unwrap();
        }
        Ok(())
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    world.change(service, |route| route.protocol = AppProtocol::H2c);
    let client = Client::connect(&world).await;
    let (mut answer, _) = client.send(request("GET", &team.key).body(()).unwrap(), true).await;
    let hints = interim(&mut answer).await.unwrap();
    assert_eq!((hints.status().as_u16(), &hints.headers()["link"]), (103, &HeaderValue::from_static("</x>")));
    assert!(interim(&mut answer).await.is_none());
    let mut answer = within("the answer", answer).await.unwrap();
    assert_eq!(read(answer.body_mut()).await.unwrap(), b"hi");
}

#[tokio::test]
async fn the_containers_go_ahead_is_passed_on_and_nobody_elses() {
    // RFC 9110 §10.1.1.
    let container = continuing().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    let asking = request("POST", &team.key).header("expect", "100-continue").header("content-length", "4");
    let (mut answer, mut body) = client.send(asking.body(()).unwrap(), false).await;
    let go_ahead = interim(&mut answer).await.unwrap();
    assert_eq!((go_ahead.status().as_u16(), go_ahead.headers()["said-by"].to_str().unwrap()), (100, "the container"));
    body.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert!(interim(&mut answer).await.is_none(), "it is said once");
    let mut answer = within("the answer", answer).await.unwrap();
    assert_eq!(read(answer.body_mut()).await.unwrap(), b"body");
}

#[tokio::test]
async fn a_refusal_comes_instead_of_the_go_ahead() {
    let container = refusing_to_continue().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    let asking = request("POST", &team.key).header("expect", "100-continue").header("content-length", "4");
    let (mut answer, _body) = client.send(asking.body(()).unwrap(), false).await;
    assert!(interim(&mut answer).await.is_none());
    let mut answer = within("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 417);
    assert_eq!(read(answer.body_mut()).await.unwrap(), b"no");
}

#[tokio::test]
async fn where_the_gateway_reads_the_body_it_asks_for_it() {
    // RFC 9110 §10.1.1: an invoke is answered here.
    let container = Container::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    for expects in [true, false] {
        let mut asking = Request::post("http://gateway.test/api/v1/r/invoke/hello")
            .header("authorization", format!("Bearer {}", team.key))
            .header("content-type", "application/json");
        if expects {
            asking = asking.header("expect", "100-continue");
        }
        let (mut answer, mut body) = client.send(asking.body(()).unwrap(), false).await;
        if expects {
            assert_eq!(interim(&mut answer).await.unwrap().status(), 100);
        }
        body.send_data(Bytes::from_static(br#"{"method": "GET", "path": "/"}"#), true).unwrap();
        assert!(interim(&mut answer).await.is_none(), "no more than one, and none that was not asked for");
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn interim_answers_without_an_end_hold_nobody_up() {
    let container = Container::start(|mut exchange, _| async move {
        let head = exchange.head().await?.unwrap();
        if head.contains("x-endless") {
            let many = "HTTP/1.1 102 Processing\r\nX-Filler: 0123456789\r\n\r\n".repeat(1000);
            loop {
                exchange.write(&many).await?;
            }
        }
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, service) = world.hello(&container).await;
    let client = Client::connect(&world).await;
    let endless = request("GET", &team.key).header("x-endless", "1").body(()).unwrap();
    let (mut flooded, _) = client.send(endless, true).await;
    for _ in 0..5000 {
        assert_eq!(interim(&mut flooded).await.unwrap().status(), 102);
    }
    let (answer, _) = client.send(request("GET", &team.key).body(()).unwrap(), true).await;
    let mut answer = within("the other answer", answer).await.unwrap();
    assert_eq!(read(answer.body_mut()).await.unwrap(), b"hi");
    assert!(flooded.now_or_never().is_none(), "it goes on");
    wait_until("the end of what nobody waits for", || world.gateway.in_flight(service) == 0).await;
}
