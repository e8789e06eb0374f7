//! External services: servers elsewhere, reached over HTTPS through an agent.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use http::{Method, header::AUTHORIZATION};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use towline_e2e::{
    api::Api,
    sse::EventStream,
    system::{Agent, AgentOptions, Server, ServerOptions},
    tls_front::{Authority, Flaw, TlsFront},
    wait::{SOON, wait_until},
};

use crate::attached::LocalProcess;

/// A server that trusts the test's authority, and an HTTP server elsewhere.
struct Elsewhere {
    server: Server,
    authority: Authority,
    demo: LocalProcess,
    _directory: tempfile::TempDir,
}

impl Elsewhere {
    async fn start() -> Self {
        let directory = towline_e2e::dir::test_dir();
        let authority = Authority::new();
        let file = directory.path().join("authority.pem");
        authority.write_pem(&file);
        let arguments = vec!["--external-ca-file".to_owned(), file.display().to_string()];
        let server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
        Self { server, authority, demo: LocalProcess::start().await, _directory: directory }
    }

    /// An agent that may connect to this machine's loopback addresses, or not.
    async fn agent(&self, may: bool) -> Agent {
        let allow = ["--external-allow", "127.0.0.0/8", "--external-allow", "::1"];
        self.server
            .start_agent_with(AgentOptions {
                name: "egress".to_owned(),
                docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
                arguments: if may { allow.map(str::to_owned).to_vec() } else { Vec::new() },
                ..AgentOptions::default()
            })
            .await
    }

    async fn front(&self, flaw: Flaw) -> TlsFront {
        let behind: SocketAddr = self.demo.target().parse().unwrap();
        TlsFront::start(&self.authority, flaw, behind).await
    }

    /// Defines and deploys a service.
    async fn deploy(&self, slug: &str, url: &str) -> (Api, String) {
        let owner = self.server.owner().await;
        let id = owner.create_service(&external(slug, url)).await;
        owner.deploy(&id).await;
        (owner, id)
    }
}

fn external(slug: &str, url: &str) -> Value {
    json!({
        "service_slug": slug, "display_name": slug, "service_type": "external", "external_url": url,
        "probe": {"interval_seconds": 1},
    })
}

fn header<'v>(echo: &'v Value, name: &str) -> Option<&'v str> {
    let fields = echo["headers"].as_array().unwrap();
    fields.iter().find(|field| field[0] == name).and_then(|field| field[1].as_str())
}

#[tokio::test]
async fn a_server_elsewhere_is_called_like_any_service() {
    let elsewhere = Elsewhere::start().await;
    let _agent = elsewhere.agent(true).await;
    let front = elsewhere.front(Flaw::None).await;
    let (owner, id) = elsewhere.deploy("vendor", &front.url("/echo/base/")).await;
    owner.wait_for_ready(&id, 1).await;
    let api = elsewhere.server.api();

    let echo = api.get("/r/containers/vendor/a%2Fb//c?x=%20y").await.expect(200);
    assert_eq!(echo["target"], "/echo/base/a%2Fb//c?x=%20y");
    assert_eq!(header(&echo, "host"), Some(format!("localhost:{}", front.addr.port()).as_str()));
    assert_eq!(header(&echo, "authorization"), None, "the caller's key stays here");
    let body = json!({"method": "POST", "path": "/x", "body_base64": "aGVsbG8="});
    let invoked = api.post("/r/invoke/vendor", &body).await.expect(200);
    assert_eq!(invoked["status_code"], 200);

    // The connection is kept and used again, and so are many at once.
    let calls = (0..20).map(|index| {
        let api = api.clone();
        async move { api.get(&format!("/r/containers/vendor/{index}")).await.expect(200)["target"].clone() }
    });
    for (index, target) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(target, format!("/echo/base/{index}"));
    }
    drop(owner);
}

