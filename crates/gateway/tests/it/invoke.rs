//! Invoke (contract §5).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::time::Duration;
use towline_gateway::{
    GatewayConfig,
    testing::{Answer, Container, World},
};

const HELLO: &str = "/api/v1/r/invoke/hello";

fn body_of(answer: &Value) -> String {
    String::from_utf8(STANDARD.decode(answer["body_base64"].as_str().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_described_request_is_made() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let described = json!({"method": "POST", "path": "/a%20b?c=d", "body_base64": STANDARD.encode("hello"), "headers": {
        "Content-Type": "text/plain", "X-Mine": "1", "Authorization": "Bearer mine", "Host": "evil", "Content-Length": "99",
        "Connection": "X-Mine2", "X-Mine2": "gone", "X-Forwarded-For": "6.6.6.6", "X-Request-Id": "theirs",
    }});
    let answer = world.post_json(&team.key, HELLO, &described.to_string()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.header("x-request-id").is_some() && answer.header("x-towline-request-id").is_none());
    let answer = answer.json();
    assert_eq!(answer["status_code"], 200);
    assert!(answer["headers"]["content-length"].is_string());
    assert!(answer.get("multi_value_headers").is_none());
    let seen = body_of(&answer);
    assert!(seen.starts_with("POST /a%20b?c=d HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nhello"), "{seen}");
    for line in [
        "content-type: text/plain",
        "x-mine: 1",
        "host: localhost:8080",
        "content-length: 5",
        "via: 1.1 towline",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-prefix: /api/v1/r/containers/hello",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    for gone in ["bearer", "evil", "x-mine2", "6.6.6.6", "theirs", &team.key] {
        assert!(!seen.to_lowercase().contains(gone), "{gone} in {seen}");
    }
}

#[tokio::test]
async fn every_method_and_every_kind_of_answer() {
    let container = Container::start(|mut exchange, _| async move {
        while let Some((head, _)) = exchange.request().await? {
            let method = head.split(' ').next().unwrap().to_owned();
            let answer = match method.as_str() {
                "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_owned(),
                "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
                "OPTIONS" => "HTTP/1.1 418 Teapot\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".to_owned(),
                _ => format!(
                    "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: {}\r\n\r\n{method}",
                    method.len()
                ),
            };
            exchange.write(answer).await?;
        }
        Ok(())
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for (method, status, body) in [
        ("GET", 200, "GET"),
        ("POST", 200, "POST"),
        ("PUT", 200, "PUT"),
        ("PATCH", 200, "PATCH"),
        ("DELETE", 204, ""),
        ("HEAD", 200, ""),
        ("OPTIONS", 418, "hi"),
    ] {
        let described = json!({"method": method, "path": "/"});
        let answer = world.post_json(&team.key, HELLO, &described.to_string()).await.json();
        assert_eq!(answer["status_code"], status, "{answer}");
        assert_eq!(body_of(&answer), body);
        if status == 200 && method != "HEAD" {
            assert_eq!(answer["headers"]["x-a"], "1, 2");
            assert_eq!(answer["multi_value_headers"], json!({"set-cookie": ["a=b"], "x-a": ["1", "2"]}));
        }
    }
    assert_eq!(container.accepted(), 1);
}

#[tokio::test]
async fn bad_descriptions_reach_nobody() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for (text, code, field) in [
        ("nonsense", "malformed_body", ""),
        (r#"{"method": "GET", "path": "/", "colour": "red"}"#, "malformed_body", "colour"),
        (r#"{"method": "GET", "path": "//evil.example"}"#, "validation_failed", "path"),
        (r#"{"method": "TRACE", "path": "/"}"#, "validation_failed", "method"),
    ] {
        let answer = world.post_json(&team.key, HELLO, text).await;
        let body = answer.json();
        assert_eq!((answer.status, body["error_code"].as_str().unwrap()), (400, code), "{text}: {body}");
        assert_eq!(body["errors"][0]["field"], field);
        assert_eq!(body["error"]["code"], code);
        assert!(answer.header("proxy-status").unwrap().contains("error=http_request_error"));
    }
    let answer = world.get(&team.key, HELLO).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert_eq!(container.accepted(), 0);
}

#[tokio::test]
async fn the_same_doors_as_the_proxy() {
    let world = World::start().await;
    let team = world.team();
    let described = r#"{"method": "GET", "path": "/"}"#;
    assert_eq!(world.post_json("sk-nonsense", HELLO, described).await.status, 401);
    assert_eq!(world.post_json(&team.key, HELLO, described).await.status, 404);
    let service = world.service(&team, "hello");
    assert_eq!(world.post_json(&team.key, HELLO, described).await.status, 503);
    world.change(service, |route| route.status = towline_model::ServiceStatus::Stopping);
    assert_eq!(world.post_json(&team.key, HELLO, described).await.status, 400);
}

#[tokio::test]
async fn both_bodies_are_limited() {
    let config = GatewayConfig { invoke_request_limit: 1000, invoke_response_limit: 1000, ..GatewayConfig::default() };
    let container = Container::start(|mut exchange, _| async move {
        while let Some((head, _)) = exchange.request().await? {
            let size: usize = head.split(' ').nth(1).unwrap()[2..].parse().unwrap();
            if head.starts_with("PUT ") {
                exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                exchange.write(format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size))).await?;
            } else {
                exchange
                    .write(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{}", "x".repeat(size)))
                    .await?;
            }
        }
        Ok(())
    })
    .await;
    let world = World::start_with(config).await;
    let (team, _agent, _) = world.hello(&container).await;
    let call = async |method: &str, up: usize, down: usize| {
        let body = STANDARD.encode(vec![0; up]);
        let described = json!({"method": method, "path": format!("/?{down}"), "body_base64": body});
        world.post_json(&team.key, HELLO, &described.to_string()).await
    };
    for method in ["GET", "PUT", "POST"] {
        assert_eq!(call(method, 1000, 1000).await.json()["status_code"], 200);
        let answer = call(method, 1001, 1).await;
        assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (413, "body_too_large"));
        let answer = call(method, 1, 1001).await;
        assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (502, "response_too_large"));
        assert!(answer.header("proxy-status").unwrap().contains("error=http_response_body_size"));
        assert_eq!(answer.header("x-should-retry"), if method == "POST" { Some("false") } else { None });
    }
    // A length that is too large is refused before the body is read; a body without a length, as soon as it is too large.
    let mut caller = world.caller().await;
    let head = format!("POST {HELLO} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n", team.key);
    caller.send(format!("{head}Content-Length: 2000000\r\n\r\n")).await;
    assert_eq!(caller.answer().await.status, 413);
    let mut caller = world.caller().await;
    caller.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n200000\r\n")).await;
    caller.send(" ".repeat(0x20_0000)).await;
    assert_eq!(caller.answer().await.status, 413);
}

#[tokio::test]
async fn the_bodies_of_all_invokes_have_one_bound() {
    let (go_on, may_go_on) = tokio::sync::watch::channel(false);
    let (arrived, mut has_arrived) = tokio::sync::watch::channel(false);
    let container = Container::start(move |mut exchange, _| {
        let (mut may_go_on, arrived) = (may_go_on.clone(), arrived.clone());
        async move {
            while let Some((head, _)) = exchange.request().await? {
                let size: usize = head.split(' ').nth(1).unwrap()[2..].parse().unwrap();
                if size == 7 {
                    arrived.send_replace(true);
                    let _ = may_go_on.wait_for(|may| *may).await;
                }
                exchange
                    .write(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{}", "x".repeat(size)))
                    .await?;
            }
            Ok(())
        }
    })
    .await;
    let world = World::start_with(GatewayConfig { invoke_memory_bytes: 10_000, ..GatewayConfig::default() }).await;
    let (team, _agent, _) = world.hello(&container).await;
    let call = async |method: &str, up: usize, down: usize| {
        let body = STANDARD.encode(vec![0; up]);
        let described = json!({"method": method, "path": format!("/?{down}"), "body_base64": body});
        world.post_json(&team.key, HELLO, &described.to_string()).await
    };
    let refused = |answer: &Answer, should_retry: bool| {
        assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (503, "server_busy"));
        assert_eq!(answer.header("retry-after").is_some(), should_retry);
        assert_eq!(answer.header("x-should-retry"), (!should_retry).then_some("false"));
    };
    assert_eq!(call("POST", 6_000, 1_000).await.status, 200);
    refused(&call("POST", 9_000, 1).await, true);
    // Its request is through by then.
    refused(&call("POST", 1, 20_000).await, false);
    refused(&call("PUT", 1, 20_000).await, true);
    let (first, second) = tokio::join!(call("PUT", 6_000, 7), async {
        // The first one waits in the container, and what it has sent is held until it is answered.
        has_arrived.wait_for(|arrived| *arrived).await.unwrap();
        let second = call("PUT", 6_000, 1).await;
        go_on.send_replace(true);
        second
    });
    refused(&second, true);
    assert_eq!(first.status, 200);
    assert_eq!(call("PUT", 6_000, 7).await.status, 200, "all is given back");
}

#[tokio::test]
async fn a_service_that_takes_too_long_is_given_up() {
    for begins in [false, true] {
        let container = Container::start(move |mut exchange, _| async move {
            exchange.head().await?;
            if begins {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await?;
            }
            exchange.ended().await
        })
        .await;
        let world = World::start().await;
        let (team, _agent, service) = world.hello(&container).await;
        world.change(service, |route| route.timeouts.total = Some(Duration::from_millis(50)));
        let answer = world.post_json(&team.key, HELLO, r#"{"method": "GET", "path": "/"}"#).await;
        assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (502, "upstream_timeout"));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let answer = world.post_json(&team.key, HELLO, r#"{"method": "GET", "path": "/"}"#).await;
    assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (502, "upstream_failed"));
    assert!(answer.header("proxy-status").unwrap().contains("error=http_response_incomplete"));
}
