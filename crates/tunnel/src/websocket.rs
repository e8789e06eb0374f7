//! A connection inside the binary messages of a WebSocket (RFC 6455), for balancers that pass nothing else on.
//!
//! Message boundaries mean nothing: the frames of sessions and carriers are a stream of bytes here as on any other
//! connection. The client's bytes are masked, as the RFC wants it; nothing is compressed.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
pub use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{Role, WebSocketConfig},
    },
};

/// The longest message, in bytes: sent, and taken. Balancers have limits too, and a ping waits behind one message.
const LONGEST_MESSAGE: usize = 64 << 10;
/// Bytes of one read. Held by an idle connection too.
const READ_BUFFER: usize = 8 << 10;
/// Messages without bytes for the frames (pings, pongs) that are taken in one go; then others get a turn.
const IDLE_TALK: usize = 16;

/// A connection inside a WebSocket, after its handshake.
#[derive(Debug)]
pub struct WebSocketIo<T> {
    socket: WebSocketStream<T>,
    /// What is left of the message that is being read.
    message: Bytes,
}

impl<T: AsyncRead + AsyncWrite + Unpin> WebSocketIo<T> {
    /// The side that has asked for the WebSocket.
    pub async fn client(io: T) -> Self {
        Self::new(io, Role::Client).await
    }

    /// The side that has answered.
    pub async fn server(io: T) -> Self {
        Self::new(io, Role::Server).await
    }

    async fn new(io: T, role: Role) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(LONGEST_MESSAGE)
            .max_write_buffer_size(4 * LONGEST_MESSAGE)
            .max_message_size(Some(LONGEST_MESSAGE))
            .max_frame_size(Some(LONGEST_MESSAGE));
        Self { socket: WebSocketStream::from_raw_socket(io, role, Some(config)).await, message: Bytes::new() }
    }

    /// Reads on until a message with bytes is there; empty at the end of the connection.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..IDLE_TALK {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) if !bytes.is_empty() => {
                    self.message = bytes;
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(Message::Text(_))) => {
                    let reason = "a text message came where frames are binary messages";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
                }
                // Pings are answered below; a close message has the end right behind it.
                Some(Ok(_)) => {}
                None | Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(to_io_error(error))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, message: impl FnOnce() -> Bytes) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(to_io_error)?;
        let message = message();
        let sent = message.len();
        Pin::new(&mut self.socket).start_send(Message::Binary(message)).map_err(to_io_error)?;
        Poll::Ready(Ok(sent))
    }
}

fn to_io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.message.is_empty() {
            ready!(self.poll_message(cx))?;
        }
        let count = self.message.len().min(buf.remaining());
        buf.put_slice(&self.message[..count]);
        self.message.advance(count);
        if self.message.is_empty() {
            // Not kept alive until the next message comes.
            self.message = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, || Bytes::copy_from_slice(&data[..data.len().min(LONGEST_MESSAGE)]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One message for what would be one system call.
        self.poll_send(cx, || {
            let length = slices.iter().map(|slice| slice.len()).sum::<usize>().min(LONGEST_MESSAGE);
            let mut message = BytesMut::with_capacity(length);
            for slice in slices {
                message.extend_from_slice(&slice[..slice.len().min(length - message.len())]);
            }
            message.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(to_io_error)
    }

    /// Sends the close message (RFC 6455 §7.1.2). The connection under it ends when the peer has answered, or drops it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(to_io_error)
    }
}
