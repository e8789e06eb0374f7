//! Connections that leave HTTP.

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{DEADLINE, Server, sha256};

async fn open(server: &Server, target: &str, protocols: Option<&str>) -> (WebSocketStream<TcpStream>, Response) {
    let mut request = format!("ws://demo{target}").into_client_request().unwrap();
    if let Some(protocols) = protocols {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    let socket = TcpStream::connect(server.address).await.unwrap();
    tokio_tungstenite::client_async(request, socket).await.unwrap()
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Message> {
    tokio::time::timeout(DEADLINE, socket.next()).await.unwrap().map(Result::unwrap)
}

#[tokio::test]
async fn messages_come_back() {
    let server = Server::start().await;
    let (mut socket, _) = open(&server, "/ws", None).await;
    for message in [Message::text("héllo"), Message::binary(vec![0; 1 << 20]), Message::text("")] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap(), message);
    }
    socket.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap(), Message::Pong("p".into()));
}

#[tokio::test]
async fn a_close_is_answered_with_its_own_code() {
    let server = Server::start().await;
    let (mut socket, _) = open(&server, "/ws?key=closed", None).await;
    let frame = CloseFrame { code: CloseCode::from(4001), reason: "bye".into() };
    socket.close(Some(frame.clone())).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap(), Message::Close(Some(frame)));
    assert_eq!(next(&mut socket).await, None);
    server.wait_for_in_flight(0).await;
    assert_eq!(server.get("/disconnects?key=closed").await.json()["count"], 0);
}

#[tokio::test]
async fn the_server_closes_when_asked_and_when_it_ends() {
    let server = Server::start().await;
    let (mut socket, _) = open(&server, "/ws?close=4002&reason=go+away", None).await;
    let expected = CloseFrame { code: CloseCode::from(4002), reason: "go away".into() };
    assert_eq!(next(&mut socket).await.unwrap(), Message::Close(Some(expected)));

    let (mut socket, _) = open(&server, "/ws", None).await;
    server.shutdown.cancel();
    let Some(Message::Close(Some(frame))) = next(&mut socket).await else { panic!("no closing handshake") };
    assert_eq!(frame.code, CloseCode::Away);
}

#[tokio::test]
async fn the_first_subprotocol_is_taken() {
    let server = Server::start().await;
    let (_, response) = open(&server, "/ws", Some("chat.v2, chat.v1")).await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
    assert_eq!(server.get("/ws").await.status(), 426);
}

#[tokio::test]
async fn a_websocket_that_vanishes_is_a_disconnect() {
    let server = Server::start().await;
    let (socket, _) = open(&server, "/ws", None).await;
    server.wait_for_in_flight(1).await;
    drop(socket);
    server.wait_for_disconnects("/ws", 1).await;
}

#[tokio::test]
async fn any_upgrade_echoes_bytes_and_survives_a_half_close() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    // Bytes that come right behind the head belong to the new protocol.
    caller
        .write("GET /upgrade?digest=1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own/1\r\n\r\nfirst ")
        .await;
    let head = caller.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("upgrade: own/1\r\n"), "{head}");
    caller.read_until("first ").await;
    caller.write("GET / HTTP/1.1\r\n\r\n").await;
    caller.read_until("GET / HTTP/1.1\r\n\r\n").await;
    caller.socket.shutdown().await.unwrap();
    let last = String::from_utf8(caller.read_to_end().await).unwrap();
    let digest = sha256(b"first GET / HTTP/1.1\r\n\r\n");
    assert_eq!(last, format!("{{\"body_length\":24,\"body_sha256\":\"{digest}\"}}\n"));
    assert_eq!(server.get("/upgrade").await.status(), 426);
}
