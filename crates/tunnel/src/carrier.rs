//! Carriers on a socket: tokio's side of the multiplexer. (Outline: signatures only.)

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    budget::Budget,
    end::{CarrierEnd, Refused, ResetCode, StreamEnd},
    target::OpenTarget,
};

/// How a carrier behaves.
#[derive(Debug, Clone)]
pub struct CarrierConfig {
    /// The largest receive window of a stream, in bytes.
    pub max_window: u32,
    /// The most streams at a time.
    pub max_streams: u32,
    /// A peer that was silent for so long is asked for a sign of life.
    pub ping_interval: Duration,
    /// A peer that gives none for so long after that is taken for dead.
    pub ping_timeout: Duration,
    /// What windows grow under.
    pub budget: Budget,
}

impl Default for CarrierConfig {
    fn default() -> Self {
        Self {
            max_window: 8 << 20,
            max_streams: 256,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(20),
            budget: Budget::default(),
        }
    }
}

/// Makes the gateway's side of a carrier: the side that opens streams.
pub fn gateway_carrier<T>(_io: T, _config: CarrierConfig) -> (Carrier, CarrierDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    (Carrier {}, CarrierDriver {})
}

/// Makes the agent's side of a carrier: the side that accepts streams.
pub fn agent_carrier<T>(_io: T, _config: CarrierConfig) -> (Carrier, Incoming, CarrierDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    (Carrier {}, Incoming {}, CarrierDriver {})
}

/// The task of a carrier.
#[derive(Debug)]
pub struct CarrierDriver {}

impl CarrierDriver {
    /// Drives the carrier until the connection ends.
    pub async fn run(self) -> CarrierEnd {
        CarrierEnd::Closed
    }
}

/// A handle to one carrier.
#[derive(Debug, Clone)]
pub struct Carrier {}

/// Why a stream cannot be opened on a carrier. Nothing was sent, so another carrier may be tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// GOAWAY was said by either side.
    #[error("the carrier takes no new streams")]
    Draining,
    /// As many streams are open as are allowed.
    #[error("the carrier has as many streams as it may have")]
    Limit,
    /// The carrier has ended.
    #[error("the carrier has ended: {0}")]
    Closed(CarrierEnd),
}

impl Carrier {
    /// Opens a stream. Does not wait: OPEN and the first bytes leave together, with the first write, read or flush.
    ///
    /// # Errors
    /// When the carrier takes no new streams.
    pub fn open(&self, _target: &OpenTarget) -> Result<TunnelStream, OpenError> {
        Err(OpenError::Draining)
    }

    /// Streams that are open.
    #[must_use]
    pub fn active_streams(&self) -> usize {
        0
    }

    /// Bytes that wait to be sent, over all streams.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        0
    }

    /// Whether the carrier has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        false
    }

    /// Whether [`Carrier::open`] would be tried: neither ended nor draining, and below the limit of streams.
    #[must_use]
    pub fn accepts_streams(&self) -> bool {
        false
    }

    /// Waits until the carrier has ended and says how.
    pub async fn closed(&self) -> CarrierEnd {
        CarrierEnd::Closed
    }

    /// When the last stream ended, or the carrier was made. Of meaning only while there are no streams.
    #[must_use]
    pub fn idle_since(&self) -> Instant {
        Instant::now()
    }

    /// When bytes were last received.
    #[must_use]
    pub fn last_received(&self) -> Instant {
        Instant::now()
    }

    /// The round-trip time as measured by PING; `None` before the first answer.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        None
    }

    /// No new streams; those that run are finished; then the connection closes.
    pub fn go_away(&self) {}

    /// Ends the carrier and every stream on it at once.
    pub fn close(&self) {}

    /// Asks the peer for a sign of life and gives the round-trip time.
    ///
    /// # Errors
    /// When the carrier ends before the answer; a peer that does not answer in `ping_timeout` ends it.
    pub async fn ping(&self) -> Result<Duration, CarrierEnd> {
        Err(CarrierEnd::Closed)
    }
}

/// The streams that the gateway opens, on the agent's side.
#[derive(Debug)]
pub struct Incoming {}

impl Incoming {
    /// The next one; `None` when the carrier has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        None
    }
}

/// A stream that waits to be accepted or refused. Dropped, it is refused as [`RefuseCode::Draining`](crate::RefuseCode).
#[derive(Debug)]
pub struct IncomingStream {
    target: OpenTarget,
}

impl IncomingStream {
    /// What the gateway wants to reach.
    #[must_use]
    pub const fn target(&self) -> &OpenTarget {
        &self.target
    }

    /// Accepts the stream.
    #[must_use]
    pub fn accept(self) -> TunnelStream {
        TunnelStream { carrier: Carrier {} }
    }

    /// Refuses it: the gateway may try elsewhere.
    pub fn refuse(self, _why: Refused) {}
}

/// One stream: a byte pipe with half-close both ways.
///
/// `poll_shutdown` sends FIN; reads end at the peer's FIN. Dropped before both directions are finished, the stream is
/// reset ([`ResetCode::Cancelled`]).
#[derive(Debug)]
pub struct TunnelStream {
    carrier: Carrier,
}

impl TunnelStream {
    /// A handle that tells how the stream ends, also after the stream itself was given away.
    #[must_use]
    pub fn monitor(&self) -> StreamMonitor {
        StreamMonitor {}
    }

    /// Resets the stream at once; what waits to be sent is thrown away.
    pub fn reset(self, _code: ResetCode) {}

    /// Resets the stream after what was written so far has been sent. For a container that answered and then reset
    /// its connection: the answer arrives, and does not look complete.
    pub fn reset_after_data(self, _code: ResetCode) {}

    /// Waits until the agent has accepted the stream.
    ///
    /// # Errors
    /// How the stream ended instead.
    pub async fn opened(&mut self) -> Result<(), StreamEnd> {
        Ok(())
    }

    /// The carrier that the stream is on.
    #[must_use]
    pub const fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Notes that `bytes` more of what was read have been passed on; a reset tells the peer the sum. Before the first
    /// call, everything that was read counts as passed on.
    pub fn note_delivered(&self, _bytes: u64) {}
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Watches one stream.
#[derive(Debug, Clone)]
pub struct StreamMonitor {}

impl StreamMonitor {
    /// How the stream ended; `None` while it lives.
    #[must_use]
    pub fn end(&self) -> Option<StreamEnd> {
        None
    }

    /// Bytes of the stream that were handed to the connection. 0 means that none can have reached the peer.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        0
    }

    /// Waits for the end of the stream.
    pub async fn ended(&self) -> StreamEnd {
        StreamEnd::Finished
    }
}
