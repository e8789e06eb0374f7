//! How long connections live on the way to the server. Some balancers cut every connection at a certain age; whoever knows
//! the age replaces its connections before, so that no stream is cut. Pure: takes ages, gives limits.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use super::Rung;

/// Connections are replaced at these parts of the limit: each at another age, so that not all go at once.
const REPLACED_AT: std::ops::Range<f64> = 0.7..0.8;
/// No shorter limit is heeded: connections would only be opened. Younger ones that are cut say more about a server that keeps
/// ending than about a balancer.
pub const SHORTEST: Duration = Duration::from_secs(5);
/// How often a connection without a known limit asks whether there is one by now.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Cuts that are remembered for each way.
const REMEMBERED: usize = 16;

/// What is known about the ages that connections reach.
#[derive(Debug, Default)]
pub struct Lifetimes {
    /// The limit that somebody has set.
    configured: Option<Duration>,
    /// The limit that the server knows of.
    told: Mutex<Option<Duration>>,
    observed: Mutex<HashMap<Rung, Observed>>,
}

#[derive(Debug, Default)]
struct Observed {
    cuts: Vec<Cut>,
    limit: Option<Duration>,
}

/// A connection that ended without a word.
#[derive(Debug, Clone, Copy)]
struct Cut {
    opened: Instant,
    age: Duration,
}

impl Cut {
    /// Whether two cuts speak for one limit: the same age, and not the same moment. When a server or a network ends, all
    /// connections do, and those that were opened together have the same age then too.
    fn agrees_with(&self, other: &Self) -> bool {
        let apart = self.opened.max(other.opened) - self.opened.min(other.opened);
        let tolerance = Duration::from_secs(1).max(self.age / 20);
        self.age.abs_diff(other.age) <= tolerance && apart >= (self.age / 4).max(2 * tolerance)
    }
}

impl Lifetimes {
    /// Nothing is observed yet.
    pub fn new(configured: Option<Duration>) -> Self {
        Self { configured, ..Self::default() }
    }

    /// The age at which a connection is to be replaced, another one each time; `None` when no limit is known.
    pub fn replace_at(&self, rung: Rung, rng: &mut impl rand::Rng) -> Option<Duration> {
        use rand::RngExt as _;
        let observed = self.observed().get(&rung).and_then(|observed| observed.limit);
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = [self.configured, told, observed].into_iter().flatten().min()?;
        Some(limit.mul_f64(rng.random_range(REPLACED_AT)))
    }

    /// Waits until a connection that was opened then is to be replaced. For ever, while no limit is known.
    pub async fn wait_until_old(&self, rung: Rung, opened: Instant) {
        let age = loop {
            let age = self.replace_at(rung, &mut rand::rng());
            match age {
                Some(age) => break age,
                None => sleep(LOOK_AGAIN).await,
            }
        };
        sleep_until(opened + age).await;
    }

    /// Notes the limit that the server knows of, in place of what it said before.
    pub fn note_told(&self, limit: Option<Duration>) {
        // A server of another mind than ours must not make the agent do nothing but dial.
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = limit.map(|limit| limit.max(SHORTEST));
    }

    /// Notes a connection that ended at that moment without a word and without an error of either side.
    pub fn note_cut(&self, rung: Rung, opened: Instant, now: Instant) {
        let cut = Cut { opened, age: now - opened };
        if cut.age < SHORTEST {
            return;
        }
        let mut all = self.observed();
        let observed = all.entry(rung).or_default();
        let agreed = observed.cuts.iter().filter(|other| cut.agrees_with(other)).map(|other| other.age).min();
        observed.cuts.push(cut);
        if observed.cuts.len() > REMEMBERED {
            observed.cuts.remove(0);
        }
        if let Some(age) = agreed.map(|age| age.min(cut.age))
            && observed.limit.is_none_or(|limit| age < limit)
        {
            observed.limit = Some(age);
            tracing::info!(way = %rung, seconds = age.as_secs_f32(), "connections are cut at this age on the way to the \
                server; from now on they are replaced before");
        }
    }

    fn observed(&self) -> MutexGuard<'_, HashMap<Rung, Observed>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use towline_tunnel::upgrade::Framing;

    use super::*;

    const RUNG: Rung = Rung { via_proxy: false, framing: Framing::Bare };
    const OTHER: Rung = Rung { via_proxy: false, framing: Framing::WebSocket };

    /// Notes cuts, each opened at one second and cut at another, and gives the limit that follows.
    fn limit_after(cuts: &[(u64, u64)]) -> Option<Duration> {
        let lifetimes = Lifetimes::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for &(opened, cut) in cuts {
            lifetimes.note_cut(RUNG, at(opened), at(cut));
        }
        assert_eq!(lifetimes.replace_at(OTHER, &mut StdRng::seed_from_u64(1)), None);
        let limit = lifetimes.observed().get(&RUNG).and_then(|observed| observed.limit);
        let replaced: Vec<_> =
            (0..50).filter_map(|seed| lifetimes.replace_at(RUNG, &mut StdRng::seed_from_u64(seed))).collect();
        assert_eq!(replaced.is_empty(), limit.is_none());
        if let Some(limit) = limit {
            assert!(replaced.iter().all(|age| *age >= limit.mul_f64(0.7) && *age <= limit.mul_f64(0.8)));
        }
        limit
    }

    #[test]
    fn only_the_same_age_at_different_times_is_a_limit() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(limit_after(&[(0, 60)]), None, "once is nothing");
        assert_eq!(limit_after(&[(0, 60), (0, 60), (1, 61), (2, 62)]), None, "those that were opened together");
        assert_eq!(limit_after(&[(0, 60), (20, 60), (40, 60)]), None, "a server that ends cuts every age at once");
        assert_eq!(limit_after(&[(0, 60), (60, 120)]), minute, "and again at the same age");
        assert_eq!(limit_after(&[(0, 60), (20, 81)]), minute, "about the same age");
        assert_eq!(limit_after(&[(0, 60), (20, 100), (40, 55), (100, 130)]), None, "ages of all kinds");
        assert_eq!(limit_after(&[(0, 4), (4, 8), (8, 12)]), None, "a server that keeps ending");
    }

    #[test]
    fn a_shorter_limit_replaces_a_longer_one() {
        let limit = limit_after(&[(0, 60), (60, 120), (120, 150), (150, 180)]);
        assert_eq!(limit, Some(Duration::from_secs(30)));
        let limit = limit_after(&[(0, 30), (30, 60), (60, 120), (120, 180)]);
        assert_eq!(limit, Some(Duration::from_secs(30)));
    }

    #[test]
    fn the_shorter_of_what_was_set_and_seen_counts() {
        let lifetimes = Lifetimes::new(Some(Duration::from_secs(100)));
        let age = |rung| lifetimes.replace_at(rung, &mut StdRng::seed_from_u64(1)).unwrap().as_secs();
        assert!((70..=80).contains(&age(RUNG)));
        let start = Instant::now();
        for round in 0..2 {
            let opened = start + Duration::from_secs(20 * round);
            lifetimes.note_cut(RUNG, opened, opened + Duration::from_secs(20));
        }
        assert!((14..=16).contains(&age(RUNG)));
        assert!((70..=80).contains(&age(OTHER)));
    }
}
