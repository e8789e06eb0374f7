//! When a key was last used: noted by requests in one atomic, read from time to time by whoever writes it down.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use towline_model::Timestamp;

/// A later use is noted when it is at least so much later, in microseconds: most requests of a busy key only read.
const GRAIN: i64 = 1_000_000;
const NEVER: i64 = i64::MIN;

/// When a key was last used, to a second. Clones are the same.
#[derive(Debug, Clone)]
pub struct LastUse(Arc<AtomicI64>);

impl LastUse {
    /// Notes a use. Time never goes back.
    pub(crate) fn note(&self, now: Timestamp) {
        let now = now.as_micros();
        if now.saturating_sub(self.0.load(Ordering::Relaxed)) >= GRAIN {
            self.0.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// The last use that was noted; `None` for none.
    #[must_use]
    pub fn get(&self) -> Option<Timestamp> {
        let at = self.0.load(Ordering::Relaxed);
        (at != NEVER).then_some(Timestamp::from_micros(at))
    }
}

impl Default for LastUse {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(NEVER)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_goes_forward_by_seconds() {
        let (last, start) = (LastUse::default(), Timestamp::from_micros(1_800_000_000_000_000));
        assert_eq!(last.get(), None);
        last.note(start);
        last.clone().note(start + Duration::from_millis(999));
        assert_eq!(last.get(), Some(start));
        last.note(start + Duration::from_secs(1));
        last.note(start);
        assert_eq!(last.get(), Some(start + Duration::from_secs(1)));
    }
}
