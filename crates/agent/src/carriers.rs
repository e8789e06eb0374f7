//! Carriers: dialled when the gateway asks, and served until they end.
//!
//! A carrier outlives its session: streams that run go on, and new ones are refused. All carriers of the process are in one
//! [`Carriers`]; the ones of a session are behind its [`SessionCarriers`], whose drop lets them run dry.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_tunnel::{Budget, Carrier, CarrierConfig, CarrierEnd, Workers, agent_carrier, upgrade::ConnectionKind};

use crate::{
    connect::{Dialled, Dialler},
    runtime::Runtime,
    streams::Streams,
};

/// Carriers that are being dialled at a time.
const DIALS_AT_A_TIME: usize = 16;
/// A ticket is good for so long; a dial that has not come through by then is in vain.
const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// What the windows of all streams may grow under, in bytes.
const WINDOW_BUDGET: usize = 64 << 20;

/// Every carrier of the process.
#[derive(Debug)]
pub struct Carriers<R> {
    dialler: Arc<Dialler>,
    streams: Arc<Streams<R>>,
    max_carriers: usize,
    workers: Workers,
    budget: Budget,
    dials: Semaphore,
    tasks: TaskTracker,
    live: Mutex<HashMap<u64, Carrier>>,
    next_id: AtomicU64,
    /// Cancelled when every carrier is to be closed.
    closed: CancellationToken,
    /// Cancelled when none is to take new streams any more.
    draining: CancellationToken,
}

/// Closes every carrier when it is dropped, so that nothing of the agent outlives whoever runs it.
#[derive(Debug)]
pub struct CloseOnDrop<R>(pub Arc<Carriers<R>>);

impl<R> Drop for CloseOnDrop<R> {
    fn drop(&mut self) {
        self.0.cut();
    }
}

impl<R: Runtime> Carriers<R> {
    /// No carriers yet.
    pub fn new(dialler: Arc<Dialler>, streams: Arc<Streams<R>>, max_carriers: usize, workers: Workers) -> Self {
        let closed = CancellationToken::new();
        Self {
            dialler,
            streams,
            max_carriers,
            workers,
            budget: Budget::new(WINDOW_BUDGET),
            dials: Semaphore::new(DIALS_AT_A_TIME),
            tasks: TaskTracker::new(),
            live: Mutex::default(),
            next_id: AtomicU64::new(0),
            draining: closed.child_token(),
            closed,
        }
    }

    /// Starts the set of one session.
    pub fn for_session(self: &Arc<Self>) -> SessionCarriers<R> {
        SessionCarriers {
            carriers: Arc::clone(self),
            count: Arc::default(),
            own: Arc::default(),
            ended: self.draining.child_token(),
        }
    }

    /// No new streams on any carrier; those that run may finish until the deadline. Then everything may be closed.
    ///
    /// A carrier has run dry only when the gateway has heard that, and has got what was sent last: until then it opens
    /// streams, and a request on one that is closed before it was refused would be lost.
    pub async fn drain(&self, deadline: Duration) {
        // In this order: a carrier that enters between the two sees that it takes no streams.
        self.draining.cancel();
        for carrier in self.live().values() {
            carrier.go_away();
        }
        self.streams.close();
        self.tasks.close();
        let run_dry = async {
            self.streams.finished().await;
            self.tasks.wait().await;
        };
        if timeout(deadline, run_dry).await.is_err() {
            let (streams, carriers) = (self.streams.count(), self.live().len());
            tracing::warn!(streams, carriers, "what still runs at the deadline is cut");
        }
    }

    /// Closes every carrier and waits for the tasks to end.
    pub async fn close(&self) {
        self.cut();
        self.tasks.close();
        self.tasks.wait().await;
        self.streams.close();
        self.streams.finished().await;
    }

    async fn dial(&self, ticket: &str, asked_at: Instant) -> Option<Dialled> {
        let dial = async {
            let _turn = self.dials.acquire().await.expect("the semaphore is never closed");
            self.dialler.dial(ConnectionKind::Carrier, ticket).await
        };
        match timeout(TICKET_LIFETIME.saturating_sub(asked_at.elapsed()), dial).await {
            Ok(Ok(dialled)) => Some(dialled),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a carrier could not be dialled");
                None
            }
            Err(_) => {
                tracing::warn!("a carrier could not be dialled within its ticket's life");
                None
            }
        }
    }
}

