//! Refresh tokens: each is used once and replaced by its successor; the tokens of one sign-in are a family.
//!
//! A family is revoked as a whole: when its user signs out, or when a token comes back that was used before, since then
//! somebody else has a copy (RFC 9700 §4.14.2). Its row is locked by every use, so that a successor that is just being
//! made cannot escape. Gateways hear of it by the revision, since access tokens of a revoked family are refused too.

use towline_model::{SignInId, Timestamp, UserId};
use uuid::Uuid;

use crate::{
    StoreError, Tx,
    query::query,
    value::{FromRow, Row},
};

/// A refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshTokenRow {
    /// Its id.
    pub id: Uuid,
    /// The sign-in that it goes back to.
    pub family_id: SignInId,
    /// Whose it is.
    pub user_id: UserId,
    /// The SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// When it was issued.
    pub created_at: Timestamp,
    /// From when on it is of no use.
    pub expires_at: Timestamp,
    /// When it was exchanged for its successor.
    pub used_at: Option<Timestamp>,
    /// When its family was revoked. Ignored by [`Tx::insert_refresh_token`].
    pub revoked_at: Option<Timestamp>,
}

/// A sign-in's id.
struct Family(SignInId);

impl FromRow for Family {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        row.take("id").map(Self)
    }
}

/// Whose sign-in it is.
struct Owner(UserId);

impl FromRow for Owner {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        row.take("user_id").map(Self)
    }
}

impl FromRow for RefreshTokenRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            family_id: row.take("family_id")?,
            user_id: row.take("user_id")?,
            token_hash: row.take("token_hash")?,
            created_at: row.take("created_at")?,
            expires_at: row.take("expires_at")?,
            used_at: row.take("used_at")?,
            revoked_at: row.take("revoked_at")?,
        })
    }
}

/// What came of presenting a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshTokenUse {
    /// It was good and is used up now. Insert its successor, of the same family, in the same transaction.
    Fresh(RefreshTokenRow),
    /// It had been used before. Its family is revoked now: **commit** although the answer is "no".
    Reused(RefreshTokenRow),
    /// Its family was revoked before.
    Revoked,
    /// Its time is over.
    Expired,
    /// There is no such token.
    Unknown,
}

impl Tx {
    /// Adds a token, and its family when it is the first of it.
    ///
    /// # Errors
    /// [`Constraint::RefreshTokenHash`](crate::Constraint::RefreshTokenHash) when the token exists,
    /// [`StoreError::NotFound`] when there is no such user.
    pub async fn insert_refresh_token(&mut self, token: &RefreshTokenRow) -> Result<(), StoreError> {
        let family =
            query("INSERT INTO refresh_token_families (id, user_id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING");
        self.execute(family.bind(token.family_id).bind(token.user_id)).await?;
        let insert = query(
            "INSERT INTO refresh_tokens (id, family_id, token_hash, created_at, expires_at, used_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token.id)
        .bind(token.family_id)
        .bind(token.token_hash)
        .bind(token.created_at)
        .bind(token.expires_at)
        .bind(token.used_at);
        self.execute(insert).await.map(drop)
    }

    /// Uses a token up, if it can be used; revokes its family if it was used before. Of several that present the same
    /// token at the same time, one gets [`RefreshTokenUse::Fresh`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn use_refresh_token(
        &mut self,
        token_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<RefreshTokenUse, StoreError> {
        let lock_family = query(
            "UPDATE refresh_token_families SET last_used_at = $1 \
             WHERE id = (SELECT family_id FROM refresh_tokens WHERE token_hash = $2)",
        );
        self.execute(lock_family.bind(now).bind(token_hash)).await?;
        // From here on nobody else changes this family until the transaction ends.
        let select = query(
            "SELECT t.id, t.family_id, f.user_id, t.token_hash, t.created_at, t.expires_at, t.used_at, f.revoked_at \
             FROM refresh_tokens t JOIN refresh_token_families f ON f.id = t.family_id WHERE t.token_hash = $1",
        );
        let Some(mut token) = self.fetch_optional::<RefreshTokenRow>(select.bind(token_hash)).await? else {
            return Ok(RefreshTokenUse::Unknown);
        };
        if token.used_at.is_some() {
            self.revoke_refresh_family(token.family_id, now).await?;
            token.revoked_at.get_or_insert(now);
            return Ok(RefreshTokenUse::Reused(token));
        }
        if token.revoked_at.is_some() {
            return Ok(RefreshTokenUse::Revoked);
        }
        if token.expires_at <= now {
            return Ok(RefreshTokenUse::Expired);
        }
        let use_up = query("UPDATE refresh_tokens SET used_at = $1 WHERE id = $2");
        self.execute(use_up.bind(now).bind(token.id)).await?;
        token.used_at = Some(now);
        Ok(RefreshTokenUse::Fresh(token))
    }

    /// Revokes every token of a sign-in. `false` when that was done before, or there is no such family. Moves the revision
    /// on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke_refresh_family(&mut self, family_id: SignInId, now: Timestamp) -> Result<bool, StoreError> {
        let revoke = query("UPDATE refresh_token_families SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL");
        let revoked = self.execute(revoke.bind(now).bind(family_id)).await?;
        Ok(self.note_revoked(revoked) > 0)
    }