#[tokio::test]
async fn streams_and_websockets_pass_through_tls() {
    let elsewhere = Elsewhere::start().await;
    let _agent = elsewhere.agent(true).await;
    let front = elsewhere.front(Flaw::None).await;
    let (owner, id) = elsewhere.deploy("vendor", &front.url("")).await;
    owner.wait_for_ready(&id, 1).await;
    let api = elsewhere.server.api();

    // The second event is ten minutes away when the first one is here.
    let request = api.request(Method::GET, "/r/containers/vendor/sse?n=2&interval_ms=600000");
    let mut events = EventStream::new(request.send().await.unwrap());
    let first = tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.json()["n"], 1);
    drop(events);

    let url = api.url("/r/containers/vendor/ws").replacen("http", "ws", 1);
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(AUTHORIZATION, format!("Bearer {}", api.bearer()).parse().unwrap());
    let (mut socket, _) = connect_async(request).await.unwrap();
    for text in ["hello", "again"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_a_clear_502() {
    let elsewhere = Elsewhere::start().await;
    let _agent = elsewhere.agent(true).await;
    let api = elsewhere.server.api();
    for (slug, flaw, words) in [
        ("wrong-name", Flaw::WrongName, "not valid for name"),
        ("expired", Flaw::Expired, "expired"),
        ("self-signed", Flaw::SelfSigned, "UnknownIssuer"),
    ] {
        let front = elsewhere.front(flaw).await;
        let (owner, id) = elsewhere.deploy(slug, &front.url("/")).await;
        owner.wait_for_ready(&id, 1).await;
        for method in [Method::GET, Method::POST] {
            let reply = api.send(api.request(method, &format!("/r/containers/{slug}/echo"))).await;
            let message = reply.gateway_problem(502, "tls_certificate_error");
            assert!(message.contains(words), "{slug}: {message}");
            assert!(reply.header("proxy-status").contains("error=tls_certificate_error"), "{:?}", reply.headers);
            assert_eq!(reply.header("x-should-retry"), "", "nothing was sent");
        }
    }
    // Plain HTTP where TLS is expected.
    let (owner, id) = elsewhere.deploy("plain", &format!("https://{}/", elsewhere.demo.target())).await;
    owner.wait_for_ready(&id, 1).await;
    let reply = api.get("/r/containers/plain/echo").await;
    reply.gateway_problem(502, "tls_protocol_error");
    assert!(reply.header("proxy-status").contains("error=tls_protocol_error"), "{:?}", reply.headers);
}

#[tokio::test]
async fn private_addresses_are_denied_unless_the_agent_is_told_otherwise() {
    let elsewhere = Elsewhere::start().await;
    let mut agent = elsewhere.agent(false).await;
    let front = elsewhere.front(Flaw::None).await;
    let (owner, id) = elsewhere.deploy("vendor", &front.url("/")).await;
    let service = owner.wait_for_status(&id, "failed").await;
    let reason = service["status_reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("egress may not connect to https://localhost") && reason.contains("--external-allow"),
        "{reason}"
    );
    // The same agent, started with a list that allows it; then one without again, while the service runs.
    agent.process.terminate(SOON).await;
    let mut allowed = elsewhere.agent(true).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    elsewhere.server.api().get("/r/containers/vendor/echo").await.expect(200);
    allowed.process.terminate(SOON).await;
    let _denied = elsewhere.agent(false).await;
    wait_until("the agent has said that it may not", SOON, async || {
        let service = owner.service(&id).await;
        let reason = service["status_reason"].as_str().unwrap_or_default();
        if reason.contains("--external-allow") { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    elsewhere.server.api().get("/r/containers/vendor/echo").await.gateway_problem(503, "no_ready_instance");
}

#[tokio::test]
async fn a_secret_is_sent_to_the_server_and_to_nobody_else() {
    let elsewhere = Elsewhere::start().await;
    let agent = elsewhere.agent(true).await;
    let front = elsewhere.front(Flaw::None).await;
    let owner = elsewhere.server.owner().await;
    let secret = owner.post("/secrets", &json!({"name": "vendor", "value": "Bearer vendor-key-1"})).await.created();
    let mut definition = external("vendor", &front.url("/"));
    definition["external_auth_credential_id"] = secret["id"].clone();
    let id = owner.create_service(&definition).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;

    let api = elsewhere.server.api();
    let echo = api.get("/r/containers/vendor/echo").await.expect(200);
    assert_eq!(header(&echo, "authorization"), Some("Bearer vendor-key-1"));
    // What a caller sends there is not for the server, and is replaced.
    let request = api.anonymous().request(Method::GET, "/r/containers/vendor/echo");
    let request = request.header("x-towline-key", api.bearer()).header("authorization", "Bearer of-the-caller");
    let echo = api.send(request).await.expect(200);
    let sent: Vec<_> = echo["headers"].as_array().unwrap().iter().filter(|field| field[0] == "authorization").collect();
    assert_eq!(sent, [&json!(["authorization", "Bearer vendor-key-1"])]);
    let invoked = api.post("/r/invoke/vendor", &json!({"method": "GET", "path": "/echo"})).await.expect(200);
    assert_eq!(invoked["status_code"], 200);

    // A new value holds for the next call.
    let path = format!("/secrets/{}", secret["id"].as_str().unwrap());
    owner.put(&path, &json!({"value": "Bearer vendor-key-2"})).await.expect(200);
    let echo = api.get("/r/containers/vendor/echo").await.expect(200);
    assert_eq!(header(&echo, "authorization"), Some("Bearer vendor-key-2"));
    let words = owner.delete(&path).await;
    assert_eq!(words.status, 409, "{}", words.text());
    assert!(words.text().contains("external_auth_credential_id"), "{}", words.text());

    // Neither the agent nor the server has written it down, and the API does not tell it.
    let shown = owner.service(&id).await.to_string();
    for text in [agent.process.output(), elsewhere.server.process.output(), shown] {
        assert!(!text.contains("vendor-key"), "{text}");
    }
    let wrong = owner.post("/secrets", &json!({"name": "broken", "value": "two\nlines"})).await.created();
    let change = json!({"external_auth_credential_id": wrong["id"]});
    let message = owner.put(&format!("/containers/{id}"), &change).await.problem(400, "validation_failed");
    assert!(message.contains("external_auth_credential_id"), "{message}");
}
