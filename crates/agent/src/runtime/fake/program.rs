//! What runs in a container of the fake engine.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::task::spawn_owned;

/// A program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Program {
    /// Nobody listens; for tests in virtual time.
    #[default]
    Nothing,
    /// Sends back every byte that it gets, and closes when its peer has.
    Echo,
    /// Speaks HTTP/1.1 and answers everything with 200, and with the request's method and target in the body.
    Http,
}

impl Program {
    /// Starts it. It ends when the handle is dropped, and closes its connections.
    pub(super) async fn start(self) -> (SocketAddr, Option<AbortOnDropHandle<()>>) {
        if self == Self::Nothing {
            return (SocketAddr::from(([127, 0, 0, 1], 9)), None);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let endpoint = listener.local_addr().expect("a bound socket has an address");
        (endpoint, Some(spawn_owned(self.serve(listener))))
    }

    async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((socket, _)) = listener.accept() => { connections.spawn(self.talk(socket)); }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }

    async fn talk(self, mut socket: TcpStream) {
        if self == Self::Echo {
            let (mut reader, mut writer) = socket.split();
            let _ = io::copy(&mut reader, &mut writer).await;
            return;
        }
        let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer)).await;
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!("{} {}\n", request.method(), request.uri());
    Ok(Response::new(Full::new(Bytes::from(text))))
}
