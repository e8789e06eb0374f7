//! Carriers on a socket: the multiplexer with tokio around it.
//!
//! The socket has no task of its own that everything must pass through. It lies in the carrier's state, and whoever has
//! something to do with it takes it out, works without holding the lock, and puts it back:
//! * a stream that writes takes it and writes at once, in its own task. Nobody is woken, and a request leaves in one
//!   system call, together with the OPEN before it. When somebody else has the socket, the bytes are queued, and that one
//!   sends them before it puts the socket back;
//! * the driver's task takes it when there is something to read, or when a socket that was full takes bytes again. It
//!   hands arrived bytes to their streams and wakes exactly those. It never waits for a stream.
//!
//! So there is one short lock, never held across a system call or an await. After a few reads the driver lets other tasks
//! run, and reads and writes of streams take part in tokio's cooperative budget, so that one busy stream does not keep its
//! thread for itself.

mod driver;
mod incoming;
mod inner;
mod socket;
mod stream;

use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::Instant,
};

use self::inner::{Handle, Inner};
pub use self::{
    driver::CarrierDriver,
    incoming::{Incoming, IncomingStream},
    stream::{StreamMonitor, TunnelStream},
};
pub use crate::mux::OpenError;
use crate::{
    budget::Budget,
    end::CarrierEnd,
    mux::{INITIAL_WINDOW, Mux, MuxConfig, SEND_QUEUE, Side},
    target::OpenTarget,
};

/// How a carrier behaves. What its memory is bounded by: see [`MuxConfig`].
#[derive(Debug, Clone)]
pub struct CarrierConfig {
    /// The largest receive window of a stream, in bytes.
    pub max_window: u32,
    /// The most streams at a time. An agent refuses more; a gateway's [`Carrier::open`] fails.
    pub max_streams: u32,
    /// A peer that was silent for so long is asked for a sign of life.
    pub ping_interval: Duration,
    /// A peer that gives none for so long after that is taken for dead.
    pub ping_timeout: Duration,
    /// What windows grow under: one for the whole process.
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

impl CarrierConfig {
    fn for_side(self, side: Side) -> MuxConfig {
        MuxConfig {
            side,
            initial_window: INITIAL_WINDOW,
            max_window: self.max_window,
            max_streams: self.max_streams,
            send_queue: SEND_QUEUE,
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            budget: self.budget,
        }
    }
}

/// Makes the gateway's side of a carrier: the side that opens streams. Nothing happens until the driver runs.
pub fn gateway_carrier<T>(io: T, config: CarrierConfig) -> (Carrier, CarrierDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    make(io, config, Side::Gateway)
}

/// Makes the agent's side of a carrier: the side that accepts streams. Nothing happens until the driver runs.
pub fn agent_carrier<T>(io: T, config: CarrierConfig) -> (Carrier, Incoming, CarrierDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (carrier, driver) = make(io, config, Side::Agent);
    (carrier.clone(), Incoming::new(carrier), driver)
}

fn make<T>(io: T, config: CarrierConfig, side: Side) -> (Carrier, CarrierDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mux = Mux::new(config.for_side(side), inner::now());
    let inner = Inner::new(mux, Box::new(io));
    (Carrier { handle: Arc::new(Handle::new(Arc::clone(&inner))) }, CarrierDriver::new(inner))
}

/// A handle to one carrier. Streams hold one too; when the last is dropped, the connection is closed.
#[derive(Clone)]
pub struct Carrier {
    handle: Arc<Handle>,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("streams", &self.active_streams()).finish_non_exhaustive()
    }
}

impl Carrier {
    fn inner(&self) -> &Inner {
        self.handle.inner()
    }

    /// Gateway: opens a stream. Does not wait, and sends nothing by itself: OPEN leaves together with the first bytes, or
    /// with the first read, flush or [`TunnelStream::opened`].
    ///
    /// # Errors
    /// When the carrier takes no new streams. Always on an agent's carrier, where streams are accepted.
    pub fn open(&self, target: &OpenTarget) -> Result<TunnelStream, OpenError> {
        let mut state = self.inner().lock();
        let id = state.mux.open(target)?;
        let watch = state.mux.watch(id).expect("the stream was opened under the same lock");
        self.inner().unlock(state);
        Ok(TunnelStream::new(self.clone(), id, watch))
    }

    /// Streams that are open, or that have ended and are still held. As cheap as reading a number, like
    /// [`Carrier::queued_bytes`] and [`Carrier::accepts_streams`].
    #[must_use]
    pub fn active_streams(&self) -> usize {
        self.inner().gauges.streams.load(Ordering::Relaxed)
    }

    /// Bytes that wait to be sent, over all streams.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.inner().gauges.queued_bytes.load(Ordering::Relaxed)
    }

    /// Whether the carrier has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner().lock().mux.end().is_some()
    }

    /// Gateway: whether [`Carrier::open`] would succeed.
    #[must_use]
    pub fn accepts_streams(&self) -> bool {
        self.inner().gauges.has_room.load(Ordering::Relaxed)
    }

    /// Waits until the carrier has ended and says how. Needs the driver to run.
    pub async fn closed(&self) -> CarrierEnd {
        self.inner().ended().await
    }

    /// Whether one of the two sides wants no new streams here, for good.
    #[must_use]
    pub fn is_going_away(&self) -> bool {
        !self.inner().lock().mux.takes_streams()
    }

    /// When the last stream ended, or the carrier was made. Of meaning only while there are no streams.
    #[must_use]
    pub fn idle_since(&self) -> Instant {
        Instant::from_std(self.inner().lock().mux.idle_since())
    }

    /// When bytes were last received.
    #[must_use]
    pub fn last_received(&self) -> Instant {
        Instant::from_std(self.inner().lock().mux.last_received())
    }

    /// The round-trip time as measured by PING; `None` before the first answer.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.inner().lock().mux.rtt()
    }

    /// No new streams; those that run are finished; then the connection closes. An agent's carrier refuses what the
    /// gateway opens before it hears of this.
    pub fn go_away(&self) {
        let mut state = self.inner().lock();
        state.mux.go_away();
        self.inner().pump(state);
    }

    /// Ends the carrier and every stream on it at once.
    pub fn close(&self) {
        let mut state = self.inner().lock();
        state.mux.finish(CarrierEnd::Closed);
        self.inner().pump(state);
    }

    /// The shortest round-trip time as measured by PING so far; `None` before the first answer. As cheap as reading a number.
    #[must_use]
    pub fn shortest_rtt(&self) -> Option<Duration> {
        let micros = self.inner().gauges.shortest_rtt.load(Ordering::Relaxed);
        (micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
    }

    /// Asks the peer for a sign of life and gives the round-trip time.
    ///
    /// # Errors
    /// When the carrier ends before the answer; a peer that does not answer in `ping_timeout` ends it.
    pub fn ping(&self) -> impl Future<Output = Result<Duration, CarrierEnd>> + Send + 'static {
        let carrier = self.clone();
        let (answer, answered) = oneshot::channel();
        let mut state = self.inner().lock();
        let number = state.mux.ping(inner::now());
        state.pings.push((number, answer));
        self.inner().pump(state);
        // The answer is due before the driver would look next.
        self.inner().wake_driver();
        async move {
            tokio::select! {
                biased;
                Ok(rtt) = answered => Ok(rtt),
                end = carrier.closed() => Err(end),
            }
        }
    }
}
