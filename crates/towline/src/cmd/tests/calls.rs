//! Calls of a service.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;
use towline_model::ErrorCode;

use super::{Shell, until_printed};
use crate::client::test_server::{TestServer, answer, json, problem};

#[tokio::test]
async fn a_call_streams_what_arrives_when_it_arrives() {
    let (reader, mut writer) = tokio::io::duplex(64);
    let reader = Arc::new(Mutex::new(Some(reader)));
    let server = TestServer::start(move |_| {
        let reader = reader.lock().unwrap().take().unwrap();
        answer(200, "text/plain", Body::from_stream(ReaderStream::new(reader)))
    })
    .await;
    let (run, captured) = Shell::new(&server).start(&["call", "hello", "/sse"]);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(run);
    tokio::io::AsyncWriteExt::write_all(&mut writer, b"first").await.unwrap();
    until_printed(&captured, "first").await;
    tokio::io::AsyncWriteExt::write_all(&mut writer, b" second").await.unwrap();
    drop(writer);
    running.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(captured.data(), "first second");
}

#[tokio::test]
async fn a_call_sends_bodies_as_curl_does() {
    let server = TestServer::start(|_| json(200, &json!({}))).await;
    let shell = Shell::new(&server);
    let file = shell.file("body", "line 1\nline 2\n");
    let at = format!("@{file}");
    for (line, method, content_type, body) in [
        (vec!["call", "hello", "/"], "GET", "", ""),
        (vec!["call", "hello", "/", "-X", "DELETE"], "DELETE", "", ""),
        (vec!["call", "hello", "/", "-d", "a=1"], "POST", "application/x-www-form-urlencoded", "a=1"),
        (vec!["call", "hello", "/", "-d", &at], "POST", "application/x-www-form-urlencoded", "line 1line 2"),
        (
            vec!["call", "hello", "/", "--data-binary", &at, "-H", "Content-Type: x/y"],
            "POST",
            "x/y",
            "line 1\nline 2\n",
        ),
        (vec!["call", "hello", "/", "-X", "PUT", "--json", "{}"], "PUT", "application/json", "{}"),
    ] {
        shell.run(&line).await.result.unwrap();
        let seen = server.seen().pop().unwrap();
        let got = (seen.line.as_str(), seen.header("content-type"), String::from_utf8(seen.body.clone()).unwrap());
        assert_eq!(
            got,
            (format!("{method} /api/v1/r/containers/hello/").as_str(), content_type, body.to_owned()),
            "{line:?}"
        );
        if line.contains(&"--data-binary") {
            assert_eq!(seen.header("content-length"), "14");
        }
    }
}

#[tokio::test]
async fn an_error_of_towline_and_an_answer_of_the_service_are_told_apart() {
    let server = TestServer::start(|seen| {
        let mut response = problem(ErrorCode::NoReadyInstance, "hello is running but has no ready instance");
        if seen.line.ends_with("/gateway") {
            response.headers_mut().insert("proxy-status", "towline; error=destination_unavailable".parse().unwrap());
        }
        response
    })
    .await;
    let shell = Shell::new(&server);
    let done = shell.run(&["call", "hello", "/gateway"]).await;
    assert_eq!(done.failure().message(), "hello is running but has no ready instance");
    assert_eq!(done.data, "");
    let done = shell.run(&["call", "hello", "/container"]).await;
    done.result.unwrap();
    assert!(done.data.contains("no ready instance"));
    let done = shell.run(&["call", "hello", "/container", "--fail", "-i"]).await;
    assert_eq!(done.failure().message(), "the service answered 503 Service Unavailable");
    assert!(done.data.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{}", done.data);
    let done = shell.run(&["call", "hello", "/container", "-o", "json"]).await;
    let answer: Value = serde_json::from_str(&done.data).unwrap();
    assert_eq!(answer["status_code"], 503);
}
