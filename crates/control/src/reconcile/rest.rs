//! When the state of things need not be read again: nothing was written since, and time alone changes nothing.
//!
//! What a pass reads is everything, which costs tens of milliseconds with a thousand services. So one that has found nothing to
//! do asks the planner what the next passes would find in the same state. As long as that is nothing either, only the store's
//! revision and the agents' sessions are looked at. Whoever changes something that neither of them tells of wakes the
//! reconciler; if another server did, it is noticed when the rest is over.

use towline_gateway::AgentSession;
use towline_model::{ServiceStatus, SessionId, Timestamp};

use super::{
    limits::Limits,
    plan::plan,
    run::PERIOD,
    sessions::{Discord, compare},
    world::World,
};
use crate::rollout::Deploys;

/// How many passes in a row are left out at most.
pub(super) const LONGEST: u32 = 10;

/// A rest that has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rest {
    since: Timestamp,
    pub(super) until: Timestamp,
    revision: i64,
    sessions: Vec<SessionId>,
}

impl Rest {
    /// The rest that may follow a pass which has left this world with nothing to do. The revision and the sessions are at most
    /// as new as the world.
    pub(super) fn of(
        world: &World,
        (revision, current): (i64, &[AgentSession]),
        is_live: impl Fn(SessionId) -> bool,
        now: Timestamp,
        limits: &Limits,
    ) -> Option<Self> {
        let finds_nothing = |at| {
            plan(world, at, limits).is_empty() && compare(&world.agents, current, &is_live, at) == Discord::default()
        };
        let passes = (1..=LONGEST).map(|pass| now + PERIOD * pass);
        let until = if is_draining(world) { None } else { passes.take_while(|at| finds_nothing(*at)).last() };
        until.map(|until| Self { since: now, until, revision, sessions: ids(current) })
    }

    /// Whether it goes on.
    pub(super) fn lasts(&self, revision: i64, current: &[AgentSession], now: Timestamp) -> bool {
        (self.since..=self.until).contains(&now) && revision == self.revision && ids(current) == self.sessions
    }
}

/// Whether requests in flight are waited for: nobody writes down that one has ended.
fn is_draining(world: &World) -> bool {
    world.services.iter().any(|service| {
        let deploys = Deploys::of(&service.row, service.rollout.as_ref());
        service.row.status == ServiceStatus::Stopping || deploys.retiring.is_some()
    })
}

fn ids(sessions: &[AgentSession]) -> Vec<SessionId> {
    let mut ids: Vec<_> = sessions.iter().map(|session| session.session_id).collect();
    ids.sort_unstable();
    ids
}
