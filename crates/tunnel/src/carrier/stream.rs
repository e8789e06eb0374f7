//! One stream in the hands of the application.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::poll_proceed,
};

use super::{Carrier, inner::now};
use crate::{
    end::{ResetCode, StreamEnd},
    mux::Watch,
};

/// One stream: a byte pipe with half-close both ways.
///
/// It behaves like a `TcpStream`: a write is sent at once when the carrier has room, flushing does nothing more, reads end
/// with 0 at the peer's FIN, and `poll_shutdown` ends this side's direction after what was written. Dropped before both
/// directions are finished, the stream is reset ([`ResetCode::Cancelled`]); dropped after that, what was written is still
/// sent.
pub struct TunnelStream {
    carrier: Carrier,
    id: u32,
    watch: Arc<Watch>,
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("id", &self.id).field("end", &self.watch.end()).finish_non_exhaustive()
    }
}

impl TunnelStream {
    pub(super) const fn new(carrier: Carrier, id: u32, watch: Arc<Watch>) -> Self {
        Self { carrier, id, watch }
    }

    /// A handle that tells how the stream ends, also after the stream itself was given away.
    #[must_use]
    pub fn monitor(&self) -> StreamMonitor {
        StreamMonitor { watch: Arc::clone(&self.watch) }
    }

    /// The carrier that the stream is on.
    #[must_use]
    pub const fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Resets the stream at once; what waits to be sent is thrown away.
    pub fn reset(self, code: ResetCode) {
        self.abort(code);
    }

    /// The same while others still hold the stream: their reads and writes fail from now on.
    pub fn abort(&self, code: ResetCode) {
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        state.mux.reset(self.id, code);
        inner.pump(state);
    }

    /// Resets the stream after what was written so far has been sent. For a container that answered and then reset
    /// its connection: the answer arrives, and does not look complete.
    pub fn reset_after_data(self, code: ResetCode) {
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        state.mux.reset_after_data(self.id, code);
        inner.pump(state);
    }

    /// Gateway: waits until the agent has accepted the stream. Cancel safe.
    ///
    /// # Errors
    /// How the stream ended instead.
    pub async fn opened(&mut self) -> Result<(), StreamEnd> {
        poll_fn(|cx| {
            let inner = self.carrier.inner();
            let mut state = inner.lock();
            let opened = state.mux.poll_opened(self.id, cx.waker());
            inner.pump(state);
            opened
        })
        .await
    }

    /// Notes that `bytes` more of what was read have been passed on; a reset tells the peer the sum. Before the first
    /// call, everything that was read counts as passed on. For whoever reads the stream, and nobody else at the same time.
    pub fn note_delivered(&self, bytes: u64) {
        self.watch.note_delivered(bytes);
    }

    /// Whether a read would bring nothing now: no bytes, no end and no error. Costs less than to read, and wakes nobody later.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.watch.is_readable()
    }

    /// Gateway: the stream will carry one request after another. When its container ends an idle connection, its agent
    /// passes nothing more on, and tells what it has passed on ([`StreamMonitor::delivered`]). To be said before anything is
    /// sent on the stream.
    pub fn set_keep_alive(&self) {
        self.carrier.inner().lock().mux.set_keep_alive(self.id);
    }

    /// Agent: whether the gateway said so.
    #[must_use]
    pub fn is_keep_alive(&self) -> bool {
        self.carrier.inner().lock().mux.is_keep_alive(self.id)
    }

    /// Agent: nothing more of what is read is passed on. The end of this side's direction tells the peer what was, see
    /// [`TunnelStream::note_delivered`].
    pub fn tell_delivered(&self) {
        self.carrier.inner().lock().mux.tell_delivered(self.id);
    }

    fn poll_write_slices(&self, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let turn = ready!(poll_proceed(cx));
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        let written = ready!(state.mux.poll_write(self.id, data, cx.waker()));
        inner.pump(state);
        turn.made_progress();
        Poll::Ready(written.map_err(|end| end.to_io_error()))
    }
}

/// The two directions may be used by two tasks, as those of a `&TcpStream` may.
impl AsyncRead for &TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let turn = ready!(poll_proceed(cx));
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        match state.mux.poll_read(self.id, buf, cx.waker()) {
            Poll::Pending => {
                // Perhaps the peer waits for something first: an OPEN that was not sent yet.
                if state.mux.has_output() {
                    inner.pump(state);
                }
                return Poll::Pending;
            }
            Poll::Ready(Err(end)) => {
                drop(state);
                turn.made_progress();
                return Poll::Ready(Err(end.to_io_error()));
            }
            Poll::Ready(Ok(outcome)) if outcome.credit_is_due => {
                state.mux.give_credit(self.id, now());
                inner.pump(state);
            }
            Poll::Ready(Ok(_)) => {}
        }
        turn.made_progress();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for &TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = self.carrier.inner();
        let state = inner.lock();
        if state.mux.has_output() {
            inner.pump(state);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        let done = state.mux.shut_down(self.id);
        inner.pump(state);
        Poll::Ready(done.map_err(|end| end.to_io_error()))
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_shutdown(cx)
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        state.mux.release(self.id, now());
        inner.pump(state);
    }
}

/// Watches one stream. It keeps neither the stream nor the carrier alive.
#[derive(Debug, Clone)]
pub struct StreamMonitor {
    watch: Arc<Watch>,
}

impl StreamMonitor {
    /// How the stream ended; `None` while it lives.
    #[must_use]
    pub fn end(&self) -> Option<StreamEnd> {
        self.watch.end().cloned()
    }

    /// Bytes of the stream that were handed to the connection. 0 means that none can have reached the peer.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.watch.bytes_sent()
    }

    /// Bytes of the stream that the peer has passed on, when it has said so and passes on no more.
    #[must_use]
    pub fn delivered(&self) -> Option<u64> {
        self.watch.delivered()
    }

    /// Waits for the end of the stream.
    pub async fn ended(&self) -> StreamEnd {
        self.watch.ended().await
    }
}
