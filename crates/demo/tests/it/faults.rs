//! The faults are exactly those that were asked for.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use towline_demo::{Config, Ended};

use crate::support::{Answer, Server, pattern};

async fn raw_answer(target: &str) -> std::io::Result<Vec<u8>> {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")).await;
    caller.try_read_to_end().await
}

#[tokio::test]
async fn statuses_with_and_without_a_body() {
    let server = Server::start().await;
    let teapot = server.get("/status/418?reason=short+and+stout").await;
    assert!(teapot.head.starts_with("HTTP/1.1 418 short and stout\r\n"), "{}", teapot.head);
    assert_eq!(teapot.json()["status"], 418);
    for code in [204, 205, 304] {
        let answer = server.get(&format!("/status/{code}")).await;
        assert_eq!(answer.status(), code);
        assert!(answer.body.is_empty());
    }
    assert_eq!(server.send("DELETE", "/status/599", b"").await.status(), 599);
    for wrong in ["/status/100", "/status/199", "/status/1000", "/status/x", "/status/", "/status/200?reason=%0d"] {
        assert_eq!(server.get(wrong).await.status(), 400, "{wrong}");
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_parameters_say_what_to_change() {
    let server = Server::start().await;
    assert_eq!(server.get("/nothing").await.status(), 404);
    let answer = server.get("/bytes?n=-1").await;
    assert_eq!(answer.status(), 400);
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("`n` must be a whole number"));
    assert_eq!(server.send("DELETE", "/bytes", b"").await.header("allow"), Some("GET"));
}

#[tokio::test]
async fn a_cut_answer_has_sent_what_it_promised_to_send() {
    for after in [0, 10, 1_000_000] {
        let bytes = raw_answer(&format!("/close?after={after}")).await.unwrap();
        let answer = Answer::parse(&bytes);
        assert_eq!(answer.header("content-length").unwrap(), (after + 1000).to_string());
        assert_eq!(answer.body, pattern(after));
    }
}

#[tokio::test]
async fn a_cut_chunked_answer_has_no_last_chunk() {
    let bytes = raw_answer("/close?mode=chunked&after=3").await.unwrap();
    assert!(bytes.ends_with(b"\r\n\r\n3\r\n\x00\x01\x02\r\n"), "{}", String::from_utf8_lossy(&bytes));
}

#[tokio::test]
async fn a_connection_may_end_without_an_answer_or_by_a_reset() {
    assert_eq!(raw_answer("/close?mode=head").await.unwrap(), b"");
    for target in ["/close?mode=head&reset=1", "/close?reset=1", "/close?mode=chunked&reset=1"] {
        let error = raw_answer(target).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{target}");
    }
    assert_eq!(Server::start().await.get("/close?mode=other").await.status(), 400);
}

#[tokio::test]
async fn what_dies_on_request_is_no_disconnect_and_every_delivery_counts() {
    let server = Server::start().await;
    for mode in ["length", "chunked", "head"] {
        let mut caller = server.connect().await;
        caller
            .write(format!("POST /close?mode={mode}&count=tries HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"))
            .await;
        caller.read_to_end().await;
    }
    assert_eq!(server.get("/count?key=tries").await.json()["count"], 3);
    assert_eq!(server.send("POST", "/count?key=tries", b"").await.json()["count"], 4);
    assert_eq!(server.get("/count?key=other").await.json()["count"], 0);
    server.wait_for_in_flight(0).await;
    assert_eq!(server.get("/disconnects").await.json()["total"], 0);
}

#[tokio::test]
async fn a_raw_answer_goes_out_unchecked() {
    let server = Server::start().await;
    let broken = b"HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc";
    let mut caller = server.connect().await;
    caller.write(format!("POST /raw HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", broken.len())).await;
    caller.write(broken).await;
    assert_eq!(caller.read_to_end().await, broken);
}

#[tokio::test]
async fn early_hints_come_before_the_answer() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write("GET /early-hints?delay_ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let hint = caller.read_until("\r\n\r\n").await;
    assert_eq!(hint, "HTTP/1.1 103 Early Hints\r\nLink: </style-0.css>; rel=preload; as=style\r\n\r\n");

    let mut caller = server.connect().await;
    caller.write("GET /early-hints?n=2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let bytes = String::from_utf8(caller.read_to_end().await).unwrap();
    assert_eq!(bytes.matches("HTTP/1.1 103").count(), 2);
    assert!(bytes.ends_with("\r\n\r\n{\"early_hints\":2}"), "{bytes}");
}

#[tokio::test]
async fn early_hints_wait_for_the_answer_before_them() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller
        .write(
            "GET /bytes?n=20000000 HTTP/1.1\r\nHost: a\r\n\r\n\
             GET /early-hints HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
    server.wait_for_in_flight(1).await;
    caller.read_until("\r\n\r\n").await;
    assert!(caller.read_exact(20_000_000).await == pattern(20_000_000), "the first answer has other bytes in it");
    caller.read_until("HTTP/1.1 103 Early Hints\r\n").await;
    caller.read_until("{\"early_hints\":1}").await;
}

#[tokio::test]
async fn health_is_late_and_then_what_was_set() {
    let server = Server::with(Config { health_delay: Duration::from_secs(600), ..Config::default() }).await;
    let answer = server.get("/health").await;
    assert_eq!((answer.status(), answer.text()), (503, "starting"));

    let server = Server::with(Config { health_status: 500, ..Config::default() }).await;
    assert_eq!(server.get("/health").await.status(), 500);
    assert_eq!(server.send("PUT", "/health?status=200", b"").await.status(), 200);
    let answer = server.get("/health").await;
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
}

#[tokio::test]
async fn exit_ends_the_server_without_an_answer() {
    let server = Server::start().await;
    let mut waiting = server.connect().await;
    waiting.write("GET /slow?ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.wait_for_in_flight(1).await;
    let mut caller = server.connect().await;
    caller.write("POST /exit?code=9 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    // The connection may end in order or by a reset: nobody waits for it.
    assert!(caller.try_read_to_end().await.unwrap_or_default().is_empty());
    assert_eq!(server.ended().await, Ended::Exit(9));
    assert_eq!(waiting.read_to_end().await, b"");
}

#[tokio::test]
async fn a_half_closed_caller_is_served_when_that_is_wanted() {
    let server = Server::with(Config { half_close: true, ..Config::default() }).await;
    let mut caller = server.connect().await;
    caller.write("GET /slow?ms=50 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    caller.socket.shutdown().await.unwrap();
    assert_eq!(Answer::parse(&caller.read_to_end().await).status(), 200);
}

#[tokio::test]
async fn the_server_describes_itself() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("<a href=\"bytes?n=1000&amp;chunk=100&amp;delay_ms=100\">/bytes</a>"));
    assert_eq!(server.get("/openapi.json").await.json()["openapi"], "3.1.0");
    let instance = server.get("/instance").await.json();
    assert_eq!(instance["pid"], std::process::id());
    assert!(!instance["hostname"].as_str().unwrap().is_empty());
    let env = server.get("/env").await.json();
    assert!(env["names"].as_array().unwrap().contains(&"PATH".into()));
    assert!(env["values"].as_object().unwrap().keys().all(|name| name.starts_with("DEMO_")));
}
