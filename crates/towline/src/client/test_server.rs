//! A small HTTP server in the test's own process, which answers what the test says and remembers what it was asked.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::Response,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use url::Url;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method and target, such as `GET /api/v1/containers?per_page=100`.
    pub line: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Seen {
    /// A header as text; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A running server; it ends when it is dropped.
pub struct TestServer {
    /// Its base URL.
    pub url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

impl TestServer {
    /// Starts a server that answers as `answer` says.
    pub async fn start(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        crate::tls::install();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let seen = Arc::new(Mutex::new(vec![]));
        let remember = Arc::clone(&seen);
        let handler = move |request: Request| {
            let (answer, remember) = (answer.clone(), Arc::clone(&remember));
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
                let seen = Seen { line: format!("{} {}", parts.method, parts.uri), headers: parts.headers, body };
                let response = answer(&seen);
                remember.lock().unwrap().push(seen);
                response
            }
        };
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        Self { url, seen, _task: task }
    }

    /// What it was asked, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The first lines of what it was asked.
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

/// A JSON answer.
pub fn json(status: u16, body: &Value) -> Response {
    answer(status, "application/json", body.to_string())
}

/// An error answer of Towline.
pub fn problem(code: towline_model::ErrorCode, message: &str) -> Response {
    let problem = towline_model::Problem::new(code, message).with_request_id("r-1");
    answer(code.status(), towline_model::problem::CONTENT_TYPE, serde_json::to_string(&problem).unwrap())
}

/// Any answer.
pub fn answer(status: u16, content_type: &str, body: impl Into<Body>) -> Response {
    let builder = Response::builder().status(StatusCode::from_u16(status).unwrap()).header(CONTENT_TYPE, content_type);
    builder.body(body.into()).unwrap()
}
