//! A client of the HTTP API that shows what came, and panics with all of it when something else was expected.

use std::{net::SocketAddr, sync::Once};

use bytes::Bytes;
use http::{HeaderMap, Method};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::wait::{SOON, wait_until};

/// The API of one server, as seen with one credential.
#[derive(Debug, Clone)]
pub struct Api {
    client: Client,
    base: String,
    credential: Credential,
}

#[derive(Debug, Clone)]
enum Credential {
    None,
    Bearer(String),
    User { token: String, team_id: String },
}

impl Api {
    /// The API at a server's URL, without a credential.
    ///
    /// # Panics
    /// When the HTTP client cannot be made.
    #[must_use]
    pub fn new(server: &str) -> Self {
        static PROVIDER: Once = Once::new();
        // The client wants a TLS provider even for http://.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = Client::builder()
            .no_proxy()
            .connect_timeout(SOON)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("an HTTP client without special wishes");
        let base = format!("{}/api/v1", server.trim_end_matches('/'));
        Self { client, base, credential: Credential::None }
    }

    /// The same API with a key, or with a token and no team.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { credential: Credential::Bearer(key.to_owned()), ..self.clone() }
    }

    /// The same API as a signed-in user in a team.
    #[must_use]
    pub fn with_user(&self, token: &str, team_id: &str) -> Self {
        let credential = Credential::User { token: token.to_owned(), team_id: team_id.to_owned() };
        Self { credential, ..self.clone() }
    }

    /// The same API without a credential.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { credential: Credential::None, ..self.clone() }
    }

    /// The URL of a path below `/api/v1`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Where the server listens, for sockets of one's own.
    ///
    /// # Panics
    /// When the URL names no address and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let authority = self.base.split('/').nth(2).unwrap_or_default();
        authority.parse().unwrap_or_else(|_| panic!("{authority} is not an address with a port"))
    }

    /// The bearer token or key, for sockets of one's own.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn bearer(&self) -> &str {
        match &self.credential {
            Credential::None => panic!("this client has no credential"),
            Credential::Bearer(token) | Credential::User { token, .. } => token,
        }
    }

    /// A request, with the credential.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, self.url(path));
        match &self.credential {
            Credential::None => request,
            Credential::Bearer(token) => request.bearer_auth(token),
            Credential::User { token, team_id } => request.bearer_auth(token).header("x-team-id", team_id),
        }
    }

    /// Sends a request and takes its whole answer.
    ///
    /// # Panics
    /// When there is no whole answer.
    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let response = request.send().await.unwrap_or_else(|error| panic!("no answer: {error:?}"));
        Reply::of(response).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// POST without a body.
    pub async fn act(&self, path: &str) -> Reply {
        self.send(self.request(Method::POST, path)).await
    }

    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Signs in and gives the API as that user in a team.
    ///
    /// # Panics
    /// When the server does not accept it.
    pub async fn login(&self, email_address: &str, password: &str, team_id: &str) -> Self {
        let body = json!({"email_address": email_address, "user_password": password});
        let answer = self.anonymous().post("/auth/login", &body).await.expect(200);
        self.with_user(answer["access_token"].as_str().expect("a token is text"), team_id)
    }

    /// Creates a key and gives the API with it, and its id.
    ///
    /// # Panics
    /// When the server does not make it.
    pub async fn create_key(&self, body: &Value) -> (Self, String) {
        let answer = self.post("/credentials", body).await.created();
        let text = |field: &str| answer[field].as_str().expect("the field is text").to_owned();
        (self.with_key(&text("raw_key")), text("id"))
    }

    /// Creates a service and gives its id.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn create_service(&self, spec: &Value) -> String {
        let answer = self.post("/containers", spec).await.created();
        answer["id"].as_str().expect("the id is text").to_owned()
    }

    /// Deploys a service.
    ///
    /// # Panics
    /// When the server refuses to.
    pub async fn deploy(&self, id: &str) {
        let answer = self.act(&format!("/containers/{id}/deploy")).await.expect(200);
        assert_eq!(answer, json!({"is_success": true}));
    }

    /// Stops a service.
    ///
    /// # Panics
    /// When the server refuses to.
    pub async fn undeploy(&self, id: &str) {
        let answer = self.act(&format!("/containers/{id}/undeploy")).await.expect(200);
        assert_eq!(answer, json!({"is_success": true}));
    }

    /// A service as it is now.
    ///
    /// # Panics
    /// When there is none.
    pub async fn service(&self, id: &str) -> Value {
        self.get(&format!("/containers/{id}")).await.expect(200)
    }

    /// Waits until a service has a status; another final one ends the wait.
    ///
    /// # Panics
    /// When it gets another final status, or does not get there in time.
    pub async fn wait_for_status(&self, id: &str, status: &str) -> Value {
        wait_until(&format!("the service is {status}"), SOON * 2, async || {
            let service = self.service(id).await;
            let now = service["service_status"].as_str().unwrap_or_default();
            if now == status {
                return Ok(service);
            }
            let is_final = matches!(now, "failed" | "stopped") && matches!(status, "running" | "failed");
            assert!(!is_final, "wanted {status}: {service:#}");
            Err(service.to_string())
        })
        .await
    }

    /// Waits until a service has so many ready instances.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn wait_for_ready(&self, id: &str, instances: u64) -> Value {
        wait_until(&format!("{instances} instances are ready"), SOON * 2, async || {
            let service = self.service(id).await;
            if service["service_status"] == "running" && service["instances_ready"] == instances {
                return Ok(service);
            }
            assert_ne!(service["service_status"], "failed", "{service:#}");
            Err(service.to_string())
        })
        .await
    }

    /// Waits until a GET of this path is answered with this status.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn wait_for_answer(&self, path: &str, status: u16) -> Reply {
        wait_until(&format!("{path} answers {status}"), SOON * 2, async || {
            let reply = self.get(path).await;
            if reply.status == status { Ok(reply) } else { Err(format!("{} {}", reply.status, reply.text())) }
        })
        .await
    }

    /// Whether an agent is listed with this value of a field, such as `agent_status` and `online`; if not, what is listed.
    ///
    /// # Errors
    /// The list of agents, when it is not so.
    pub async fn agent_is(&self, name: &str, field: &str, value: &str) -> Result<(), String> {
        let agents = self.get("/r/agents").await.expect(200);
        let mut rows = agents["agent_list"].as_array().into_iter().flatten();
        let is_so = rows.any(|row| row["display_name"] == name && row[field] == value);
        if is_so { Ok(()) } else { Err(agents.to_string()) }
    }

    /// The instances of a service.
    ///
    /// # Panics
    /// When there is no such service.
    pub async fn instances(&self, id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/containers/{id}/instances")).await.expect(200);
        answer["instance_list"].as_array().expect("a list of instances").clone()
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap_or_else(|error| panic!("the answer ({status}) was cut: {error:?}"));
        Self { status, headers, body }
    }

    /// A header as text; empty when there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Checks the status.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn assert_status(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.text());
    }

    /// The JSON of an answer with this status.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The JSON of an answer to a creation: 200 or 201, since the contract fixes the body only.
    ///
    /// # Panics
    /// When it is another answer.
    #[track_caller]
    pub fn created(&self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{} {}", self.status, self.text());
        self.json()
    }

    /// Checks an error answer of Towline: status, code, the standard's and the contract's members, the request id. Gives the sentence.
    ///
    /// # Panics
    /// When something of it is missing or different.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["error_code"], code, "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        assert_eq!(problem["type"], format!("urn:towline:error:{code}"), "{problem:#}");
        assert_eq!(problem["detail"], problem["error_message"], "{problem:#}");
        let id = self.header("x-request-id");
        assert!(!id.is_empty() && problem["request_id"] == id, "request id {id:?}: {problem:#}");
        let message = problem["error_message"].as_str().unwrap_or_default().to_owned();
        assert!(message.len() > 10, "not a sentence: {problem:#}");
        let lower = problem.to_string().to_lowercase();
        for leak in ["select ", "insert into", "sqlx", "panicked", "src/", "backtrace"] {
            assert!(!lower.contains(leak), "{leak:?} leaks: {problem:#}");
        }
        message
    }

    /// Checks an error answer that the gateway made on a runtime route: as [`Reply::problem`], and `Proxy-Status` and the vendors' shape.
    ///
    /// # Panics
    /// When something of it is missing or different.
    #[track_caller]
    pub fn gateway_problem(&self, status: u16, code: &str) -> String {
        let message = self.problem(status, code);
        let proxy_status = self.header("proxy-status");
        assert!(proxy_status.contains("error="), "Proxy-Status is {proxy_status:?}");
        let problem = self.json();
        assert_eq!(problem["error"]["message"], message.as_str(), "{problem:#}");
        assert_eq!(problem["error"]["code"], code, "{problem:#}");
        assert!(problem["error"]["type"].is_string(), "{problem:#}");
        message
    }
}
