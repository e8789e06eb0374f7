//! The end of a deleted team: when its agents have stopped what they ran, what is left of it goes.
//!
//! The deletion has taken its services away, so its agents are told to run nothing. That they hear it, their keys and
//! sessions outlive the team for a moment: until each agent that is here has reported that it runs nothing, and not longer
//! than [`FAREWELL`]. An agent that is not here keeps its containers; nobody can reach them.

use std::{collections::HashSet, time::Duration};

use towline_gateway::{AgentSession, Gateway};
use towline_model::{AgentId, TeamId, Timestamp};
use towline_store::{AgentRow, EndingTeam, Store, StoreError};

use super::desired::DesiredSets;

/// How long a deleted team's agents may take to stop what they run: longer than a container gets to end.
pub const FAREWELL: Duration = Duration::from_secs(15);

/// What became of the teams that are ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// There is none.
    Nothing,
    /// For those that there are it is too early.
    Waiting,
    /// Nothing is left of at least one.
    Done,
}

/// Ends the teams whose time has come.
///
/// # Errors
/// When the database does not answer; the next pass goes on.
pub(super) async fn end_teams(
    store: &Store,
    gateway: &Gateway,
    desired: &DesiredSets,
    now: Timestamp,
) -> Result<Ending, StoreError> {
    let mut tx = store.read().await?;
    let ending = tx.ending_teams().await?;
    if ending.is_empty() {
        return Ok(Ending::Nothing);
    }
    let agents = tx.all_agents().await?;
    drop(tx);
    let sessions = gateway.sessions();
    let mut outcome = Ending::Waiting;
    for team in due(&ending, &agents, &sessions, |agent| desired.is_idle(agent), now) {
        let mut tx = store.write().await?;
        match tx.end_team(team).await {
            Ok(()) => tx.commit().await?,
            // Somebody who had been let in before is adding something at this moment: the next pass takes that, too.
            Err(StoreError::NotFound | StoreError::Concurrent) => continue,
            Err(error) => return Err(error),
        }
        tracing::info!(%team, "nothing is left of a deleted team");
        outcome = Ending::Done;
    }
    Ok(outcome)
}

fn due(
    ending: &[EndingTeam],
    agents: &[AgentRow],
    sessions: &[AgentSession],
    is_idle: impl Fn(AgentId) -> bool,
    now: Timestamp,
) -> Vec<TeamId> {
    let here: HashSet<_> = sessions.iter().map(|session| session.agent_id).collect();
    let is_quiet = |team: TeamId| {
        let mut its_agents = agents.iter().filter(|agent| agent.team_id == team && here.contains(&agent.id));
        its_agents.all(|agent| is_idle(agent.id))
    };
    let is_due = |team: &&EndingTeam| now.since(team.deleted_at) >= FAREWELL || is_quiet(team.id);
    ending.iter().filter(is_due).map(|team| team.id).collect()
}

#[cfg(test)]
mod tests {
    use towline_model::SessionId;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn agent(team_id: TeamId) -> AgentRow {
        AgentRow {
            id: AgentId::generate(),
            team_id,
            name: "one".to_owned(),
            machine_id: "one".to_owned(),
            agent_version: "1".to_owned(),
            labels: Vec::new(),
            capabilities: Vec::new(),
            gpu_count: 0,
            engine_ready: true,
            engine_message: None,
            transport: None,
            via_proxy: false,
            session_id: None,
            last_seen_at: None,
            created_at: NOW,
        }
    }

    fn session(agent: &AgentRow) -> AgentSession {
        AgentSession { agent_id: agent.id, session_id: SessionId::generate(), since: NOW, carriers: 1 }
    }

    #[test]
    fn a_team_waits_for_each_of_its_agents_that_is_here_and_for_no_other() {
        let team = EndingTeam { id: TeamId::generate(), deleted_at: NOW };
        let (here, away, foreign) = (agent(team.id), agent(team.id), agent(TeamId::generate()));
        let sessions = [session(&here), session(&foreign)];
        let agents = [here.clone(), away, foreign];
        let at = |idle: &[AgentId], now| due(&[team], &agents, &sessions, |agent| idle.contains(&agent), now);
        assert!(at(&[], NOW).is_empty());
        assert_eq!(at(&[here.id], NOW), [team.id]);
        assert!(at(&[], NOW + Duration::from_secs(14)).is_empty());
        assert_eq!(at(&[], NOW + FAREWELL), [team.id]);
    }
}
