//! Noticing that the machine was asleep. The monotonic clock stands still meanwhile, so no timer notices; the wall clock
//! does not. The connections of before are then most likely dead, and nobody has said so.

use std::time::Duration;

use tokio::time::Instant;
use towline_model::Timestamp;

/// The wall clock may run ahead of the monotonic one by so much between two looks. More is a sleep, or somebody has set
/// the clock, which costs one needless reconnect.
const TOLERANCE: Duration = Duration::from_secs(10);

/// Compares the two clocks.
#[derive(Debug)]
pub(super) struct SleepWatch {
    wall: Timestamp,
    monotonic: Instant,
}

impl SleepWatch {
    pub(super) const fn new(wall: Timestamp, monotonic: Instant) -> Self {
        Self { wall, monotonic }
    }

    /// Whether the machine was asleep since the last call.
    pub(super) fn has_slept(&mut self, wall: Timestamp, monotonic: Instant) -> bool {
        let slept = wall.since(self.wall) > monotonic.duration_since(self.monotonic) + TOLERANCE;
        *self = Self::new(wall, monotonic);
        slept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wall_clock_that_runs_ahead_means_sleep() {
        let (wall, monotonic) = (Timestamp::from_micros(0), Instant::now());
        let second = Duration::from_secs(1);
        for (wall_seconds, monotonic_seconds, slept) in
            [(2, 2, false), (12, 2, false), (13, 2, true), (0, 60, false), (3600, 3600, false), (3600, 2, true)]
        {
            let mut watch = SleepWatch::new(wall, monotonic);
            assert_eq!(watch.has_slept(wall + second * wall_seconds, monotonic + second * monotonic_seconds), slept);
            assert!(!watch.has_slept(wall + second * wall_seconds, monotonic + second * monotonic_seconds));
        }
    }
}
