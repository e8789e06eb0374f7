//! How long to wait before the next attempt. Two shapes: full jitter for the network, where thousands of agents must not
//! come back in step; plain doubling for containers, where a person watches.

use std::time::Duration;

use rand::RngExt;

/// The first wait of a reconnect is at most this long.
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
/// No wait of a reconnect is longer.
const RECONNECT_MAX: Duration = Duration::from_secs(15);
/// A session that lived for so long clears the backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// The wait before a container is started again for the first time.
const RESTART_FIRST: Duration = Duration::from_secs(1);
/// The longest wait before a container is started again.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// Reconnecting with full jitter: a random wait between nothing and a ceiling that doubles from 0.2 s to 15 s.
#[derive(Debug, Default)]
pub struct Reconnect {
    failures: u32,
}

impl Reconnect {
    /// Notes an attempt that ended after it had worked for `healthy`, and gives the wait before the next one.
    pub fn next(&mut self, healthy: Duration, rng: &mut impl rand::Rng) -> Duration {
        if healthy >= HEALTHY_AFTER {
            self.failures = 0;
        }
        let ceiling = doubled(RECONNECT_FIRST, self.failures, RECONNECT_MAX);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// The wait when the next attempt will most likely fail as well (a revoked key): half of the longest to the longest.
    pub fn slow(&mut self, rng: &mut impl rand::Rng) -> Duration {
        self.failures = u32::MAX;
        RECONNECT_MAX.mul_f64(rng.random_range(0.5..=1.0))
    }
}

/// The wait before a container is started again after it failed `failures` times in a row (from 1): 1 s, 2 s … 60 s.
#[must_use]
pub fn restart_delay(failures: u32) -> Duration {
    doubled(RESTART_FIRST, failures.saturating_sub(1), RESTART_MAX)
}

fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn restarts_double_up_to_a_minute() {
        let seconds: Vec<_> = (0..10).map(|failures| restart_delay(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(restart_delay(u32::MAX).as_secs(), 60);
    }

    #[test]
    fn health_clears_the_backoff_and_a_short_life_does_not() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Reconnect::default();
        for _ in 0..10 {
            backoff.next(Duration::from_secs(29), &mut rng);
        }
        assert_eq!(backoff.failures, 10);
        assert!(backoff.next(Duration::from_secs(30), &mut rng) <= RECONNECT_FIRST);
        assert!(backoff.slow(&mut rng) >= RECONNECT_MAX / 2);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_its_ceiling(seed: u64, attempts in 1_u32..200) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut backoff = Reconnect::default();
            for attempt in 0..attempts {
                let wait = backoff.next(Duration::ZERO, &mut rng);
                prop_assert!(wait <= doubled(RECONNECT_FIRST, attempt, RECONNECT_MAX));
            }
        }
    }
}
