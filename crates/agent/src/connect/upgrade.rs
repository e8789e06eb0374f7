//! The HTTP/1.1 upgrade (RFC 9110 §7.8): one request, and the connection that it becomes.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::either::Either;
use towline_tunnel::{
    Workers,
    upgrade::{ConnectionKind, Framing, WORKER_FIELD},
    websocket::{WebSocketIo, derive_accept_key, generate_key},
};

use super::{ConnectError, Rejection, ServerSocket};

/// Bytes of an answer's head, and lines in it, before it is given up.
const HEAD_LIMIT: (usize, usize) = (16 << 10, 64);
/// What the agent calls itself.
pub(super) const USER_AGENT: &str = concat!("towline-agent/", env!("CARGO_PKG_VERSION"));

/// One request to switch protocols.
#[derive(Debug)]
pub(super) struct UpgradeRequest {
    pub(super) uri: Uri,
    pub(super) kind: ConnectionKind,
    pub(super) framing: Framing,
    pub(super) host: HeaderValue,
    pub(super) authorization: HeaderValue,
}

/// A connection to the server on which frames are sent and received.
pub type Transport<S = ServerSocket> = Either<UpgradedSocket<S>, WebSocketIo<UpgradedSocket<S>>>;

impl UpgradeRequest {
    /// Sends the request on a fresh connection and takes the connection over when the server switches.
    pub(super) async fn send<S: Socket>(self, socket: S) -> Result<Transport<S>, ConnectError> {
        let (kind, framing, key) = (self.kind, self.framing, generate_key());
        let request = self.into_request(&key)?;
        let switches = |response: &Response<Incoming>| match framing {
            Framing::Bare => switches_to(response, kind.upgrade()),
            Framing::WebSocket => opens_websocket(response, kind.subprotocol(), &key),
        };
        let socket = exchange(socket, request, switches).await?;
        Ok(match framing {
            Framing::Bare => Either::Left(socket),
            Framing::WebSocket => Either::Right(WebSocketIo::client(socket).await),
        })
    }

    fn into_request(self, key: &str) -> Result<Request<Empty<Bytes>>, ConnectError> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.uri;
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        match self.framing {
            Framing::Bare => {
                headers.insert(header::UPGRADE, HeaderValue::from_static(self.kind.upgrade()));
            }
            Framing::WebSocket => {
                let key = HeaderValue::from_str(key).map_err(|_| ConnectError::Ticket)?;
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                headers.insert(header::SEC_WEBSOCKET_KEY, key);
                let subprotocol = HeaderValue::from_static(self.kind.subprotocol());
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
            }
        }
        headers.insert(header::AUTHORIZATION, self.authorization);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let (ConnectionKind::Carrier, Some(worker)) = (self.kind, Workers::here()) {
            headers.insert(WORKER_FIELD, HeaderValue::from(worker));
        }
        Ok(request)
    }
}

/// Sends one request on a fresh connection, and gives the connection back when its answer is the one that is hoped for.
pub(super) async fn exchange<S: Socket>(
    socket: S,
    request: Request<Empty<Bytes>>,
    is_hoped_for: impl FnOnce(&Response<Incoming>) -> bool,
) -> Result<UpgradedSocket<S>, ConnectError> {
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD_LIMIT.0).max_headers(HEAD_LIMIT.1);
    let (mut sender, connection) = client.handshake(TokioIo::new(socket)).await?;
    // It can end together with the answer; fused, it may still be polled after that.
    let mut connection = pin!(connection.with_upgrades().fuse());
    let mut answer = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut answer => response?,
        ended = &mut connection => {
            ended?;
            // The connection's last words may be the answer.
            answer.await?
        }
    };
    if !is_hoped_for(&response) {
        let mut rejection = pin!(Rejection::read(response));
        let rejection = tokio::select! {
            rejection = &mut rejection => rejection,
            // What came before the end can still be read.
            _ = &mut connection => rejection.await,
        };
        return Err(rejection.into());
    }
    let mut upgraded = pin!(hyper::upgrade::on(response));
    let upgraded = poll_fn(|cx| {
        // What goes wrong with the connection is told to the upgrade that waits for it.
        let _ = connection.as_mut().poll(cx);
        upgraded.as_mut().poll(cx)
    });
    Ok(UpgradedSocket::new(upgraded.await?))
}

fn switches_to(response: &Response<Incoming>, protocol: &str) -> bool {
    let upgrade = response.headers().get(header::UPGRADE);
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
}

