//! Idempotency keys: which requests were made under which key, and how they were answered.

use towline_model::Timestamp;

use crate::{
    StoreError, Tx,
    query::query,
    value::{FromRow, Row},
};

/// A request under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// Whose key it is; the same key of somebody else is another one.
    pub scope: String,
    /// The key.
    pub key: String,
    /// The hash of method, path and body.
    pub fingerprint: [u8; 32],
    /// When the request came in.
    pub created_at: Timestamp,
    /// The status of the answer; `None` while there is none.
    pub status: Option<i32>,
    /// The body of the answer; `None` while there is none, and when it must not be kept.
    pub body: Option<String>,
    /// The id in the answer.
    pub made_id: Option<String>,
}

impl FromRow for IdempotencyRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            scope: row.take("scope")?,
            key: row.take("key")?,
            fingerprint: row.take("fingerprint")?,
            created_at: row.take("created_at")?,
            status: row.take("status")?,
            body: row.take("body")?,
            made_id: row.take("made_id")?,
        })
    }
}

impl Tx {
    /// Takes a key for a request that begins now. `false` when it is taken.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn claim_idempotency_key(&mut self, row: &IdempotencyRow) -> Result<bool, StoreError> {
        let insert = query(
            "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (scope, key) DO NOTHING",
        );
        let insert = insert.bind(&row.scope).bind(&row.key).bind(row.fingerprint).bind(row.created_at);
        Ok(self.execute(insert).await? > 0)
    }

    /// Takes over a key whose request came in before `before` and has no answer: its server was stopped in between, or it
    /// failed in a way that left no answer. `false` when there is no such one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn take_over_idempotency_key(
        &mut self,
        row: &IdempotencyRow,
        before: Timestamp,
    ) -> Result<bool, StoreError> {
        let update = query(
            "UPDATE idempotency_keys SET fingerprint = $1, created_at = $2 \
             WHERE scope = $3 AND key = $4 AND status IS NULL AND created_at < $5",
        );
        let update = update.bind(row.fingerprint).bind(row.created_at).bind(&row.scope).bind(&row.key).bind(before);
        Ok(self.execute(update).await? > 0)
    }

    /// Gives back every key whose request has no answer. Tells how many there were.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn release_unanswered_idempotency_keys(&mut self) -> Result<u64, StoreError> {
        self.execute(query("DELETE FROM idempotency_keys WHERE status IS NULL")).await
    }

    /// The request that was made under that key.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_idempotency_key(&mut self, scope: &str, key: &str) -> Result<Option<IdempotencyRow>, StoreError> {
        let select = query(
            "SELECT scope, key, fingerprint, created_at, status, body, made_id FROM idempotency_keys \
             WHERE scope = $1 AND key = $2",
        );
        self.fetch_optional(select.bind(scope).bind(key)).await
    }

    /// How many keys of that scope there are.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_idempotency_keys(&mut self, scope: &str) -> Result<u64, StoreError> {
        self.fetch_total(query("SELECT COUNT(*) AS total FROM idempotency_keys WHERE scope = $1").bind(scope)).await
    }

    /// Writes down how the request of this row was answered, unless another one has taken its key over.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn answer_idempotency_key(&mut self, row: &IdempotencyRow) -> Result<(), StoreError> {
        let update = query(
            "UPDATE idempotency_keys SET status = $1, body = $2, made_id = $3 \
             WHERE scope = $4 AND key = $5 AND created_at = $6",
        );
        let update = update.bind(row.status).bind(row.body.as_ref()).bind(row.made_id.as_ref());
        self.execute(update.bind(&row.scope).bind(&row.key).bind(row.created_at)).await.map(drop)
    }

    /// Gives back the key of this row, whose request did nothing, unless another one has taken it over.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn release_idempotency_key(&mut self, row: &IdempotencyRow) -> Result<(), StoreError> {
        let delete = query("DELETE FROM idempotency_keys WHERE scope = $1 AND key = $2 AND created_at = $3");
        self.execute(delete.bind(&row.scope).bind(&row.key).bind(row.created_at)).await.map(drop)
    }

    /// Forgets every key whose request came in before `before`. Tells how many there were.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn prune_idempotency_keys(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        self.execute(query("DELETE FROM idempotency_keys WHERE created_at < $1").bind(before)).await
    }
}
