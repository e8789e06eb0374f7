//! Memberships: which user has which role in which team.

use towline_model::{Role, TeamId, UserId};

use crate::{
    StoreError, Tx,
    query::query,
    value::{FromRow, Row},
};

/// A user's role in a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipRow {
    /// The team.
    pub team_id: TeamId,
    /// The user.
    pub user_id: UserId,
    /// What the user is in the team. A team has at most one owner.
    pub role: Role,
}

impl FromRow for MembershipRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self { team_id: row.take("team_id")?, user_id: row.take("user_id")?, role: row.take("role")? })
    }
}

impl Tx {
    /// Makes a user a member of a team. Moves the revision on.
    ///
    /// # Errors
    /// [`Constraint::Membership`](crate::Constraint::Membership) when the user is one already,
    /// [`Constraint::TeamOwner`](crate::Constraint::TeamOwner) for a second owner, [`StoreError::NotFound`] when there
    /// is no such team or user.
    pub async fn insert_membership(&mut self, membership: &MembershipRow) -> Result<(), StoreError> {
        let insert = query("INSERT INTO memberships (team_id, user_id, role) VALUES ($1, $2, $3)");
        self.execute(insert.bind(membership.team_id).bind(membership.user_id).bind(membership.role)).await?;
        self.mark_changed();
        Ok(())
    }

    /// The user's membership of the team.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_membership(
        &mut self,
        team_id: TeamId,
        user_id: UserId,
    ) -> Result<Option<MembershipRow>, StoreError> {
        let select = query("SELECT team_id, user_id, role FROM memberships WHERE team_id = $1 AND user_id = $2");
        self.fetch_optional(select.bind(team_id).bind(user_id)).await
    }

    /// The teams that the user is in, the oldest team first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn memberships_of_user(&mut self, user_id: UserId) -> Result<Vec<MembershipRow>, StoreError> {
        let select = query("SELECT team_id, user_id, role FROM memberships WHERE user_id = $1 ORDER BY team_id");
        self.fetch_all(select.bind(user_id)).await
    }

    /// Every membership of every team, for the gateway's snapshot.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn all_memberships(&mut self) -> Result<Vec<MembershipRow>, StoreError> {
        self.fetch_all(query("SELECT team_id, user_id, role FROM memberships")).await
    }
}
