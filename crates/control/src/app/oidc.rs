//! Sign-in with OpenID Connect, our side: which user a person is, and who is let in for the first time.
//!
//! A person is known by the provider's id for him or her, which never changes. The first time, a verified e-mail address
//! says which account it is. Who has none gets one only when invited (and is in those teams then), or when the address
//! belongs to an allowed domain.

use http::Uri;
use serde_json::json;
use towline_gateway::access_token::TokenHolder;
use towline_model::{AuditAction, Secret, SignInId, UserId, validate::Checks};
use towline_store::{IdentityRow, InvitationRow, MembershipRow, StoreError, Tx, UserRow};

use super::{
    App,
    audit::Deed,
    sign_in::{Tokens, insert_refresh_token},
};
use crate::oidc::{Attempt, Oidc, OidcError, Person};

/// Why a sign-in is refused.
#[derive(Debug, thiserror::Error)]
pub enum OidcSignInError {
    /// The server has no provider.
    #[error("this server has no sign-in with OpenID Connect; POST /api/v1/auth/login takes a password")]
    NotConfigured,
    /// Nobody has invited the person.
    #[error("there is no account for {0}; ask an owner or admin of a team to invite you")]
    NotInvited(String),
    /// The provider, or what it says.
    #[error(transparent)]
    Oidc(#[from] OidcError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl App {
    /// Where a person goes to sign in, and what the browser has to keep until the return.
    ///
    /// # Errors
    /// See [`OidcSignInError`].
    pub async fn begin_oidc(&self) -> Result<(Uri, Attempt), OidcSignInError> {
        let (url, attempt) = self.oidc()?.begin().await?;
        let uri =
            url.as_str().parse().map_err(|error| OidcError::Provider(Box::<http::uri::InvalidUri>::new(error)))?;
        Ok((uri, attempt))
    }

    /// Signs in the person who came back with a code.
    ///
    /// # Errors
    /// See [`OidcSignInError`].
    pub async fn finish_oidc(&self, attempt: Attempt, code: String) -> Result<Tokens, OidcSignInError> {
        let oidc = self.oidc()?;
        let person = oidc.finish(attempt, code).await?;
        self.sign_in_person(&person, oidc.allows(&person.email_address)).await
    }

    /// Signs in a person whom the provider has confirmed. Who has no account gets one when he or she is invited, or
    /// `is_allowed`. What is made and that somebody has signed in is told in the transaction that does it.
    async fn sign_in_person(&self, person: &Person, is_allowed: bool) -> Result<Tokens, OidcSignInError> {
        let now = self.now();
        let mut tx = self.write().await?;
        let (user_id, has_joined) = self.user_of(&mut tx, person, is_allowed).await?;
        tx.prune_refresh_tokens(now).await?;
        let holder = TokenHolder { user_id, sign_in: SignInId::generate() };
        let refresh_token = insert_refresh_token(&mut tx, holder, now).await?;
        self.record_of_user(&mut tx, user_id, AuditAction::UserSignIn, None).await?;
        tx.commit().await?;
        if has_joined {
            self.publish().await?;
        }
        Ok(Tokens { access_token: self.access_token(holder, now), refresh_token })
    }

    fn oidc(&self) -> Result<&Oidc, OidcSignInError> {
        self.inner.oidc.as_ref().ok_or(OidcSignInError::NotConfigured)
    }

    /// The user that a person is, and whether he or she has just become a member of a team.
    async fn user_of(&self, tx: &mut Tx, person: &Person, is_allowed: bool) -> Result<(UserId, bool), OidcSignInError> {
        if let Some(user_id) = tx.find_identity(&person.issuer, &person.subject).await? {
            return Ok((user_id, false));
        }
        let now = self.now();
        let (user_id, invitations) = match tx.find_user_by_email_address(&person.email_address).await? {
            Some(user) => (user.id, Vec::new()),
            None => {
                let invitations = tx.invitations_of_address(&person.email_address, now).await?;
                if invitations.is_empty() && !is_allowed {
                    return Err(OidcSignInError::NotInvited(person.email_address.clone()));
                }
                let user = self.user_for(person);
                tx.insert_user(&user).await?;
                let deed = Deed::new(AuditAction::UserCreate, user.id, &user.email_address);
                self.record_of_server(tx, user.id, deed.with_details(json!({ "issuer": person.issuer }))).await?;
                (user.id, invitations)
            }
        };
        let identity =
            IdentityRow { issuer: person.issuer.clone(), subject: person.subject.clone(), user_id, created_at: now };
        tx.insert_identity(&identity).await?;
        let mut has_joined = false;
        for invitation in invitations {
            has_joined |= self.join(tx, user_id, &invitation).await?;
        }
        // The teams are those that the user is in by now.
        let details = json!({ "issuer": person.issuer });
        self.record_of_user(tx, user_id, AuditAction::UserLinkIdentity, Some(details)).await?;
        Ok((user_id, has_joined))
    }

    /// Accepts an invitation, if it is still open.
    async fn join(&self, tx: &mut Tx, user_id: UserId, invitation: &InvitationRow) -> Result<bool, StoreError> {
        let team_id = invitation.team_id;
        if !tx.lock_team(team_id).await? || tx.take_invitation(team_id, invitation.id).await?.is_none() {
            return Ok(false);
        }
        tx.insert_membership(&MembershipRow { team_id, user_id, role: invitation.role }).await?;
        let deed = Deed::new(AuditAction::InvitationAccept, invitation.id, &invitation.email_address);
        let deed = deed.with_details(json!({ "role": invitation.role, "invited_by": invitation.invited_by }));
        self.record_as(tx, team_id, user_id, deed).await?;
        Ok(true)
    }

    fn user_for(&self, person: &Person) -> UserRow {
        let display_name = person.display_name.clone().filter(|name| {
            let mut checks = Checks::default();
            checks.require_name("display_name", name);
            checks.finish().is_ok()
        });
        UserRow {
            id: UserId::generate(),
            email_address: person.email_address.clone(),
            password_hash: Secret::new(String::new()),
            display_name,
            created_at: self.now(),
        }
    }
}
