//! Invitations: who may become a member of a team. Of an invitation's token only its hash is stored.

use towline_model::{InvitationId, Role, TeamId, Timestamp, UserId};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, newest_first},
    query::query,
    value::{FromRow, Row},
};

/// An invitation that waits to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationRow {
    /// Its id.
    pub id: InvitationId,
    /// The team that it invites to.
    pub team_id: TeamId,
    /// Who is invited. Stored in lower case.
    pub email_address: String,
    /// What the person will be in the team.
    pub role: Role,
    /// The SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// Who invited.
    pub invited_by: UserId,
    /// When.
    pub created_at: Timestamp,
    /// From when on it cannot be accepted.
    pub expires_at: Timestamp,
}

macro_rules! columns {
    () => {
        "id, team_id, email_address, role, token_hash, invited_by, created_at, expires_at"
    };
}

impl FromRow for InvitationRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            team_id: row.take("team_id")?,
            email_address: row.take("email_address")?,
            role: row.take("role")?,
            token_hash: row.take("token_hash")?,
            invited_by: row.take("invited_by")?,
            created_at: row.take("created_at")?,
            expires_at: row.take("expires_at")?,
        })
    }
}

impl Listed for InvitationRow {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.as_uuid() }
    }
}

impl Tx {
    /// Adds an invitation. The e-mail address is stored in lower case, whatever the row has.
    ///
    /// # Errors
    /// [`Constraint::InvitationEmailAddress`](crate::Constraint::InvitationEmailAddress) when the address is invited
    /// to the team already, [`StoreError::NotFound`] when there is no such team or user.
    pub async fn insert_invitation(&mut self, invitation: &InvitationRow) -> Result<(), StoreError> {
        let insert =
            query(concat!("INSERT INTO invitations (", columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"))
                .bind(invitation.id)
                .bind(invitation.team_id)
                .bind(invitation.email_address.to_lowercase())
                .bind(invitation.role)
                .bind(invitation.token_hash)
                .bind(invitation.invited_by)
                .bind(invitation.created_at)
                .bind(invitation.expires_at);
        self.execute(insert).await.map(drop)
    }

    /// The invitation with that token, expired or not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_invitation_by_token(
        &mut self,
        token_hash: [u8; 32],
    ) -> Result<Option<InvitationRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM invitations WHERE token_hash = $1"));
        self.fetch_optional(select.bind(token_hash)).await
    }

    /// The address's invitations to all teams that have not expired, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn invitations_of_address(
        &mut self,
        email_address: &str,
        now: Timestamp,
    ) -> Result<Vec<InvitationRow>, StoreError> {
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM invitations WHERE email_address = $1 AND expires_at > $2 ORDER BY created_at, id"
        ));
        self.fetch_all(select.bind(email_address.to_lowercase()).bind(now)).await
    }

    /// A page of the team's invitations that have not expired, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_invitations(
        &mut self,
        team_id: TeamId,
        now: Timestamp,
        page: Page,
    ) -> Result<Paged<InvitationRow>, StoreError> {
        let count = query("SELECT COUNT(*) AS total FROM invitations WHERE team_id = $1 AND expires_at > $2");
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM invitations WHERE team_id = $1 AND expires_at > $2",
            newest_first!("created_at", "id", [3, 4, 5, 6])
        ));
        let both = (count.bind(team_id).bind(now), select.bind(team_id).bind(now));
        self.fetch_page(both, Order::NewestFirst, page).await
    }

    /// Takes an invitation of the team away: it was accepted or revoked. Of several that do so at the same time, one
    /// gets it; `None` for the others, and when the team has no such invitation.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn take_invitation(
        &mut self,
        team_id: TeamId,
        id: InvitationId,
    ) -> Result<Option<InvitationRow>, StoreError> {
        let delete = query(concat!("DELETE FROM invitations WHERE team_id = $1 AND id = $2 RETURNING ", columns!()));
        self.fetch_optional(delete.bind(team_id).bind(id)).await
    }

    /// Forgets the team's invitations that have expired.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn prune_invitations(&mut self, team_id: TeamId, now: Timestamp) -> Result<(), StoreError> {
        let prune = query("DELETE FROM invitations WHERE team_id = $1 AND expires_at <= $2");
        self.execute(prune.bind(team_id).bind(now)).await.map(drop)
    }

    /// Forgets the open invitations that somebody has made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete_invitations_by(&mut self, team_id: TeamId, user_id: UserId) -> Result<(), StoreError> {
        let delete = query("DELETE FROM invitations WHERE team_id = $1 AND invited_by = $2");
        self.execute(delete.bind(team_id).bind(user_id)).await.map(drop)
    }
}
