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
use towline_tunnel::{Workers, placement::StreamKind};

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
/// Idle connections that are kept, an equal part of them for each worker.
const MAX_IDLE: usize = 256;
/// The least of such a part: an agent's first few carriers are read by as many workers at most.
const MIN_IDLE: usize = 64;

/// How long a connection may be kept that says `Keep-Alive: timeout=<seconds>`, or does not.
pub(crate) fn keep_for(advertised_seconds: Option<u64>) -> Duration {
    advertised_seconds.map_or(KEEP, |seconds| Duration::from_secs(seconds.saturating_sub(1)).min(KEEP_AT_MOST))
}

/// The idle connections to one instance, for each worker those that its carriers have: a request mostly finds one that it
/// need not share with other workers' requests.
#[derive(Debug)]
pub(crate) struct Pool {
    shelves: Box<[Place]>,
    /// How many connections each of them keeps.
    max_idle: usize,
}

/// A shelf on cache lines of its own (two of them, as processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    /// In the order of their carriers' addresses in memory.
    stacks: Vec<Stack>,
    /// How many connections there are in all.
    count: usize,
    closed: bool,
    /// The shortest idleness after which the container has closed a connection, and when that was learned. All shelves know it.
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

    /// Takes out those that have been idle for too long, or that the container has closed: for each of these, how long it was idle.
    fn take_expired(&mut self, now: Instant, expired: &mut Vec<Connection>, closed: &mut Vec<Duration>) {
        let mut cx = Context::from_waker(Waker::noop());
        let before = expired.len();
        for Stack { link, idle } in &mut self.stacks {
            let is_retired = link.is_retired();
            let is_over = |idle: &mut Idle| {
                let is_alive = idle.connection.is_alive(&mut cx);
                closed.extend((!is_alive && !is_retired).then(|| now.saturating_duration_since(idle.since)));
                is_retired || !idle.is_usable(now, KEEP_AT_MOST) || !is_alive
            };
            expired.extend(idle.extract_if(.., is_over).map(|idle| *idle.connection));
        }
        self.stacks.retain(|stack| !stack.idle.is_empty());
        self.count -= expired.len() - before;
    }

    /// What was learned long ago is not believed any more.
    fn forget(&mut self, now: Instant) {
        self.shortest.take_if(|(_, learned)| now.saturating_duration_since(*learned) >= REMEMBER);
    }

    fn note_closed(&mut self, idle: Duration, now: Instant) {
        if self.shortest.is_none_or(|(shortest, _)| idle <= shortest) {
            self.shortest = Some((idle, now));
        }
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much a connection is wanted; the greatest is.
type Rank = (bool, (bool, bool), usize, Instant);

impl Shelf {
    /// Where the connection is that a request wants most of those that it wants at all.
    fn first(&self, kind: StreamKind, now: Instant, replayable: bool) -> Option<(Rank, usize)> {
        let limit = self.limit(replayable);
        let usable = self.stacks.iter().enumerate().filter_map(|(index, stack)| {
            let since = stack.newest(now, limit)?;
            let busy = stack.link.busy();
            let load = stack.link.load(now, 1);
            let takes_company = kind == StreamKind::Request && load.takes_company();
            (takes_company || busy == 0).then_some(((takes_company, load.fit_of_threads(), busy, since), index))
        });
        usable.max()
    }
}

impl Pool {
    /// None yet. So many workers read the carriers; 0 when the runtime does.
    pub(crate) fn new(workers: usize) -> Self {
        let shelves: Box<[Place]> = (0..workers.max(1)).map(|_| Place::default()).collect();
        let max_idle = MAX_IDLE.div_ceil(shelves.len()).max(MIN_IDLE);
        Self { shelves, max_idle }
    }

    /// The shelf of what that worker's carriers have.
    fn shelf(&self, worker: Option<usize>) -> MutexGuard<'_, Shelf> {
        self.shelves[worker.unwrap_or(0) % self.shelves.len()].lock()
    }

    fn shelves(&self) -> impl Iterator<Item = MutexGuard<'_, Shelf>> {
        self.shelves.iter().map(Place::lock)
    }

    /// Puts a connection to rest.
    pub(crate) fn put(&self, connection: Box<Connection>, now: Instant) {
        if connection.keep_for.is_zero() {
            return;
        }
        let mut shelf = self.shelf(connection.link().worker());
        if shelf.closed || shelf.count >= self.max_idle {
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
        let mut here = self.shelf(Workers::here());
        // Nobody elsewhere is preferred to company on a carrier that is read here.
        if let Some(((true, (true, _), ..), index)) = here.first(kind, now, replayable) {
            return here.pop(index, now);
        }
        drop(here);
        let first = |place: &Place| place.lock().first(kind, now, replayable);
        let ranks = self.shelves.iter().filter_map(|place| Some((first(place)?.0, place)));
        let (_, place) = ranks.max_by_key(|(rank, _)| *rank)?;
        // Somebody else may have been there meanwhile.
        let mut shelf = place.lock();
        let (_, index) = shelf.first(kind, now, replayable)?;
        shelf.pop(index, now)
    }

    /// Whether there is a connection on this carrier that a request may take.
    pub(crate) fn has_one_on(&self, link: &Arc<CarrierLink>, now: Instant, replayable: bool) -> bool {
        let shelf = self.shelf(link.worker());
        let limit = shelf.limit(replayable);
        shelf.position(link).is_ok_and(|index| shelf.stacks[index].newest(now, limit).is_some())
    }

    /// The newest connection on this carrier.
    pub(crate) fn take_on(&self, link: &Arc<CarrierLink>, now: Instant, replayable: bool) -> Option<Box<Connection>> {
        let mut shelf = self.shelf(link.worker());
        let (index, limit) = (shelf.position(link).ok()?, shelf.limit(replayable));
        shelf.stacks[index].newest(now, limit)?;
        shelf.pop(index, now)
    }

    /// Learns that the container has closed a connection that was idle for so long.
    pub(crate) fn note_closed(&self, idle: Duration, now: Instant) {
        self.shelves().for_each(|mut shelf| shelf.note_closed(idle, now));
    }

    /// Whether there is no connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.shelves().all(|shelf| shelf.count == 0)
    }

    /// Takes out the connections that have been idle for too long, or that the container has closed.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<Connection> {
        let (mut expired, mut closed) = (Vec::new(), Vec::new());
        for mut shelf in self.shelves() {
            shelf.take_expired(now, &mut expired, &mut closed);
        }
        closed.into_iter().for_each(|idle| self.note_closed(idle, now));
        self.shelves().for_each(|mut shelf| shelf.forget(now));
        expired
    }

    /// Takes out all, and takes none in any more.
    pub(crate) fn close(&self) -> Vec<Connection> {
        let close = |mut shelf: MutexGuard<'_, Shelf>| {
            shelf.closed = true;
            shelf.count = 0;
            std::mem::take(&mut shelf.stacks)
        };
        self.shelves().flat_map(close).flat_map(|stack| stack.idle).map(|idle| *idle.connection).collect()
    }
}

