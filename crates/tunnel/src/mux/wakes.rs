//! Who is to be woken. The multiplexer only notes it down; its owner wakes them after letting go of the lock, so that
//! nobody wakes up only to wait for it.

use std::{sync::Arc, task::Waker};

use super::watch::Watch;

/// Tasks and watchers to be woken. Dropping it without [`Wakes::wake`] loses them.
#[derive(Debug, Default)]
#[must_use = "a task that is not woken sleeps for ever"]
pub struct Wakes {
    /// Mostly there is only one, and it needs no allocation.
    first: Option<Waker>,
    tasks: Vec<Waker>,
    ended: Vec<Arc<Watch>>,
}

impl Wakes {
    pub(super) fn task(&mut self, waker: &mut Option<Waker>) {
        let Some(waker) = waker.take() else { return };
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.tasks.push(waker),
        }
    }

    pub(super) fn ended(&mut self, watch: &Arc<Watch>) {
        self.ended.push(Arc::clone(watch));
    }

    /// Whether there is nobody to wake.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none() && self.ended.is_empty()
    }

    /// Wakes them all.
    pub fn wake(self) {
        for task in self.first.into_iter().chain(self.tasks) {
            task.wake();
        }
        for watch in self.ended {
            watch.wake();
        }
    }
}
