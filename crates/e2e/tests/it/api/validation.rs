//! Bad input: the right 4xx, a sentence that says what to change, and nothing changed.

use http::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use towline_e2e::system::Server;

fn with(field: &str, value: Value) -> Value {
    let mut spec = json!({"service_slug": "hello", "display_name": "Hello", "docker_image": "towline-demo"});
    spec[field] = value;
    spec
}

#[tokio::test]
async fn every_field_of_a_definition_is_checked() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let long = "x".repeat(256);
    for (field, value) in [
        ("service_slug", json!("ab")),
        ("service_slug", json!("-abc")),
        ("service_slug", json!("abc-")),
        ("service_slug", json!("Abc")),
        ("service_slug", json!("a".repeat(101))),
        ("service_slug", json!(7)),
        ("service_slug", json!("ünï")),
        ("display_name", json!("")),
        ("display_name", json!(long)),
        ("display_name", json!("a\u{0}b")),
        ("service_type", json!("imaginary")),
        ("docker_image", json!("")),
        ("docker_image", json!("UPPER CASE")),
        ("docker_image", json!("http://registry/image")),
        ("docker_image", json!(null)),
        ("exposed_port", json!(0)),
        ("exposed_port", json!(65536)),
        ("exposed_port", json!(-1)),
        ("exposed_port", json!("80")),
        ("exposed_port", json!(80.5)),
        ("app_protocol", json!("http2")),
        ("health_path", json!("health")),
        ("health_path", json!("//evil/health")),
        ("health_path", json!("/a b")),
        ("env_config", json!({"A": "1"})),
        ("env_config", json!([{"env_name": "1X", "env_value": ""}])),
        ("env_config", json!([{"env_name": "X"}])),
        ("env_config", json!([{"env_name": "X", "env_value": "1"}, {"env_name": "X", "env_value": "2"}])),
        ("volume_config", json!([{"host_path": "relative", "container_path": "/x"}])),
        ("volume_config", json!([{"host_path": "/a/../etc", "container_path": "/x"}])),
        ("volume_config", json!([{"host_path": "/a", "container_path": "/"}])),
        ("required_labels", json!("gpu")),
        ("required_labels", json!([""])),
        ("gpu_count", json!(-2)),
        ("replica_count", json!(0)),
        ("replica_count", json!(11)),
        ("openapi_url", json!("https://elsewhere/openapi.json")),
        ("cpu_limit", json!(0)),
        ("memory_limit_bytes", json!(1024)),
        ("request_timeout_seconds", json!(0)),
        ("connect_timeout_seconds", json!(301)),
        ("first_byte_timeout_seconds", json!(-1)),
        ("idle_timeout_seconds", json!("1m")),
        ("max_concurrent_requests", json!(0)),
        ("max_queued_requests", json!(5)),
        ("probe", json!({"interval_seconds": 0})),
        ("probe", json!({"colour": 1})),
        ("colour", json!("red")),
    ] {
        let answer = owner.post("/containers", &with(field, value.clone())).await;
        let message = answer.problem(400, "validation_failed");
        assert!(message.contains(field), "{field} = {value}: {message}");
        let errors = answer.json()["errors"].clone();
        assert!(errors.as_array().is_some_and(|list| !list.is_empty()), "{field} = {value}: {errors}");
    }
    let missing = owner.post("/containers", &json!({})).await.problem(400, "validation_failed");
    assert!(missing.contains("service_slug"), "{missing}");
    let list = owner.get("/containers").await.expect(200);
    assert_eq!(list["page_meta"]["total_count"], 0, "a refused definition was stored");
}

#[tokio::test]
async fn a_body_that_is_not_the_expected_json_is_told_apart() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let send = async |body: &str, media_type: &str| {
        let request = owner.request(Method::POST, "/containers").header(CONTENT_TYPE, media_type).body(body.to_owned());
        owner.send(request).await
    };
    for body in ["", "{", "nonsense", "{\"a\":1}}", "\u{feff}{}"] {
        send(body, "application/json").await.problem(400, "malformed_body");
    }
    for body in ["[]", "null", "\"text\"", "7"] {
        assert_eq!(send(body, "application/json").await.status, 400, "{body}");
    }
    let good = with("display_name", json!("x")).to_string();
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
        send(&good, media_type).await.problem(415, "unsupported_media_type");
    }
    let deep = "[".repeat(100_000);
    send(&deep, "application/json").await.problem(400, "malformed_body");
    let list = owner.get("/containers").await.expect(200);
    assert_eq!(list["page_meta"]["total_count"], 0);
    assert_eq!(send(&good, "application/json; charset=utf-8").await.created()["id"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let huge = with("service_desc", json!("x".repeat(20 << 20)));
    owner.post("/containers", &huge).await.problem(413, "body_too_large");
    // A field over its own limit, in a body that is not too large, is named.
    let message = owner
        .post("/containers", &with("service_desc", json!("x".repeat(70_000))))
        .await
        .problem(400, "validation_failed");
    assert!(message.contains("service_desc"), "{message}");
}

#[tokio::test]
async fn wrong_ids_paths_and_methods() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let unknown = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
    for (method, suffix) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/deploy"),
        (Method::POST, "/undeploy"),
        (Method::POST, "/restart"),
        (Method::GET, "/instances"),
        (Method::GET, "/events"),
        (Method::GET, "/logs"),
    ] {
        let path = format!("/containers/{unknown}{suffix}");
        owner.send(owner.request(method.clone(), &path)).await.problem(404, "not_found");
        for id in ["nonsense", "%00", "1", "..%2f..", &"a".repeat(300)] {
            let answer = owner.send(owner.request(method.clone(), &format!("/containers/{id}{suffix}"))).await;
            assert!(matches!(answer.status, 400 | 404), "{method} {id}{suffix}: {} {}", answer.status, answer.text());
            let code = answer.json()["error_code"].as_str().unwrap().to_owned();
            answer.problem(answer.status, &code);
        }
    }
    owner.put(&format!("/containers/{unknown}"), &json!({})).await.problem(404, "not_found");
    for path in ["/nothing", "/containers/a/b/c", "/"] {
        owner.get(path).await.problem(404, "not_found");
    }
    let answer = owner.send(owner.request(Method::PATCH, "/containers")).await;
    answer.problem(405, "method_not_allowed");
    assert!(answer.header("allow").contains("GET"), "{:?}", answer.headers);
    for path in ["/agent/session", "/agent/carrier"] {
        let answer = server.api().get(path).await;
        answer.problem(426, "upgrade_required");
        assert_eq!(answer.json()["request_id"], answer.header("x-request-id"), "{path}");
    }
    server.api().get("/r/containers/no-such/x").await.gateway_problem(404, "not_found");
    server.api().get("/r/containers/NOT_A_SLUG/x").await.gateway_problem(404, "not_found");
    server.api().get("/r/containers/no-such").await.problem(404, "not_found");
    let invoke = json!({"method": "GET", "path": "/"});
    server.api().post("/r/invoke/no-such", &invoke).await.gateway_problem(404, "not_found");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let server = Server::start().await;
    let document = server.api().anonymous().get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    for path in ["/containers", "/containers/{id}", "/containers/{id}/deploy", "/credentials", "/auth/login"] {
        assert!(
            document["paths"].as_object().unwrap().keys().any(|known| known.ends_with(path)),
            "{path} is not described"
        );
    }
}
