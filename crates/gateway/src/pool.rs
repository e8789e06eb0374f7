//! Idle connections to one instance. The newest is used first, so that a burst's connections grow old and go.
//!
//! They lie in one stack for each carrier, because that is how they are asked for: a search through all of them for each
//! carrier was a quarter of the gateway's time with 256 callers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;
use towline_tunnel::placement::StreamKind;

use crate::{agents::link::CarrierLink, upstream::Connection};

/// How long a connection is kept when the container does not say how long it keeps it. Node.js closes after 5 s.
const KEEP: Duration = Duration::from_secs(4);
/// The longest that one is kept, whatever the container says.
const KEEP_AT_MOST: Duration = Duration::from_secs(60);
/// A request that must not be sent twice only takes a connection that was used as recently as this, so that the
/// container cannot be about to close it. One that is seen to close them sooner gets such requests on connections that were
/// idle for half as long as that at most.
const FRESH: Duration = Duration::from_secs(1);
/// How long it counts that a container has closed a connection so soon: it may run with other settings by then.
const REMEMBER: Duration = Duration::from_secs(600);
/// Idle connections that are kept.
const MAX_IDLE: usize = 256;

/// How long a connection may be kept that says `Keep-Alive: timeout=<seconds>`, or does not.
pub(crate) fn keep_for(advertised_seconds: Option<u64>) -> Duration {
    advertised_seconds.map_or(KEEP, |seconds| Duration::from_secs(seconds.saturating_sub(1)).min(KEEP_AT_MOST))
}

/// The idle connections to one instance.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Shelf>);

/// The content of a pool, while nobody else can change it.
pub(crate) struct Locked<'a>(MutexGuard<'a, Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    /// In the order of their carriers' addresses in memory.
    stacks: Vec<Stack>,
    /// How many connections there are in all.
    count: usize,
    closed: bool,
    /// The shortest idleness after which the container has closed a connection, and when that was learned.
    shortest: Option<(Duration, Instant)>,
}

/// The idle connections on one carrier, the newest last. It may be empty for a while.
#[derive(Debug)]
struct Stack {
    link: Arc<CarrierLink>,
    idle: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Idle {
    /// Whether it was idle for less than `limit`, and less than it may be kept.
    fn is_usable(&self, now: Instant, limit: Duration) -> bool {
        now.saturating_duration_since(self.since) < self.connection.keep_for.min(limit)
    }
}

impl Stack {
    /// When the newest was put to rest, if it may be taken. Those below it are older, and not looked at.
    fn newest(&self, now: Instant, limit: Duration) -> Option<Instant> {
        let idle = self.idle.last().filter(|idle| idle.is_usable(now, limit))?;
        (!self.link.is_retired()).then_some(idle.since)
    }
}

impl Shelf {
    fn position(&self, link: &Arc<CarrierLink>) -> Result<usize, usize> {
        self.stacks.binary_search_by_key(&Arc::as_ptr(link), |stack| Arc::as_ptr(&stack.link))
    }

    fn pop(&mut self, index: usize, now: Instant) -> Option<Box<Connection>> {
        let Idle { mut connection, since } = self.stacks.get_mut(index)?.idle.pop()?;
        connection.idle_for = Some(now.saturating_duration_since(since));
        self.count -= 1;
        Some(connection)
    }

    /// For how long a connection may have been idle that a request takes.
    fn limit(&self, replayable: bool) -> Duration {
        match self.shortest {
            _ if replayable => KEEP_AT_MOST,
            Some((shortest, _)) => FRESH.min(shortest / 2),
            None => FRESH,
        }
    }

    fn note_closed(&mut self, idle: Duration, now: Instant) {
        if self.shortest.is_none_or(|(shortest, _)| idle <= shortest) {
            self.shortest = Some((idle, now));
        }
    }
}

impl Locked<'_> {
    /// Whether there is a connection on this carrier that a request may take.
    pub(crate) fn has_one_on(&self, link: &Arc<CarrierLink>, now: Instant, replayable: bool) -> bool {
        let limit = self.0.limit(replayable);
        self.0.position(link).is_ok_and(|index| self.0.stacks[index].newest(now, limit).is_some())
    }

    /// The newest connection on this carrier.
    pub(crate) fn take_on(
        &mut self,
        link: &Arc<CarrierLink>,
        now: Instant,
        replayable: bool,
    ) -> Option<Box<Connection>> {
        let index = self.0.position(link).ok()?;
        self.0.stacks[index].newest(now, self.0.limit(replayable))?;
        self.0.pop(index, now)
    }
}

