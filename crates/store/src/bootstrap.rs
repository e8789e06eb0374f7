//! The first start: who may fill an empty database.

use towline_model::Timestamp;

use crate::{StoreError, Tx, query::query};

impl Tx {
    /// Claims the right to create the first owner and team. `true` for exactly one transaction that commits, and only
    /// while there is no user; a claim that is rolled back is free again. A second claimant waits for the first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn claim_bootstrap(&mut self, now: Timestamp) -> Result<bool, StoreError> {
        let claim = query("INSERT INTO bootstrap (only_row, claimed_at) VALUES (1, $1) ON CONFLICT DO NOTHING");
        if self.execute(claim.bind(now)).await? == 0 {
            return Ok(false);
        }
        Ok(self.fetch_count(query("SELECT COUNT(*) AS total FROM users")).await? == 0)
    }
}
