//! A stream of HTTP/2 as a connection that carries bytes, as after an answer to `CONNECT` (RFC 9113 §8.5): a caller's, or one
//! with a container.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of a stream. Either may end before the other (`END_STREAM`).
pub(crate) struct StreamIo {
    receive: RecvStream,
    /// What has come and was not read yet.
    data: Bytes,
    send: Sending,
}

/// The direction to the other side, to look at it beside whoever writes to it.
#[derive(Clone)]
pub(crate) struct Sending(Arc<Mutex<SendStream<Bytes>>>);

impl StreamIo {
    pub(crate) fn new(receive: RecvStream, send: SendStream<Bytes>) -> Self {
        Self { receive, data: Bytes::new(), send: Sending(Arc::new(Mutex::new(send))) }
    }

    pub(crate) fn sending(&self) -> Sending {
        self.send.clone()
    }
}

impl Sending {
    /// Ready when the other side has reset the stream, or the connection is over.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream().poll_reset(cx).map(drop)
    }

    /// Resets the stream: what it carried is cut off.
    pub(crate) fn reset(&self, reason: Reason) {
        self.stream().send_reset(reason);
    }

    fn stream(&self) -> MutexGuard<'_, SendStream<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.data.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.data = data,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.data.len().min(buf.remaining());
        buf.put_slice(&self.data[..count]);
        self.data.advance(count);
        // Only what is read makes room for more. It fails only when the stream is over.
        let _ = self.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.send.stream();
        stream.reserve_capacity(data.len());
        let room = match stream.capacity() {
            0 if data.is_empty() => return Poll::Ready(Ok(0)),
            0 => match ready!(stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => room,
        };
        let count = data.len().min(room);
        stream.send_data(Bytes::copy_from_slice(&data[..count]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.stream().send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
