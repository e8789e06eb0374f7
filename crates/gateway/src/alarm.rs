//! A timer that is kept from one request of a connection to the next.
//!
//! Nearly every request ends long before its deadline. A timer for each would be set and taken back for nothing, twice under a
//! lock; this one stays set for the deadline of an earlier request, and is set anew only when it goes off too early.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// The deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// A timer for one deadline after the other.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when the time has come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        // A task that has used up its turn is not told by its timers.
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }

    /// Runs this until it is done or the time has come.
    pub(crate) async fn guard<F: Future>(
        &mut self,
        at: Instant,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            self.poll(cx, at).map(|()| Err(Elapsed))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_deadline_is_kept_whatever_was_set_before() {
        let mut alarm = Alarm::default();
        for seconds in [10, 20, 1, 30, 1] {
            let begin = Instant::now();
            let at = begin + Duration::from_secs(seconds);
            assert_eq!(alarm.guard(at, pin!(std::future::ready(7))).await, Ok(7), "what is done is done");
            assert_eq!(alarm.guard(at, pin!(std::future::pending::<()>())).await, Err(Elapsed));
            assert_eq!(begin.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_left_over_does_not_end_the_next_wait() {
        let mut alarm = Alarm::default();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(alarm.guard(after(10), pin!(tokio::time::sleep_until(after(5)))).await, Ok(()));
        assert_eq!(alarm.guard(after(60), pin!(tokio::time::sleep_until(after(50)))).await, Ok(()));
        assert_eq!(begin.elapsed().as_secs(), 50);
    }
}