/// Whether the answer opens the WebSocket that was asked for (RFC 6455 §4.1).
fn opens_websocket(response: &Response<Incoming>, subprotocol: &str, key: &str) -> bool {
    let is = |name, expected: &str| response.headers().get(name).is_some_and(|value| value == expected);
    switches_to(response, "websocket")
        && is(header::SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes()))
        && is(header::SEC_WEBSOCKET_PROTOCOL, subprotocol)
}

/// What a request can be sent on: a [`ServerSocket`], or a fuzzer's stand-in for one.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// The connection after the switch. What the server sent right behind its answer is read first.
#[derive(Debug)]
pub struct UpgradedSocket<S = ServerSocket> {
    ahead: Bytes,
    socket: Switched<S>,
}

/// The socket itself, freed from the HTTP layer around it.
#[derive(Debug)]
enum Switched<S> {
    Direct(S),
    /// Cannot happen as long as hyper gives back what it was given; it is still a connection.
    Wrapped(TokioIo<Upgraded>),
}

impl<S: Socket> UpgradedSocket<S> {
    /// The socket, if nothing was received on it yet.
    pub(super) fn into_fresh(self) -> Option<S> {
        match self.socket {
            Switched::Direct(socket) if self.ahead.is_empty() => Some(socket),
            _ => None,
        }
    }

    fn new(upgraded: Upgraded) -> Self {
        match upgraded.downcast::<TokioIo<S>>() {
            Ok(parts) => Self { ahead: parts.read_buf, socket: Switched::Direct(parts.io.into_inner()) },
            Err(upgraded) => Self { ahead: Bytes::new(), socket: Switched::Wrapped(TokioIo::new(upgraded)) },
        }
    }
}

