//! Requests that may be sent again: which key stands for which request, and how it was answered.

use std::time::Duration;

use towline_store::{IdempotencyRow, StoreError};

use super::App;

/// How long a key stands for its request.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long a request may be without an answer before its key can be taken over: twice what the slowest ones take. One
/// that has none by then was cut off, with its server or by a fault.
pub const UNANSWERED_FOR: Duration = Duration::from_secs(120);
/// The most keys of one caller within that time.
const MAX_KEYS: u64 = 10_000;

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nothing stood there; now this request does.
    First(IdempotencyRow),
    /// A request that came in before.
    Earlier(IdempotencyRow),
    /// There are too many.
    TooMany,
}

impl App {
    /// Takes a key for a request, if it is free. A key that is older than [`KEPT_FOR`] is free, and one that is older than
    /// [`UNANSWERED_FOR`] when its request has no answer.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim_idempotency_key(
        &self,
        scope: String,
        key: String,
        fingerprint: [u8; 32],
    ) -> Result<Claim, StoreError> {
        let now = self.now();
        let row = IdempotencyRow { scope, key, fingerprint, created_at: now, status: None, body: None, made_id: None };
        let mut tx = self.write().await?;
        tx.prune_idempotency_keys(now - KEPT_FOR).await?;
        if tx.count_idempotency_keys(&row.scope).await? >= MAX_KEYS {
            return Ok(Claim::TooMany);
        }
        let is_ours =
            tx.claim_idempotency_key(&row).await? || tx.take_over_idempotency_key(&row, now - UNANSWERED_FOR).await?;
        if is_ours {
            tx.commit().await?;
            return Ok(Claim::First(row));
        }
        // Gone means that its request did nothing and ended just now.
        tx.find_idempotency_key(&row.scope, &row.key).await?.map(Claim::Earlier).ok_or(StoreError::Concurrent)
    }

    /// Writes down how a request was answered.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn answer_idempotency_key(&self, row: &IdempotencyRow) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        tx.answer_idempotency_key(row).await?;
        tx.commit().await
    }

    /// Gives back the key of a request that did nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn release_idempotency_key(&self, row: &IdempotencyRow) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        tx.release_idempotency_key(row).await?;
        tx.commit().await
    }
}
