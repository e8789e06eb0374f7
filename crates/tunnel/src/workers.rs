//! Threads that carry bytes, each with an event loop of its own.
//!
//! A runtime whose threads share their tasks wakes one thread for another all the time, which costs more than a small
//! request does. So connections are dealt out to single-threaded runtimes, one for each core: what belongs to a connection
//! runs where the connection is. What does not carry bytes (the control plane, the container engine) stays on the runtime of
//! the process.

mod busy_poll;

use std::{
    cell::Cell,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

pub(crate) use self::busy_poll::bytes_moved;

thread_local! {
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
    static REQUESTS: RequestCount = RequestCount::default();
}

/// How many requests are in flight over the carriers that one thread reads. The gateway, which knows of requests, counts them
/// here; a worker with more than one does not busy-poll.
///
/// Clones count together. A request may end on another thread than it began on.
#[derive(Debug, Clone, Default)]
pub struct RequestCount(Arc<AtomicUsize>);

impl RequestCount {
    /// That of the thread that this is called on.
    #[must_use]
    pub fn here() -> Self {
        REQUESTS.with(Self::clone)
    }

    /// A request begins.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that began has ended.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many have begun and not ended.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn count_here() -> usize {
        REQUESTS.with(Self::count)
    }
}

/// The threads. Clones are the same threads; when the last is dropped they end, and whatever runs on them is dropped.
///
/// The default is none: what would run on a worker runs on the runtime that it is given on.
#[derive(Clone, Default)]
pub struct Workers(Option<Arc<Threads>>);

struct Threads {
    handles: Vec<Handle>,
    next: AtomicUsize,
    /// A thread ends when its end of this is dropped.
    _alive: Vec<oneshot::Sender<()>>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workers").field(&self.count()).finish()
    }
}

impl Workers {
    /// Starts so many threads; 0 for none. One whose work comes in quick succession, with at most one request counted on it
    /// ([`RequestCount`]), looks for more for up to `busy_poll` before it sleeps, as long as nobody else wants its core; zero makes
    /// it sleep at once.
    ///
    /// # Errors
    /// When the machine has no thread, or no event queue, left.
    pub fn start(count: usize, busy_poll: Duration) -> io::Result<Self> {
        if count == 0 {
            return Ok(Self::default());
        }
        let mut threads = Threads { handles: Vec::new(), next: AtomicUsize::new(0), _alive: Vec::new() };
        for index in 0..count {
            let mut builder = Builder::new_current_thread();
            if !busy_poll.is_zero() {
                busy_poll::install(&mut builder);
            }
            let runtime = builder.enable_all().build()?;
            let (alive, ended) = oneshot::channel::<()>();
            threads.handles.push(runtime.handle().clone());
            threads._alive.push(alive);
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                HERE.set(Some(index));
                let _ = runtime.block_on(busy_poll::run(busy_poll, ended));
                // Whoever dropped the threads may have been one of their own tasks, which cannot be waited for here.
                runtime.shutdown_background();
            })?;
        }
        Ok(Self(Some(Arc::new(threads))))
    }

    /// How many threads there are; 0 when everything stays on the runtime that it is given on.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |threads| threads.handles.len())
    }

    /// The thread whose turn it is; the runtime that this is called on when there are no threads.
    ///
    /// # Panics
    /// When there are no threads, and outside of a runtime.
    #[must_use]
    pub fn next(&self) -> Handle {
        let Some(threads) = &self.0 else { return Handle::current() };
        let turn = threads.next.fetch_add(1, Ordering::Relaxed);
        threads.handles[turn % threads.handles.len()].clone()
    }

    /// Whether this runs on the worker that is to use the peer's worker of that number rather than its others. If each
    /// keeps to its own, what several of these threads carry is not all carried by one of the peer's.
    #[must_use]
    pub fn is_paired_with(&self, peer: usize) -> bool {
        Self::here() == Some(peer % self.count().max(1))
    }

    /// Which worker this runs on; `None` elsewhere.
    #[must_use]
    pub fn here() -> Option<usize> {
        HERE.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_go_round() {
        let workers = Workers::start(2, Duration::ZERO).unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (answer, answered) = oneshot::channel();
            workers.next().spawn(async move { answer.send(Workers::here()) });
            seen.push(answered.await.unwrap());
        }
        assert_eq!(seen, [Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!(Workers::here(), None);
    }

    #[tokio::test]
    async fn each_is_paired_with_others_of_the_peers() {
        let workers = Workers::start(2, Duration::ZERO).unwrap();
        assert!(!workers.is_paired_with(0), "this is no worker");
        for expected in [[true, false, true], [false, true, false]] {
            let (answer, answered) = oneshot::channel();
            let all = workers.clone();
            workers.next().spawn(async move { answer.send([0, 1, 2].map(|peer| all.is_paired_with(peer))) });
            assert_eq!(answered.await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn each_counts_its_own_requests_wherever_they_end() {
        let workers = Workers::start(2, Duration::ZERO).unwrap();
        let ask = async |what: fn() -> usize| {
            let (answer, answered) = oneshot::channel();
            workers.next().spawn(async move { answer.send(what()) });
            answered.await.unwrap()
        };
        let (give, given) = oneshot::channel();
        workers.next().spawn(async move {
            let here = RequestCount::here();
            here.begin();
            give.send(here)
        });
        let begun = given.await.unwrap();
        assert_eq!(ask(RequestCount::count_here).await, 0, "the other worker has none");
        assert_eq!(ask(RequestCount::count_here).await, 1);
        begun.end();
        ask(RequestCount::count_here).await;
        assert_eq!(ask(RequestCount::count_here).await, 0);
    }

    #[tokio::test]
    async fn what_runs_on_them_ends_with_them() {
        let workers = Workers::start(1, Duration::from_millis(1)).unwrap();
        let (started, begun) = oneshot::channel();
        let (held, dropped) = oneshot::channel::<()>();
        workers.next().spawn(async move {
            started.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(held);
        });
        begun.await.unwrap();
        drop(workers);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn without_any_everything_stays_here() {
        let workers = Workers::default();
        let handle = workers.next();
        assert_eq!(handle.id(), Handle::current().id());
    }
}