    /// Revokes the sign-in that a token belongs to: "sign out". Gives its user; `None` when that was done before,
    /// or there is no such token. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke_refresh_token(
        &mut self,
        token_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<UserId>, StoreError> {
        let revoke = query(
            "UPDATE refresh_token_families SET revoked_at = $1 WHERE revoked_at IS NULL \
             AND id = (SELECT family_id FROM refresh_tokens WHERE token_hash = $2) RETURNING user_id",
        );
        let owner: Option<Owner> = self.fetch_optional(revoke.bind(now).bind(token_hash)).await?;
        self.note_revoked(owner.is_some().into());
        Ok(owner.map(|owner| owner.0))
    }

    /// Revokes all sign-ins of a user but the one that `kept` belongs to. Tells how many there were. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke_other_refresh_families_of(
        &mut self,
        user_id: UserId,
        kept: [u8; 32],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let revoke = query(
            "UPDATE refresh_token_families SET revoked_at = $1 WHERE user_id = $2 AND revoked_at IS NULL \
             AND id NOT IN (SELECT family_id FROM refresh_tokens WHERE token_hash = $3)",
        );
        let revoked = self.execute(revoke.bind(now).bind(user_id).bind(kept)).await?;
        Ok(self.note_revoked(revoked))
    }

    /// Revokes all sign-ins of a user. Tells how many there were. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke_refresh_families_of(&mut self, user_id: UserId, now: Timestamp) -> Result<u64, StoreError> {
        let revoke =
            query("UPDATE refresh_token_families SET revoked_at = $1 WHERE user_id = $2 AND revoked_at IS NULL");
        let revoked = self.execute(revoke.bind(now).bind(user_id)).await?;
        Ok(self.note_revoked(revoked))
    }

    /// The sign-ins that were revoked at `since` or later, for the gateway's snapshot.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn sign_ins_revoked_since(&mut self, since: Timestamp) -> Result<Vec<SignInId>, StoreError> {
        let select = query("SELECT id FROM refresh_token_families WHERE revoked_at >= $1");
        let families: Vec<Family> = self.fetch_all(select.bind(since)).await?;
        Ok(families.into_iter().map(|family| family.0).collect())
    }

    fn note_revoked(&mut self, count: u64) -> u64 {
        self.mark_changed_if(count > 0);
        count
    }

    /// Forgets the families whose newest token expired before `before`. Tells how many there were.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn prune_refresh_tokens(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        let prune = query(
            "DELETE FROM refresh_token_families WHERE NOT EXISTS (SELECT 1 FROM refresh_tokens t \
             WHERE t.family_id = refresh_token_families.id AND t.expires_at >= $1)",
        );
        self.execute(prune.bind(before)).await
    }
}
