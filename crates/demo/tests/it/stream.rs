//! Bodies that take time, in both directions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use sha2::Digest as _;

use crate::support::{Answer, Server, pattern, sha256};

#[tokio::test]
async fn bytes_have_a_length_unless_asked_not_to() {
    let server = Server::start().await;
    let sized = server.get("/bytes?n=1000&chunk=77").await;
    assert_eq!(sized.header("content-length"), Some("1000"));
    assert_eq!(sized.body, pattern(1000));
    let chunked = server.get("/bytes?n=1000&chunk=77&chunked=1").await;
    assert_eq!(chunked.header("content-length"), None);
    assert_eq!(chunked.body, pattern(1000));
    assert_eq!(server.get("/bytes?n=0").await.header("content-length"), Some("0"));
    assert!(server.get("/bytes?n=0&chunked=1").await.body.is_empty());
    let head = server.send("HEAD", "/bytes?n=70000", b"").await;
    assert_eq!(head.header("content-length"), Some("70000"));
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_chunk_is_sent_before_the_next_one_is_made() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write("GET /bytes?n=20&chunk=10&delay_ms=600000&chunked=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    caller.read_until("\r\n\r\n").await;
    assert_eq!(caller.read_exact(3).await, b"A\r\n");
    assert_eq!(caller.read_exact(10).await, pattern(10));
    assert_eq!(caller.read_exact(2).await, b"\r\n");
}

#[tokio::test]
async fn chunks_without_a_delay_stay_chunks() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write("GET /bytes?n=4&chunk=1&chunked=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    caller.read_until("\r\n\r\n").await;
    assert_eq!(caller.read_to_end().await, b"1\r\n\0\r\n1\r\n\x01\r\n1\r\n\x02\r\n1\r\n\x03\r\n0\r\n\r\n");
}

#[tokio::test]
async fn uploads_are_measured() {
    let server = Server::start().await;
    let body = pattern(3_000_000);
    let answer = server.send("PUT", "/upload", &body).await.json();
    assert_eq!(answer["body_length"], 3_000_000);
    assert_eq!(answer["body_sha256"], sha256(&body));
    assert_eq!(server.send("POST", "/upload?delay_ms=1", &pattern(70_000)).await.json()["body_length"], 70_000);
    let counted = server.send("POST", "/upload?digest=0", &pattern(70_000)).await.json();
    assert_eq!(counted, serde_json::json!({ "body_length": 70_000 }));
}

#[tokio::test]
async fn events_have_ids_and_times() {
    let server = Server::start().await;
    let answer = server.get("/sse?n=3&interval_ms=1").await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events: Vec<&str> = answer.text().split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3);
    for (index, event) in events.iter().enumerate() {
        let data = event.strip_prefix(&format!("id: {}\nevent: tick\ndata: ", index + 1)).unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["n"], index + 1);
        assert!(data["sent_at_us"].as_u64().unwrap() > 1_600_000_000_000_000);
    }
}

#[tokio::test]
async fn an_event_source_continues_and_is_told_the_end() {
    let server = Server::start().await;
    for (last, expected) in [("1", "id: 2\n"), ("3", "HTTP/1.1 204 No Content\r\n")] {
        let mut caller = server.connect().await;
        let head = format!("GET /sse?n=3&interval_ms=600000 HTTP/1.1\r\nHost: a\r\nLast-Event-ID: {last}\r\n\r\n");
        caller.write(head).await;
        caller.read_until(expected).await;
    }
}

#[tokio::test]
async fn trailers_come_when_they_are_asked_for() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write("GET /trailers?n=3 HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n").await;
    let head = caller.read_until("\r\n\r\n").await;
    assert!(head.contains("trailer: content-digest, x-demo-trailer\r\n"), "{head}");
    caller.read_until("3\r\n\0\u{1}\u{2}\r\n0\r\n").await;
    let trailers = String::from_utf8(caller.read_to_end().await).unwrap();
    let digest = BASE64.encode(sha2::Sha256::digest(pattern(3)));
    let expected = format!("content-digest: sha-256=:{digest}:\r\n");
    assert!(trailers.contains(&expected), "{trailers}");
    assert!(trailers.contains("x-demo-trailer: done\r\n"), "{trailers}");
    assert!(!String::from_utf8(server.get("/trailers?n=3").await.body).unwrap().contains("done"));
}

#[tokio::test]
async fn a_caller_that_leaves_is_counted_and_one_that_stays_is_not() {
    let server = Server::start().await;
    for (target, key) in [
        ("/slow?ms=600000&key=handler", "handler"),
        ("/sse?n=0&interval_ms=600000&key=events", "events"),
        ("/bytes?n=1000000000000&chunk=65536&key=bytes", "bytes"),
        ("/bytes?n=20&chunk=10&delay_ms=600000", "/bytes"),
    ] {
        let mut caller = server.connect().await;
        caller.write(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        server.wait_for_in_flight(1).await;
        drop(caller);
        server.wait_for_disconnects(key, 1).await;
        server.wait_for_in_flight(0).await;
    }
    let mut caller = server.connect().await;
    caller.write("POST /upload?key=upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    server.wait_for_in_flight(1).await;
    drop(caller);
    server.wait_for_disconnects("upload", 1).await;

    for target in
        ["/bytes?n=100000", "/bytes?n=5&chunked=1", "/sse?n=2&interval_ms=0", "/trailers", "/slow?ms=1", "/status/204"]
    {
        server.get(&format!("{target}{}key=stays", if target.contains('?') { '&' } else { '?' })).await;
    }
    server.send("HEAD", "/bytes?n=100000&key=stays", b"").await;
    server.wait_for_in_flight(0).await;
    assert_eq!(server.get("/disconnects?key=stays").await.json()["count"], 0);
}

#[tokio::test]
async fn a_caller_that_does_not_read_stops_the_server_and_only_itself() {
    let server = Server::start().await;
    let mut stalled = server.connect().await;
    stalled.write("GET /bytes?n=50000000&chunk=100000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    server.wait_for_in_flight(1).await;
    assert_eq!(server.get("/bytes?n=1000000").await.body.len(), 1_000_000);
    let answer = Answer::parse(&stalled.read_to_end().await);
    assert_eq!(answer.body.len(), 50_000_000);
    assert_eq!(sha256(&answer.body), sha256(&pattern(50_000_000)));
}
