//! Whether anybody is still at the other end: one that has said nothing for a while is pinged (RFC 9113 §6.7), and has gone
//! when nothing at all comes back.
//!
//! Anything that is heard counts, not only the answer to the ping: that one waits behind what the caller has to send.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How long a caller may say nothing before it is pinged.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may go on saying nothing then.
const PATIENCE: Duration = Duration::from_secs(20);

/// What asks a silent caller whether it is there.
pub(super) struct KeepAlive {
    pings: PingPong,
    heard: Arc<AtomicBool>,
    /// Whether a ping is on its way.
    asked: bool,
    next_look: Pin<Box<Sleep>>,
}

impl KeepAlive {
    pub(super) fn new(pings: PingPong, heard: Arc<AtomicBool>) -> Self {
        Self { pings, heard, asked: false, next_look: Box::pin(sleep(SILENCE)) }
    }

    /// Ready when nobody is there.
    pub(super) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.next_look.as_mut().poll(cx));
            if self.asked && self.pings.poll_pong(cx).is_ready() {
                self.asked = false;
            }
            let heard = self.heard.swap(false, Ordering::Relaxed);
            if self.asked && !heard {
                return Poll::Ready(());
            }
            if !heard {
                // It fails when the connection is over, which is noticed elsewhere.
                self.asked = self.pings.send_ping(Ping::opaque()).is_ok();
            }
            let wait = if self.asked { PATIENCE } else { SILENCE };
            self.next_look.as_mut().reset(Instant::now() + wait);
        }
    }
}

/// A connection on which it is noticed when anything is heard.
pub(super) struct Heard<T> {
    io: T,
    heard: Arc<AtomicBool>,
}

impl<T> Heard<T> {
    pub(super) fn new(io: T) -> (Self, Arc<AtomicBool>) {
        let heard = Arc::new(AtomicBool::new(false));
        (Self { io, heard: Arc::clone(&heard) }, heard)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
