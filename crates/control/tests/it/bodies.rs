//! Bodies that are not what they should be: the right 4xx, the field by its path, and nothing changed.

use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};

use crate::support::{TestServer, minimal, with};

fn post(server: &TestServer, media_type: Option<&str>, body: Body) -> Request<Body> {
    let mut request = server.owner().request(Method::POST, "/api/v1/containers", None);
    if let Some(media_type) = media_type {
        request.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    }
    *request.body_mut() = body;
    request
}

async fn assert_empty(server: &TestServer) {
    let list = server.get(&server.owner(), "/api/v1/containers").await.json(200);
    assert_eq!(list["page_meta"]["total_count"], 0, "something was stored");
}

#[tokio::test]
async fn what_is_not_json_is_malformed() {
    let server = TestServer::start().await;
    let good = minimal("hello").to_string();
    for text in ["", " ", "{", "nonsense", "{}}", "{\"a\":}", "\u{feff}{}", "{'a': 1}", "NaN", "{\"a\": 1,}"] {
        server.send(post(&server, Some("application/json"), text.into())).await.problem(400, "malformed_body");
    }
    for text in ["[]", "null", "7", "\"{}\"", "true"] {
        let answer = server.send(post(&server, Some("application/json"), text.into())).await;
        assert!(answer.problem(400, "malformed_body").contains("object"), "{text}");
    }
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    server.send(post(&server, Some("application/json"), deep.into())).await.problem(400, "malformed_body");
    let latin = Body::from([b"{\"display_name\": \"".as_slice(), b"\xe9", b"\"}"].concat());
    server.send(post(&server, Some("application/json"), latin)).await.problem(400, "malformed_body");
    for media_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
        Some("json"),
    ] {
        let answer = server.send(post(&server, media_type, good.clone().into())).await;
        assert!(answer.problem(415, "unsupported_media_type").contains("application/json"), "{media_type:?}");
    }
    assert_empty(&server).await;
    for (number, media_type) in
        ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"].into_iter().enumerate()
    {
        let body = minimal(&format!("hello-{number}")).to_string();
        server.send(post(&server, Some(media_type), body.into())).await.json(201);
    }
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let server = TestServer::start().await;
    let huge = with("hello", "service_desc", json!("x".repeat(1 << 20)));
    let message = server.post(&server.owner(), "/api/v1/containers", &huge).await.problem(413, "body_too_large");
    assert!(message.contains("1048576 bytes"), "{message}");
    // Chunked, so that no length is told in advance.
    let chunks = futures_util::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10])));
    let answer = server.send(post(&server, Some("application/json"), Body::from_stream(chunks))).await;
    answer.problem(413, "body_too_large");
    let long = with("hello", "service_desc", json!("x".repeat(70_000)));
    let message = server.post(&server.owner(), "/api/v1/containers", &long).await.problem(400, "validation_failed");
    assert!(message.contains("service_desc"), "{message}");
    assert_empty(&server).await;
}

#[tokio::test]
async fn the_limit_of_a_body_is_the_configured_one() {
    let server = TestServer::start_with(|config| config.body_limit = 100_000).await;
    let of_length = |length: usize| {
        let body = minimal("hello").to_string();
        body.clone() + &" ".repeat(length - body.len())
    };
    let send = async |length: usize, key: Option<&str>| {
        let mut request = post(&server, Some("application/json"), of_length(length).into());
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        }
        server.send(request).await
    };
    for key in [None, Some("k")] {
        let message = send(100_001, key).await.problem(413, "body_too_large");
        assert!(message.contains("100000 bytes"), "{message}");
    }
    assert_empty(&server).await;
    send(100_000, None).await.json(201);
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let server = TestServer::start().await;
    let whole = minimal("hello").to_string();
    let chunks = [Ok(whole), Err(std::io::Error::other("gone"))];
    let body = Body::from_stream(futures_util::stream::iter(chunks));
    server.send(post(&server, Some("application/json"), body)).await.problem(400, "malformed_body");
    assert_empty(&server).await;
}

