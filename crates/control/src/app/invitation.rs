//! Invitations: a token by which a person becomes a member of a team, with an account or without one yet.
//!
//! A token works once and for seven days, and only for the address that was invited. What is kept of it is its hash. It
//! travels by mail when there is a mail server, and is shown to whoever invites when there is none, or when the mail could
//! not be sent: an invitation is never lost with its mail.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use towline_model::{
    Action, AuditAction, InvitationId, KeyHash, Principal, Role, Secret, TeamId, UserId, ValidationError,
    validate::Checks,
};
use towline_store::{Constraint, InvitationRow, MembershipRow, Page, Paged, StoreError, Tx, UserRow};

use super::{
    App,
    audit::Deed,
    password::{self, Busy},
    team::{TeamError, lock_as},
};
use crate::mail::{self, Message};

/// How long an invitation can be accepted.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// What a token begins with, so that it can be told from a key.
const PREFIX: &str = "inv-";

/// How an invitation's token gets to the person.
#[derive(Debug)]
pub enum Delivery {
    /// By mail; a mail server has taken it.
    Mailed,
    /// By whoever invited: this server sends no mail.
    ByHand(Secret<String>),
    /// By whoever invited: the mail could not be sent.
    MailFailed(Secret<String>),
}

/// An invitation that was just made.
#[derive(Debug)]
pub struct MadeInvitation {
    /// What is kept of it.
    pub row: InvitationRow,
    /// How its token travels.
    pub delivery: Delivery,
}

/// The account that is made for a person who has none.
#[derive(Debug)]
struct NewPerson {
    password: Secret<String>,
    display_name: Option<String>,
}

/// Who accepts.
#[derive(Debug)]
enum Acceptor {
    /// A signed-in user.
    User(UserId),
    /// A person without an account.
    New(NewPerson),
}

/// What somebody who accepts says of himself or herself.
#[derive(Debug)]
pub struct Acceptance {
    /// Who is signed in.
    pub user_id: Option<UserId>,
    /// The password of a new account.
    pub password: Option<Secret<String>>,
    /// The name for people of a new account.
    pub display_name: Option<String>,
}

impl Acceptance {
    fn acceptor(self) -> Result<Acceptor, ValidationError> {
        let wrong = |message| Err(ValidationError::one("user_password", message));
        match (self.user_id, self.password) {
            (Some(id), None) if self.display_name.is_none() => Ok(Acceptor::User(id)),
            (Some(_), _) => wrong("and display_name are for a new account; leave them out when you are signed in"),
            (None, Some(password)) => Ok(Acceptor::New(NewPerson { password, display_name: self.display_name })),
            (None, None) => {
                wrong("is needed for a new account; if you have one, sign in and accept the invitation then")
            }
        }
    }
}

/// What became of an accepted invitation.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// The new member.
    pub membership: MembershipRow,
}

