//! Whether the sessions that are written down are those that there are.
//!
//! Agents come and go by events, and an event can be lost: the database may not answer just then, or two hellos of one
//! agent may overtake each other. So every pass compares. What is written down and gone is cleared, and the agent counts
//! as offline from then on; what is there and not written down is ended, and the agent comes again.

use std::time::Duration;

use towline_gateway::AgentSession;
use towline_model::{AgentId, SessionId, Timestamp};
use towline_store::AgentRow;

/// How long a session may be in one place only: it is written down first and known to the gateway a moment later, and
/// the rows are read a moment before the gateway is asked. Longer than the gateway's deadline for its welcome (10 s).
const SETTLING: Duration = Duration::from_secs(15);

/// What has to be put right.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Discord {
    /// Written down, but gone.
    pub(super) gone: Vec<(AgentId, SessionId)>,
    /// There, but not written down.
    pub(super) unknown: Vec<SessionId>,
}

/// Compares the rows with the gateway's current sessions. `is_live` is asked besides, because a session whose agent is
/// leaving is not current any more, but not gone either.
pub(super) fn compare(
    agents: &[AgentRow],
    current: &[AgentSession],
    is_live: impl Fn(SessionId) -> bool,
    now: Timestamp,
) -> Discord {
    let settled = |since: Timestamp| now.since(since) >= SETTLING;
    let mut discord = Discord::default();
    for agent in agents {
        let there = current.iter().find(|session| session.agent_id == agent.id);
        match (agent.session_id, there) {
            (Some(written), _) if !is_live(written) => {
                let heard = agent.last_seen_at.unwrap_or(agent.created_at);
                discord.gone.extend(settled(heard).then_some((agent.id, written)));
            }
            (written, Some(there)) if written != Some(there.session_id) && settled(there.since) => {
                discord.unknown.push(there.session_id);
            }
            _ => {}
        }
    }
    discord
}

#[cfg(test)]
mod tests {
    use towline_model::TeamId;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn agent(session_id: Option<SessionId>, heard: Timestamp) -> AgentRow {
        AgentRow {
            id: AgentId::generate(),
            team_id: TeamId::generate(),
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
            session_id,
            last_seen_at: Some(heard),
            created_at: heard,
        }
    }

    fn session(agent: &AgentRow, session_id: SessionId, since: Timestamp) -> AgentSession {
        AgentSession { agent_id: agent.id, session_id, since, carriers: 4 }
    }

    #[test]
    fn a_session_that_is_gone_is_cleared_when_it_had_the_time_to_come() {
        let written = SessionId::generate();
        let row = agent(Some(written), NOW);
        let at = |now| compare(std::slice::from_ref(&row), &[], |_| false, now);
        assert_eq!(at(NOW + Duration::from_secs(14)), Discord::default());
        assert_eq!(at(NOW + Duration::from_secs(15)).gone, [(row.id, written)]);
        let leaving = compare(std::slice::from_ref(&row), &[], |id| id == written, NOW + Duration::from_secs(60));
        assert_eq!(leaving, Discord::default());
    }

    #[test]
    fn a_session_that_is_not_written_down_is_ended() {
        let there = SessionId::generate();
        let later = NOW + Duration::from_secs(15);
        let row = agent(None, NOW);
        let sessions = [session(&row, there, NOW)];
        let at = |now| compare(std::slice::from_ref(&row), &sessions, |id| id == there, now).unknown;
        assert!(at(NOW + Duration::from_secs(14)).is_empty());
        assert_eq!(at(later), [there]);

        // A newer one was written down and is on its way: it will take the place itself.
        let row = AgentRow { session_id: Some(SessionId::generate()), last_seen_at: Some(later), ..row };
        assert_eq!(compare(&[row], &sessions, |id| id == there, later), Discord::default());
    }

    #[test]
    fn what_agrees_is_left_alone() {
        let there = SessionId::generate();
        let row = agent(Some(there), NOW);
        let sessions = [session(&row, there, NOW)];
        let later = NOW + Duration::from_secs(3600);
        assert_eq!(compare(&[row, agent(None, NOW)], &sessions, |id| id == there, later), Discord::default());
    }
}
