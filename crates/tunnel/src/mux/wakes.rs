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
    /// Wakers that are no longer needed. Dropping one may drop a task with a stream in it, which would want the lock.
    discarded: Vec<Waker>,
}

impl Wakes {
    pub(super) fn task(&mut self, waker: &mut Option<Waker>) {
        let Some(waker) = waker.take() else { return };
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.tasks.push(waker),
        }
    }

    /// Notes a waker for later, without cloning it when it is that of the same task again.
    pub(super) fn wait(&mut self, slot: &mut Option<Waker>, waker: &Waker) {
        match slot {
            Some(present) if present.will_wake(waker) => {}
            _ => self.discarded.extend(slot.replace(waker.clone())),
        }
    }

    /// Forgets a waker that nobody needs any more.
    pub(super) fn discard(&mut self, slot: &mut Option<Waker>) {
        self.discarded.extend(slot.take());
    }

    pub(super) fn ended(&mut self, watch: &Arc<Watch>) {
        self.ended.push(Arc::clone(watch));
    }

    /// Wakes them all.
    pub fn wake(self) {
        // Mostly there is none, and then there are no others either.
        if self.first.is_none() && self.ended.is_empty() {
            return;
        }
        for task in self.first.into_iter().chain(self.tasks) {
            task.wake();
        }
        for watch in self.ended {
            watch.wake();
        }
    }
}
