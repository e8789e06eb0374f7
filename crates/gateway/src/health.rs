//! Whether an instance takes connections, as seen by those who tried: passive ejection.
//!
//! After a few failures in a row the instance is left out for a while. Then one request tries it again: if that fails, the
//! instance is left out for twice as long, up to a limit; if not, everything is as before. Only failures to connect count:
//! they are cheap to be sure of, and nothing of a request was lost by them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::service::Instance;

/// Failures in a row after which an instance is left out.
const MAX_FAILURES: u32 = 3;
/// How long the first time.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
/// And at most.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// What is known of one instance.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Whether it has failed since it last succeeded. While it has not, nobody needs the lock.
    is_suspect: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    ejections: u32,
    /// Until when it is left out; it stays out until somebody has tried it then.
    out_until: Option<Instant>,
    /// Whether somebody tries it now.
    is_tried: bool,
}

impl Health {
    /// Whether a request may go there.
    pub(crate) fn takes(&self, now: Instant) -> bool {
        if !self.is_suspect.load(Ordering::Acquire) {
            return true;
        }
        let record = self.record();
        record.out_until.is_none_or(|until| until <= now && !record.is_tried)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's attempt to reach an instance. Without a verdict it has taught nothing.
#[derive(Debug)]
pub(crate) struct Trial {
    instance: Arc<Instance>,
    /// Whether it is the one that decides whether the instance comes back.
    decides: bool,
}

impl Trial {
    pub(crate) fn begin(instance: Arc<Instance>, now: Instant) -> Self {
        let mut decides = false;
        if instance.health.is_suspect.load(Ordering::Acquire) {
            let mut record = instance.health.record();
            decides = !record.is_tried && record.out_until.is_some_and(|until| until <= now);
            record.is_tried |= decides;
        }
        Self { instance, decides }
    }

    pub(crate) const fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Whether somebody waits for the verdict.
    pub(crate) const fn decides(&self) -> bool {
        self.decides
    }

    /// The instance took the connection.
    pub(crate) fn succeeded(&self) {
        let health = &self.instance.health;
        if health.is_suspect.load(Ordering::Acquire) {
            *health.record() = Record::default();
            health.is_suspect.store(false, Ordering::Release);
        }
    }

    /// It did not.
    pub(crate) fn failed(&self, now: Instant) {
        let health = &self.instance.health;
        let mut record = health.record();
        record.failures += 1;
        let ejects = if record.out_until.is_some() { self.decides } else { record.failures >= MAX_FAILURES };
        if ejects {
            let back_off = FIRST_BACK_OFF.saturating_mul(1 << record.ejections.min(10)).min(MAX_BACK_OFF);
            record.out_until = Some(now + back_off);
            record.ejections += 1;
            tracing::info!(instance = %self.instance.id, seconds = back_off.as_secs(), "an instance is left out");
        }
        // Within the lock, so that it and the record say the same.
        health.is_suspect.store(true, Ordering::Release);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.decides {
            self.instance.health.record().is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use towline_model::{AgentId, InstanceId};

    use super::*;
    use crate::{agents::slot::AgentSlot, pool::Pool};

    fn instance() -> Arc<Instance> {
        Arc::new(Instance::new(
            InstanceId::generate(),
            Arc::new(AgentSlot::new(AgentId::generate())),
            Pool::new(0),
            Arc::default(),
        ))
    }

    fn fail(instance: &Arc<Instance>, times: usize) {
        for _ in 0..times {
            Trial::begin(Arc::clone(instance), Instant::now()).failed(Instant::now());
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_eject_and_one_request_decides() {
        let instance = instance();
        let takes = || instance.health.takes(Instant::now());
        fail(&instance, 2);
        assert!(takes());
        Trial::begin(Arc::clone(&instance), Instant::now()).succeeded();
        fail(&instance, 2);
        assert!(takes(), "they were not in a row");
        fail(&instance, 1);
        assert!(!takes());
        pass(1).await;
        assert!(takes());
        let first = Trial::begin(Arc::clone(&instance), Instant::now());
        assert!(first.decides() && !takes(), "one tries it, all others wait");
        assert!(!Trial::begin(Arc::clone(&instance), Instant::now()).decides());
        drop(first);
        assert!(takes(), "one without a verdict lets another try");
        let second = Trial::begin(Arc::clone(&instance), Instant::now());
        second.succeeded();
        drop(second);
        fail(&instance, 2);
        assert!(takes(), "everything is as before");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_out_grows_up_to_a_limit() {
        let instance = instance();
        fail(&instance, 3);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            pass(seconds - 1).await;
            tokio::time::advance(Duration::from_millis(999)).await;
            assert!(!instance.health.takes(Instant::now()), "{seconds}");
            // Whoever had no other choice in between changes nothing.
            fail(&instance, 1);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(instance.health.takes(Instant::now()), "{seconds}");
            fail(&instance, 1);
        }
    }
}
