//! `Expect: 100-continue` from end to end (RFC 9110 §10.1.1): nobody says `100 Continue` before the container does.

use towline_gateway::testing::{Container, World, within};

use crate::containers::{continuing, hinting, refusing_to_continue};

fn head(key: &str) -> String {
    format!(
        "POST /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\
         Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    )
}

#[tokio::test]
async fn the_containers_go_ahead_is_passed_on() {
    let container = continuing().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(head(&team.key)).await;
    let interim = within("100", caller.head()).await.unwrap();
    assert_eq!(interim.status, 100);
    assert_eq!(interim.header("said-by"), Some("the container"), "nobody else says it");
    caller.send("body").await;
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
}

#[tokio::test]
async fn a_refusal_comes_instead_of_the_go_ahead() {
    let container = refusing_to_continue().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(head(&team.key)).await;
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (417, "no"));
    within("the end of the connection", caller.ended()).await.unwrap();
}

#[tokio::test]
async fn a_container_that_ignores_the_expectation_gets_its_body() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        let body = exchange.exactly(4).await?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await?;
        exchange.write(body).await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    caller.send(head(&team.key)).await;
    caller.send("body").await;
    let mut answer = within("an answer", caller.head()).await.unwrap();
    if answer.status == 100 {
        answer = within("an answer", caller.head()).await.unwrap();
    }
    assert_eq!(answer.status, 200);
    assert_eq!(caller.exactly(4).await.unwrap(), b"body");
}

#[tokio::test]
async fn other_interim_answers_are_passed_on() {
    // RFC 9110 §15.2: a proxy forwards them, as they are.
    let container = Container::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\nHTTP/1.1 102 Busy\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    )
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    for _ in 0..2 {
        let request = "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ";
        caller.send(format!("{request}{}\r\n\r\n", team.key)).await;
        let hints = within("103", caller.head()).await.unwrap();
        assert_eq!((hints.status, hints.lines), (103, vec!["Link: </x>".to_owned()]));
        let busy = within("102", caller.head()).await.unwrap();
        assert_eq!((busy.status, busy.lines.len()), (102, 0));
        let answer = caller.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
    }
    // A caller of HTTP/1.0 does not know them.
    let answer = world
        .call(format!("GET /api/v1/r/containers/hello/ HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", team.key))
        .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
    assert!(answer.header("link").is_none());
}

#[tokio::test]
async fn interim_answers_of_any_number_come_through() {
    // More than is read ahead or kept for a caller at any place on the way.
    const HINTS: usize = 2000;
    let container = hinting(HINTS).await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    let request = "GET /api/v1/r/containers/hello/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ";
    caller.send(format!("{request}{}\r\n\r\n", team.key)).await;
    for _ in 0..HINTS {
        assert_eq!(within("103", caller.head()).await.unwrap().status, 103);
    }
    let answer = caller.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
}
