//! Signing in: a password becomes an access token and a refresh token; a refresh token becomes the next pair.
//!
//! An access token is short-lived and needs no look-up but in the short list of sign-ins that were just ended. A refresh
//! token is 256 random bits, stored as a hash, and works once: when one comes back that was used before, somebody has a
//! copy, and the whole sign-in is ended.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use towline_gateway::access_token::TokenHolder;
use towline_model::{AuditAction, KeyHash, Secret, SignInId, Timestamp};
use towline_store::{RefreshTokenRow, RefreshTokenUse, StoreError, Tx};
use uuid::Uuid;

use super::{App, password::Busy, user};
use crate::rate_limit::TooMany;

/// How long an access token works.
pub const ACCESS_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How long a refresh token can be exchanged.
pub const REFRESH_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// A pair of tokens.
#[derive(Debug)]
pub struct Tokens {
    /// Opens the API for [`ACCESS_LIFETIME`].
    pub access_token: Secret<String>,
    /// Gets the next pair, once.
    pub refresh_token: Secret<String>,
}

/// Why a sign-in is refused.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// One answer for both, so that nobody learns which addresses there are.
    #[error("the e-mail address or the password is wrong")]
    Wrong,
    /// Too many at once.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Too many for this account.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a refresh token is refused.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// It gets no new tokens.
    #[error("the refresh token is unknown, expired or was used before; sign in again")]
    Refused,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl App {
    /// Exchanges a password for tokens.
    ///
    /// # Errors
    /// See [`SignInError`].
    pub async fn sign_in(&self, email_address: &str, password: Secret<String>) -> Result<Tokens, SignInError> {
        self.inner.rate_limits.sign_in_as(email_address)?;
        // PostgreSQL refuses texts with NUL, and nobody has such an address.
        let user = match email_address.contains('\0') {
            true => None,
            false => self.read().await?.find_user_by_email_address(email_address).await?,
        };
        let hash = user.as_ref().and_then(user::password_hash);
        let is_right = self.inner.passwords.verify(password, hash).await?;
        let user = user.filter(|_| is_right).ok_or(SignInError::Wrong)?;
        let now = self.now();
        let mut tx = self.write().await?;
        let holder = TokenHolder { user_id: user.id, sign_in: SignInId::generate() };
        // Old sign-ins are swept out when a new one comes in.
        tx.prune_refresh_tokens(now).await?;
        let refresh_token = insert_refresh_token(&mut tx, holder, now).await?;
        self.record_of_user(&mut tx, user.id, AuditAction::UserSignIn, None).await?;
        tx.commit().await?;
        Ok(Tokens { access_token: self.access_token(holder, now), refresh_token })
    }

    /// Exchanges a refresh token for the next pair.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn refresh(&self, refresh_token: &Secret<String>) -> Result<Tokens, RefreshError> {
        let now = self.now();
        let mut tx = self.write().await?;
        match tx.use_refresh_token(hash(refresh_token), now).await? {
            RefreshTokenUse::Fresh(used) => {
                let holder = TokenHolder { user_id: used.user_id, sign_in: used.family_id };
                let refresh_token = insert_refresh_token(&mut tx, holder, now).await?;
                tx.commit().await?;
                Ok(Tokens { access_token: self.access_token(holder, now), refresh_token })
            }
            RefreshTokenUse::Reused(token) => {
                tracing::warn!(user = %token.user_id, "a refresh token was used twice; its sign-in is ended");
                // Told when it ends, not every time that a copy is tried again.
                if token.revoked_at == Some(now) {
                    let details = json!({ "reason": "refresh_token_reused" });
                    self.record_of_user(&mut tx, token.user_id, AuditAction::UserSignOut, Some(details)).await?;
                }
                tx.commit().await?;
                self.publish().await?;
                Err(RefreshError::Refused)
            }
            RefreshTokenUse::Revoked | RefreshTokenUse::Expired | RefreshTokenUse::Unknown => {
                Err(RefreshError::Refused)
            }
        }
    }

    /// Ends the sign-in that a refresh token belongs to, with its access tokens and what they have in flight. Doing so twice,
    /// or with an unknown token, is no error: there is nothing left to end.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sign_out(&self, refresh_token: &Secret<String>) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        if let Some(user_id) = tx.revoke_refresh_token(hash(refresh_token), self.now()).await? {
            self.record_of_user(&mut tx, user_id, AuditAction::UserSignOut, None).await?;
        }
        tx.commit().await?;
        self.publish().await
    }

    pub(super) fn access_token(&self, holder: TokenHolder, now: Timestamp) -> Secret<String> {
        self.inner.gateway.tokens().issue(holder, now, ACCESS_LIFETIME)
    }
}

pub(super) async fn insert_refresh_token(
    tx: &mut Tx,
    holder: TokenHolder,
    now: Timestamp,
) -> Result<Secret<String>, StoreError> {
    let token = Secret::new(BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let row = RefreshTokenRow {
        id: Uuid::now_v7(),
        family_id: holder.sign_in,
        user_id: holder.user_id,
        token_hash: hash(&token),
        created_at: now,
        expires_at: now + REFRESH_LIFETIME,
        used_at: None,
        revoked_at: None,
    };
    tx.insert_refresh_token(&row).await?;
    Ok(token)
}

pub(super) fn hash(token: &Secret<String>) -> [u8; 32] {
    *KeyHash::of(token.expose()).as_bytes()
}
