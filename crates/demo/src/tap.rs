//! The socket of one connection, with two things that hyper does not offer: what came in, as bytes, and a way to send bytes of our own.
//!
//! Reading: every byte goes to hyper unchanged, and a copy of the request heads is kept ([`HeadReader`]).
//! Writing: [`Conn::send_verbatim`] slips bytes in between what hyper writes, for interim answers and broken ones.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::heads::{HeadReader, RawHead};

/// The connection ended before the bytes were written.
#[derive(Debug, Error)]
#[error("the connection is gone")]
pub struct ConnGone;

/// What a handler can do with the connection that its request came on. Only for HTTP/1, where a connection has one request at a time.
#[derive(Debug, Clone)]
pub struct Conn(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    heads: HeadReader,
    verbatim: Option<Verbatim>,
    reset_on_close: bool,
}

#[derive(Debug)]
struct Verbatim {
    bytes: Bytes,
    written: oneshot::Sender<()>,
}

impl Conn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of the next request, in the order in which they came. Call once a request.
    pub fn next_head(&self) -> Option<RawHead> {
        self.state().heads.next_head()
    }

    /// What follows on this connection is not HTTP.
    pub fn leave_http(&self) {
        self.state().heads.stop();
    }

    /// The connection will end with a TCP reset.
    pub fn reset_on_close(&self) {
        self.state().reset_on_close = true;
    }

    /// Writes `bytes` to the socket, after everything that was answered before. Call it from the handler or the body of the request
    /// whose turn it is, and from nowhere else: hyper flushes the socket only when it has nothing left to write, and has nothing to
    /// write while a handler or a body is pending.
    ///
    /// # Errors
    /// When the connection ends first.
    pub async fn send_verbatim(&self, bytes: Bytes) -> Result<(), ConnGone> {
        let (written, done) = oneshot::channel();
        self.state().verbatim = Some(Verbatim { bytes, written });
        done.await.map_err(|_| ConnGone)
    }

    /// Waits until everything that was answered so far is with the operating system.
    pub async fn flushed(&self) -> Result<(), ConnGone> {
        self.send_verbatim(Bytes::new()).await
    }
}

/// The socket as hyper sees it.
#[derive(Debug)]
pub struct Tap {
    socket: TcpStream,
    conn: Conn,
}

impl Tap {
    /// Wraps a fresh connection.
    pub fn new(socket: TcpStream) -> Self {
        let state = State { heads: HeadReader::new(), verbatim: None, reset_on_close: false };
        Self { socket, conn: Conn(Arc::new(Mutex::new(state))) }
    }

    /// The handlers' end.
    pub fn conn(&self) -> Conn {
        self.conn.clone()
    }

    fn poll_write_verbatim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.conn.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(verbatim) = &mut state.verbatim else { return Poll::Ready(Ok(())) };
        while verbatim.bytes.has_remaining() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &verbatim.bytes))?;
            verbatim.bytes.advance(written);
        }
        if let Some(verbatim) = state.verbatim.take() {
            // Nobody waits any more when the handler was cancelled.
            let _ = verbatim.written.send(());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        self.conn.state().heads.feed(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_verbatim(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.conn.state().reset_on_close {
            // Without it the caller sees an orderly end of the connection: a weaker fault, but a fault.
            let _ = self.socket.set_zero_linger();
        }
    }
}
