//! Memberships: which user has which role in which team.

use towline_model::{Role, TeamId, Timestamp, UserId};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, oldest_first},
    query::{Query, query},
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

/// A member of a team, as the others see the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    /// The user.
    pub user_id: UserId,
    /// The user's e-mail address.
    pub email_address: String,
    /// The user's name for people.
    pub display_name: Option<String>,
    /// What the user is in the team.
    pub role: Role,
}

impl FromRow for MemberRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            user_id: row.take("user_id")?,
            email_address: row.take("email_address")?,
            display_name: row.take("display_name")?,
            role: row.take("role")?,
        })
    }
}

/// A member, and when the account was made.
struct ListedMember(MemberRow, Timestamp);

impl FromRow for ListedMember {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        let created_at = row.take("created_at")?;
        MemberRow::from_row(row).map(|member| Self(member, created_at))
    }
}

impl Listed for ListedMember {
    fn position(&self) -> Position {
        Position { at: self.1, id: self.0.user_id.as_uuid() }
    }
}

impl FromRow for MembershipRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self { team_id: row.take("team_id")?, user_id: row.take("user_id")?, role: row.take("role")? })
    }
}

/// How many members a team has.
fn count(team_id: TeamId) -> Query {
    query("SELECT COUNT(*) AS total FROM memberships WHERE team_id = $1").bind(team_id)
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

    /// Gives a member another role. `false` when the user is not a member. Moves the revision on.
    ///
    /// # Errors
    /// [`Constraint::TeamOwner`](crate::Constraint::TeamOwner) for a second owner.
    pub async fn set_role(&mut self, team_id: TeamId, user_id: UserId, role: Role) -> Result<bool, StoreError> {
        let update = query("UPDATE memberships SET role = $1 WHERE team_id = $2 AND user_id = $3");
        let changed = self.execute(update.bind(role).bind(team_id).bind(user_id)).await? > 0;
        self.mark_changed_if(changed);
        Ok(changed)
    }

    /// Ends a membership. `false` when the user is not a member. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete_membership(&mut self, team_id: TeamId, user_id: UserId) -> Result<bool, StoreError> {
        let delete = query("DELETE FROM memberships WHERE team_id = $1 AND user_id = $2");
        let deleted = self.execute(delete.bind(team_id).bind(user_id)).await? > 0;
        self.mark_changed_if(deleted);
        Ok(deleted)
    }

    /// A page of the team's members, in the order in which their accounts were made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_members(&mut self, team_id: TeamId, page: Page) -> Result<Paged<MemberRow>, StoreError> {
        let select = query(concat!(
            "SELECT m.user_id, u.email_address, u.display_name, m.role, u.created_at \
             FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.team_id = $1",
            oldest_first!("u.created_at", "m.user_id", [2, 3, 4, 5])
        ));
        let both = (count(team_id), select.bind(team_id));
        let members = self.fetch_page::<ListedMember>(both, Order::OldestFirst, page).await?;
        Ok(members.map(|member| member.0))
    }

    /// The team's member of that id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_member(&mut self, team_id: TeamId, user_id: UserId) -> Result<Option<MemberRow>, StoreError> {
        let select = query(
            "SELECT m.user_id, u.email_address, u.display_name, m.role \
             FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.team_id = $1 AND m.user_id = $2",
        );
        self.fetch_optional(select.bind(team_id).bind(user_id)).await
    }

    /// How many members the team has.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_members(&mut self, team_id: TeamId) -> Result<u64, StoreError> {
        self.fetch_total(count(team_id)).await
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
