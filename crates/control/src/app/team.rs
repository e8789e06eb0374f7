//! Teams: made, renamed, handed over, left, ended. Their members are in [`member`](super::member).
//!
//! What somebody may do is decided twice: by the table of actions before the verb, and again inside its transaction, under
//! the team's lock, by the role that the person has at that moment. So two that change the same team at the same time
//! never both act on a role that one of them has just taken away.

use std::time::Duration;

use serde_json::json;
use towline_model::{Action, AuditAction, Principal, Role, TeamId, UserId, ValidationError, validate::Checks};
use towline_store::{MembershipRow, Page, Paged, StoreError, TeamRow, Tx};

use super::{
    App,
    audit::Deed,
    precondition::{Precondition, PreconditionFailed, fingerprint},
};
use crate::reconcile::team_end::FAREWELL;

/// How often it is looked whether a deleted team is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A team, as its members see it.
#[derive(Debug)]
pub struct TeamDetails {
    /// The team.
    pub team: TeamRow,
    /// How many members it has.
    pub member_count: u64,
}

/// Why nothing was done with a team or its members.
#[derive(Debug, thiserror::Error)]
pub enum TeamError {
    /// What was wished is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The team has no such member.
    #[error("there is no member with this id in this team; GET /api/v1/members lists those that there are")]
    NoSuchMember,
    /// The person's own role does not reach that far.
    #[error("{0}")]
    NotAllowed(&'static str),
    /// It would leave the team without its one owner, or with two.
    #[error("{0}")]
    OneOwner(&'static str),
    /// It is not as the caller takes for granted.
    #[error(transparent)]
    Changed(#[from] PreconditionFailed),
    /// The person, or the whole team, is gone since the request was let in.
    #[error("you are not a member of this team any more")]
    NotInTeam,
    /// The person's account is gone since the request was let in.
    #[error("this user was removed; sign in as another")]
    NoSuchUser,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const OWNER_STAYS: &str = "the owner cannot leave; make another member the owner with \
     POST /api/v1/teams/current/transfer, or delete the team with DELETE /api/v1/teams/current";

impl TeamDetails {
    /// The version of the team that `If-Match` is about.
    #[must_use]
    pub fn version(&self) -> i64 {
        version(&self.team)
    }
}

fn version(team: &TeamRow) -> i64 {
    fingerprint(&[Some(&team.name)])
}

impl App {
    /// Makes a team. Who makes it owns it.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn create_team(&self, owner: UserId, name: &str) -> Result<TeamId, TeamError> {
        check_name(name)?;
        let team = TeamRow { id: TeamId::generate(), name: name.to_owned(), created_at: self.now() };
        let mut tx = self.write().await?;
        tx.insert_team(&team).await?;
        let membership = MembershipRow { team_id: team.id, user_id: owner, role: Role::Owner };
        tx.insert_membership(&membership).await.map_err(|error| match error {
            StoreError::NotFound => TeamError::NoSuchUser,
            error => error.into(),
        })?;
        self.record(&mut tx, team.id, Deed::new(AuditAction::TeamCreate, team.id, name)).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(team.id)
    }

    /// A page of the teams that a user is in, the oldest first, with the user's role in each.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_teams(&self, user: UserId, page: Page) -> Result<Paged<(TeamRow, Role)>, StoreError> {
        self.read().await?.list_teams_of_user(user, page).await
    }

    /// The team of a request.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn team(&self, id: TeamId) -> Result<TeamDetails, TeamError> {
        let mut tx = self.read().await?;
        let team = tx.find_team(id).await?.ok_or(TeamError::NotInTeam)?;
        Ok(TeamDetails { team, member_count: tx.count_members(id).await? })
    }

    /// Gives a team another name.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn rename_team(
        &self,
        principal: &Principal,
        precondition: &Precondition,
        name: &str,
    ) -> Result<(), TeamError> {
        check_name(name)?;
        let mut tx = self.write().await?;
        lock_as(&mut tx, principal, Action::ManageTeam).await?;
        let team = tx.find_team(principal.team_id()).await?.ok_or(TeamError::NotInTeam)?;
        precondition.check(version(&team))?;
        tx.rename_team(principal.team_id(), name).await?;
        let deed = Deed::new(AuditAction::TeamUpdate, principal.team_id(), name);
        self.record(&mut tx, principal.team_id(), deed).await?;
        Ok(tx.commit().await?)
    }

