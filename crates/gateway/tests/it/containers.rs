//! Containers that several tests need, and what is asked of them.

use std::{fmt, io};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use towline_gateway::testing::{Container, within};

/// A container whose WebSockets, as a stock library has them, send back every message.
pub(super) async fn websocket_echo() -> Container {
    Container::start(|exchange, _| async move {
        let socket = tokio_tungstenite::accept_async(exchange.socket).await.map_err(io::Error::other)?;
        echo_messages(socket).await;
        Ok(())
    })
    .await
}

/// Sends back every message, to the end.
pub(super) async fn echo_messages<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// Sends messages of several kinds and sizes, and a ping, to whoever sends them back.
pub(super) async fn try_messages<S: AsyncRead + AsyncWrite + Unpin + fmt::Debug>(socket: &mut WebSocketStream<S>) {
    for message in [Message::text("hello"), Message::text("ü".repeat(70_000)), Message::binary(vec![7; 1 << 20])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(within("the echo", socket.next()).await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(within("a pong", socket.next()).await.unwrap().unwrap(), Message::Pong("are you there".into()));
}

/// A container that asks for the body, of 4 bytes, with a field that tells that it was itself who asked, and sends it back.
pub(super) async fn continuing() -> Container {
    Container::start(|mut exchange, _| async move {
        let head = exchange.head().await?.unwrap();
        assert!(head.to_lowercase().contains("\r\nexpect: 100-continue\r\n"), "{head}");
        exchange.write("HTTP/1.1 100 Continue\r\nSaid-By: the container\r\n\r\n").await?;
        let body = exchange.exactly(4).await?;
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await?;
        exchange.write(body).await
    })
    .await
}

/// A container that does not want the body.
pub(super) async fn refusing_to_continue() -> Container {
    Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await?;
        exchange.ended().await
    })
    .await
}

/// A container that answers with so many `103 Early Hints` at once, and `200` behind them.
pub(super) async fn hinting(count: usize) -> Container {
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: </{}>\r\n\r\n", "x".repeat(80)).repeat(count);
    let answer = format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    Container::answering(answer.leak()).await
}
