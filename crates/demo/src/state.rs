//! What the server remembers between requests: counters, health, and the tasks that it owns.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU16};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;

/// How many keys a counter map holds before new ones are all counted as `(other)`.
const MAX_KEYS: usize = 10_000;

/// The server.
pub struct Demo {
    /// The settings.
    pub config: Config,
    /// When it started.
    pub started: Instant,
    /// The same by the clock on the wall, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// What `/health` answers.
    pub health_status: AtomicU16,
    /// Deliveries by key.
    pub counts: Counters,
    /// Requests whose caller went away, by key.
    pub disconnects: Counters,
    /// Requests that are being answered.
    pub in_flight: AtomicI64,
    /// The server should finish what it has, and end.
    pub shutdown: CancellationToken,
    /// The server should end at once, with the code of [`Demo::exit_code`].
    pub exit: CancellationToken,
    /// See [`Demo::exit`].
    pub exit_code: AtomicU16,
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl Demo {
    /// A server that has just started.
    pub fn new(config: Config, shutdown: CancellationToken) -> Self {
        Self {
            health_status: AtomicU16::new(config.health_status),
            config,
            started: Instant::now(),
            started_at_ms: unix_micros() / 1000,
            counts: Counters::default(),
            disconnects: Counters::default(),
            in_flight: AtomicI64::new(0),
            shutdown,
            exit: CancellationToken::new(),
            exit_code: AtomicU16::new(0),
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Runs a task that ends with the server at the latest.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(self.abort.clone().run_until_cancelled_owned(task));
    }

    /// Gives the tasks `drain` to end by themselves, then ends them.
    pub async fn finish(&self, drain: Duration) {
        self.tasks.close();
        // Too late is no error here: that is what the deadline is for.
        let _ = tokio::time::timeout(drain, self.tasks.wait()).await;
        self.abort.cancel();
        self.tasks.wait().await;
    }
}

/// Named counters that only grow.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<String, u64>>);

impl Counters {
    /// Counts one more and returns the new value.
    pub fn add(&self, key: &str) -> u64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if counts.len() >= MAX_KEYS && !counts.contains_key(key) { "(other)" } else { key };
        let count = counts.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// The value of one counter, 0 when it was never counted.
    pub fn get(&self, key: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The clock on the wall, in microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the time is shown to people and never decides anything")]
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_grow_by_key_and_have_a_limit() {
        let counters = Counters::default();
        assert_eq!(counters.add("a"), 1);
        assert_eq!(counters.add("a"), 2);
        assert_eq!(counters.get("b"), 0);
        for key in 0..MAX_KEYS {
            counters.add(&format!("key {key}"));
        }
        assert!(counters.get("(other)") > 0);
        assert_eq!(counters.add("a"), 3);
    }
}
