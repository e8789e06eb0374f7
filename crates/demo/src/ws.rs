//! `GET /ws`: a WebSocket that sends every message back.
//!
//! The first subprotocol that the caller offers is taken. Pings are answered, a close is answered with its own code. With `?close=CODE&reason=TEXT`
//! the server closes at once. WebSockets over HTTP/2 (RFC 8441) are not offered.

use futures_util::{SinkExt, StreamExt};
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::body::ErrorBody;
use crate::call::{Call, Reply, Stop};
use crate::upgrade::{Switch, switching_protocols};

/// The opening handshake of RFC 6455.
pub async fn ws(mut call: Call) -> Reply {
    let accept = accept_key(&call)?;
    let farewell = match call.query.number("close", 0, 1000..=4999)? {
        0 => None,
        code => Some(CloseFrame {
            code: CloseCode::from(u16::try_from(code).unwrap_or(1000)),
            reason: call.query.get("reason").unwrap_or_default().to_owned().into(),
        }),
    };
    let shutdown = call.demo.shutdown.clone();
    let switch = Switch::begin(&mut call);
    call.demo.spawn(serve(switch, farewell, shutdown));

    let mut answer = switching_protocols(HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = first_subprotocol(call.request.headers()) {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(answer)
}

fn accept_key(call: &Call) -> Result<HeaderValue, Stop> {
    let headers = call.request.headers();
    let is_websocket = headers.get(UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let is_version_13 = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    match headers.get(SEC_WEBSOCKET_KEY) {
        Some(key) if is_websocket && is_version_13 && call.is_http1() => {
            Ok(HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 is ASCII"))
        }
        _ => {
            let message = "this endpoint needs the opening handshake of a WebSocket, version 13, on HTTP/1.1";
            Err(ErrorBody::new(StatusCode::UPGRADE_REQUIRED, message).into())
        }
    }
}

fn first_subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    HeaderValue::from_str(offered.split(',').next()?.trim()).ok()
}

async fn serve(switch: Switch, farewell: Option<CloseFrame>, shutdown: CancellationToken) {
    let Some((stream, mut exchange)) = switch.finish().await else { return };
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    if echo(&mut socket, farewell, shutdown).await.is_ok() {
        exchange.end();
    }
}

/// Ends with `Ok` after a closing handshake, whoever began it.
async fn echo(
    socket: &mut WebSocketStream<TokioIo<Upgraded>>,
    farewell: Option<CloseFrame>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut closing = farewell.is_some();
    if farewell.is_some() {
        socket.close(farewell).await?;
    }
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = shutdown.cancelled(), if !closing => {
                closing = true;
                socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "shutting down".into() })).await?;
                continue;
            }
        };
        match message {
            None => return Ok(()),
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) if !closing => socket.send(message).await?,
            // The answers to these two are made by the library; they only have to go out.
            Some(Ok(Message::Ping(_) | Message::Close(_))) => match socket.flush().await {
                Ok(()) | Err(Error::ConnectionClosed) => {}
                Err(error) => return Err(error),
            },
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
        }
    }
}
