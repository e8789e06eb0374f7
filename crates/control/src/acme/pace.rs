//! When a certificate is renewed, and how long to wait after a failure. Nothing here knows the time of day.

use std::time::Duration;

use towline_gateway::certificate::Said;
use towline_model::Timestamp;

use super::authority::{Failure, Kind};

/// The part of a certificate's life after which it is renewed, as Let's Encrypt advises: a third is left for failures.
const RENEWAL: f64 = 2.0 / 3.0;
/// The part of its life by which it may be renewed earlier than that.
const RENEWAL_SPREAD: f64 = 0.02;
/// The first pause when the authority could not be reached: nothing was asked of it, and a network that comes up late should not
/// keep a server without its certificate.
const UNREACHABLE: Duration = Duration::from_secs(5);
/// The longest such pause.
const LONGEST_UNREACHABLE: Duration = Duration::from_secs(3600);
/// The first pause after a refusal, and what each next one is longer by. Let's Encrypt advises 1, 10 and 100 minutes, and
/// refuses everything for an hour after five refusals of one name within one.
const REFUSED: (Duration, u32) = (Duration::from_secs(60), 10);
/// The longest pause after a refusal that does not itself say how long.
const LONGEST_REFUSED: Duration = Duration::from_secs(6 * 3600);
/// The longest that an authority is believed when it says how long to wait.
const LONGEST_TOLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The failures since a certificate was last issued.
#[derive(Debug, Default)]
pub(super) struct Pace {
    unreachable: u32,
    refused: u32,
}

impl Pace {
    /// How long to wait after this failure; `jitter`, from 0 to 1, makes it a tenth longer at most.
    pub(super) fn after(&mut self, failure: &Failure, jitter: f64) -> Duration {
        let pause = match failure.kind {
            Kind::Unreachable => {
                let pause = UNREACHABLE.saturating_mul(2_u32.saturating_pow(self.unreachable));
                self.unreachable = self.unreachable.saturating_add(1);
                pause.min(LONGEST_UNREACHABLE)
            }
            Kind::Refused => {
                let pause = REFUSED.0.saturating_mul(REFUSED.1.saturating_pow(self.refused));
                self.refused = self.refused.saturating_add(1);
                pause.min(LONGEST_REFUSED)
            }
        };
        let told = failure.retry_after.unwrap_or_default().min(LONGEST_TOLD);
        pause.max(told).mul_f64(1.0 + jitter / 10.0)
    }
}

/// When a certificate is renewed; `jitter` is from 0 to 1.
pub(super) fn renewal(said: &Said, jitter: f64) -> Timestamp {
    let life = said.not_after.since(said.not_before);
    said.not_before + life.mul_f64(RENEWAL - RENEWAL_SPREAD * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_life_is_left_at_the_renewal_or_a_little_more() {
        let day = |day: &str| Timestamp::parse(&format!("2026-{day}T00:00:00Z")).unwrap();
        let said = Said { not_before: day("01-01"), not_after: day("04-01"), names: vec![] };
        let near = |found: Timestamp, expected: Timestamp| {
            assert!(found.since(expected).max(expected.since(found)) < Duration::from_secs(1), "{found}");
        };
        near(renewal(&said, 0.0), day("03-02"));
        near(renewal(&said, 1.0), day("03-02") - Duration::from_secs(90 * 24 * 3600) / 50);
    }

    #[test]
    fn pauses_grow_and_what_the_authority_says_counts() {
        let seconds = |pace: &mut Pace, failure: &Failure| pace.after(failure, 0.0).as_secs();
        let mut pace = Pace::default();
        let refused = Failure::refused("no");
        let unreachable = Failure { kind: Kind::Unreachable, ..Failure::refused("no route") };
        let pauses: Vec<_> = (0..6).map(|_| seconds(&mut pace, &refused)).collect();
        assert_eq!(pauses, [60, 600, 6000, 21_600, 21_600, 21_600]);
        let pauses: Vec<_> = (0..40).map(|_| seconds(&mut pace, &unreachable)).collect();
        assert_eq!(pauses[..5], [5, 10, 20, 40, 80]);
        assert_eq!(pauses[9..], [2560, 3600].into_iter().chain([3600; 29]).collect::<Vec<_>>());

        let mut pace = Pace::default();
        let told = |seconds| Failure { retry_after: Some(Duration::from_secs(seconds)), ..Failure::refused("slower") };
        assert_eq!(seconds(&mut pace, &told(10)), 60, "never sooner than without it");
        assert_eq!(seconds(&mut pace, &told(100_000)), 100_000);
        assert_eq!(seconds(&mut pace, &told(u64::MAX)), 7 * 24 * 3600);
        assert_eq!(Pace::default().after(&refused, 1.0).as_secs(), 66);
    }
}
