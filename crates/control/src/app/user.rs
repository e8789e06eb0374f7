//! Users: who somebody is, and in which teams.

use towline_model::{AuditAction, Role, Secret, UserId, ValidationError, validate::Checks};
use towline_store::{StoreError, TeamRow, UserRow};

use super::{
    App,
    password::{self, Busy},
    precondition::{Precondition, PreconditionFailed, fingerprint},
    sign_in,
};

/// A user with the teams that the user is in.
#[derive(Debug)]
pub struct UserDetails {
    /// The user.
    pub user: UserRow,
    /// The teams, the oldest first, and the user's role in each.
    pub teams: Vec<(TeamRow, Role)>,
}

/// What somebody changes of himself or herself.
#[derive(Debug, Default)]
pub struct UserChanges {
    /// Another name for people, or none.
    pub display_name: Option<Option<String>>,
    /// Another password.
    pub password: Option<PasswordChange>,
}

/// A new password in place of the old one.
#[derive(Debug)]
pub struct PasswordChange {
    /// The password until now; not looked at when the user has none yet.
    pub current: Option<Secret<String>>,
    /// The password from now on.
    pub new: Secret<String>,
    /// A refresh token of the sign-in that goes on; all others end.
    pub kept_sign_in: Option<Secret<String>>,
}

/// Why nothing was changed of a user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// What was wished is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The user was removed meanwhile.
    #[error("this user was removed; sign in as another")]
    NoSuchUser,
    /// The user is not as the caller takes for granted.
    #[error(transparent)]
    Changed(#[from] PreconditionFailed),
    /// The password until now is another one.
    #[error("current_password is not the password that you have now; nothing was changed")]
    WrongPassword,
    /// Too many at once.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UserDetails {
    /// The version of the user that `If-Match` is about.
    #[must_use]
    pub fn version(&self) -> i64 {
        version(&self.user)
    }
}

fn version(user: &UserRow) -> i64 {
    fingerprint(&[user.display_name.as_deref()])
}

impl UserChanges {
    fn check(&self) -> Result<(), ValidationError> {
        let mut checks = Checks::default();
        if let Some(Some(name)) = &self.display_name {
            checks.require_name("display_name", name);
        }
        if let Some(change) = &self.password {
            password::check(&mut checks, "new_password", &change.new);
        }
        checks.finish()
    }
}

/// The hash that a user's password is checked against; `None` when the user signs in by other means only.
pub(super) fn password_hash(user: &UserRow) -> Option<Secret<String>> {
    Some(user.password_hash.clone()).filter(|hash| !hash.expose().is_empty())
}

impl App {
    /// The user of that id. `None` when there is none any more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user(&self, id: UserId) -> Result<Option<UserDetails>, StoreError> {
        let mut tx = self.read().await?;
        let Some(user) = tx.find_user(id).await? else { return Ok(None) };
        let mut teams = Vec::new();
        for membership in tx.memberships_of_user(id).await? {
            if let Some(team) = tx.find_team(membership.team_id).await? {
                teams.push((team, membership.role));
            }
        }
        Ok(Some(UserDetails { user, teams }))
    }

    /// Changes a user. A new password ends the user's other sign-ins: their tokens work no more, and what they have in
    /// flight is cut off.
    ///
    /// # Errors
    /// See [`UserError`].
    pub async fn update_user(
        &self,
        id: UserId,
        precondition: &Precondition,
        changes: UserChanges,
    ) -> Result<(), UserError> {
        changes.check()?;
        let hashes = match &changes.password {
            Some(change) => Some(self.change_of_hash(id, change).await?),
            None => None,
        };
        let mut tx = self.write().await?;
        let user = tx.lock_user(id).await?.ok_or(UserError::NoSuchUser)?;
        precondition.check(version(&user))?;
        if let Some(name) = &changes.display_name {
            tx.set_display_name(id, name.as_deref()).await?;
        }
        let ends_sign_ins = hashes.is_some();
        if let Some((before, after)) = hashes {
            if !tx.replace_password_hash(id, &before, &after).await? {
                return Err(StoreError::Concurrent.into());
            }
            match changes.password.and_then(|change| change.kept_sign_in) {
                Some(kept) => tx.revoke_other_refresh_families_of(id, sign_in::hash(&kept), self.now()).await?,
                None => tx.revoke_refresh_families_of(id, self.now()).await?,
            };
        }
        self.record_of_user(&mut tx, id, AuditAction::UserUpdate, None).await?;
        tx.commit().await?;
        if ends_sign_ins {
            self.publish().await?;
        }
        Ok(())
    }

    /// The hash of the password that the user has, when it was given rightly, and of the one that is wished.
    async fn change_of_hash(
        &self,
        id: UserId,
        change: &PasswordChange,
    ) -> Result<(Secret<String>, Secret<String>), UserError> {
        let user = self.read().await?.find_user(id).await?.ok_or(UserError::NoSuchUser)?;
        if let Some(hash) = password_hash(&user) {
            let current = change.current.clone().ok_or(UserError::WrongPassword)?;
            if !self.inner.passwords.verify(current, Some(hash)).await? {
                return Err(UserError::WrongPassword);
            }
        }
        let after = self.inner.passwords.hash(change.new.clone()).await?;
        Ok((user.password_hash, after))
    }
}
