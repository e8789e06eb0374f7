//! A timer that only runs while the container is waited for: what its caller takes longer for is not its fault.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How long to wait for a container's next step, and since when.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// How far the container had come when the wait began; `None` while it is not waited for.
    since: Option<u64>,
}

impl Patience {
    /// Waits so long at most, or without end.
    pub(crate) const fn new(limit: Option<Duration>) -> Self {
        Self { limit, sleep: None, since: None }
    }

    /// The container is waited for, and has come so far. Ready, with the limit, when it has come no further for too long.
    pub(crate) fn poll_waiting(&mut self, cx: &mut Context<'_>, progress: u64) -> Poll<Duration> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if self.since != Some(progress) {
            self.since = Some(progress);
            let over = Instant::now() + limit;
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(over),
                None => self.sleep = Some(Box::pin(sleep_until(over))),
            }
        }
        let Some(sleep) = &mut self.sleep else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(limit)
    }

    /// Somebody else is waited for.
    pub(crate) const fn pause(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn is_over(patience: &mut Patience, progress: u64) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        patience.poll_waiting(&mut cx, progress).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_wait_for_the_container_counts() {
        let mut patience = Patience::new(Some(LIMIT));
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        assert!(!is_over(&mut patience, 0));
        pass(9).await;
        assert!(!is_over(&mut patience, 0));
        patience.pause();
        pass(100).await;
        assert!(!is_over(&mut patience, 0), "a pause begins the wait anew");
        pass(9).await;
        assert!(!is_over(&mut patience, 1), "and so does a step");
        pass(9).await;
        assert!(!is_over(&mut patience, 1));
        pass(2).await;
        assert!(is_over(&mut patience, 1));
        assert!(!is_over(&mut Patience::new(None), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken() {
        let begin = Instant::now();
        let mut patience = Patience::new(Some(LIMIT));
        assert_eq!(poll_fn(|cx| patience.poll_waiting(cx, 7)).await, LIMIT);
        assert_eq!(begin.elapsed().as_secs(), LIMIT.as_secs());
    }
}