impl<R> Carriers<R> {
    /// Closes every carrier and gives up every dial. Waits for nothing.
    fn cut(&self) {
        // In this order: a carrier that enters between the two sees that it is not wanted.
        self.closed.cancel();
        for carrier in self.live().values() {
            carrier.close();
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Carrier>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The carriers of one session. Dropped, dials are given up, and its carriers take no new streams.
#[derive(Debug)]
pub struct SessionCarriers<R> {
    carriers: Arc<Carriers<R>>,
    /// Carriers that live or are being dialled.
    count: Arc<AtomicUsize>,
    own: Arc<Mutex<HashMap<u64, Carrier>>>,
    ended: CancellationToken,
}

impl<R: Runtime> SessionCarriers<R> {
    /// Dials one carrier for each ticket, as far as the limit allows. Does not wait.
    pub fn dial(&self, tickets: Vec<String>) {
        for ticket in tickets {
            let Some(seat) = Seat::take(&self.count, self.carriers.max_carriers) else {
                tracing::debug!(
                    limit = self.carriers.max_carriers,
                    "the gateway asks for more carriers than the limit"
                );
                return;
            };
            let (carriers, own, ended) = (Arc::clone(&self.carriers), Arc::clone(&self.own), self.ended.clone());
            let asked_at = Instant::now();
            let carrying = async move {
                let dialled = ended.run_until_cancelled(carriers.dial(&ticket, asked_at)).await;
                if let Some(Some(dialled)) = dialled {
                    serve(&carriers, dialled, &own, &ended).await;
                }
                drop(seat);
            };
            self.carriers.tasks.spawn_on(carrying, &self.carriers.workers.next());
        }
    }
}

impl<R> Drop for SessionCarriers<R> {
    fn drop(&mut self) {
        // In this order: a carrier that enters between the two sees that the session has ended.
        self.ended.cancel();
        for carrier in self.own.lock().unwrap_or_else(PoisonError::into_inner).values() {
            carrier.go_away();
        }
    }
}

/// Serves one carrier until its connection ends. It takes no new streams when it is about to be cut on its way.
async fn serve<R: Runtime>(
    carriers: &Arc<Carriers<R>>,
    Dialled { transport, rung, at }: Dialled,
    own: &Mutex<HashMap<u64, Carrier>>,
    ended: &CancellationToken,
) {
    let config = CarrierConfig { budget: carriers.budget.clone(), ..CarrierConfig::default() };
    let (carrier, mut incoming, driver) = agent_carrier(transport, config);
    let id = carriers.next_id.fetch_add(1, Ordering::Relaxed);
    carriers.live().insert(id, carrier.clone());
    own.lock().unwrap_or_else(PoisonError::into_inner).insert(id, carrier.clone());
    if carriers.closed.is_cancelled() {
        carrier.close();
    } else if ended.is_cancelled() {
        carrier.go_away();
    }
    // The driver has a task of its own: it is awake for every read, the loop below only for new streams.
    let driver = carriers.tasks.spawn(driver.run());
    let lifetimes = carriers.dialler.lifetimes();
    let mut is_old = pin!(lifetimes.wait_until_old(rung, at).fuse());
    loop {
        tokio::select! {
            stream = incoming.next() => match stream {
                Some(stream) => carriers.streams.serve(stream),
                None => break,
            },
            () = &mut is_old => carrier.go_away(),
        }
    }
    own.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    carriers.live().remove(&id);
    let end = carrier.closed().await;
    let _ = driver.await;
    if matches!(end, CarrierEnd::PeerClosed | CarrierEnd::Io(_)) {
        lifetimes.note_cut(rung, at, Instant::now());
    }
    tracing::debug!(carrier = id, %end, "carrier ended");
}

/// A place among the carriers of a session; given back on drop.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let taken =
            count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < limit).then_some(count + 1));
        taken.ok().map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
