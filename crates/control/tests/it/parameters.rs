//! Parameters of the path and the query, methods, and what every answer has.

use http::{Method, header};
use serde_json::{Value, json};

use crate::support::{Caller, TestServer, minimal};

const UNKNOWN: &str = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";
const ROUTES: [(Method, &str); 9] = [
    (Method::GET, "/api/v1/containers/{}"),
    (Method::DELETE, "/api/v1/containers/{}"),
    (Method::POST, "/api/v1/containers/{}/deploy"),
    (Method::POST, "/api/v1/containers/{}/undeploy"),
    (Method::POST, "/api/v1/containers/{}/restart"),
    (Method::GET, "/api/v1/containers/{}/instances"),
    (Method::GET, "/api/v1/containers/{}/events"),
    (Method::GET, "/api/v1/containers/{}/logs"),
    (Method::DELETE, "/api/v1/credentials/{}"),
];

#[tokio::test]
async fn an_id_is_a_uuid_and_an_unknown_one_is_not_found() {
    let server = TestServer::start().await;
    let owner = server.owner();
    for (method, path) in ROUTES {
        let ask = async |id: &str| server.call(&owner, method.clone(), &path.replace("{}", id), None).await;
        ask(UNKNOWN).await.problem(404, "not_found");
        for id in ["nonsense", "1", "hello", "%00", "..%2f..", "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a7", &"a".repeat(300)]
        {
            let message = ask(id).await.problem(400, "invalid_parameter");
            assert!(message.starts_with("id: "), "{message}");
        }
        ask("%ff").await.problem(400, "invalid_parameter");
    }
    server.put(&owner, &format!("/api/v1/containers/{UNKNOWN}"), &json!({})).await.problem(404, "not_found");
    server.get(&owner, "/api/v1/r/containers/no-such").await.problem(404, "not_found");
    server.get(&owner, "/api/v1/r/containers/NOT%20A%20SLUG").await.problem(404, "not_found");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = TestServer::start().await;
    let owner = server.owner();
    for number in 0..5 {
        server.create(&minimal(&format!("svc-{number}"))).await;
    }
    for (path, list) in [
        ("/api/v1/containers", "container_list"),
        ("/api/v1/r/containers", "container_list"),
        ("/api/v1/credentials", "credentials"),
        ("/api/v1/agents", "agent_list"),
        ("/api/v1/r/agents", "agent_list"),
    ] {
        let page = server.get(&owner, path).await.json(200);
        let total = page["page_meta"]["total_count"].as_u64().unwrap();
        assert_eq!(page["page_meta"], json!({"current_page": 1, "per_page": 20, "total_count": total}));
        let all = page[list].as_array().unwrap().clone();
        assert_eq!(all.len() as u64, total);
        let second = server.get(&owner, &format!("{path}?current_page=2&per_page=2")).await.json(200);
        let mut page_meta = json!({"current_page": 2, "per_page": 2, "total_count": total});
        if total > 4 {
            page_meta["next_cursor"] = second["page_meta"]["next_cursor"].clone();
            assert!(page_meta["next_cursor"].is_string(), "{path}");
        }
        assert_eq!(second["page_meta"], page_meta);
        let expected: Vec<Value> = all.into_iter().skip(2).take(2).collect();
        assert_eq!(second[list], json!(expected), "{path}");
        let behind = server.get(&owner, &format!("{path}?current_page=4294967295&per_page=100")).await.json(200);
        assert_eq!(behind[list], json!([]));
        for wrong in [
            "per_page=0",
            "per_page=101",
            "per_page=-1",
            "per_page=x",
            "per_page=",
            "per_page=1.5",
            "current_page=0",
            "current_page=99999999999",
            "per_page=1&per_page=2",
            "cursor=",
            "cursor=nonsense",
            "cursor=AAZXqGkCsIABkywHik57vZxFL0sfDTp",
            "cursor=AAZXqGkCsIABkywHik57vZxFL0sfDTp%2B",
        ] {
            let message = server.get(&owner, &format!("{path}?{wrong}")).await.problem(400, "invalid_parameter");
            assert!(message.contains(wrong.split('=').next().unwrap()), "{wrong}: {message}");
        }
    }
}

