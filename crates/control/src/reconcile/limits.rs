//! The deadlines of a service's life.

use std::time::Duration;

/// Deadlines that the reconciler judges by. The defaults are what a production server should run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long an instance may wait for an eligible agent before its deploy has failed. Default 30 s.
    pub placement: Duration,
    /// How long requests in flight may go on after an undeploy or an update. Default 30 s.
    pub drain: Duration,
    /// How long a drain lasts at least, so that a request that has just picked an instance is seen. Default 500 ms.
    pub drain_settle: Duration,
    /// How long an agent may be offline before its instances are replaced elsewhere. Default 60 s.
    pub agent_lost: Duration,
    /// How long after its placement an instance may report a hopeless failure (no image, refused start) before it is
    /// believed. Default 5 s.
    pub failure_grace: Duration,
    /// How often a container may end by itself before it counts as a crash loop. Default 3.
    pub crash_restarts: i64,
    /// How long an image may take to be pulled. Default 1 hour.
    pub pull: Duration,
    /// How long an agent that is offline is waited for when an instance is to stop. Default 10 s.
    pub offline_stop: Duration,
    /// How long an agent that is online is waited for when an instance is to stop. Default 2 minutes.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            placement: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            drain_settle: Duration::from_millis(500),
            agent_lost: Duration::from_secs(60),
            failure_grace: Duration::from_secs(5),
            crash_restarts: 3,
            pull: Duration::from_secs(3600),
            offline_stop: Duration::from_secs(10),
            stop: Duration::from_secs(120),
        }
    }
}
