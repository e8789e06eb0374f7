//! The wire between a server and its certificate authority: all that goes over it is seen, and an answer can be changed.
//! It changes nothing by itself; what the authority makes of a request is the authority's.

use std::{
    convert::Infallible,
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use reqwest::Client;
use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::acme::Pebble;

/// A request and what the authority answered.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The method.
    pub method: Method,
    /// Where it went, such as `/order-plz`.
    pub path: String,
    /// What was signed (RFC 8555 §6.2); null when it was nothing, or not JSON.
    pub payload: Value,
    /// The status of the answer.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Exchange {
    /// The answer's body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Changes an answer before it goes on.
type Change = dyn Fn(&mut Exchange) + Send + Sync;

struct Shared {
    authority: String,
    http: Client,
    change: Box<Change>,
    seen: Mutex<Vec<Exchange>>,
}

/// An HTTPS server in the authority's place, which asks the authority. It ends when it is dropped.
pub struct Wire {
    shared: Arc<Shared>,
    port: u16,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Wire {
    /// Listens on a free port; `change` is given each answer before it goes on.
    pub async fn to(pebble: &Pebble, change: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let [certificate, key] = pebble.certificate_files();
        let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate in PEM");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key in PEM");
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has the default versions");
        let config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).expect("the key fits");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let authority = pebble.directory_url().trim_end_matches("/dir").to_owned();
        let (http, change, seen) = (pebble.http(), Box::new(change), Mutex::default());
        let shared = Arc::new(Shared { authority, http, change, seen });
        let mut tasks = JoinSet::new();
        let serving = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                connections.spawn(async move {
                    let Ok(secure) = acceptor.accept(socket).await else { return };
                    let service = service_fn(async |request| Ok::<_, Infallible>(shared.pass(request).await));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(secure), service).await;
                });
            }
        });
        Self { shared, port, _tasks: tasks }
    }

    /// Where the authority's directory is over this wire.
    #[must_use]
    pub fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// What has gone over it since this was last asked, in order.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Exchange> {
        mem::take(&mut self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    async fn pass(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let payload = payload(&body);
        // With the `Host` that was sent: the authority makes URLs of it, and wants those to be signed.
        let asking = self.http.request(parts.method.clone(), format!("{}{}", self.authority, parts.uri));
        let asking = asking.headers(parts.headers).body(body);
        let Ok(answer) = asking.send().await else { return unanswered() };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let Ok(body) = answer.bytes().await else { return unanswered() };
        let path = parts.uri.path().to_owned();
        let mut exchange = Exchange { method: parts.method, path, payload, status, headers, body };
        (self.change)(&mut exchange);
        // The length is that of what the authority has said.
        exchange.headers.remove(header::CONTENT_LENGTH);
        let mut response = Response::new(Full::new(exchange.body.clone()));
        (*response.status_mut(), *response.headers_mut()) = (exchange.status, exchange.headers.clone());
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
        response
    }
}

/// The authority is down.
fn unanswered() -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

/// What is signed in a request, which is a JWS (RFC 7515 §7.2.2).
fn payload(body: &[u8]) -> Value {
    let signed: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = signed["payload"].as_str().unwrap_or_default();
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    serde_json::from_slice(&decoded).unwrap_or_default()
}