#[tokio::test]
async fn a_cursor_goes_on_where_a_page_ended() {
    let server = TestServer::start().await;
    let owner = server.owner();
    for number in 0..5 {
        server.create(&minimal(&format!("svc-{number}"))).await;
    }
    let slugs = |page: &Value| -> Vec<String> {
        let list = page["container_list"].as_array().unwrap();
        list.iter().map(|service| service["service_slug"].as_str().unwrap().to_owned()).collect()
    };
    let mut page = server.get(&owner, "/api/v1/containers?per_page=2").await.json(200);
    let first = page["container_list"][0]["id"].as_str().unwrap().to_owned();
    let mut seen = slugs(&page);
    // With page numbers the third one would now be passed over.
    assert_eq!(server.delete(&owner, &format!("/api/v1/containers/{first}")).await.status, 204);
    while let Some(cursor) = page["page_meta"]["next_cursor"].as_str() {
        let path = format!("/api/v1/containers?per_page=2&current_page=7&cursor={cursor}");
        page = server.get(&owner, &path).await.json(200);
        assert_eq!(page["page_meta"]["current_page"], 7, "as it was asked for");
        seen.extend(slugs(&page));
    }
    assert_eq!(seen, ["svc-0", "svc-1", "svc-2", "svc-3", "svc-4"]);
    assert_eq!(page["page_meta"]["total_count"], 4);
    let message = server.get(&owner, "/api/v1/containers?cursor=x").await.problem(400, "invalid_parameter");
    assert!(message.contains("cursor") && message.contains("next_cursor"), "{message}");
}

#[tokio::test]
async fn parameters_of_logs_and_credentials_are_checked() {
    let server = TestServer::start().await;
    let path = server.create(&minimal("hello")).await;
    for wrong in ["tail=-1", "tail=x", "tail=100001", "since=yesterday", "instance=x", "follow=maybe"] {
        let message =
            server.get(&server.owner(), &format!("{path}/logs?{wrong}")).await.problem(400, "invalid_parameter");
        assert!(message.contains(wrong.split('=').next().unwrap()), "{wrong}: {message}");
    }
    let unknown = server.get(&server.owner(), &format!("{path}/logs?instance={UNKNOWN}")).await;
    unknown.problem(404, "not_found");
    let logs = server.get(&server.owner(), &format!("{path}/logs?tail=10&since=2026-11-24T09:30:00Z")).await;
    assert_eq!((logs.status, logs.text().as_str()), (200, ""), "nothing has run yet");
    server.get(&server.owner(), "/api/v1/credentials?kind=moon").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let server = TestServer::start().await;
    for path in
        ["/", "/api/v1", "/api/v1/nothing", "/api/v1/containers/a/b/c", "/api/v1/containers/", "/api/v2/containers"]
    {
        server.get(&Caller::NOBODY, path).await.problem(404, "not_found");
    }
    for (method, path, allowed) in [
        (Method::PATCH, "/api/v1/containers", "GET"),
        (Method::POST, "/api/v1/users/me", "GET"),
        (Method::GET, "/api/v1/auth/login", "POST"),
        (Method::DELETE, "/healthz", "GET"),
    ] {
        let answer = server.call(&server.owner(), method.clone(), path, None).await;
        answer.problem(405, "method_not_allowed");
        let allow = answer.headers[header::ALLOW].to_str().unwrap();
        assert!(allow.contains(allowed), "{method} {path}: {allow}");
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_is_not_stored() {
    let server = TestServer::start().await;
    let ask = async |id: Option<&str>| {
        let mut caller = server.key("sk");
        caller.headers.extend(id.map(|id| ("x-request-id", id.to_owned())));
        let answer = server.get(&caller, "/api/v1/containers").await;
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        answer.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask(Some("from-me.1_A")).await, "from-me.1_A");
    assert_eq!(ask(Some("with space")).await.len(), 36);
    assert_ne!(ask(None).await, ask(None).await);
}

#[tokio::test]
async fn the_server_tells_how_it_is() {
    let server = TestServer::start().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(&Caller::NOBODY, path).await.json(200), json!({"status": "ok"}));
    }
    server.server.store().close().await;
    server.get(&Caller::NOBODY, "/healthz").await.json(200);
    let answer = server.get(&Caller::NOBODY, "/readyz").await;
    answer.problem(503, "unavailable");
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    server.get(&server.owner(), "/api/v1/containers").await.problem(503, "unavailable");
}
