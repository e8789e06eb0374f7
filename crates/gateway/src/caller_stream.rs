//! A caller's socket: closing it leaves a caller that is still sending the time to read our answer; aborting it leaves no
//! doubt that something was cut.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;
use towline_tunnel::{tcp, wait};

use crate::caller::{Caller, CallerGuard};

/// How long a closing connection reads on.
const LINGER: Duration = Duration::from_secs(2);

/// What a caller's bytes come through.
pub(crate) enum CallerSocket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A caller's socket.
pub(crate) struct CallerStream {
    socket: CallerSocket,
    caller: Arc<Caller>,
    closing: Option<Pin<Box<Sleep>>>,
    /// Its place among the connections, for as long as it is open, upgraded or not.
    _place: (CallerGuard, OwnedSemaphorePermit),
}

impl CallerStream {
    pub(crate) fn new(socket: CallerSocket, caller: Arc<Caller>, place: (CallerGuard, OwnedSemaphorePermit)) -> Self {
        Self { socket, caller, closing: None, _place: place }
    }

    /// Whether the caller has not reset the connection, as far as is known here.
    pub(crate) fn has_no_error(&self) -> bool {
        matches!(self.socket.tcp().take_error(), Ok(None))
    }

    /// Whether a read would wait for sure, as far as is known here without one.
    pub(crate) fn is_quiet(&self) -> bool {
        match &self.socket {
            CallerSocket::Plain(socket) => wait::is_quiet(socket),
            // It may have bytes of its own.
            CallerSocket::Tls(_) => false,
        }
    }

    /// Sets the options of a connection that carries frames from now on. It works without them, too.
    pub(crate) fn tune_for_frames(&self) {
        if let Err(error) = tcp::tune(self.socket.tcp()) {
            tracing::debug!(%error, "an agent's connection goes without its options");
        }
    }

    /// Reads and forgets what still comes, until the caller closes or the time is over.
    ///
    /// A close with unread bytes in the socket is a reset, which would take our last answer from a caller that is still
    /// sending (RFC 9112 §9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0_u8; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
            if self.closing.as_ref().is_some_and(|sleep| sleep.deadline() <= Instant::now()) {
                return Poll::Ready(());
            }
        }
        self.closing.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

impl CallerSocket {
    /// The scheme of URLs that lead through it.
    pub(crate) const fn scheme(&self) -> &'static str {
        match self {
            Self::Plain(_) => "http",
            Self::Tls(_) => "https",
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for CallerSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for CallerSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.caller.is_aborted() {
            return Poll::Ready(Ok(()));
        }
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            if !this.caller.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
            this.closing = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        this.poll_linger(cx).map(Ok)
    }
}

impl Drop for CallerStream {
    fn drop(&mut self) {
        if self.caller.is_aborted() {
            // Fails only on a socket that is already gone.
            let _ = self.socket.tcp().set_zero_linger();
        }
    }
}
