//! The line before a service that takes only so many requests at a time: whoever comes when it is full waits, in the order
//! of arrival, and whoever comes when the line is full too is told so.
//!
//! A request that nobody waits for any more leaves the line at once. Changes of the limits hold for those who come and
//! wait; those who are in stay in.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{metrics::LineMetrics, snapshot::Concurrency};

/// One service's line.
#[derive(Debug)]
pub(crate) struct Line {
    state: Mutex<State>,
    pub metrics: LineMetrics,
}

#[derive(Debug)]
struct State {
    limits: Option<Concurrency>,
    running: usize,
    waiting: VecDeque<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    since: Instant,
    admit: oneshot::Sender<Slot>,
}

/// What can be seen of a line from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineStatus {
    /// Requests that the service has at the moment, as far as they are counted against its limit.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// How long the first of them has been waiting.
    pub longest_wait: Duration,
}

/// A place among the requests that the service has; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Line>);

/// How somebody who comes is received.
#[derive(Debug)]
pub(crate) enum Entry {
    In(Slot),
    Waits(Waiting),
    /// As many wait as may.
    Full,
}

/// A place in the line; dropped, it is free at once.
#[derive(Debug)]
pub(crate) struct Waiting {
    line: Arc<Line>,
    number: u64,
    /// How many were in the line, this one included, when it came.
    pub position: usize,
    pub since: Instant,
    admitted: oneshot::Receiver<Slot>,
    came_in: bool,
}

impl Line {
    pub(crate) fn new(limits: Concurrency) -> Self {
        let state = State { limits: Some(limits), running: 0, waiting: VecDeque::new(), next: 0 };
        Self { state: Mutex::new(state), metrics: LineMetrics::default() }
    }

    /// Other limits from now on; with none, everybody who waits comes in.
    pub(crate) fn set_limits(self: &Arc<Self>, limits: Option<Concurrency>) {
        self.state().limits = limits;
        self.admit();
    }

    /// Comes in, joins the line, or is sent away.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Entry {
        let mut state = self.state();
        if state.has_room() && state.waiting.is_empty() {
            state.running += 1;
            drop(state);
            self.metrics.wait.observe(0.0);
            return Entry::In(Slot(Arc::clone(self)));
        }
        if state.limits.is_some_and(|limits| state.waiting.len() >= limits.waiting) {
            self.metrics.refused.inc();
            return Entry::Full;
        }
        let (admit, admitted) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Waiter { number, since: now, admit });
        let position = state.waiting.len();
        drop(state);
        self.metrics.position.observe(position as f64);
        Entry::Waits(Waiting { line: Arc::clone(self), number, position, since: now, admitted, came_in: false })
    }

    pub(crate) fn status(&self, now: Instant) -> LineStatus {
        self.state().status(now)
    }

    /// The same, without the time.
    pub(crate) fn counts(&self) -> LineStatus {
        let state = self.state();
        LineStatus { running: state.running, waiting: state.waiting.len(), longest_wait: Duration::ZERO }
    }

    /// Lets in as many as there is room for.
    fn admit(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            if !state.has_room() {
                return;
            }
            let Some(first) = state.waiting.pop_front() else { return };
            state.running += 1;
            drop(state);
            // A slot that nobody takes is dropped, and so is free again.
            drop(first.admit.send(Slot(Arc::clone(self))));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.limits.is_none_or(|limits| self.running < limits.running)
    }

    fn status(&self, now: Instant) -> LineStatus {
        let longest_wait = self.waiting.front().map(|first| now.saturating_duration_since(first.since));
        LineStatus {
            running: self.running,
            waiting: self.waiting.len(),
            longest_wait: longest_wait.unwrap_or_default(),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.admit();
    }
}

impl Future for Waiting {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        match Pin::new(&mut self.admitted).poll(cx) {
            Poll::Ready(Ok(slot)) => {
                self.came_in = true;
                self.line.metrics.wait.observe(self.since.elapsed().as_secs_f64());
                Poll::Ready(slot)
            }
            // A line outlives those who wait in it.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.came_in {
            self.line.metrics.left.inc();
            self.line.state().waiting.retain(|waiter| waiter.number != self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn line(running: usize, waiting: usize) -> Arc<Line> {
        Arc::new(Line::new(Concurrency { running, waiting }))
    }

    fn slot(line: &Arc<Line>) -> Slot {
        match line.enter(Instant::now()) {
            Entry::In(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn waiting(line: &Arc<Line>) -> Waiting {
        match line.enter(Instant::now()) {
            Entry::Waits(waiting) => waiting,
            other => panic!("{other:?}"),
        }
    }

    fn counts(line: &Line) -> (usize, usize) {
        let status = line.status(Instant::now());
        (status.running, status.waiting)
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_come_in_by_their_order() {
        let line = line(2, 2);
        let (first, second) = (slot(&line), slot(&line));
        let (mut third, mut fourth) = (waiting(&line), waiting(&line));
        assert_eq!((third.position, fourth.position), (1, 2));
        tokio::time::advance(Duration::from_secs(3)).await;
        let full = LineStatus { running: 2, waiting: 2, longest_wait: Duration::from_secs(3) };
        assert!(matches!(line.enter(Instant::now()), Entry::Full));
        assert_eq!(line.status(Instant::now()), full);
        drop(second);
        let third = (&mut third).now_or_never().unwrap();
        assert!((&mut fourth).now_or_never().is_none());
        drop((first, third));
        let fourth = (&mut fourth).now_or_never().unwrap();
        assert_eq!(counts(&line), (1, 0));
        drop(fourth);
        assert_eq!(counts(&line), (0, 0));
    }

    #[test]
    fn nobody_overtakes_the_line() {
        let line = line(1, 5);
        let first = slot(&line);
        let mut second = waiting(&line);
        drop(first);
        assert!(
            matches!(line.enter(Instant::now()), Entry::Waits(_)),
            "the slot is the second's, although not taken yet"
        );
        assert!((&mut second).now_or_never().is_some());
    }

    #[test]
    fn whoever_leaves_is_out_at_once_and_keeps_no_slot() {
        let line = line(1, 1);
        let first = slot(&line);
        drop(waiting(&line));
        assert_eq!(counts(&line), (1, 0));
        let second = waiting(&line);
        drop(first);
        assert_eq!(counts(&line), (1, 0), "it was let in, and has not seen it");
        drop(second);
        assert_eq!(counts(&line), (0, 0));
        drop(slot(&line));
    }

    #[test]
    fn other_limits_hold_at_once() {
        let line = line(1, 5);
        let _first = slot(&line);
        let (mut second, mut third) = (waiting(&line), waiting(&line));
        line.set_limits(Some(Concurrency { running: 2, waiting: 0 }));
        let _second = (&mut second).now_or_never().unwrap();
        assert!((&mut third).now_or_never().is_none());
        assert!(matches!(line.enter(Instant::now()), Entry::Full));
        line.set_limits(None);
        let _third = (&mut third).now_or_never().unwrap();
        assert_eq!(counts(&line), (3, 0));
        drop(slot(&line));
    }
}
