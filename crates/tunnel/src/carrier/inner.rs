//! What all parts of a carrier share: the multiplexer and the socket, behind one lock that is never held for long.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, oneshot};

use super::socket::Socket;
use crate::{connection::Connection, end::CarrierEnd, mux::Mux};

/// The time as the multiplexer counts it: tokio's, which stands still in tests that say so.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The state of one carrier.
pub struct Inner {
    state: Mutex<State>,
    driver: Arc<DriverWaker>,
    ended: Notify,
    pub gauges: Gauges,
}

/// What is asked of every carrier for every request, and so can be read without the lock.
#[derive(Debug)]
pub struct Gauges {
    pub streams: AtomicUsize,
    pub queued_bytes: AtomicUsize,
    pub has_room: AtomicBool,
    /// The shortest round-trip time so far, in microseconds; the largest number while there is none.
    pub shortest_rtt: AtomicU32,
}

/// What the lock protects.
pub struct State {
    pub mux: Mux,
    /// The socket, unless somebody has taken it out.
    socket: Option<Box<Socket>>,
    /// The driver wanted the socket while it was out.
    driver_waits: bool,
    flush: Flush,
    /// Those who wait for an answer to a PING.
    pub pings: Vec<(u64, oneshot::Sender<Duration>)>,
    /// Every handle has been dropped.
    pub orphaned: bool,
    /// The driver has ended: a socket that is put back now is closed.
    finished: bool,
    end_told: bool,
    drain_told: bool,
}

/// How far a write is that waits for company.
///
/// On a carrier with several streams, those that have something to say mostly have it in the same turn: requests arrive
/// together, and so do answers. A write of its own for each would be a system call, a packet and a wake-up at the other end
/// for each. So the driver writes for all of them, after every other task that can run has had its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    /// Nothing waits.
    Idle,
    /// The driver was woken for it.
    Asked,
    /// The driver writes when it runs next.
    Due,
}

/// Frames and bytes that are written at once: much more would not be saved, and the peer can begin with these.
const FRAMES_AT_ONCE: usize = 8;
const BYTES_AT_ONCE: usize = 16 << 10;

/// Wakes the driver, whichever task polled the socket last. So a stream that writes can leave a full socket to the driver.
#[derive(Debug, Default)]
struct DriverWaker(AtomicWaker);

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

