//! Answers that take time, and connections that become something else.

use futures_util::{SinkExt, StreamExt};
use http::{Method, header::AUTHORIZATION};
use serde_json::json;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use towline_e2e::{
    sse::EventStream,
    wait::{SOON, wait_until},
};

use super::Running;

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what} did not come within {SOON:?}"))
}

/// The order of events is the proof, not the clock: the second event is ten minutes away when the first one is here.
#[tokio::test]
async fn an_event_is_here_before_the_next_one_is_made() {
    let running = Running::start(1).await;
    let request = running.api.request(Method::GET, "/r/containers/hello/sse?n=2&interval_ms=600000");
    let response = soon("the head", request.send()).await.unwrap();
    assert!(response.headers().contains_key("x-towline-request-id"));
    let mut events = EventStream::new(response);
    let first = soon("the first event", events.next()).await.unwrap().unwrap();
    assert_eq!(first.json()["n"], 1);
}

#[tokio::test]
async fn events_keep_their_order_and_the_stream_its_end() {
    let running = Running::start(1).await;
    let request = running.api.request(Method::GET, "/r/containers/hello/sse?n=50&interval_ms=1");
    let mut events = EventStream::new(request.send().await.unwrap());
    let mut numbers = Vec::new();
    while let Some(event) = soon("the next event", events.next()).await.unwrap() {
        numbers.push(event.json()["n"].as_u64().unwrap());
    }
    assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_request_at_the_container() {
    let running = Running::start(1).await;
    let request = running.api.request(Method::GET, "/r/containers/hello/sse?n=0&interval_ms=10&key=leaver");
    let mut events = EventStream::new(request.send().await.unwrap());
    soon("the first event", events.next()).await.unwrap().unwrap();
    drop(events);
    wait_until("the container has seen the caller go", SOON, async || {
        let seen = running.api.get("/r/containers/hello/disconnects?key=leaver").await.expect(200);
        if seen["count"] == 1 { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_chat_streams_token_by_token() {
    let running = Running::start(1).await;
    let body = json!({
        "model": "towline-demo", "stream": true, "delay_ms": 1, "messages": [{"role": "user", "content": "one two three"}],
    });
    let request = running.api.request(Method::POST, "/r/containers/hello/v1/chat/completions").json(&body);
    let mut events = EventStream::new(request.send().await.unwrap());
    let mut text = String::new();
    loop {
        let event = soon("the next token", events.next()).await.unwrap().expect("[DONE] comes before the end");
        if event.data == "[DONE]" {
            break;
        }
        text += event.json()["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(text, "You said: one two three");
    assert!(events.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_websocket_carries_messages_both_ways_and_its_close() {
    let running = Running::start(1).await;
    let url = format!("ws://{}/api/v1/r/containers/hello/ws", running.api.address());
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {}", running.api.bearer()).parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "chat.v2, chat.v1".parse().unwrap());
    let (mut socket, response) = connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
    assert!(response.headers().contains_key("x-towline-request-id"));
    let large: Vec<u8> = (0..3 << 20).map(|index: u32| (index % 251) as u8).collect();
    for message in [Message::text("hello"), Message::text(""), Message::binary(large), Message::text("ünï \u{1f6a2}")]
    {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(soon("the pong", socket.next()).await.unwrap().unwrap(), Message::Pong("are you there".into()));
    let farewell = CloseFrame { code: CloseCode::Library(4001), reason: "done".into() };
    socket.close(Some(farewell.clone())).await.unwrap();
    assert_eq!(soon("the close", socket.next()).await.unwrap().unwrap(), Message::Close(Some(farewell)));
    assert!(soon("the end", socket.next()).await.is_none());
}

#[tokio::test]
async fn a_websocket_needs_a_credential_and_a_running_service() {
    let running = Running::start(1).await;
    for (slug, key, status) in [("hello", "sk-nonsense", 401), ("jello", running.api.bearer(), 404)] {
        let url = format!("ws://{}/api/v1/r/containers/{slug}/ws", running.api.address());
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert(AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        let error = connect_async(request).await.expect_err("no socket without a right to it");
        let tokio_tungstenite::tungstenite::Error::Http(response) = error else { panic!("{error}") };
        assert_eq!(response.status(), status);
    }
}

/// Any other protocol after an `Upgrade`: bytes both ways, and each side closes its own half.
#[tokio::test]
async fn an_upgraded_connection_is_a_byte_pipe_with_two_halves() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = Running::start(1).await;
    let mut socket = tokio::net::TcpStream::connect(running.api.address()).await.unwrap();
    let request = format!(
        "GET /api/v1/r/containers/hello/upgrade?digest=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Connection: Upgrade\r\nUpgrade: bytes\r\n\r\n",
        running.api.bearer()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the head", socket.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let sent: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8).collect();
    socket.write_all(&sent).await.unwrap();
    // The container answers only after it has seen the end of what was sent.
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon("the answer after the half-close", socket.read_to_end(&mut answer)).await.unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &sent);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains(&hex), "{answer}");
}
