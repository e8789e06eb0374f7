//! The same server on HTTP/2, without TLS and without an upgrade.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Server, pattern, sha256};

type Sender = SendRequest<Full<Bytes>>;

/// The connection ends with the second value.
async fn connect(server: &Server) -> (Sender, JoinSet<hyper::Result<()>>) {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    (sender, tasks)
}

async fn send(sender: &mut Sender, method: Method, target: &str, body: &str) -> Response<Incoming> {
    let uri = format!("http://demo{target}");
    let request = Request::builder().method(method).uri(uri).header("x-b", "1").header("x-a", "2");
    sender.send_request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap()
}

async fn json(response: Response<Incoming>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn echo_lists_what_http_2_has() {
    let server = Server::start().await;
    let (mut sender, _tasks) = connect(&server).await;
    let echo = json(send(&mut sender, Method::PUT, "/echo/a%2Fb//?x=%zz&&y", "hello").await).await;
    assert_eq!(echo["method"], "PUT");
    assert_eq!(echo["target"], "/echo/a%2Fb//?x=%zz&&y");
    assert_eq!(echo["headers"][0], json!([":authority", "demo"]));
    let headers = echo["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-b", "1"])) && headers.contains(&json!(["x-a", "2"])), "{headers:?}");
    assert_eq!(echo["body_sha256"], sha256(b"hello"));
}

#[tokio::test]
async fn bodies_and_trailers_arrive() {
    let server = Server::start().await;
    let (mut sender, _tasks) = connect(&server).await;
    let response = send(&mut sender, Method::GET, "/bytes?n=1000000", "").await;
    assert!(response.into_body().collect().await.unwrap().to_bytes() == pattern(1_000_000));
    let response = send(&mut sender, Method::GET, "/trailers", "").await;
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-demo-trailer"], "done");
}

#[tokio::test]
async fn a_cut_answer_resets_its_stream_and_no_other() {
    let server = Server::start().await;
    let (mut sender, _tasks) = connect(&server).await;
    let cut = send(&mut sender, Method::GET, "/close?after=10", "").await;
    let mut body = cut.into_body();
    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(data == pattern(10));
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(json(send(&mut sender, Method::GET, "/early-hints", "").await).await["early_hints"], 0);
}

#[tokio::test]
async fn a_stream_that_is_reset_is_a_disconnect() {
    let server = Server::start().await;
    let (mut sender, _tasks) = connect(&server).await;
    let response = send(&mut sender, Method::GET, "/sse?n=0&interval_ms=600000", "").await;
    server.wait_for_in_flight(1).await;
    drop(response);
    server.wait_for_disconnects("/sse", 1).await;
}
