//! The live set of agents and sessions, and the limits on how many there may be.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use towline_model::{AgentId, SessionId, TeamId};

use super::{
    AgentSession,
    session::{Arriving, Session},
    slot::AgentSlot,
};

/// All agents that have a session here or that a service has an instance on.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    slots: HashMap<AgentId, Arc<AgentSlot>>,
    sessions: HashMap<SessionId, Arc<Session>>,
    per_team: HashMap<TeamId, usize>,
    per_address: HashMap<IpAddr, usize>,
}

/// How many sessions there may be, those that are being set up included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionLimits {
    pub per_team: usize,
    pub per_address: usize,
}

/// A session's place within the limits.
#[derive(Debug)]
pub(crate) struct Admission {
    registry: Arc<Registry>,
    team: TeamId,
    address: IpAddr,
}

impl Registry {
    /// The agent's place.
    pub(crate) fn slot(&self, agent: AgentId) -> Arc<AgentSlot> {
        let mut live = self.live();
        Arc::clone(live.slots.entry(agent).or_insert_with(|| Arc::new(AgentSlot::new(agent))))
    }

    /// The agent's session, if it has one.
    pub(crate) fn session_of(&self, agent: AgentId) -> Option<Arc<Session>> {
        self.live().slots.get(&agent)?.session()
    }

    /// Forgets the places that no session and no instance needs.
    pub(crate) fn forget_unused_slots(&self) {
        self.live().slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_online());
    }

    /// Lets a session in, or says that there are too many.
    pub(crate) fn admit(
        self: &Arc<Self>,
        team: TeamId,
        address: IpAddr,
        limits: SessionLimits,
    ) -> Result<Admission, &'static str> {
        let mut live = self.live();
        if live.per_team.get(&team).copied().unwrap_or(0) >= limits.per_team {
            return Err("the team has as many agents connected as it may have");
        }
        if live.per_address.get(&address).copied().unwrap_or(0) >= limits.per_address {
            return Err("as many agents are connected from this address as may be");
        }
        *live.per_team.entry(team).or_default() += 1;
        *live.per_address.entry(address).or_default() += 1;
        Ok(Admission { registry: Arc::clone(self), team, address })
    }

    /// Takes in an accepted session. It has its agent's place from now on; the session that had it is returned.
    pub(crate) fn enter(&self, session: &Arc<Session>) -> Option<Arc<Session>> {
        self.live().sessions.insert(session.id, Arc::clone(session));
        session.slot.replace(Arc::clone(session))
    }

    /// Forgets an ended session.
    pub(crate) fn leave(&self, session: &Session) {
        self.live().sessions.remove(&session.id);
        session.slot.release(session.id);
    }

    /// An accepted session that has not ended, also one that takes nothing new any more.
    pub(crate) fn find(&self, session: SessionId) -> Option<Arc<Session>> {
        self.live().sessions.get(&session).cloned()
    }

    /// Takes a carrier's ticket.
    pub(crate) fn redeem(&self, ticket: &str, now: Instant) -> Option<Arriving> {
        let id: SessionId = ticket.split_once('.')?.0.parse().ok()?;
        let session = self.live().sessions.get(&id).cloned()?;
        session.redeem(ticket, now)
    }

    /// Every session that has its agent's place.
    pub(crate) fn current_sessions(&self) -> Vec<AgentSession> {
        let sessions: Vec<_> = self.live().slots.values().filter_map(|slot| slot.session()).collect();
        let describe = |session: Arc<Session>| AgentSession {
            agent_id: session.agent_id(),
            session_id: session.id,
            since: session.since,
            carriers: session.carrier_count(),
        };
        sessions.into_iter().map(describe).collect()
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut live = self.registry.live();
        count_down(&mut live.per_team, &self.team);
        count_down(&mut live.per_address, &self.address);
    }
}

fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_limited_by_team_and_by_address() {
        let registry = Arc::new(Registry::default());
        let limits = SessionLimits { per_team: 2, per_address: 3 };
        let [first, second] = [TeamId::generate(), TeamId::generate()];
        let [here, there] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let one = registry.admit(first, here, limits).unwrap();
        let _two = registry.admit(first, here, limits).unwrap();
        assert!(registry.admit(first, there, limits).unwrap_err().contains("team"));
        let _three = registry.admit(second, here, limits).unwrap();
        assert!(registry.admit(second, here, limits).unwrap_err().contains("address"));
        drop(one);
        let _four = registry.admit(first, here, limits).unwrap();
    }
}
