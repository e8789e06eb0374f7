//! Idle connections to one instance. The newest is used first, so that a burst's connections grow old and go.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::{agents::link::CarrierLink, upstream::Connection};

/// How long a connection is kept when the container does not say how long it keeps it. Node.js closes after 5 s.
const KEEP: Duration = Duration::from_secs(4);
/// The longest that one is kept, whatever the container says.
const KEEP_AT_MOST: Duration = Duration::from_secs(60);
/// A request that must not be sent twice only takes a connection that was used as recently as this, so that the
/// container cannot be about to close it.
const FRESH: Duration = Duration::from_secs(1);
/// Idle connections that are kept.
const MAX_IDLE: usize = 256;

/// How long a connection may be kept that says `Keep-Alive: timeout=<seconds>`, or does not.
pub(crate) fn keep_for(advertised_seconds: Option<u64>) -> Duration {
    advertised_seconds.map_or(KEEP, |seconds| Duration::from_secs(seconds.saturating_sub(1)).min(KEEP_AT_MOST))
}

/// The idle connections to one instance.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    idle: Vec<Idle>,
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn is_usable(&self, now: Instant, replayable: bool) -> bool {
        let age = now.saturating_duration_since(self.since);
        let limit = self.connection.keep_for;
        let is_fresh = age < if replayable { limit } else { limit.min(FRESH) };
        is_fresh && !self.connection.link().is_retired()
    }
}

impl Pool {
    /// Puts a connection to rest.
    pub(crate) fn put(&self, connection: Connection, now: Instant) {
        if connection.keep_for.is_zero() {
            return;
        }
        let mut shelf = self.shelf();
        if !shelf.closed && shelf.idle.len() < MAX_IDLE {
            shelf.idle.push(Idle { connection, since: now });
        }
    }

    /// The newest connection on a carrier that nobody is using.
    pub(crate) fn take_exclusive(&self, now: Instant, replayable: bool) -> Option<Connection> {
        self.take(|idle| idle.is_usable(now, replayable) && idle.connection.link().busy() == 0)
    }

    /// The newest connection on this carrier.
    pub(crate) fn take_on(&self, link: &Arc<CarrierLink>, now: Instant, replayable: bool) -> Option<Connection> {
        self.take(|idle| idle.is_usable(now, replayable) && Arc::ptr_eq(idle.connection.link(), link))
    }

    /// How many connections on this carrier a request may take.
    pub(crate) fn count_on(&self, link: &Arc<CarrierLink>, now: Instant, replayable: bool) -> usize {
        let shelf = self.shelf();
        let on_link = |idle: &&Idle| idle.is_usable(now, replayable) && Arc::ptr_eq(idle.connection.link(), link);
        shelf.idle.iter().filter(on_link).count()
    }

    /// Whether there is any connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.shelf().idle.is_empty()
    }

    /// Takes out the connections that have been idle for too long, or that the container has closed.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<Connection> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut shelf = self.shelf();
        let expired =
            shelf.idle.extract_if(.., |idle| !idle.is_usable(now, true) || !idle.connection.is_alive(&mut cx));
        expired.map(|idle| idle.connection).collect()
    }

    /// Takes out all, and takes none in any more.
    pub(crate) fn close(&self) -> Vec<Connection> {
        let mut shelf = self.shelf();
        shelf.closed = true;
        shelf.idle.drain(..).map(|idle| idle.connection).collect()
    }

    fn take(&self, fits: impl Fn(&Idle) -> bool) -> Option<Connection> {
        let mut shelf = self.shelf();
        let index = shelf.idle.iter().rposition(fits)?;
        Some(shelf.idle.remove(index).connection)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