impl State {
    /// Whether it is worth a write by itself.
    fn has_enough(&self) -> bool {
        self.mux.queued_bytes() >= BYTES_AT_ONCE || self.mux.queued_frames() >= FRAMES_AT_ONCE
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl Inner {
    pub fn new(mux: Mux, io: Box<dyn Connection>) -> Arc<Self> {
        let driver = Arc::new(DriverWaker::default());
        let socket = Some(Box::new(Socket::new(io, Waker::from(Arc::clone(&driver)))));
        let state = State {
            mux,
            socket,
            driver_waits: false,
            flush: Flush::Idle,
            pings: Vec::new(),
            orphaned: false,
            finished: false,
            end_told: false,
            drain_told: false,
        };
        let gauges = Gauges {
            streams: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            has_room: AtomicBool::new(state.mux.has_room()),
            shortest_rtt: AtomicU32::new(u32::MAX),
        };
        Arc::new(Self { state: Mutex::new(state), driver, ended: Notify::new(), gauges })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of its own; it must not become one of every other stream.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the lock, then wakes whom the change concerns.
    pub fn unlock(&self, mut state: MutexGuard<'_, State>) {
        self.gauges.streams.store(state.mux.stream_count(), Ordering::Relaxed);
        self.gauges.queued_bytes.store(state.mux.queued_bytes(), Ordering::Relaxed);
        self.gauges.has_room.store(state.mux.has_room(), Ordering::Relaxed);
        if let Some(rtt) = state.mux.shortest_rtt() {
            self.gauges.shortest_rtt.store(rtt.as_micros().try_into().unwrap_or(u32::MAX), Ordering::Relaxed);
        }
        let wakes = state.mux.take_wakes();
        let has_ended = state.mux.end().is_some() && !std::mem::replace(&mut state.end_told, true);
        // The driver is asleep when the last stream of a drained carrier is finished by a stream's own write.
        let is_drained = state.mux.is_drained() && !std::mem::replace(&mut state.drain_told, true);
        drop(state);
        wakes.wake();
        if has_ended {
            self.ended.notify_waiters();
        }
        if has_ended || is_drained {
            self.wake_driver();
        }
    }

    /// Sends what is queued, if nobody else has the socket; else that one does it. What other streams are likely to add to
    /// is left to the driver.
    pub fn pump(&self, mut state: MutexGuard<'_, State>) {
        if state.mux.end().is_none() && state.mux.has_company() && !state.has_enough() {
            let asks = state.flush == Flush::Idle && state.mux.has_output();
            if asks {
                state.flush = Flush::Asked;
            }
            self.unlock(state);
            if asks {
                self.wake_driver();
            }
            return;
        }
        state.flush = Flush::Idle;
        match state.socket.take() {
            Some(socket) => self.write_and_put_back(state, socket),
            None => self.unlock(state),
        }
    }

    /// Writes what is queued, without the lock, and takes the lock again.
    pub fn write<'a>(&'a self, mut state: MutexGuard<'a, State>, socket: &mut Socket) -> MutexGuard<'a, State> {
        while Self::refill(&mut state, socket) {
            self.unlock(state);
            socket.write();
            state = self.lock();
        }
        state
    }

    fn write_and_put_back<'a>(&'a self, state: MutexGuard<'a, State>, mut socket: Box<Socket>) {
        let mut state = self.write(state, &mut socket);
        // Only the driver ends a carrier: it looks first what the peer had to say.
        let driver_waits = std::mem::take(&mut state.driver_waits) || socket.has_failed();
        let mut surplus = Some(socket);
        if !state.finished {
            std::mem::swap(&mut state.socket, &mut surplus);
        }
        self.unlock(state);
        // Closing a connection is a system call, so it happens without the lock.
        drop(surplus);
        if driver_waits {
            self.wake_driver();
        }
    }

    /// Encodes what is queued; says whether there is something to write.
    fn refill(state: &mut State, socket: &mut Socket) -> bool {
        let waits_for_company = state.flush != Flush::Idle && state.mux.end().is_none();
        if socket.is_blocked() || socket.has_failed() || state.finished || waits_for_company {
            return false;
        }
        if state.mux.has_output() {
            state.mux.transmit(&mut socket.outbox, now());
        }
        socket.wants_to_write()
    }

    /// Takes the socket out for the driver, and says whether it is to run once more, after all others, before anything is
    /// written. When the socket is out already, the driver is woken as soon as it is back.
    pub fn check_out(&self, driver: &Waker) -> Option<(Box<Socket>, bool)> {
        self.driver.0.register(driver);
        let mut state = self.lock();
        let socket = state.socket.take();
        state.driver_waits = socket.is_none();
        let socket = socket?;
        state.flush = match state.flush {
            Flush::Asked => Flush::Due,
            Flush::Idle | Flush::Due => Flush::Idle,
        };
        Some((socket, state.flush == Flush::Due))
    }

    /// Writes what is queued and puts the driver's socket back.
    pub fn check_in(&self, socket: Box<Socket>) {
        self.write_and_put_back(self.lock(), socket);
    }

    /// The driver is done: the carrier has ended, and the socket is closed by whoever has it.
    pub fn close(&self, end: CarrierEnd) {
        let mut state = self.lock();
        state.mux.finish(end);
        state.finished = true;
        state.pings.clear();
        let socket = state.socket.take();
        self.unlock(state);
        drop(socket);
    }

    /// Waits for the end of the carrier.
    pub async fn ended(&self) -> CarrierEnd {
        loop {
            let ended = self.ended.notified();
            if let Some(end) = self.lock().mux.end() {
                return end.clone();
            }
            ended.await;
        }
    }

    pub fn wake_driver(&self) {
        self.driver.0.wake();
    }

    fn orphan(&self) {
        self.lock().orphaned = true;
        self.wake_driver();
    }
}

/// What the handles of a carrier share: its end tells that nobody has one any more.
pub struct Handle {
    inner: Arc<Inner>,
}

impl Handle {
    pub const fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub fn inner(&self) -> &Inner {
        &self.inner
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.orphan();
    }
}