impl<S: Socket> AsyncRead for UpgradedSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.has_remaining() {
            let step = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(step));
            return Poll::Ready(Ok(()));
        }
        match &mut this.socket {
            Switched::Direct(socket) => Pin::new(socket).poll_read(cx, buf),
            Switched::Wrapped(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl<S: Socket> AsyncWrite for UpgradedSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Switched::Direct(socket) => Pin::new(socket).poll_write(cx, data),
            Switched::Wrapped(socket) => Pin::new(socket).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Switched::Direct(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            Switched::Wrapped(socket) => Pin::new(socket).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Switched::Direct(socket) => socket.is_write_vectored(),
            Switched::Wrapped(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Switched::Direct(socket) => Pin::new(socket).poll_flush(cx),
            Switched::Wrapped(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Switched::Direct(socket) => Pin::new(socket).poll_shutdown(cx),
            Switched::Wrapped(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::connect::Reach;

    fn request(kind: ConnectionKind, framing: Framing) -> UpgradeRequest {
        UpgradeRequest {
            uri: kind.path().parse().unwrap(),
            kind,
            framing,
            host: HeaderValue::from_static("example.com"),
            authorization: HeaderValue::from_static("Bearer ak-1"),
        }
    }

    #[tokio::test]
    async fn a_carrier_says_which_worker_reads_it() {
        let workers = Workers::start(2, Duration::ZERO).unwrap();
        let workers_named = |kind| {
            let asked = [(); 2]
                .map(|()| workers.next().spawn(async move { request(kind, Framing::Bare).into_request("").unwrap() }));
            join_all(asked).map(|all| {
                all.into_iter().map(|one| one.unwrap().headers().get(WORKER_FIELD).cloned()).collect::<Vec<_>>()
            })
        };
        assert_eq!(
            workers_named(ConnectionKind::Carrier).await,
            [Some(HeaderValue::from(0)), Some(HeaderValue::from(1))]
        );
        assert_eq!(workers_named(ConnectionKind::Session).await, [None, None]);
    }

    /// Sends the upgrade request to a server that answers with exactly these bytes.
    async fn answered_with(answer: &[u8]) -> (String, Result<Transport, ConnectError>) {
        asked(Framing::Bare, |_| answer.to_vec()).await
    }

    /// The same, to a server whose answer depends on the request.
    async fn asked(
        framing: Framing,
        answer: impl FnOnce(&str) -> Vec<u8>,
    ) -> (String, Result<Transport, ConnectError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let request = request(ConnectionKind::Session, framing);
        let serve = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(server.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            server.write_all(&answer(&head)).await.unwrap();
            server.shutdown().await.unwrap();
            head
        };
        let (head, outcome) = tokio::join!(serve, request.send(ServerSocket::Plain(client)));
        (head, outcome)
    }

    #[tokio::test]
    async fn the_connection_is_taken_over_with_what_came_right_behind_the_answer() {
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: towline-session/1\r\n\r\nframes";
        let (head, outcome) = answered_with(answer).await;
        assert!(head.starts_with("GET /api/v1/agent/session HTTP/1.1\r\n"), "{head}");
        for line in
            ["host: example.com", "upgrade: towline-session/1", "connection: Upgrade", "authorization: Bearer ak-1"]
        {
            assert!(head.contains(&format!("{line}\r\n")), "{line} is not in {head}");
        }
        let Ok(Either::Left(mut socket)) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(socket.socket, Switched::Direct(_)));
        let mut frames = String::new();
        socket.read_to_string(&mut frames).await.unwrap();
        assert_eq!(frames, "frames");
    }

    /// The answer of a server that takes the WebSocket, with one field's value changed.
    fn websocket_answer(head: &str, wrong: &str) -> Vec<u8> {
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let value = |name: &str, right: &str| if name == wrong { "wrong".to_owned() } else { right.to_owned() };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {}\r\nsec-websocket-accept: {}\r\n\
             sec-websocket-protocol: {}\r\n\r\n",
            value("upgrade", "WebSocket"),
            value("accept", &derive_accept_key(key.as_bytes())),
            value("protocol", "towline-session.1"),
        );
        // Right behind it a binary message that is not masked, as servers send them.
        [answer.as_bytes(), b"\x82\x06frames\x88\x00"].concat()
    }

    #[tokio::test]
    async fn a_websocket_is_opened_and_checked() {
        let (head, outcome) = asked(Framing::WebSocket, |head| websocket_answer(head, "")).await;
        for line in [
            "upgrade: websocket",
            "connection: Upgrade",
            "sec-websocket-version: 13",
            "sec-websocket-protocol: towline-session.1",
            "authorization: Bearer ak-1",
        ] {
            assert!(head.contains(&format!("{line}\r\n")), "{line} is not in {head}");
        }
        let mut frames = [0; 6];
        outcome.unwrap().read_exact(&mut frames).await.unwrap();
        assert_eq!(&frames, b"frames");
        for wrong in ["upgrade", "accept", "protocol"] {
            let (_, outcome) = asked(Framing::WebSocket, |head| websocket_answer(head, wrong)).await;
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains("answered 101"), "{wrong}: {error}");
            assert_eq!(error.reach(), Reach::Rung);
        }
    }

    #[tokio::test]
    async fn what_the_server_itself_says_is_final_and_nothing_else_is() {
        let reach = async |status: &str, body: &str| {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            answered_with(answer.as_bytes()).await.1.unwrap_err().reach()
        };
        let ours = r#"{"error_message":"no","error_code":"some_code"}"#;
        for status in ["401 No", "403 No", "429 No", "503 No"] {
            assert_eq!(reach(status, ours).await, Reach::Everywhere, "{status}");
        }
        assert_eq!(reach("426 No", ours).await, Reach::Rung, "no upgrade has arrived");
        for status in ["200 Ok", "301 No", "400 No", "401 No", "403 No", "404 No", "426 No", "502 No", "503 No"] {
            assert_eq!(reach(status, "<html>").await, Reach::Rung, "{status}");
            assert_eq!(reach(status, r#"{"message":"no"}"#).await, Reach::Rung, "{status}");
        }
        assert_eq!(answered_with(b"").await.1.unwrap_err().reach(), Reach::Rung, "closed without an answer");
        let endless = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 32 << 10]].concat();
        let error = answered_with(&endless).await.1.unwrap_err();
        assert!(matches!(error, ConnectError::Http(_)), "{error}");
    }

    #[tokio::test]
    async fn another_answer_is_explained() {
        let check = async |answer: &str, expected: &str, lasting: bool| {
            let (_, outcome) = answered_with(answer.as_bytes()).await;
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.is_lasting(), lasting, "{error}");
        };
        let problem = r#"{"error_message":"the key was revoked"}"#;
        let unauthorised = format!("HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\n\r\n{problem}", problem.len());
        check(&unauthorised, "towline key create --kind agent", true).await;
        check(&unauthorised, "the key was revoked", true).await;
        check("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "no Towline server", true).await;
        check("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n", "install an agent", true).await;
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "pass `Upgrade`", true).await;
        check(
            "HTTP/1.1 301 Moved\r\nlocation: https://x.example/\r\ncontent-length: 0\r\n\r\n",
            "https://x.example/",
            true,
        )
        .await;
        check("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "not available", false).await;
        check("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n", "not available", false).await;
        check("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n", "answered 101", true)
            .await;
        check("", "broke off", false).await;
        check("SSH-2.0-OpenSSH_9.2\r\n", "broke off", false).await;
    }
}
