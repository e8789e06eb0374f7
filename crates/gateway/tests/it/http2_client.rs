//! A caller that speaks HTTP/2 in the words of the `h2` crate.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Request, Response, request::Builder};
use tokio::{net::TcpStream, task::JoinSet};
use towline_gateway::testing::{World, within};

/// A connection. It is gone when this is dropped.
pub(super) struct Client {
    pub sender: SendRequest<Bytes>,
    _driver: JoinSet<()>,
}

impl Client {
    pub async fn connect(world: &World) -> Self {
        let socket = TcpStream::connect(world.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (sender, connection) = within("the handshake", h2::client::handshake(socket)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { sender, _driver: driver }
    }

    /// Sends a request's head.
    pub async fn send(&self, request: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = within("room for a request", self.sender.clone().ready()).await.unwrap();
        sender.send_request(request, ends).unwrap()
    }
}

/// A request for the service `hello`.
pub(super) fn request(method: &str, key: &str) -> Builder {
    Request::builder()
        .method(method)
        .uri("http://gateway.test/api/v1/r/containers/hello/")
        .header("authorization", format!("Bearer {key}"))
}

/// The next interim answer; `None` when the answer itself is next.
pub(super) async fn interim(answer: &mut ResponseFuture) -> Option<Response<()>> {
    within("an interim answer", poll_fn(|cx| answer.poll_informational(cx))).await.map(Result::unwrap)
}

/// Everything of a body.
pub(super) async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = within("more of the body", body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}