    /// Makes another member the owner; the one who was becomes an admin.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn transfer_team(&self, principal: &Principal, to: UserId) -> Result<(), TeamError> {
        let team_id = principal.team_id();
        let mut tx = self.write().await?;
        let owner = lock_as(&mut tx, principal, Action::TransferTeam).await?;
        if to == owner.user_id {
            return Err(TeamError::OneOwner("you are the owner already; name another member"));
        }
        if tx.find_membership(team_id, to).await?.is_none() {
            return Err(TeamError::NoSuchMember);
        }
        // In this order, since there is never more than one owner.
        tx.set_role(team_id, owner.user_id, Role::Admin).await?;
        tx.set_role(team_id, to, Role::Owner).await?;
        let address = address(&mut tx, to).await?;
        self.record(&mut tx, team_id, Deed::new(AuditAction::TeamTransfer, to, address)).await?;
        tx.commit().await?;
        Ok(self.publish().await?)
    }

    /// Ends one's own membership, and the keys of one's devices in the team.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn leave_team(&self, principal: &Principal) -> Result<(), TeamError> {
        let mut tx = self.write().await?;
        let member = lock_as(&mut tx, principal, Action::LeaveTeam).await?;
        if member.role == Role::Owner {
            return Err(TeamError::OneOwner(OWNER_STAYS));
        }
        let address = address(&mut tx, member.user_id).await?;
        let deed = Deed::new(AuditAction::MemberLeave, member.user_id, address);
        self.record(&mut tx, principal.team_id(), deed.with_details(json!({ "role": member.role }))).await?;
        self.end_membership(&mut tx, principal.team_id(), member.user_id).await?;
        tx.commit().await?;
        Ok(self.publish().await?)
    }

    /// Deletes a team with all that belongs to it. Nobody can see or use anything of it from the commit on; this returns
    /// when its agents have ended what they ran, or did not answer for [`FAREWELL`], and their keys and sessions are gone
    /// too.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn delete_team(&self, principal: &Principal) -> Result<(), TeamError> {
        let team_id = principal.team_id();
        let mut tx = self.write().await?;
        let owner = lock_as(&mut tx, principal, Action::DeleteTeam).await?;
        let team = tx.find_team(team_id).await?.ok_or(TeamError::NotInTeam)?;
        // The team's own log goes with it.
        let deed = Deed::new(AuditAction::TeamDelete, team_id, team.name);
        self.record_of_server(&mut tx, owner.user_id, deed).await?;
        tx.begin_team_end(team_id, self.now()).await?;
        tx.commit().await?;
        tracing::info!(%team_id, "a team was deleted");
        self.publish().await?;
        self.await_team_end(team_id).await
    }

    /// The reconciler does it; if it cannot at the moment, it goes on after the answer.
    async fn await_team_end(&self, team_id: TeamId) -> Result<(), TeamError> {
        let gone = async {
            while self.read().await?.ending_teams().await?.iter().any(|team| team.id == team_id) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        let patience = FAREWELL + Duration::from_secs(5);
        tokio::time::timeout(patience, gone).await.unwrap_or_else(|_| {
            tracing::warn!(%team_id, "the rest of a deleted team is still to be removed");
            Ok(())
        })
    }

    /// Takes a member out, with what only members have: device keys with their companions, devices that have not fetched
    /// theirs yet, and invitations that are still open.
    pub(super) async fn end_membership(&self, tx: &mut Tx, team_id: TeamId, user_id: UserId) -> Result<(), StoreError> {
        tx.delete_membership(team_id, user_id).await?;
        tx.revoke_device_keys_of(team_id, user_id, self.now()).await?;
        tx.delete_device_pairings_of(team_id, user_id).await?;
        tx.delete_invitations_by(team_id, user_id).await
    }
}

/// Keeps others from changing who is in the team, and gives the membership that the person has now.
pub(super) async fn lock_as(tx: &mut Tx, principal: &Principal, action: Action) -> Result<MembershipRow, TeamError> {
    let team_id = principal.team_id();
    let user_id = principal.user_id().ok_or(TeamError::NotAllowed("a key cannot do this; sign in"))?;
    if !tx.lock_team(team_id).await? {
        return Err(TeamError::NotInTeam);
    }
    let membership = tx.find_membership(team_id, user_id).await?.ok_or(TeamError::NotInTeam)?;
    match principal.clone().with_role(membership.role).may(action) {
        true => Ok(membership),
        false => Err(TeamError::NotAllowed("your role in this team was changed and does not allow this any more")),
    }
}

/// How people are called in the audit log.
pub(super) async fn address(tx: &mut Tx, user_id: UserId) -> Result<String, StoreError> {
    Ok(tx.find_user(user_id).await?.map_or_else(|| "a removed user".to_owned(), |user| user.email_address))
}

fn check_name(name: &str) -> Result<(), ValidationError> {
    let mut checks = Checks::default();
    checks.require_name("team_name", name);
    checks.finish()
}
