//! Users: who somebody is, and in which teams.

use towline_model::{Role, UserId};
use towline_store::{StoreError, TeamRow, UserRow};

use super::App;

/// A user with the teams that the user is in.
#[derive(Debug)]
pub struct UserDetails {
    /// The user.
    pub user: UserRow,
    /// The teams, the oldest first, and the user's role in each.
    pub teams: Vec<(TeamRow, Role)>,
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
}
