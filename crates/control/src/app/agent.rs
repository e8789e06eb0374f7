//! Agents: the machines of a team.

use towline_model::TeamId;
use towline_store::{AgentRow, Page, Paged, StoreError};

use super::App;

impl App {
    /// A page of the team's agents, in the order in which they first joined.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_agents(&self, team_id: TeamId, page: Page) -> Result<Paged<AgentRow>, StoreError> {
        self.read().await?.list_agents(team_id, page).await
    }
}