impl Pool {
    /// Puts a connection to rest.
    pub(crate) fn put(&self, connection: Box<Connection>, now: Instant) {
        if connection.keep_for.is_zero() {
            return;
        }
        let mut shelf = self.shelf();
        if shelf.closed || shelf.count >= MAX_IDLE {
            return;
        }
        let index = shelf.position(connection.link()).unwrap_or_else(|index| {
            let stack = Stack { link: Arc::clone(connection.link()), idle: Vec::new() };
            shelf.stacks.insert(index, stack);
            index
        });
        shelf.stacks[index].idle.push(Idle { connection, since: now });
        shelf.count += 1;
    }

    /// A connection where the planning of placements would look first, found without looking at all carriers: for a request
    /// one on the near carrier with the most company, here and paired before others, else the newest on a carrier that nobody is using.
    pub(crate) fn take_first(&self, kind: StreamKind, now: Instant, replayable: bool) -> Option<Box<Connection>> {
        let mut shelf = self.shelf();
        let limit = shelf.limit(replayable);
        let usable = shelf.stacks.iter().enumerate().filter_map(|(index, stack)| {
            let since = stack.newest(now, limit)?;
            let busy = stack.link.busy();
            let load = stack.link.load(now, 1);
            let takes_company = kind == StreamKind::Request && load.takes_company();
            (takes_company || busy == 0).then_some((takes_company, load.fit_of_threads(), busy, since, index))
        });
        let (.., index) = usable.max()?;
        shelf.pop(index, now)
    }

    /// Learns that the container has closed a connection that was idle for so long.
    pub(crate) fn note_closed(&self, idle: Duration, now: Instant) {
        self.shelf().note_closed(idle, now);
    }

    /// Looks at all of them. Whoever holds this keeps others from putting connections here and taking them.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked(self.shelf())
    }

    /// Whether there is any connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.shelf().count == 0
    }

    /// Takes out the connections that have been idle for too long, or that the container has closed.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<Connection> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut shelf = self.shelf();
        let (mut expired, mut closed) = (Vec::new(), Vec::new());
        for Stack { link, idle } in &mut shelf.stacks {
            let is_retired = link.is_retired();
            let is_over = |idle: &mut Idle| {
                let is_alive = idle.connection.is_alive(&mut cx);
                closed.extend((!is_alive && !is_retired).then(|| now.saturating_duration_since(idle.since)));
                is_retired || !idle.is_usable(now, KEEP_AT_MOST) || !is_alive
            };
            expired.extend(idle.extract_if(.., is_over).map(|idle| *idle.connection));
        }
        shelf.stacks.retain(|stack| !stack.idle.is_empty());
        shelf.count -= expired.len();
        closed.into_iter().for_each(|idle| shelf.note_closed(idle, now));
        shelf.shortest.take_if(|(_, learned)| now.saturating_duration_since(*learned) >= REMEMBER);
        expired
    }

    /// Takes out all, and takes none in any more.
    pub(crate) fn close(&self) -> Vec<Connection> {
        let mut shelf = self.shelf();
        shelf.closed = true;
        shelf.count = 0;
        shelf.stacks.drain(..).flat_map(|stack| stack.idle).map(|idle| *idle.connection).collect()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_container_that_is_seen_to_close_soon_is_believed_for_a_while() {
        let pool = Pool::default();
        let limits = || [true, false].map(|replayable| pool.shelf().limit(replayable));
        let note = |idle| pool.note_closed(Duration::from_millis(idle), Instant::now());
        assert_eq!(limits(), [KEEP_AT_MOST, FRESH]);
        // An ordinary keep-alive changes nothing.
        note(5000);
        assert_eq!(limits(), [KEEP_AT_MOST, FRESH]);
        note(300);
        note(800);
        assert_eq!(limits(), [KEEP_AT_MOST, Duration::from_millis(150)]);
        tokio::time::advance(REMEMBER - Duration::from_secs(1)).await;
        assert!(pool.take_expired(Instant::now()).is_empty());
        assert_eq!(limits(), [KEEP_AT_MOST, Duration::from_millis(150)]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(pool.take_expired(Instant::now()).is_empty());
        assert_eq!(limits(), [KEEP_AT_MOST, FRESH]);
    }
}