#[tokio::test]
async fn every_field_of_a_definition_is_checked_and_named() {
    let server = TestServer::start().await;
    let long = "x".repeat(256);
    let cases: Vec<(&str, Value)> = vec![
        ("service_slug", json!("ab")),
        ("service_slug", json!("-abc")),
        ("service_slug", json!("Abc")),
        ("service_slug", json!("a_b_c")),
        ("service_slug", json!("a".repeat(101))),
        ("service_slug", json!(7)),
        ("service_slug", json!(null)),
        ("display_name", json!("")),
        ("display_name", json!(long)),
        ("display_name", json!("a\u{0}b")),
        ("display_name", json!(["a"])),
        ("service_desc", json!("a\u{0}b")),
        ("service_type", json!("imaginary")),
        ("docker_image", json!("")),
        ("docker_image", json!("UPPER CASE")),
        ("docker_image", json!("http://registry/image")),
        ("docker_image", json!("a:b:c")),
        ("docker_image", json!(null)),
        ("docker_image", json!({"name": "x"})),
        ("exposed_port", json!(0)),
        ("exposed_port", json!(65536)),
        ("exposed_port", json!(-1)),
        ("exposed_port", json!("80")),
        ("exposed_port", json!(80.5)),
        ("exposed_port", json!(1e99)),
        ("app_protocol", json!("http2")),
        ("health_path", json!("health")),
        ("health_path", json!("//evil/health")),
        ("health_path", json!("/a b")),
        ("env_config", json!([{"env_name": "1X", "env_value": ""}])),
        ("env_config", json!([{"env_name": "X"}])),
        ("env_config", json!([{"env_name": "X", "env_value": 1}])),
        ("env_config", json!([{"env_name": "X", "env_value": "********"}])),
        ("env_config", json!([{"env_name": "X", "env_value": "1"}, {"env_name": "X", "env_value": "2"}])),
        ("env_config", json!({"X": "1"})),
        ("env_config", json!(vec![json!({"env_name": "X", "env_value": ""}); 257])),
        ("volume_config", json!([{"host_path": "relative", "container_path": "/x"}])),
        ("volume_config", json!([{"host_path": "/a/../etc", "container_path": "/x"}])),
        ("volume_config", json!([{"host_path": "/a:/b", "container_path": "/x"}])),
        ("required_labels", json!(["gpu", ""])),
        ("required_labels", json!("gpu")),
        ("gpu_count", json!(-2)),
        ("gpu_count", json!(65)),
        ("replica_count", json!(0)),
        ("replica_count", json!(11)),
        ("replica_count", json!(true)),
        ("usage_prompt", json!("x".repeat(70_000))),
        ("openapi_url", json!("https://elsewhere/openapi.json")),
        ("command", json!("sh -c x")),
        ("args", json!([1])),
        ("cpu_limit", json!(0)),
        ("memory_limit_bytes", json!(1024)),
        ("memory_limit_bytes", json!(18_446_744_073_709_551_615_u64)),
        ("request_timeout_seconds", json!(0)),
        ("connect_timeout_seconds", json!(301)),
        ("first_byte_timeout_seconds", json!(-1)),
        ("idle_timeout_seconds", json!("1m")),
        ("max_concurrent_requests", json!(0)),
        ("max_queued_requests", json!(5)),
        ("probe", json!({"interval_seconds": 0})),
        ("probe", json!({"colour": 1})),
        ("colour", json!("red")),
        ("id", json!("01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77")),
        ("service_status", json!("running")),
    ];
    for (field, value) in cases {
        let answer = server.post(&server.owner(), "/api/v1/containers", &with("hello", field, value.clone())).await;
        let message = answer.problem(400, "validation_failed");
        assert!(message.contains(field), "{field} = {value}: {message}");
    }
    let missing = server.post(&server.owner(), "/api/v1/containers", &json!({"service_slug": "hello"})).await;
    assert!(missing.problem(400, "validation_failed").contains("display_name"));
    let several = json!({"service_slug": "x", "display_name": "", "docker_image": "A"});
    let answer = server.post(&server.owner(), "/api/v1/containers", &several).await.json(400);
    assert_eq!(answer["errors"].as_array().unwrap().len(), 3, "{answer:#}");
    assert_empty(&server).await;
}

#[tokio::test]
async fn a_field_is_named_by_its_path() {
    let server = TestServer::start().await;
    let spec =
        with("hello", "env_config", json!([{"env_name": "A", "env_value": "1"}, {"env_name": "B", "env_value": 2}]));
    let message = server.post(&server.owner(), "/api/v1/containers", &spec).await.problem(400, "validation_failed");
    assert!(message.contains("env_config[1].env_value"), "{message}");
    let key = json!({"kind": "moon", "display_name": "x"});
    let message = server.post(&server.owner(), "/api/v1/credentials", &key).await.problem(400, "malformed_body");
    assert!(message.contains("kind"), "{message}");
}
