//! One accepted session and its carriers, as seen from outside its task.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use towline_model::{AgentId, InstanceId, KeyHash, SessionId, Timestamp};
use towline_tunnel::{
    Carrier, OpenTarget, TunnelStream,
    message::Desired,
    placement::{CarrierLoad, Placement, PlacementLimits, StreamKind, plan_growth, plan_placement, plan_retirement},
};

use super::{
    link::{CarrierLink, LinkUse},
    slot::AgentSlot,
};
use crate::{lifetime::Lifetime, pool::Pool, upstream::Connection};

/// How long a ticket for a carrier may be used.
const TICKET_LIFETIME: Duration = Duration::from_secs(30);

/// An accepted session.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: SessionId,
    /// The place of its agent.
    pub slot: Arc<AgentSlot>,
    /// When it was accepted.
    pub since: Timestamp,
    /// Everything that the agent should run; the newest is sent.
    pub desired: watch::Sender<Option<Arc<Desired>>>,
    /// Asks the session's task to look whether more carriers are needed.
    pub grow: Notify,
    /// Ends the session's task, and with it the session.
    pub end: CancellationToken,
    /// How long the key can be used that it came with. Its carriers end then, also those that outlive it.
    pub key: Lifetime,
    limits: PlacementLimits,
    carriers: Mutex<Carriers>,
}

#[derive(Debug, Default)]
struct Carriers {
    links: Vec<Arc<CarrierLink>>,
    /// Tickets that were given out, by their hash, and when each expires.
    tickets: HashMap<KeyHash, Instant>,
    /// Carriers whose ticket was redeemed and that are being set up.
    arriving: usize,
    ended: bool,
}

/// What a stream is wanted for.
pub(crate) struct Wanted<'a> {
    pub instance: InstanceId,
    /// The instance's idle connections, when one of them would do.
    pub pool: Option<&'a Pool>,
    /// Whether the request may be sent again when a connection turns out to be closed.
    pub replayable: bool,
    pub kind: StreamKind,
}

/// A way to an instance.
pub(crate) enum Way {
    /// A connection that was idle.
    Idle(Box<Connection>),
    /// A new stream.
    New(TunnelStream, LinkUse),
}

/// A carrier that is being set up; counted as on its way until dropped.
#[derive(Debug)]
pub(crate) struct Arriving(Arc<Session>);

impl Session {
    pub(crate) fn new(id: SessionId, slot: Arc<AgentSlot>, since: Timestamp, limits: PlacementLimits) -> Self {
        Self {
            id,
            slot,
            since,
            desired: watch::Sender::new(None),
            grow: Notify::new(),
            end: CancellationToken::new(),
            key: Lifetime::default(),
            limits,
            carriers: Mutex::default(),
        }
    }

    /// The same, as long as a key can be used.
    pub(crate) fn under(mut self, key: Lifetime) -> Self {
        self.key = key;
        self
    }

    /// Whose session it is.
    pub(crate) fn agent_id(&self) -> AgentId {
        self.slot.id
    }

    /// Finds a way to an instance on one of the carriers. `None` when none of them takes it now.
    pub(crate) fn place(&self, wanted: &Wanted<'_>, now: Instant) -> Option<Way> {
        let carriers = self.carriers();
        let has_idle = |link| wanted.pool.is_some_and(|pool| pool.has_one_on(link, now, wanted.replayable));
        let mut loads: Vec<CarrierLoad> =
            carriers.links.iter().map(|link| link.load(now, usize::from(has_idle(link)))).collect();
        let way = loop {
            match plan_placement(&loads, wanted.kind, &self.limits) {
                Placement::Reuse(index) => {
                    let take = |pool: &Pool| pool.take_on(&carriers.links[index], now, wanted.replayable);
                    if let Some(idle) = wanted.pool.and_then(take) {
                        break Some(Way::Idle(idle));
                    }
                    // Somebody else has taken it meanwhile.
                    loads[index].reusable_connections = 0;
                }
                Placement::Open(index) => {
                    loads[index].busy_streams += 1;
                    break Self::open(&carriers.links[index], wanted);
                }
                Placement::Unavailable => break None,
            }
        };
        if plan_growth(&loads, carriers.pending(now), &self.limits) > 0 {
            self.grow.notify_one();
        }
        way
    }

    fn open(link: &Arc<CarrierLink>, wanted: &Wanted<'_>) -> Option<Way> {
        let mut busy = link.begin();
        if wanted.kind == StreamKind::LongLived {
            busy.mark_long_lived();
        }
        let stream = link.carrier().open(&OpenTarget::Instance(wanted.instance)).ok()?;
        if wanted.kind == StreamKind::Request {
            stream.set_keep_alive();
        }
        Some(Way::New(stream, busy))
    }

