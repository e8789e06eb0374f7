//! One caller's connection: what is known of it, how it is told to end, and its socket.
//!
//! There are no timers and no channels per connection. A connection that should end is told by a flag and a wake-up,
//! and one janitor looks at all of them for those that have been idle for too long. So an idle caller costs little more
//! than its socket.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::HeaderValue;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

/// How long a closing connection reads on, so that the caller gets an answer that came before its request was through.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Signal {
    /// Go on.
    Run = 0,
    /// Finish what runs, start nothing new.
    Drain = 1,
    /// End at once.
    Cut = 2,
}

/// What is known of one caller's connection.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The address as containers are told it.
    pub address: HeaderValue,
    /// Whether it is a proxy whose word on the way is taken.
    pub trusted: bool,
    started: Instant,
    signal: AtomicU8,
    waker: AtomicWaker,
    active: AtomicUsize,
    /// Milliseconds after `started` at which it was last active.
    last_active: AtomicU64,
    /// Whether its last request had a body, of which something may be unread.
    sends: AtomicBool,
    upgraded: AtomicBool,
    abort: AtomicBool,
}

impl Caller {
    pub(crate) fn new(peer: SocketAddr, trusted: bool) -> Self {
        let address = HeaderValue::try_from(peer.ip().to_canonical().to_string());
        Self {
            peer,
            address: address.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            trusted,
            started: Instant::now(),
            signal: AtomicU8::new(Signal::Run as u8),
            waker: AtomicWaker::new(),
            active: AtomicUsize::new(0),
            last_active: AtomicU64::new(0),
            sends: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            abort: AtomicBool::new(false),
        }
    }

    /// Tells the connection's task; a weaker signal never replaces a stronger one.
    pub(crate) fn tell(&self, signal: Signal) {
        self.signal.fetch_max(signal as u8, Ordering::Release);
        self.waker.wake();
    }

    /// What the connection was told, with a wake-up when that changes.
    pub(crate) fn poll_signal(&self, cx: &Context<'_>) -> Signal {
        self.waker.register(cx.waker());
        match self.signal.load(Ordering::Acquire) {
            0 => Signal::Run,
            1 => Signal::Drain,
            _ => Signal::Cut,
        }
    }

    /// Notes that a request began, with a body or without; it ends when the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>, has_body: bool) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.sends.store(has_body, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    /// How long no request has been in progress; `None` while one is.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.active.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let last = self.started + Duration::from_millis(self.last_active.load(Ordering::Relaxed));
        Some(now.saturating_duration_since(last))
    }

    /// From now on the connection carries bytes of another protocol.
    pub(crate) fn note_upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// The connection will end with a reset: what was sent last is cut off, and nothing else in it shows that.
    pub(crate) fn abort_on_close(&self) {
        self.abort.store(true, Ordering::Relaxed);
    }
}

/// A request in progress on a connection.
#[derive(Debug)]
pub(crate) struct Active(Arc<Caller>);

impl Active {
    pub(crate) const fn caller(&self) -> &Arc<Caller> {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let millis = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_active.store(millis, Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of all callers.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    live: Mutex<LiveCallers>,
}

#[derive(Debug, Default)]
struct LiveCallers {
    next: u64,
    callers: HashMap<u64, Arc<Caller>>,
}

impl Callers {
    /// Takes in a new connection, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, caller: &Arc<Caller>) -> CallerGuard {
        let mut live = self.live();
        let number = live.next;
        live.next += 1;
        live.callers.insert(number, Arc::clone(caller));
        CallerGuard { callers: Arc::clone(self), number }
    }

    /// Tells every connection.
    pub(crate) fn tell_all(&self, signal: Signal) {
        for caller in self.live().callers.values() {
            caller.tell(signal);
        }
    }

    /// Ends connections that have had no request for `limit`, and those whose request head takes longer than that.
    pub(crate) fn end_idle(&self, now: Instant, limit: Duration) {
        for caller in self.live().callers.values() {
            match caller.idle_for(now) {
                Some(idle) if idle >= limit * 2 => caller.tell(Signal::Cut),
                Some(idle) if idle >= limit => caller.tell(Signal::Drain),
                _ => {}
            }
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, LiveCallers> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the callers.
#[derive(Debug)]
pub(crate) struct CallerGuard {
    callers: Arc<Callers>,
    number: u64,
}

impl Drop for CallerGuard {
    fn drop(&mut self) {
        self.callers.live().callers.remove(&self.number);
    }
}

/// Whether the address is one of a proxy that is believed.
pub(crate) fn is_trusted(ranges: &[crate::forwarded::AddressRange], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

/// A caller's socket. Closing it leaves the caller time to read; aborting it leaves no doubt that something was cut.
#[derive(Debug)]
pub(crate) struct CallerStream {
    socket: TcpStream,
    caller: Arc<Caller>,
    closing: Option<Pin<Box<Sleep>>>,
    /// Its place among the connections, for as long as it is open, upgraded or not.
    _place: (CallerGuard, OwnedSemaphorePermit),
}

impl CallerStream {
    pub(crate) const fn new(
        socket: TcpStream,
        caller: Arc<Caller>,
        place: (CallerGuard, OwnedSemaphorePermit),
    ) -> Self {
        Self { socket, caller, closing: None, _place: place }
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
        slices: &[io::IoSlice<'_>],
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
        if this.caller.abort.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            if this.caller.upgraded.load(Ordering::Relaxed) || !this.caller.sends.load(Ordering::Relaxed) {
                // A half-close whose other direction goes on, or nothing that could still come.
                return Poll::Ready(Ok(()));
            }
            this.closing = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        this.poll_linger(cx).map(Ok)
    }
}

impl Drop for CallerStream {
    fn drop(&mut self) {
        if self.caller.abort.load(Ordering::Relaxed) {
            // Fails only on a socket that is already gone.
            let _ = self.socket.set_zero_linger();
        }
    }
}
