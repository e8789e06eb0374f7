//! Calls of a running service: what reaches the container, what comes back, and who made which answer.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use towline_e2e::raw::{self, RawResponse};

use super::Running;

/// A request for a path below `/r/containers/hello` as it is written, with a key and more header lines.
fn request(running: &Running, method: &str, path: &str, fields: &str, body: &str) -> Vec<u8> {
    let key = running.api.bearer();
    let head = format!(
        "{method} /api/v1/r/containers/hello{path} HTTP/1.1\r\nHost: towline.example\r\nAuthorization: Bearer {key}\r\n\
         Connection: close\r\n{fields}\r\n"
    );
    format!("{head}{body}").into_bytes()
}

async fn send(running: &Running, method: &str, path: &str, fields: &str, body: &str) -> RawResponse {
    raw::exchange(running.api.address(), &request(running, method, path, fields, body)).await
}

fn fields(echo: &Value) -> Vec<(String, String)> {
    let list = echo["headers"].as_array().unwrap().iter();
    list.map(|field| (field[0].as_str().unwrap().to_owned(), field[1].as_str().unwrap().to_owned())).collect()
}

fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let same = fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
    same.map(|(_, value)| value.as_str()).collect()
}

#[tokio::test]
async fn the_bytes_of_path_and_query_arrive_as_they_were_sent() {
    let running = Running::start(1).await;
    for target in [
        "/echo",
        "/echo/",
        "/echo?",
        "/echo?x=1",
        "/echo//a//",
        "/echo/a/../b/./c",
        "/echo/a%2Fb%2f..%2F",
        "/echo/%zz%",
        "/echo/caf%C3%A9/%E2%98%83",
        "/echo/a;b=c,d:e@f!$&'()*+~",
        "/echo?x=%zz&&y==&z=a+b%20c&?/?",
        "/echo?q=[1]{2}|3",
        "/echo/%00%0d%0a",
    ] {
        let answer = send(&running, "GET", target, "", "").await;
        assert_eq!(answer.status, 200, "{target}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.json()["target"], target);
    }
    // The slash after the slug is the container's root, with and without a query.
    let index = send(&running, "GET", "/", "", "").await;
    assert!(index.status == 200 && String::from_utf8_lossy(&index.body).contains("/echo"), "{index:?}");
    // Without it, it is ours.
    let ours = send(&running, "GET", "", "", "").await;
    assert_eq!((ours.status, &ours.json()["service_slug"]), (200, &json!("hello")));
}

#[tokio::test]
async fn every_method_and_body_arrives() {
    let running = Running::start(1).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT", "M-SEARCH"] {
        let answer = send(&running, method, "/echo", "Content-Length: 5\r\n", "hello").await;
        let echo = answer.json();
        assert_eq!((echo["method"].as_str(), echo["body_length"].as_u64()), (Some(method), Some(5)), "{answer:?}");
        assert_eq!(echo["body_sha256"], "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    }
    let chunked =
        send(&running, "POST", "/echo", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(chunked.json()["body_length"], 5);
    let head = send(&running, "HEAD", "/echo", "", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.all("content-length").first().is_some_and(|length| *length != "0"), "{head:?}");
}

#[tokio::test]
async fn headers_are_kept_but_for_those_that_belong_to_the_hop() {
    let running = Running::start(1).await;
    let sent = "X-Many: 1\r\nx-many: 2\r\nX-Many: 1\r\nCookie: a=b; c=d\r\nUser-Agent: t\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
                X-Hop: gone\r\nAccept-Encoding: gzip, br\r\nX-Empty:\r\n";
    let key = running.api.bearer();
    let request = format!(
        "GET /api/v1/r/containers/hello/echo HTTP/1.1\r\nHost: towline.example\r\nAuthorization: Bearer {key}\r\n\
         Connection: close, X-Hop\r\n{sent}\r\n"
    );
    let answer = raw::exchange(running.api.address(), request.as_bytes()).await;
    let echo = answer.json();
    let got = fields(&echo);
    assert_eq!(all(&got, "x-many"), ["1", "2", "1"]);
    assert_eq!(all(&got, "cookie"), ["a=b; c=d"]);
    assert_eq!(all(&got, "user-agent"), ["t"]);
    assert_eq!(all(&got, "accept-encoding"), ["gzip, br"]);
    assert_eq!(all(&got, "x-empty"), [""]);
    assert_eq!(all(&got, "host"), ["localhost:8080"]);
    for hop in ["x-hop", "keep-alive", "authorization"] {
        assert!(all(&got, hop).is_empty(), "{hop} reached the container: {got:?}");
    }
    assert!(!echo.to_string().contains(&key[12..]), "the key reached the container: {echo}");
    // What the contract says is set on a request.
    assert!(all(&got, "via").iter().any(|via| via.starts_with("1.1 ")), "{got:?}");
    assert!(
        all(&got, "forwarded").iter().any(|value| value.contains("for=") && value.contains("proto=http")),
        "{got:?}"
    );
    assert_eq!(all(&got, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all(&got, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&got, "x-forwarded-host"), ["towline.example"]);
    assert_eq!(all(&got, "x-forwarded-prefix"), ["/api/v1/r/containers/hello"]);
    assert_eq!(all(&got, "x-request-id"), answer.all("x-towline-request-id"));
}

#[tokio::test]
async fn an_answer_of_the_container_gets_one_header_and_nothing_else() {
    let running = Running::start(1).await;
    let answer = send(&running, "GET", "/status/418?reason=short%20and%20stout", "", "").await;
    assert_eq!((answer.status, answer.reason.as_str()), (418, "short and stout"));
    let mut names: Vec<_> = answer.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    names.sort();
    // `Connection: close` is this hop's own.
    names.retain(|name| name != "connection");
    assert_eq!(names, ["content-length", "content-type", "date", "server", "x-towline-request-id"]);
    // The container's own errors stay its own: no problem body, no Proxy-Status.
    for status in [400, 401, 404, 429, 500, 502, 503] {
        let answer = send(&running, "GET", &format!("/status/{status}"), "", "").await;
        assert_eq!((answer.status, answer.json()), (status, json!({"status": status})));
        assert!(answer.all("proxy-status").is_empty() && answer.all("www-authenticate").is_empty(), "{answer:?}");
    }
    for status in [204, 304] {
        let answer = send(&running, "GET", &format!("/status/{status}"), "", "").await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
    // Trailers come through.
    let trailers = send(&running, "GET", "/trailers", "TE: trailers\r\n", "").await;
    assert!(trailers.trailers.iter().any(|(name, value)| name == "x-demo-trailer" && value == "done"), "{trailers:?}");
}

#[tokio::test]
async fn a_cut_answer_never_looks_complete() {
    let running = Running::start(1).await;
    for mode in ["length", "chunked"] {
        for reset in ["", "&reset=1"] {
            // It dies a moment after the caller could have had what it has sent.
            let target = format!("/close?mode={mode}&after=100&delay_ms=300{reset}");
            let answer = send(&running, "GET", &target, "", "").await;
            assert_eq!((answer.status, answer.body.len()), (200, 100), "{target}: {answer:?}");
            assert!(!answer.is_complete, "{target} looks complete: {answer:?}");
            // Or at once: what has arrived by then may differ, but it is never the whole.
            let target = target.replace("&delay_ms=300", "");
            let request = request(&running, "GET", &target, "", "");
            if let Some(answer) = raw::try_exchange(running.api.address(), &request).await {
                assert!(!answer.is_complete || answer.status == 502, "{target} looks complete: {answer:?}");
            }
        }
    }
    // Nothing of an answer was there: the gateway's turn.
    let answer = send(&running, "POST", "/close?mode=head", "Content-Length: 0\r\n", "").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(answer.json()["error_code"], "upstream_failed");
    assert!(answer.all("proxy-status")[0].contains("error="), "{answer:?}");
    // It may have reached the container, so no SDK should send it again by itself.
    assert_eq!(answer.all("x-should-retry"), ["false"]);
    let broken = send(&running, "POST", "/raw", "Content-Length: 16\r\n", "nonsense\r\n\r\nnono").await;
    assert_eq!((broken.status, &broken.json()["error_code"]), (502, &json!("upstream_protocol_error")));
}

#[tokio::test]
async fn only_the_header_that_opened_the_door_is_taken() {
    let running = Running::start(1).await;
    let answer = send(&running, "GET", "/echo", "X-Api-Key: of-the-container\r\nX-Team-ID: its-own\r\n", "").await;
    let echo = answer.json();
    let got = fields(&echo);
    assert!(all(&got, "authorization").is_empty(), "{got:?}");
    assert_eq!((all(&got, "x-api-key"), all(&got, "x-team-id")), (vec!["of-the-container"], vec!["its-own"]));
    assert!(!echo.to_string().contains(&running.api.bearer()[12..]), "the key reached the container");
}

#[tokio::test]
async fn an_invoke_carries_a_request_and_its_answer_as_json() {
    let running = Running::start(1).await;
    let invoke = async |body: &Value| running.api.post("/r/invoke/hello", body).await;
    let body = json!({
        "method": "POST",
        "path": "/echo/a%2Fb?x=1",
        "headers": {"X-One": "1", "Host": "evil", "Connection": "X-Two", "Authorization": "Bearer x", "Proxy-Foo": "y", "Content-Length": "3"},
        "body_base64": BASE64.encode("hello"),
    });
    let answer = invoke(&body).await.expect(200);
    assert_eq!(answer["status_code"], 200);
    assert!(answer["headers"]["content-type"].as_str().unwrap().starts_with("application/json"), "{answer}");
    let echo: Value = serde_json::from_slice(&BASE64.decode(answer["body_base64"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!((&echo["method"], &echo["target"]), (&json!("POST"), &json!("/echo/a%2Fb?x=1")));
    assert_eq!(echo["body_length"], 5);
    let got = fields(&echo);
    assert_eq!((all(&got, "x-one"), all(&got, "host")), (vec!["1"], vec!["localhost:8080"]));
    for dropped in ["authorization", "proxy-foo", "connection"] {
        assert!(all(&got, dropped).is_empty(), "{dropped}: {got:?}");
    }
    // The container's status is data here.
    let answer = invoke(&json!({"method": "GET", "path": "/status/503"})).await.expect(200);
    assert_eq!(answer["status_code"], 503);
    let answer = invoke(&json!({"method": "HEAD", "path": "/health"})).await.expect(200);
    assert_eq!((&answer["status_code"], &answer["body_base64"]), (&json!(200), &json!("")));
    // What cannot be told as data is the gateway's answer.
    let cut = invoke(&json!({"method": "GET", "path": "/close?mode=length"})).await;
    cut.gateway_problem(502, "upstream_failed");
    let large = invoke(&json!({"method": "GET", "path": "/bytes?n=34000000"})).await;
    large.gateway_problem(502, "response_too_large");
    let body = BASE64.encode(vec![0u8; 33 << 20]);
    let large = invoke(&json!({"method": "POST", "path": "/upload", "body_base64": body})).await;
    large.gateway_problem(413, "body_too_large");
}

#[tokio::test]
async fn an_invoke_names_a_path_and_never_a_host() {
    let running = Running::start(1).await;
    for (body, field) in [
        (json!({"method": "GET", "path": "http://evil/"}), "path"),
        (json!({"method": "GET", "path": "//evil/x"}), "path"),
        (json!({"method": "GET", "path": "evil"}), "path"),
        (json!({"method": "GET", "path": "/a\\b"}), "path"),
        (json!({"method": "GET", "path": "/a\r\nHost: evil"}), "path"),
        (json!({"method": "GET", "path": ""}), "path"),
        (json!({"method": "TRACE", "path": "/"}), "method"),
        (json!({"method": "get me", "path": "/"}), "method"),
        (json!({"path": "/"}), "method"),
        (json!({"method": "GET"}), "path"),
        (json!({"method": "POST", "path": "/", "body_base64": "%%"}), "body_base64"),
        (json!({"method": "GET", "path": "/", "headers": {"a b": "c"}}), "headers"),
        (json!({"method": "GET", "path": "/", "headers": {"a": "b\r\nc: d"}}), "headers"),
        (json!({"method": "GET", "path": "/", "colour": 1}), "colour"),
    ] {
        let answer = running.api.post("/r/invoke/hello", &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        let code = answer.json()["error_code"].as_str().unwrap().to_owned();
        let message = answer.gateway_problem(400, &code);
        assert!(message.contains(field), "{body}: {message}");
    }
}

#[tokio::test]
async fn an_invoke_is_a_post() {
    let running = Running::start(1).await;
    running.api.get("/r/invoke/hello").await.gateway_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn both_replicas_answer() {
    let running = Running::start(2).await;
    let mut seen = std::collections::BTreeSet::new();
    // Each of these is answered by one of two at random; that one is never seen in 200 has a chance of 2⁻²⁰⁰.
    for _ in 0..200 {
        let instance = running.api.get("/r/containers/hello/instance").await.expect(200);
        seen.insert(instance["hostname"].as_str().unwrap().to_owned());
        if seen.len() == 2 {
            return;
        }
    }
    panic!("only {seen:?} ever answered");
}