#[cfg(test)]
mod tests {
    use towline_model::InstanceId;
    use towline_tunnel::{CarrierConfig, OpenTarget, gateway_carrier};

    use super::*;
    use crate::external::Socket;

    /// A connection on a carrier that is read by the worker that this is called on.
    fn connection() -> Box<Connection> {
        let (io, _peer) = tokio::io::duplex(1024);
        let (carrier, _driver) = gateway_carrier(io, CarrierConfig::default());
        let stream = carrier.open(&OpenTarget::Instance(InstanceId::generate())).unwrap();
        let monitor = stream.monitor();
        let mut used = Arc::new(CarrierLink::new(carrier, false)).begin();
        used.end();
        let mut connection = Connection::new(Socket::Plain(stream), monitor, used, 1024);
        connection.keep_for = KEEP;
        Box::new(connection)
    }

    #[tokio::test]
    async fn each_worker_takes_its_own_first_and_then_what_there_is() {
        let workers = Workers::start(2, Duration::ZERO).unwrap();
        let pool = Arc::new(Pool::new(workers.count()));
        let (handles, now) = ([workers.next(), workers.next()], Instant::now());
        for (handle, count) in handles.iter().zip([1, 2]) {
            let pool = Arc::clone(&pool);
            handle.spawn(async move { (0..count).for_each(|_| pool.put(connection(), now)) }).await.unwrap();
        }
        let take = async |on: usize| {
            let pool = Arc::clone(&pool);
            let taken =
                handles[on].spawn(async move { pool.take_first(StreamKind::Request, now, true) }).await.unwrap();
            taken.map(|connection| connection.link().worker())
        };
        for (on, expected) in [(1, Some(1)), (0, Some(0)), (0, Some(1))] {
            assert_eq!(take(on).await, Some(expected));
        }
        assert!(take(0).await.is_none() && take(1).await.is_none() && pool.is_empty());
    }

    #[tokio::test]
    async fn the_workers_share_what_is_kept_in_all() {
        let pool = Pool::new(4);
        (0..MAX_IDLE).for_each(|_| pool.put(connection(), Instant::now()));
        assert_eq!(pool.close().len(), MAX_IDLE / 4, "all are of one worker");
        pool.put(connection(), Instant::now());
        assert!(pool.is_empty(), "it is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_is_seen_to_close_soon_is_believed_for_a_while() {
        let pool = Pool::new(2);
        let limits = || {
            let [one, other] = [0, 1].map(|worker| [true, false].map(|r| pool.shelf(Some(worker)).limit(r)));
            assert_eq!(one, other, "all workers know");
            one
        };
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
