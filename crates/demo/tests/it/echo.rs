//! `/echo` shows the bytes of a request.

use serde_json::{Value, json};

use crate::support::{Answer, Server, sha256};

async fn echo(request: &str) -> Value {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write(request).await;
    let answer = Answer::parse(&caller.read_to_end().await);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn the_target_is_what_was_sent() {
    for target in [
        "/echo",
        "/echo?",
        "/echo/a%2Fb/../c//?x=%zz&&y",
        "/echo/./%2e%2E/%00?a=b?c=d&e",
        "/echo//double//slashes//",
        "/echo/{curly}|pipe\\back^caret\"quote",
        "/echo/fragment?q#f",
        "/echo/é",
        "http://demo/echo/absolute",
    ] {
        let echo = echo(&format!("GET {target} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(echo["target"], target);
        assert_eq!(echo["method"], "GET");
    }
}

#[tokio::test]
async fn fields_keep_their_case_order_and_repeats() {
    let request = "PATCH /echo HTTP/1.1\r\nHost: demo\r\nX-B: 1\r\nx-a: 2\r\nX-b:3  \r\nCookie: a=1\r\ncookie: b=2\r\n\
                   X-Empty:\r\nConnection: close\r\n\r\n";
    assert_eq!(
        echo(request).await,
        json!({
            "method": "PATCH",
            "target": "/echo",
            "headers": [
                ["Host", "demo"], ["X-B", "1"], ["x-a", "2"], ["X-b", "3"], ["Cookie", "a=1"], ["cookie", "b=2"],
                ["X-Empty", ""], ["Connection", "close"],
            ],
            "body_length": 0,
            "body_sha256": sha256(b""),
        })
    );
}

#[tokio::test]
async fn bodies_are_measured_however_they_are_framed() {
    let sized = "POST /echo HTTP/1.1\r\nHost: demo\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let chunked = "POST /echo HTTP/1.1\r\nHost: demo\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close\r\n\r\n\
                   2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\nx-sum: 42\r\n\r\n";
    for request in [sized, chunked] {
        let echo = echo(request).await;
        assert_eq!(echo["body_length"], 5);
        assert_eq!(echo["body_sha256"], sha256(b"hello"));
    }
    assert_eq!(echo(chunked).await["trailers"], json!([["x-sum", "42"]]));
    assert_eq!(echo(sized).await.get("trailers"), None);
}

#[tokio::test]
async fn any_method_is_taken() {
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PROPFIND", "X-OWN"] {
        let echo = echo(&format!("{method} /echo/x HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(echo["method"], method);
    }
}

#[tokio::test]
async fn each_request_of_a_connection_gets_its_own_head() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller
        .write(
            "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET GET /nothing HTTP/1.1\r\nHost: b\r\n\r\n\
             POST /echo/third HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n\
             GET /echo/fourth HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n",
        )
        .await;
    let answers = String::from_utf8(caller.read_to_end().await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 404").count(), 1, "{answers}");
    assert!(answers.contains(r#""target":"/echo/third","headers":[["Host","c"],"#), "{answers}");
    assert!(answers.contains(r#""target":"/echo/fourth","headers":[["Host","d"],"#), "{answers}");
}

#[tokio::test]
async fn a_declined_upgrade_does_not_lose_the_next_head() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller.write("GET /echo/1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
    caller.read_until("\"target\":\"/echo/1\"").await;
    caller.write("GET /echo/2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    caller.read_until("\"target\":\"/echo/2\"").await;
}

#[tokio::test]
async fn expect_continue_is_answered_before_the_body_is_sent() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    caller
        .write(
            "PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(caller.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    caller.write("hi").await;
    assert_eq!(Answer::parse(&caller.read_to_end().await).json()["body_sha256"], sha256(b"hi"));
}