/// Why nothing was done with an invitation.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// What was wished is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The address is invited already.
    #[error("this address is invited to the team already; revoke that invitation first to send another")]
    AlreadyInvited,
    /// The person is in the team.
    #[error("this person is a member of the team already")]
    AlreadyMember,
    /// The team has no such invitation.
    #[error(
        "there is no open invitation with this id in this team; GET /api/v1/invitations lists those that there are"
    )]
    NotFound,
    /// The token opens nothing. One answer for all reasons.
    #[error("this invitation is unknown, expired, revoked or was used before; ask for a new one")]
    BadToken,
    /// The invited address is not the user's.
    #[error("this invitation is for another e-mail address than yours; sign in as the person who was invited")]
    OtherAddress,
    /// The invited address has an account, so a password alone does not show that it is that person.
    #[error("there is an account for the invited e-mail address; sign in and accept the invitation then")]
    HasAccount,
    /// Too many at once.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The person who invites may not.
    #[error(transparent)]
    Team(#[from] TeamError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl App {
    /// Invites somebody to a team.
    ///
    /// # Errors
    /// See [`InvitationError`].
    pub async fn invite(
        &self,
        principal: &Principal,
        email_address: &str,
        role: Role,
    ) -> Result<MadeInvitation, InvitationError> {
        check(email_address, role)?;
        let (team_id, now) = (principal.team_id(), self.now());
        let mut tx = self.write().await?;
        let actor = lock_as(&mut tx, principal, Action::ManageInvitations).await?;
        let team = tx.find_team(team_id).await?.ok_or(TeamError::NotInTeam)?;
        if let Some(user) = tx.find_user_by_email_address(email_address).await?
            && tx.find_membership(team_id, user.id).await?.is_some()
        {
            return Err(InvitationError::AlreadyMember);
        }
        tx.prune_invitations(team_id, now).await?;
        let token = new_token();
        let row = InvitationRow {
            id: InvitationId::generate(),
            team_id,
            email_address: email_address.to_lowercase(),
            role,
            token_hash: hash(&token),
            invited_by: actor.user_id,
            created_at: now,
            expires_at: now + LIFETIME,
        };
        tx.insert_invitation(&row).await.map_err(|error| match error {
            StoreError::Conflict { constraint: Constraint::InvitationEmailAddress } => InvitationError::AlreadyInvited,
            error => error.into(),
        })?;
        let inviter = super::actor(&mut tx, principal).await?;
        let deed = Deed::new(AuditAction::InvitationCreate, row.id, &row.email_address);
        self.record(&mut tx, team_id, deed.with_details(json!({ "role": role }))).await?;
        tx.commit().await?;
        let message = mail::invitation(&self.inner.public_url, &team.name, &inviter, &row, &token);
        Ok(MadeInvitation { row, delivery: self.deliver(message, token).await })
    }

    async fn deliver(&self, message: Message, token: Secret<String>) -> Delivery {
        let Some(mailer) = &self.inner.mailer else { return Delivery::ByHand(token) };
        match mailer.send(message).await {
            Ok(()) => Delivery::Mailed,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an invitation's mail could not be sent");
                Delivery::MailFailed(token)
            }
        }
    }

    /// A page of the team's open invitations, the newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_invitations(&self, team_id: TeamId, page: Page) -> Result<Paged<InvitationRow>, StoreError> {
        self.read().await?.list_invitations(team_id, self.now(), page).await
    }

    /// Takes an open invitation back.
    ///
    /// # Errors
    /// See [`InvitationError`].
    pub async fn revoke_invitation(&self, principal: &Principal, id: InvitationId) -> Result<(), InvitationError> {
        let mut tx = self.write().await?;
        lock_as(&mut tx, principal, Action::ManageInvitations).await?;
        let team_id = principal.team_id();
        let row = tx.take_invitation(team_id, id).await?.ok_or(InvitationError::NotFound)?;
        self.record(&mut tx, team_id, Deed::new(AuditAction::InvitationRevoke, id, row.email_address)).await?;
        Ok(tx.commit().await?)
    }

    /// Makes the invited person a member of the team, and an account when the person has none.
    ///
    /// # Errors
    /// See [`InvitationError`].
    pub async fn accept_invitation(
        &self,
        token: &Secret<String>,
        acceptance: Acceptance,
    ) -> Result<Accepted, InvitationError> {
        // Looked at before anything else, so that guessing costs the server nothing.
        let invitation = self.open_invitation(token).await?;
        if let Some(id) = acceptance.user_id {
            check_user(&mut self.read().await?, id, &invitation).await?;
        }
        let user = match acceptance.acceptor()? {
            Acceptor::User(id) => Err(id),
            Acceptor::New(person) => Ok(self.new_user(&invitation.email_address, person).await?),
        };
        let mut tx = self.write().await?;
        if !tx.lock_team(invitation.team_id).await? {
            return Err(InvitationError::BadToken);
        }
        let invitation = tx.take_invitation(invitation.team_id, invitation.id).await?;
        let invitation = invitation.ok_or(InvitationError::BadToken)?;
        let user_id = match user {
            Ok(user) => {
                insert_user(&mut tx, &user).await?;
                let deed = Deed::new(AuditAction::UserCreate, user.id, &user.email_address);
                let details = json!({ "invitation_id": invitation.id });
                self.record_of_server(&mut tx, user.id, deed.with_details(details)).await?;
                user.id
            }
            Err(id) => check_user(&mut tx, id, &invitation).await?,
        };
        let membership = MembershipRow { team_id: invitation.team_id, user_id, role: invitation.role };
        tx.insert_membership(&membership).await.map_err(|error| match error {
            StoreError::Conflict { constraint: Constraint::Membership } => InvitationError::AlreadyMember,
            error => error.into(),
        })?;
        let deed = Deed::new(AuditAction::InvitationAccept, invitation.id, &invitation.email_address);
        let deed = deed.with_details(json!({ "role": membership.role, "invited_by": invitation.invited_by }));
        self.record_as(&mut tx, membership.team_id, user_id, deed).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(Accepted { membership })
    }

    async fn open_invitation(&self, token: &Secret<String>) -> Result<InvitationRow, InvitationError> {
        let now = self.now();
        let found = self.read().await?.find_invitation_by_token(hash(token)).await?;
        found.filter(|invitation| invitation.expires_at > now).ok_or(InvitationError::BadToken)
    }

    async fn new_user(&self, email_address: &str, person: NewPerson) -> Result<UserRow, InvitationError> {
        if self.read().await?.find_user_by_email_address(email_address).await?.is_some() {
            return Err(InvitationError::HasAccount);
        }
        let mut checks = Checks::default();
        password::check(&mut checks, "user_password", &person.password);
        if let Some(name) = &person.display_name {
            checks.require_name("display_name", name);
        }
        checks.finish()?;
        Ok(UserRow {
            id: UserId::generate(),
            email_address: email_address.to_owned(),
            password_hash: self.inner.passwords.hash(person.password).await?,
            display_name: person.display_name,
            created_at: self.now(),
        })
    }
}

async fn insert_user(tx: &mut Tx, user: &UserRow) -> Result<(), InvitationError> {
    tx.insert_user(user).await.map_err(|error| match error {
        StoreError::Conflict { constraint: Constraint::UserEmailAddress } => InvitationError::HasAccount,
        error => error.into(),
    })
}

async fn check_user(tx: &mut Tx, id: UserId, invitation: &InvitationRow) -> Result<UserId, InvitationError> {
    let user = tx.find_user(id).await?.ok_or(TeamError::NoSuchUser)?;
    (user.email_address == invitation.email_address).then_some(id).ok_or(InvitationError::OtherAddress)
}

fn check(email_address: &str, role: Role) -> Result<(), ValidationError> {
    let mut checks = Checks::default();
    checks.require(
        mail::is_address(email_address),
        "email_address",
        "must be an e-mail address, such as ada@example.com",
    );
    checks.require(role != Role::Owner, "invitation_role", "must be admin, member or viewer; a team has one owner");
    checks.finish()
}

fn new_token() -> Secret<String> {
    Secret::new(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
}

fn hash(token: &Secret<String>) -> [u8; 32] {
    *KeyHash::of(token.expose()).as_bytes()
}
