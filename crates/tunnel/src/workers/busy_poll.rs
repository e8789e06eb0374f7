//! Looking for more work before going to sleep.
//!
//! To be woken costs a thread, and whoever wakes it, several microseconds; in a virtual machine, whose idle cores are given
//! back to the host, some ten on either side. A worker whose next bytes come sooner than that does better to look for them.
//! So it looks again and again for a bounded time, under four conditions:
//!
//! * Waits have lately been short: a thread that has little to do sleeps as ever. A wait is counted to the next time that
//!   nothing can run, with the work in between.
//! * At most one request is in flight on it. With several, looking loses: a thread that slept finds several things to do when
//!   it wakes, one that stays awake takes them up one by one.
//! * Nobody else wants the core. Before each look the thread gives way; when others ran meanwhile, it sleeps after one more
//!   look.
//! * The wait began when bytes moved through a tunnel. Timers and what else runs on the thread keep it awake no longer.
//!
//! What it costs is time of cores that are idle otherwise: a thread that looks counts as busy.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Builder;

use super::RequestCount;

/// Giving way takes longer than this when somebody else ran.
const ALONE: Duration = Duration::from_micros(4);
/// A thread looks when it has this many points. A short wait is a point, a long one costs two.
const ENOUGH: u8 = 4;
/// The most points that are kept, so that a few long waits in a row end the looking.
const MOST: u8 = 8;
/// The most requests in flight on a thread that looks.
const FEW: usize = 1;

