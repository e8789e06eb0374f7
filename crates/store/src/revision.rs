//! The change log: one counter that moves on whenever something changes that gateways hold in memory.
//!
//! Its row is the last thing that a transaction touches, so that it is locked for the shortest time, never before
//! another lock, and the order of revisions is the order of commits.

use crate::{StoreError, Tx, query::query};

impl Tx {
    /// The revision that this transaction's snapshot shows; it does not count what the transaction itself has changed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revision(&mut self) -> Result<i64, StoreError> {
        self.fetch_count(query("SELECT value AS total FROM revision")).await
    }

    /// Moves the counter on. Called once, by the commit of a transaction that has changed something.
    pub(crate) async fn bump_revision(&mut self) -> Result<(), StoreError> {
        self.execute(query("UPDATE revision SET value = value + 1")).await.map(drop)
    }
}
