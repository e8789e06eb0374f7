//! The memory that receive windows may grow under, shared by all carriers of a process.
//!
//! Every stream has its first 64 KiB for free; only what a window grows beyond that is taken from the budget. So the
//! most that peers can make this process hold is the budget plus 64 KiB for each stream.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A cloneable handle to one budget. All clones draw on the same bytes.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    total: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of `total` bytes.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Account { total, used: AtomicUsize::new(0) }))
    }

    /// Bytes taken at the moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The size that the budget was made with, in bytes.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// Takes `bytes` if they are at most an eighth of what is left.
    ///
    /// The eighth keeps room for those who come late: a budget that the first streams could take whole would leave
    /// every later one at its first window for as long as they live.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let taken = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let left = self.0.total.saturating_sub(used);
            (bytes <= left / 8).then(|| used + bytes)
        });
        taken.is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: usize) {
        let before = self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more was given back than taken");
    }
}

impl Default for Budget {
    /// 256 MiB, the gateway's default.
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_comers_find_room() {
        let budget = Budget::new(8 << 20);
        while budget.try_take(1 << 20) {}
        assert!(budget.used() < budget.total());
        assert!(budget.try_take(64 << 10));
        budget.give_back(budget.used());
        assert_eq!(budget.used(), 0);
    }
}
