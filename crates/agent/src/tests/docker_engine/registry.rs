//! A registry on loopback that has nothing: `absent` does not exist, everything else wants a login.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use crate::task::spawn_owned;

pub struct Registry {
    pub address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Registry {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = spawn_owned(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let serve = http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer));
                connections.spawn(async move { drop(serve.await) });
            }
        });
        Self { address, _task: task }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path() {
        "/v2/" => (StatusCode::OK, "{}"),
        path if path.starts_with("/v2/absent/") => {
            (StatusCode::NOT_FOUND, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
        }
        _ => (StatusCode::FORBIDDEN, r#"{"errors":[{"code":"DENIED","message":"access denied"}]}"#),
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap())
}
