//! Bodies of every kind of length, in both directions.

use towline_gateway::{
    GatewayConfig,
    testing::{Container, World},
};

const HELLO: &str = "/api/v1/r/containers/hello";

fn request(method: &str, key: &str, rest: &str) -> String {
    format!("{method} {HELLO}/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{rest}")
}

#[tokio::test]
async fn answers_without_a_body() {
    for (status, length) in [("204 No Content", None), ("304 Not Modified", None), ("304 Not Modified", Some("1234"))] {
        let field = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
        let text = format!("HTTP/1.1 {status}\r\nETag: \"x\"\r\n{field}\r\n");
        let container = Container::answering(text.leak()).await;
        let world = World::start().await;
        let (team, _agent, _) = world.hello(&container).await;
        let mut caller = world.caller().await;
        for _ in 0..2 {
            caller.send(request("GET", &team.key, "\r\n")).await;
            let answer = caller.answer().await;
            assert_eq!(answer.status.to_string(), &status[..3]);
            assert_eq!(answer.header("etag"), Some("\"x\""));
            assert_eq!(answer.header("content-length"), length);
            assert!(answer.header("transfer-encoding").is_none());
        }
        assert_eq!(container.accepted(), 1);
    }
}

#[tokio::test]
async fn an_answer_to_head_keeps_its_length() {
    for (fields, length) in
        [("Content-Length: 1234\r\n", Some("1234")), ("Transfer-Encoding: chunked\r\n", None), ("", None)]
    {
        let container = Container::answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").leak()).await;
        let world = World::start().await;
        let (team, _agent, _) = world.hello(&container).await;
        let mut caller = world.caller().await;
        for _ in 0..2 {
            caller.send(request("HEAD", &team.key, "\r\n")).await;
            let answer = caller.answer_to_head().await;
            assert_eq!((answer.status, answer.header("content-length")), (200, length), "{fields}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_arrives_whole() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\n\r\nuntil the end").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    for _ in 0..2 {
        caller.send(request("GET", &team.key, "\r\n")).await;
        let answer = caller.answer().await;
        assert_eq!(answer.text(), "until the end");
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    }
    assert_eq!(container.accepted(), 2);
}

#[tokio::test]
async fn a_container_may_close_after_each_answer() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    for _ in 0..5 {
        caller.send(request("POST", &team.key, "Content-Length: 0\r\n\r\n")).await;
        let answer = caller.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
        assert!(answer.header("connection").is_none(), "the caller's connection stays");
    }
    assert_eq!(container.accepted(), 5);
}

#[tokio::test]
async fn a_container_of_http_1_0_is_understood() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let mut caller = world.caller().await;
    for _ in 0..2 {
        caller.send(request("GET", &team.key, "\r\n")).await;
        assert_eq!(caller.answer().await.text(), "old");
    }
}

#[tokio::test]
async fn a_caller_of_http_1_0_is_answered() {
    let container =
        Container::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let answer = world.call(format!("GET {HELLO}/ HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", team.key)).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
    assert!(answer.header("transfer-encoding").is_none());
}

#[tokio::test]
async fn a_chunked_request_stays_chunked() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for method in ["POST", "GET", "DELETE"] {
        let body = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n";
        let seen = world.call(request(method, &team.key, body)).await.text();
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{seen}");
        assert!(!head.to_lowercase().contains("content-length"), "{seen}");
        let text: String = body.split("\r\n").skip(1).step_by(2).collect();
        assert_eq!(text, "abcde", "{body:?}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        let body = exchange.until(b"\r\n\r\n").await?;
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Other\r\n\r\n").await?;
        exchange.write(format!("{:x}\r\n", body.len())).await?;
        exchange.write(body).await?;
        exchange.write("\r\n0\r\nX-Sum: 42\r\nX-Other: y\r\n\r\n").await
    })
    .await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let rest = "TE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Up: 7\r\n\r\n";
    let answer = world.call(request("POST", &team.key, rest)).await;
    assert!(answer.text().ends_with("0\r\nX-Up: 7\r\n\r\n"), "{}", answer.text());
    assert_eq!(answer.header("trailer"), Some("X-Sum, X-Other"));
    assert_eq!(answer.trailers, ["X-Sum: 42", "X-Other: y"]);
}

