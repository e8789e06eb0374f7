//! The place of one agent at this gateway: who holds it now. Instances point to it, so that a request finds the agent's
//! current session without asking any registry.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use towline_model::{AgentId, SessionId};

use super::session::Session;

/// One agent's place.
#[derive(Debug)]
pub(crate) struct AgentSlot {
    /// The agent.
    pub id: AgentId,
    session: ArcSwapOption<Session>,
    /// Whether there is one: what every request asks, and most have no other use for it.
    is_online: AtomicBool,
    /// Held while the two are changed, so that they say the same.
    change: Mutex<()>,
    changed: Notify,
}

impl AgentSlot {
    pub(crate) fn new(id: AgentId) -> Self {
        let (session, is_online) = (ArcSwapOption::empty(), AtomicBool::new(false));
        Self { id, session, is_online, change: Mutex::default(), changed: Notify::new() }
    }

    /// The agent's newest session, while it takes new streams.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.session.load_full()
    }

    /// Whether the agent has a session here.
    pub(crate) fn is_online(&self) -> bool {
        self.is_online.load(Ordering::Acquire)
    }

    /// Gives the place to a newer session; the one that had it is returned.
    pub(crate) fn replace(&self, session: Arc<Session>) -> Option<Arc<Session>> {
        let change = self.lock();
        let old = self.session.swap(Some(session));
        self.is_online.store(true, Ordering::Release);
        drop(change);
        self.note_change();
        old
    }

    /// Frees the place if that very session still has it: a late goodbye must not push out its successor.
    pub(crate) fn release(&self, session: SessionId) {
        let change = self.lock();
        if self.session.load().as_ref().is_some_and(|current| current.id == session) {
            self.session.store(None);
            self.is_online.store(false, Ordering::Release);
            drop(change);
            self.note_change();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes requests that wait for a way to the agent.
    pub(crate) fn note_change(&self) {
        self.changed.notify_waiters();
    }

    /// For waiting until something has changed. Enable it before looking.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

#[cfg(test)]
mod tests {
    use towline_model::Timestamp;
    use towline_tunnel::placement::PlacementLimits;

    use super::*;

    #[test]
    fn a_late_goodbye_leaves_the_place_to_the_successor() {
        let slot = Arc::new(AgentSlot::new(AgentId::generate()));
        let take = || {
            let (id, now) = (SessionId::generate(), Timestamp::from_micros(0));
            slot.replace(Arc::new(Session::new(id, Arc::clone(&slot), now, PlacementLimits::default())));
            id
        };
        let state = || (slot.is_online(), slot.session().map(|session| session.id));
        assert_eq!(state(), (false, None));
        let (first, second) = (take(), take());
        slot.release(first);
        assert_eq!(state(), (true, Some(second)));
        slot.release(second);
        assert_eq!(state(), (false, None));
        let third = take();
        assert_eq!(state(), (true, Some(third)));
    }
}
