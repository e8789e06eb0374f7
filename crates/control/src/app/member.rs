//! Members: who is in a team, and as what.
//!
//! One owner a team: that role changes hands only by [`App::transfer_team`], which both owners see. Nobody grants more than
//! he or she has.

use serde_json::json;
use towline_model::{Action, AuditAction, Principal, Role, TeamId, UserId};
use towline_store::{MemberRow, Page, Paged, StoreError};

use super::{
    App,
    audit::Deed,
    precondition::{AsRead, fingerprint},
    team::{TeamError, address, lock_as},
};

impl App {
    /// A page of the team's members.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_members(&self, team_id: TeamId, page: Page) -> Result<Paged<MemberRow>, StoreError> {
        self.read().await?.list_members(team_id, page).await
    }

    /// The member of that id.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn member(&self, team_id: TeamId, user_id: UserId) -> Result<MemberRow, TeamError> {
        self.read().await?.find_member(team_id, user_id).await?.ok_or(TeamError::NoSuchMember)
    }

    /// Gives a member another role. It holds for the member's next request.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn set_role(&self, principal: &Principal, member: &AsRead<UserId>, role: Role) -> Result<(), TeamError> {
        let (team_id, user_id) = (principal.team_id(), member.id);
        let mut tx = self.write().await?;
        let actor = lock_as(&mut tx, principal, Action::ManageMembers).await?;
        let target = tx.find_membership(team_id, user_id).await?.ok_or(TeamError::NoSuchMember)?;
        check_change(actor.role, target.role)?;
        member.precondition.check(version(target.role))?;
        if role == Role::Owner {
            return Err(match actor.role {
                Role::Owner => TeamError::OneOwner(ONE_OWNER),
                _ => TeamError::NotAllowed("only the owner can make another member the owner"),
            });
        }
        tx.set_role(team_id, user_id, role).await?;
        let deed = Deed::new(AuditAction::MemberUpdate, user_id, address(&mut tx, user_id).await?);
        let details = json!({ "role": role, "role_before": target.role });
        self.record(&mut tx, team_id, deed.with_details(details)).await?;
        if role < Role::Admin {
            // Whoever may not invite any more has no invitations open.
            tx.delete_invitations_by(team_id, user_id).await?;
        }
        if role < Action::ManageCredentials.minimum_role() {
            // Whoever may make no keys for agents has none that came with a device.
            tx.revoke_companions_of(team_id, user_id, self.now()).await?;
        }
        tx.commit().await?;
        Ok(self.publish().await?)
    }

    /// Removes a member. The keys of the member's devices in this team end, and what they have in flight is cancelled.
    ///
    /// # Errors
    /// See [`TeamError`].
    pub async fn remove_member(&self, principal: &Principal, member: &AsRead<UserId>) -> Result<(), TeamError> {
        let (team_id, user_id) = (principal.team_id(), member.id);
        let mut tx = self.write().await?;
        let actor = lock_as(&mut tx, principal, Action::ManageMembers).await?;
        let target = tx.find_membership(team_id, user_id).await?.ok_or(TeamError::NoSuchMember)?;
        check_change(actor.role, target.role)?;
        member.precondition.check(version(target.role))?;
        let deed = Deed::new(AuditAction::MemberRemove, user_id, address(&mut tx, user_id).await?);
        self.record(&mut tx, team_id, deed.with_details(json!({ "role": target.role }))).await?;
        self.end_membership(&mut tx, team_id, user_id).await?;
        tx.commit().await?;
        Ok(self.publish().await?)
    }
}

/// The version of a membership that `If-Match` is about.
#[must_use]
pub fn version(role: Role) -> i64 {
    fingerprint(&[Some(role.as_str())])
}

const ONE_OWNER: &str = "a team has one owner; hand the team over with POST /api/v1/teams/current/transfer";

/// Whether somebody of one role may change or remove somebody of another.
fn check_change(actor: Role, target: Role) -> Result<(), TeamError> {
    match (actor, target) {
        (Role::Owner, Role::Owner) => Err(TeamError::OneOwner(
            "you are the owner; hand the team over with POST /api/v1/teams/current/transfer first",
        )),
        (_, Role::Owner) => Err(TeamError::NotAllowed("the owner's membership can be changed by the owner only")),
        _ => Ok(()),
    }
}