#[tokio::test]
async fn ambiguous_answers_are_refused() {
    for fields in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: two",
        "Content-Length : 2",
        "X-A: 1\r\n folded",
        "Bad\0Name: 1",
    ] {
        let container =
            Container::answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nhi\r\n0\r\n\r\n").leak()).await;
        let world = World::start().await;
        let (team, _agent, _) = world.hello(&container).await;
        let answer = world.call(request("GET", &team.key, "\r\n")).await;
        assert_eq!(answer.status, 502, "{fields}");
        assert_eq!(answer.json()["error_code"], "upstream_protocol_error", "{fields}");
        assert!(answer.header("proxy-status").unwrap().contains("error=http_protocol_error"), "{fields}");
    }
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        "Content-Length: +2\r\n\r\nab",
        "Content-Length: 2, 2\r\n\r\nab",
        "Transfer-Encoding: gzip\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "X-A : 1\r\n\r\n",
        "X-A: 1\r\n folded\r\n\r\n",
        "X-A: a\0b\r\n\r\n",
        "X-A: a\rb\r\n\r\n",
        "Host: again\r\n\r\n",
        "No colon\r\n\r\n",
    ] {
        let answer = world.call(request("POST", &team.key, fields)).await;
        let body = answer.json();
        assert_eq!((answer.status, body["error_code"].as_str().unwrap()), (400, "malformed_request"), "{fields:?}");
        assert_eq!(answer.header("x-request-id"), body["request_id"].as_str());
    }
    let many = "X-A: 1\r\n".repeat(200);
    let long = format!("X-A: {}\r\n", "x".repeat(70_000));
    for fields in [many, long] {
        let answer = world.call(request("GET", &team.key, &format!("{fields}\r\n"))).await;
        assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (431, "headers_too_large"));
    }
    for text in
        ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"]
    {
        let answer = world.call(text).await;
        assert_eq!(
            (answer.status, answer.json()["error_code"].as_str().unwrap()),
            (400, "malformed_request"),
            "{text}"
        );
    }
    assert_eq!(container.accepted(), 0, "none of them reached the container");
}

#[tokio::test]
async fn the_limit_of_a_head_is_the_configured_one() {
    let container = Container::echo().await;
    let config = GatewayConfig { head_limit: 100_000, ..GatewayConfig::default() };
    let world = World::start_with(config).await;
    let (team, _agent, _) = world.hello(&container).await;
    let of_length = |length: usize| {
        let rest = |filler: &str| request("GET", &team.key, &format!("X-A: {filler}\r\n\r\n"));
        rest(&"x".repeat(length - rest("").len()))
    };
    let answer = world.call(of_length(100_000)).await;
    assert_eq!(answer.status, 200);
    let answer = world.call(of_length(100_002)).await;
    let body = answer.json();
    assert_eq!((answer.status, body["error_code"].as_str().unwrap()), (431, "headers_too_large"));
    assert!(body["error_message"].as_str().unwrap().contains("100000 bytes"), "{body:#}");
}

#[tokio::test]
async fn the_limit_of_an_answers_head_is_the_configured_one() {
    for (limit, length, status) in
        [(64 << 10, 70_000, 502), (100_000, 70_000, 200), (20_000, 19_000, 200), (20_000, 21_000, 502)]
    {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: {}\r\n\r\n", "x".repeat(length));
        let container = Container::answering(text.leak()).await;
        let world = World::start_with(GatewayConfig { head_limit: limit, ..GatewayConfig::default() }).await;
        let (team, _agent, _) = world.hello(&container).await;
        let answer = world.call(request("GET", &team.key, "\r\n")).await;
        assert_eq!(answer.status, status, "{length} of {limit}");
    }
}

#[tokio::test]
async fn a_caller_that_breaks_its_chunks_is_told() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let rest = "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n";
    let answer = world.call(request("POST", &team.key, rest)).await;
    assert_eq!((answer.status, answer.json()["error_code"].as_str().unwrap()), (400, "malformed_request"));
}