thread_local! {
    static MOVED: Cell<bool> = const { Cell::new(false) };
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Bytes moved through a tunnel on this thread.
pub fn bytes_moved() {
    MOVED.set(true);
}

/// A thread that looks: its own part of what happens when it has nothing to do.
struct Worker {
    policy: Policy,
    /// Wakes the future that the thread runs for. A thread whose future is awake looks for events and does not sleep.
    main: Waker,
}

/// Makes a runtime's thread look before it sleeps, once [`run`] runs on it.
pub fn install(builder: &mut Builder) {
    builder.on_thread_park(|| WORKER.with_borrow_mut(|worker| worker.as_mut().map_or((), Worker::before_sleep)));
}

/// The future that a runtime is driven by, on a thread that looks for no longer than `limit`.
pub async fn run<F: Future>(limit: Duration, future: F) -> F::Output {
    drive(Policy::new(limit, ALONE), future).await
}

async fn drive<F: Future>(policy: Policy, future: F) -> F::Output {
    let main = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    WORKER.set(Some(Worker { policy, main }));
    future.await
}

impl Worker {
    /// Looks once more instead of sleeping, if that is worth it.
    fn before_sleep(&mut self) {
        let began = Instant::now();
        if self.policy.is_worth_a_look(began, MOVED.take(), RequestCount::count_here()) {
            thread::yield_now();
            self.policy.gave_way(began.elapsed());
            self.main.wake_by_ref();
        }
    }
}

/// Decides, whenever nothing can run, whether to look again.
#[derive(Debug)]
struct Policy {
    limit: Duration,
    alone: Duration,
    points: u8,
    /// When bytes had moved and nothing could run any more.
    waits_since: Option<Instant>,
    /// Others ran during this wait.
    is_wanted: bool,
}

impl Policy {
    const fn new(limit: Duration, alone: Duration) -> Self {
        Self { limit, alone, points: 0, waits_since: None, is_wanted: false }
    }

    /// Nothing can run, and bytes have `moved` since this was asked before, or have not.
    fn is_worth_a_look(&mut self, now: Instant, moved: bool, in_flight: usize) -> bool {
        if moved {
            self.points = match self.waits_since {
                Some(since) if now.duration_since(since) < self.limit => (self.points + 1).min(MOST),
                _ => self.points.saturating_sub(2),
            };
            (self.waits_since, self.is_wanted) = (Some(now), false);
        }
        let waits_briefly = self.waits_since.is_some_and(|since| now.duration_since(since) < self.limit);
        waits_briefly && self.points >= ENOUGH && !self.is_wanted && in_flight <= FEW
    }

    fn gave_way(&mut self, took: Duration) {
        self.is_wanted |= took >= self.alone;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread::JoinHandle};

    use tokio::{
        runtime::Handle,
        sync::oneshot::{self, error::RecvError},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    /// A policy at a time of its own.
    struct Scene {
        policy: Policy,
        now: Instant,
        in_flight: usize,
    }

    impl Scene {
        fn new() -> Self {
            Self { policy: Policy::new(LIMIT, ALONE), now: Instant::now(), in_flight: FEW }
        }

        fn after(&mut self, micros: u64, moved: bool) -> bool {
            self.now += Duration::from_micros(micros);
            self.policy.is_worth_a_look(self.now, moved, self.in_flight)
        }

        /// A thread whose waits have been short for long.
        fn busy() -> Self {
            let mut scene = Self::new();
            for _ in 0..100 {
                scene.after(20, true);
            }
            scene
        }
    }

    #[test]
    fn looks_when_some_waits_were_short() {
        let mut scene = Scene::new();
        let looks: Vec<_> = (0..6).map(|_| scene.after(20, true)).collect();
        assert_eq!(looks, [false, false, false, false, true, true]);
    }

    #[test]
    fn sleeps_when_waits_are_long() {
        let mut scene = Scene::busy();
        let looks: Vec<_> = (0..4).map(|_| scene.after(100, true)).collect();
        assert_eq!(looks, [true, true, false, false]);
        // One short wait among long ones is chance.
        assert!(!scene.after(20, true));
    }

    #[test]
    fn looks_no_longer_than_the_limit() {
        let mut scene = Scene::busy();
        assert!(scene.after(99, false));
        assert!(!scene.after(1, false));
        assert!(scene.after(0, true), "the next wait has its own time");
    }

    #[test]
    fn sleeps_while_several_requests_are_in_flight() {
        let mut scene = Scene::busy();
        scene.in_flight = FEW + 1;
        assert!((0..10).all(|_| !scene.after(20, true)));
        scene.in_flight = FEW;
        assert!(scene.after(20, true), "what it knows of its waits is not lost");
    }

    #[test]
    fn what_moves_no_bytes_keeps_no_thread_awake() {
        let mut scene = Scene::busy();
        for _ in 0..4 {
            assert!(scene.after(20, false));
        }
        assert!((0..10).all(|_| !scene.after(20, false)));
    }

    #[test]
    fn sleeps_when_others_want_the_core() {
        let mut scene = Scene::busy();
        scene.policy.gave_way(ALONE - Duration::from_nanos(1));
        assert!(scene.after(1, false));
        scene.policy.gave_way(ALONE);
        assert!(!scene.after(1, false));
        assert!(scene.after(1, true), "but not for good");
    }

    /// A thread that would look for an hour.
    struct Looking {
        handle: Handle,
        end: oneshot::Sender<()>,
        thread: JoinHandle<Result<(), RecvError>>,
    }

    impl Looking {
        fn start() -> Self {
            let mut builder = Builder::new_current_thread();
            install(&mut builder);
            let runtime = builder.enable_all().build().unwrap();
            let handle = runtime.handle().clone();
            let (end, ended) = oneshot::channel();
            let hour = Duration::from_hours(1);
            let policy = Policy { points: MOST, ..Policy::new(hour, hour) };
            let thread = thread::spawn(move || runtime.block_on(drive(policy, ended)));
            Self { handle, end, thread }
        }

        /// Runs this on the thread, as work in which bytes moved, and waits until it is done.
        fn run(&self, what: impl FnOnce() + Send + 'static) {
            let (answer, answered) = mpsc::channel();
            self.handle.spawn(async move {
                bytes_moved();
                what();
                answer.send(()).unwrap();
            });
            answered.recv().unwrap();
        }

        fn sleeps(&self) -> u64 {
            self.handle.metrics().worker_park_count(0)
        }

        fn end(self) {
            self.end.send(()).unwrap();
            self.thread.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_thread_that_looks_does_not_sleep_and_still_ends() {
        let thread = Looking::start();
        let sleeps: Vec<_> = (0..20)
            .map(|_| {
                thread.run(|| ());
                thread.sleeps()
            })
            .collect();
        // After the first message there may have been none yet that began a wait.
        assert_eq!(sleeps[19], sleeps[1], "it slept: {sleeps:?}");
        thread.end();
    }

    #[test]
    fn a_thread_with_several_requests_in_flight_sleeps_after_each_message() {
        let thread = Looking::start();
        thread.run(|| (0..=FEW).for_each(|_| RequestCount::here().begin()));
        let started = Instant::now();
        for _ in 0..20 {
            let before = thread.sleeps();
            thread.run(|| ());
            while thread.sleeps() == before {
                assert!(started.elapsed() < Duration::from_secs(60), "it does not sleep");
                thread::yield_now();
            }
        }
        thread.end();
    }
}
