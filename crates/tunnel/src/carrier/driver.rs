//! The task of a carrier: reads, continues writes that did not fit, keeps time, and ends the connection.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{
    task::yield_now,
    time::{Sleep, sleep_until},
};

use super::{
    inner::{Inner, now},
    socket::Socket,
};
use crate::end::CarrierEnd;

/// Reads between which other tasks get a turn.
const READS_PER_TURN: usize = 4;
/// How long the last frames may take to leave when the carrier has ended, and the peer to close its side.
const LINGER: Duration = Duration::from_secs(1);
/// How long streams that were finished and dropped may take to be sent when nobody holds the carrier any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// The task of a carrier. The owner spawns [`CarrierDriver::run`]; dropped, it ends the carrier.
#[derive(Debug)]
#[must_use = "a carrier does nothing until its driver runs"]
pub struct CarrierDriver {
    inner: Arc<Inner>,
    /// Set when the carrier has ended and only the connection is left to be closed.
    closing: Option<Closing>,
    orphaned_at: Option<Instant>,
    alarm: Alarm,
}

#[derive(Debug)]
struct Closing {
    until: Instant,
    shut_down: bool,
}

/// When the timer goes off next, and for whom: it is touched only when that changes.
#[derive(Debug, Default)]
struct Alarm {
    at: Option<Instant>,
    waker: Option<Waker>,
}

impl CarrierDriver {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, closing: None, orphaned_at: None, alarm: Alarm::default() }
    }

    /// Drives the carrier until the connection ends, and says how it ended.
    pub async fn run(mut self) -> CarrierEnd {
        let mut timer = pin!(sleep_until(tokio::time::Instant::now()));
        poll_fn(|cx| self.poll(cx, timer.as_mut())).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<CarrierEnd> {
        let Some((mut socket, flushes_later)) = self.inner.check_out(cx.waker()) else { return Poll::Pending };
        let now = now();
        if flushes_later {
            // tokio wakes what has yielded when nothing else can run, or after some sixty others have.
            let _ = pin!(yield_now()).poll(cx);
        }
        socket.unblock();
        if self.closing.is_none() {
            self.read(&mut socket, cx, now);
            self.look_after(&mut socket, now);
        }
        if self.closing.is_some() && self.poll_close(&mut socket, now).is_ready() {
            let end = self.inner.lock().mux.end().cloned().unwrap_or(CarrierEnd::Closed);
            self.inner.close(end.clone());
            return Poll::Ready(end);
        }
        self.set_alarm(cx, timer, now);
        self.inner.check_in(socket);
        Poll::Pending
    }

    /// Takes in what has arrived, up to a few reads; then others get a turn.
    fn read(&self, socket: &mut Socket, cx: &Context<'_>, now: Instant) {
        for _ in 0..READS_PER_TURN {
            let end = match socket.poll_read() {
                Poll::Ready(Ok(0)) => None,
                Poll::Ready(Ok(_)) if self.take_in(socket, now) => continue,
                Poll::Ready(Ok(_)) => return,
                // A write that has failed before says more.
                Poll::Ready(Err(error)) => Some(socket.take_failure().unwrap_or(error)),
                Poll::Pending if socket.has_failed() => socket.take_failure(),
                Poll::Pending => return,
            };
            let mut state = self.inner.lock();
            match end {
                None => state.mux.peer_closed(),
                Some(error) => state.mux.finish(CarrierEnd::Io(Arc::new(error))),
            }
            return self.inner.unlock(state);
        }
        cx.waker().wake_by_ref();
    }

    /// Hands what was read to the streams; says whether the carrier goes on.
    fn take_in(&self, socket: &mut Socket, now: Instant) -> bool {
        let mut state = self.inner.lock();
        state.mux.received(now);
        while state.mux.end().is_none() {
            match socket.next_frame() {
                // A frame that breaks the protocol has ended the carrier when this returns.
                Ok(Some(frame)) => drop(state.mux.handle(frame, now)),
                Ok(None) => break,
                Err(error) => state.mux.finish(CarrierEnd::Protocol(error)),
            }
        }
        for (answered, rtt) in state.mux.take_answers() {
            state.pings.extract_if(.., |(number, _)| *number <= answered).for_each(|(_, waiting)| {
                let _ = waiting.send(rtt);
            });
        }
        if state.mux.stream_count() == 0 {
            socket.rest();
        }
        let goes_on = state.mux.end().is_none();
        self.inner.unlock(state);
        goes_on
    }

    /// Does what time and the dropping of handles have made due, and finds out whether the carrier has ended.
    fn look_after(&mut self, socket: &mut Socket, now: Instant) {
        let mut state = self.inner.lock();
        state.mux.handle_timeout(now);
        if state.orphaned {
            state.mux.go_away();
            self.orphaned_at.get_or_insert(now);
        }
        let mut state = self.inner.write(state, socket);
        let all_sent = !state.mux.has_output() && !socket.wants_to_write();
        let late = self.orphaned_at.is_some_and(|since| now >= since + ORPHAN_GRACE);
        if all_sent && state.mux.is_drained() {
            state.mux.finish(CarrierEnd::Drained);
        } else if state.orphaned && (late || all_sent && state.mux.stream_count() == 0) {
            state.mux.finish(CarrierEnd::Closed);
        }
        if state.mux.end().is_some() {
            self.closing = Some(Closing { until: now + LINGER, shut_down: false });
        }
        self.inner.unlock(state);
    }

    /// Sends the last frames, closes this side, and waits for the peer to close its own, so that what was sent last is
    /// not lost to a reset of the connection. All of it for a short while only.
    fn poll_close(&mut self, socket: &mut Socket, now: Instant) -> Poll<()> {
        let state = self.inner.lock();
        let worth_it =
            matches!(state.mux.end(), Some(CarrierEnd::Closed | CarrierEnd::Drained | CarrierEnd::Protocol(_)));
        self.inner.unlock(self.inner.write(state, socket));
        let Some(closing) = &mut self.closing else { return Poll::Ready(()) };
        if !worth_it || socket.has_failed() || now >= closing.until {
            return Poll::Ready(());
        }
        if socket.wants_to_write() {
            return Poll::Pending;
        }
        if !closing.shut_down {
            if std::task::ready!(socket.poll_shutdown()).is_err() {
                return Poll::Ready(());
            }
            closing.shut_down = true;
        }
        socket.poll_drain()
    }

    fn set_alarm(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, now: Instant) {
        let wanted = match (&self.closing, self.orphaned_at) {
            (Some(closing), _) => closing.until,
            (None, Some(since)) => since + ORPHAN_GRACE,
            (None, None) => self.inner.lock().mux.timeout(),
        };
        let stale = self.alarm.at.is_none_or(|at| wanted < at || at <= now);
        if stale {
            timer.as_mut().reset(wanted.into());
            self.alarm.at = Some(wanted);
        }
        let same_task = self.alarm.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if stale || !same_task {
            self.alarm.waker = Some(cx.waker().clone());
            if timer.poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Drop for CarrierDriver {
    fn drop(&mut self) {
        self.inner.close(CarrierEnd::Stopped);
    }
}
