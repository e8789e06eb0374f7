//! One caller's connection: what is known of it, and how it is told to end.
//!
//! There are no timers and no channels per connection. A connection that should end is told by a flag and a wake-up,
//! and one janitor looks at all of them for those that have been idle for too long. So an idle caller costs little more
//! than its socket.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use http::HeaderValue;
use tokio::time::Instant;

use crate::forwarded::{AddressRange, LastWay};

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
    /// `https` when the connection is under TLS, else `http`.
    pub scheme: &'static str,
    /// What a container was told of its last request.
    pub last_way: LastWay,
    started: Instant,
    signal: AtomicU8,
    /// The connection's task. It stays here once it is woken, so that one that is known here need not look again.
    task: Mutex<Option<Waker>>,
    active: AtomicUsize,
    /// Milliseconds after `started` at which it was last active.
    last_active: AtomicU64,
    /// Whether its last request had a body, of which something may be unread.
    sends: AtomicBool,
    upgraded: AtomicBool,
    abort: AtomicBool,
}

impl Caller {
    pub(crate) fn new(peer: SocketAddr, trusted: bool, scheme: &'static str) -> Self {
        let address = HeaderValue::try_from(peer.ip().to_canonical().to_string());
        Self {
            peer,
            address: address.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            trusted,
            scheme,
            last_way: LastWay::default(),
            started: Instant::now(),
            signal: AtomicU8::new(Signal::Run as u8),
            task: Mutex::default(),
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
        self.wake();
    }

    /// What the connection was told, with a wake-up when that changes.
    pub(crate) fn poll_signal(&self, cx: &Context<'_>) -> Signal {
        self.wakes(cx.waker());
        self.signal()
    }

    /// This is the connection's task: it is woken from now on whenever there is something to look at.
    pub(crate) fn wakes(&self, waker: &Waker) {
        let mut task = self.task();
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let before = task.replace(waker.clone());
            // Whatever goes with the one before may want the lock.
            drop(task);
            drop(before);
        }
    }

    /// The same, without a wake-up.
    pub(crate) fn signal(&self) -> Signal {
        match self.signal.load(Ordering::Acquire) {
            0 => Signal::Run,
            1 => Signal::Drain,
            _ => Signal::Cut,
        }
    }

    /// Whether the connection is to start nothing new.
    pub(crate) fn is_draining(&self) -> bool {
        self.signal() >= Signal::Drain
    }

    /// Lets the connection's task look at everything anew.
    pub(crate) fn wake(&self) {
        let task = self.task().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request began, with a body or without.
    pub(crate) fn begin(self: &Arc<Self>, has_body: bool) -> Active {
        let mut active = Active::idle(Arc::clone(self));
        active.begin(has_body);
        active
    }

    /// How long no request has been in progress; `None` while one is.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.active.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let last = self.started + Duration::from_millis(self.last_active.load(Ordering::Relaxed));
        Some(now.saturating_duration_since(last))
    }

    /// Whether a close may meet bytes that the caller is still sending.
    pub(crate) fn may_be_sending(&self) -> bool {
        self.sends.load(Ordering::Relaxed) && !self.upgraded.load(Ordering::Relaxed)
    }

    /// What came last could not be read as a request; more of it may follow.
    pub(crate) fn note_nonsense(&self) {
        self.sends.store(true, Ordering::Relaxed);
    }

    /// From now on the connection carries bytes of another protocol.
    pub(crate) fn note_upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to end with a reset.
    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Relaxed)
    }

    /// The connection will end with a reset: what was sent last is cut off, and nothing else in it shows that.
    pub(crate) fn abort_on_close(&self) {
        self.abort.store(true, Ordering::Relaxed);
    }
}

/// A request in progress on a connection, or one after another; over when dropped.
#[derive(Debug)]
pub(crate) struct Active {
    caller: Arc<Caller>,
    is_on: bool,
}

impl Active {
    /// None yet.
    pub(crate) const fn idle(caller: Arc<Caller>) -> Self {
        Self { caller, is_on: false }
    }

    pub(crate) const fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// A request began, with a body or without.
    pub(crate) fn begin(&mut self, has_body: bool) {
        self.end();
        self.caller.active.fetch_add(1, Ordering::Relaxed);
        self.caller.sends.store(has_body, Ordering::Relaxed);
        self.is_on = true;
    }

    /// It is over.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.is_on) {
            let millis = u64::try_from(self.caller.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.caller.last_active.store(millis, Ordering::Relaxed);
            self.caller.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.end();
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

    /// Lets the tasks of all connections look at everything anew.
    pub(crate) fn wake_all(&self) {
        for caller in self.live().callers.values() {
            caller.wake();
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

    fn live(&self) -> MutexGuard<'_, LiveCallers> {
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
pub(crate) fn is_trusted(ranges: &[AddressRange], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(caller: &Caller) -> Signal {
        caller.poll_signal(&Context::from_waker(std::task::Waker::noop()))
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_that_has_looked_once_is_woken_each_time_until_another_looks() {
        let caller = Caller::new("192.0.2.1:4711".parse().unwrap(), false, "http");
        let tasks: [Arc<Count>; 2] = Default::default();
        let woken = || tasks.each_ref().map(|task| task.0.load(Ordering::Relaxed));
        let look = |task: usize| caller.poll_signal(&Context::from_waker(&Waker::from(Arc::clone(&tasks[task]))));
        caller.wake();
        assert_eq!(look(0), Signal::Run);
        caller.tell(Signal::Drain);
        caller.tell(Signal::Cut);
        assert_eq!(woken(), [2, 0]);
        assert_eq!(look(1), Signal::Cut);
        caller.wake();
        assert_eq!(woken(), [2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_drained_and_slow_heads_cut() {
        const LIMIT: Duration = Duration::from_secs(60);
        let callers = Arc::new(Callers::default());
        let caller = Arc::new(Caller::new("192.0.2.1:4711".parse().unwrap(), false, "http"));
        let guard = callers.enter(&caller);
        let end_idle = || callers.end_idle(Instant::now(), LIMIT);

        tokio::time::advance(Duration::from_secs(50)).await;
        let active = caller.begin(false);
        tokio::time::advance(Duration::from_secs(500)).await;
        end_idle();
        assert_eq!(signal(&caller), Signal::Run, "a request in progress may take its time");
        drop(active);
        tokio::time::advance(Duration::from_secs(59)).await;
        end_idle();
        assert_eq!(signal(&caller), Signal::Run);
        tokio::time::advance(Duration::from_secs(1)).await;
        end_idle();
        assert_eq!(signal(&caller), Signal::Drain);
        tokio::time::advance(LIMIT).await;
        end_idle();
        assert_eq!(signal(&caller), Signal::Cut);
        caller.tell(Signal::Drain);
        assert_eq!(signal(&caller), Signal::Cut, "a stronger signal stays");

        drop(guard);
        assert!(callers.live().callers.is_empty());
    }
}