    /// Opens a stream that is not a connection to an instance.
    pub(crate) fn open_target(&self, target: &OpenTarget, now: Instant) -> Option<(TunnelStream, LinkUse)> {
        let carriers = self.carriers();
        let loads: Vec<CarrierLoad> = carriers.links.iter().map(|link| link.load(now, 0)).collect();
        let (Placement::Open(index) | Placement::Reuse(index)) =
            plan_placement(&loads, StreamKind::LongLived, &self.limits)
        else {
            return None;
        };
        let link = &carriers.links[index];
        let mut busy = link.begin();
        busy.mark_long_lived();
        let stream = link.carrier().open(target).ok()?;
        Some((stream, busy))
    }

    /// Tickets for the carriers that are needed now; often none.
    pub(crate) fn issue_tickets(&self, now: Instant) -> Vec<String> {
        let mut carriers = self.carriers();
        carriers.tickets.retain(|_, expiry| *expiry > now);
        if carriers.ended {
            return Vec::new();
        }
        let loads: Vec<CarrierLoad> = carriers.links.iter().map(|link| link.load(now, 0)).collect();
        let count = plan_growth(&loads, carriers.pending(now), &self.limits);
        let issue = |_| {
            let ticket = format!("{}.{}", self.id, URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
            carriers.tickets.insert(KeyHash::of(&ticket), now + TICKET_LIFETIME);
            ticket
        };
        (0..count).map(issue).collect()
    }

    /// Takes a ticket back, once, in its time.
    pub(crate) fn redeem(self: &Arc<Self>, ticket: &str, now: Instant) -> Option<Arriving> {
        let mut carriers = self.carriers();
        let expiry = carriers.tickets.remove(&KeyHash::of(ticket))?;
        if expiry <= now || carriers.ended {
            return None;
        }
        carriers.arriving += 1;
        Some(Arriving(Arc::clone(self)))
    }

    /// Gives up carriers that have not been needed for long, and those that the agent gives up: what still runs on them is
    /// finished, and their idle connections are used no more.
    pub(crate) fn retire_idle(&self, now: Instant) {
        let carriers = self.carriers();
        carriers.links.iter().filter(|link| !link.is_retired() && link.is_going_away()).for_each(|link| link.retire());
        let loads: Vec<CarrierLoad> = carriers.links.iter().map(|link| link.load(now, 0)).collect();
        for index in plan_retirement(&loads, &self.limits) {
            carriers.links[index].retire();
        }
    }

    /// No new streams from now on; those that run are finished.
    pub(crate) fn go_away(&self) {
        for link in self.end_carriers() {
            link.retire();
        }
    }

    /// Ends every stream at once.
    pub(crate) fn cut(&self) {
        for link in self.end_carriers() {
            link.cut();
        }
    }

    /// How many carriers there are.
    pub(crate) fn carrier_count(&self) -> usize {
        self.carriers().links.len()
    }

    pub(crate) fn remove(&self, link: &Arc<CarrierLink>) {
        self.carriers().links.retain(|other| !Arc::ptr_eq(other, link));
        self.grow.notify_one();
    }

    fn end_carriers(&self) -> Vec<Arc<CarrierLink>> {
        let mut carriers = self.carriers();
        carriers.ended = true;
        carriers.tickets.clear();
        carriers.links.clone()
    }

    fn carriers(&self) -> MutexGuard<'_, Carriers> {
        self.carriers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carriers {
    /// Carriers that are on their way.
    fn pending(&self, now: Instant) -> usize {
        self.arriving + self.tickets.values().filter(|expiry| **expiry > now).count()
    }
}

impl Arriving {
    /// The carrier is there. This worker reads it; it is paired with the agent's worker that does, or not. `None` when the
    /// session has ended meanwhile; the carrier is then not wanted.
    pub(crate) fn arrive(self, carrier: Carrier, is_paired: bool) -> Option<(Arc<Session>, Arc<CarrierLink>)> {
        let session = Arc::clone(&self.0);
        let mut carriers = session.carriers();
        if carriers.ended {
            return None;
        }
        let link = Arc::new(CarrierLink::new(carrier, is_paired));
        carriers.links.push(Arc::clone(&link));
        drop(carriers);
        session.slot.note_change();
        Some((session, link))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.carriers().arriving -= 1;
    }
}
