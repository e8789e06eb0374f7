//! Streams inside one carrier, without any I/O: frames go in, frames come out, and time is an argument.
//!
//! * [`Mux`] itself: opening and accepting, liveness, GOAWAY, the end; here.
//! * What the application does with a stream: `app`. What comes in: `input`. What goes out: `output`.
//!
//! Flow control is by stream only. There is no window for the connection, because streams that nobody reads would use it
//! up and stop all others. The price is memory, and that is bounded: see [`MuxConfig`].
//!
//! Nothing in here waits. What cannot be done now notes a waker and returns `Pending`; who is to be woken is handed out by
//! [`Mux::take_wakes`].

mod app;
pub(crate) mod flood;
mod input;
pub(crate) mod liveness;
pub mod outbox;
mod output;
mod recv;
mod stream;
mod wakes;
mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::BytesMut;

pub use self::{app::ReadOutcome, output::BATCH, wakes::Wakes, watch::Watch};
use self::{
    flood::FloodGuard,
    liveness::{Liveness, Verdict},
    recv::RecvHalf,
    stream::{Opening, Stream},
};
use crate::{
    budget::Budget,
    end::{CarrierEnd, Refused, ResetCode, StreamEnd},
    frame::MAX_STREAM_ID,
    target::OpenTarget,
};

/// The first window of every stream in both directions, in bytes: a part of the protocol.
pub const INITIAL_WINDOW: u32 = 64 << 10;
/// Bytes of one stream that may wait to be sent.
pub const SEND_QUEUE: usize = 64 << 10;
/// The most credit that a peer may give on one stream, in bytes.
pub const MAX_CREDIT: u64 = 1 << 30;
/// A stream that has written so often while no other did is the only one at work.
const ALONE_AFTER: u32 = 3;
/// PONGs that may wait to be sent.
const MAX_PONGS: usize = 32;

/// Which side of a carrier this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Gateway,
    /// Accepts streams.
    Agent,
}

/// How a multiplexer behaves.
///
/// Memory of one stream, at most: [`SEND_QUEUE`] to be sent; 64 KiB received, or up to `max_window` as far as the budget
/// goes; four read buffers of the carrier, which its last large frames may keep alive; and less than a KiB of state.
#[derive(Debug, Clone)]
pub struct MuxConfig {
    /// Which side this is.
    pub side: Side,
    /// The first window in bytes. [`INITIAL_WINDOW`] on every real carrier; simulations try smaller ones.
    pub initial_window: u32,
    /// The largest receive window, in bytes.
    pub max_window: u32,
    /// The most streams on the wire at a time.
    pub max_streams: u32,
    /// Bytes of one stream that may wait to be sent. [`SEND_QUEUE`] on every real carrier.
    pub send_queue: usize,
    /// Silence after which the peer is asked for a sign of life.
    pub ping_interval: Duration,
    /// Silence after that which ends the carrier.
    pub ping_timeout: Duration,
    /// What windows grow under.
    pub budget: Budget,
}

/// Why a stream cannot be opened on a carrier. Nothing was sent, so another carrier may be tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// GOAWAY was said by either side, or the carrier has had all the streams it can have.
    #[error("the carrier takes no new streams")]
    Draining,
    /// As many streams are open as are allowed, or the connection does not take what waits to be sent.
    #[error("the carrier has as many streams as it may have")]
    Limit,
    /// The carrier has ended.
    #[error("the carrier has ended: {0}")]
    Closed(CarrierEnd),
}

/// Frames that go before all data, in the order in which they were caused.
#[derive(Debug)]
enum Control {
    Open(u32),
    Opened(u32),
    Refused(u32, Refused),
    Window(u32),
    Rst { stream: u32, code: ResetCode, delivered: u64 },
    Ping(u64),
    Pong(u64),
    GoAway { code: u16, message: String },
}

/// All streams of one carrier.
#[derive(Debug)]
pub struct Mux {
    config: MuxConfig,
    /// Streams that are on the wire, in the application's hands, or both. Ids are never used again.
    streams: BTreeMap<u32, Stream>,
    /// How many of them are on the wire.
    on_wire: u32,
    /// Gateway: the last id given. Agent: the last id seen.
    last_id: u32,
    control: VecDeque<Control>,
    pongs_queued: usize,
    /// Streams that have something to send, in turn.
    line: VecDeque<u32>,
    /// Agent: streams that the application has not looked at yet.
    arrivals: VecDeque<u32>,
    arrival_waker: Option<Waker>,
    queued_bytes: usize,
    /// The stream that wrote last, and how often it did since another one did.
    last_writer: u32,
    writes_in_a_row: u32,
    goaway_sent: bool,
    goaway_received: bool,
    flood: FloodGuard,
    liveness: Liveness,
    /// Answered PINGs: number and round-trip time.
    answers: Vec<(u64, Duration)>,
    idle_since: Instant,
    /// The latest time that anybody has told.
    clock: Instant,
    wakes: Wakes,
    end: Option<CarrierEnd>,
}

impl Mux {
    /// A new carrier's multiplexer. It starts with a PING, to know the round-trip time before it is needed.
    #[must_use]
    pub fn new(config: MuxConfig, now: Instant) -> Self {
        let liveness = Liveness::new(config.ping_interval, config.ping_timeout, now);
        let mut mux = Self {
            config,
            streams: BTreeMap::new(),
            on_wire: 0,
            last_id: 0,
            control: VecDeque::new(),
            pongs_queued: 0,
            line: VecDeque::new(),
            arrivals: VecDeque::new(),
            arrival_waker: None,
            queued_bytes: 0,
            last_writer: 0,
            writes_in_a_row: 0,
            goaway_sent: false,
            goaway_received: false,
            flood: FloodGuard::new(now),
            liveness,
            answers: Vec::new(),
            idle_since: now,
            clock: now,
            wakes: Wakes::default(),
            end: None,
        };
        mux.ping(now);
        mux
    }

    /// Gateway: opens a stream and gives its id. OPEN leaves with the next [`Mux::transmit`].
    ///
    /// # Errors
    /// When the carrier takes no new streams.
    pub fn open(&mut self, target: &OpenTarget) -> Result<u32, OpenError> {
        debug_assert_eq!(self.config.side, Side::Gateway, "agents accept streams");
        if let Some(end) = &self.end {
            return Err(OpenError::Closed(end.clone()));
        }
        if !self.takes_streams() {
            return Err(OpenError::Draining);
        }
        if self.on_wire >= self.config.max_streams || self.control.len() >= self.most_control() {
            return Err(OpenError::Limit);
        }
        let mut payload = BytesMut::new();
        target.encode(&mut payload);
        self.last_id += 1;
        self.insert(self.last_id, Opening::Queued(payload.freeze()));
        self.control.push_back(Control::Open(self.last_id));
        if self.last_id == MAX_STREAM_ID {
            self.go_away();
        }
        Ok(self.last_id)
    }

    fn insert(&mut self, id: u32, opening: Opening) {
        let recv = RecvHalf::new(self.config.initial_window, self.config.max_window, self.config.budget.clone());
        self.streams.insert(id, Stream::new(opening, recv, self.config.initial_window));
        self.on_wire += 1;
    }

    /// Agent: the next stream that waits to be accepted or refused.
    pub fn poll_arrival(&mut self, waker: &Waker) -> Poll<Option<(u32, OpenTarget)>> {
        while let Some((id, target)) = self.next_arrival() {
            // The gateway may have given it up meanwhile; then nobody needs to hear of it.
            match self.streams.get(&id) {
                Some(stream) if stream.on_wire() => return Poll::Ready(Some((id, target))),
                _ => self.forget(id),
            }
        }
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        self.wakes.wait(&mut self.arrival_waker, waker);
        Poll::Pending
    }

    fn next_arrival(&mut self) -> Option<(u32, OpenTarget)> {
        let id = self.arrivals.pop_front()?;
        let target = self.streams.get_mut(&id).and_then(|stream| match &mut stream.opening {
            Opening::Pending(target) => target.take(),
            _ => None,
        })?;
        Some((id, target))
    }

    /// Streams that the carrier knows, also those that only wait for their last frames or for their handle to be dropped.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Bytes of all streams that wait to be sent.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// When the last stream was forgotten, or the carrier was made.
    #[must_use]
    pub const fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// When bytes last came in.
    #[must_use]
    pub const fn last_received(&self) -> Instant {
        self.liveness.last_received()
    }

    /// The round-trip time, if it was measured.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.liveness.rtt()
    }

    /// The shortest round-trip time so far, if one was measured.
    #[must_use]
    pub const fn shortest_rtt(&self) -> Option<Duration> {
        self.liveness.shortest_rtt()
    }

    /// Whether streams take turns in writing: then another one is likely to write soon.
    #[must_use]
    pub const fn has_company(&self) -> bool {
        self.on_wire > 1 && self.writes_in_a_row < ALONE_AFTER
    }

    /// Frames that wait to be sent, as far as they are known: one for each stream with data, and all others.
    #[must_use]
    pub fn queued_frames(&self) -> usize {
        self.line.len() + self.control.len()
    }

    /// Whether new streams are possible as far as GOAWAY, the end and the supply of ids go.
    #[must_use]
    pub const fn takes_streams(&self) -> bool {
        self.end.is_none() && !self.goaway_sent && !self.goaway_received && self.last_id < MAX_STREAM_ID
    }

    /// Whether [`Mux::open`] would succeed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.takes_streams() && self.on_wire < self.config.max_streams && self.control.len() < self.most_control()
    }

    /// What a stream looks like from outside.
    #[must_use]
    pub fn watch(&self, id: u32) -> Option<Arc<Watch>> {
        self.streams.get(&id).map(|stream| Arc::clone(&stream.watch))
    }

    /// Queues a PING and gives its number; [`Mux::take_answers`] has it when the answer is there.
    pub fn ping(&mut self, now: Instant) -> u64 {
        let (number, new) = self.liveness.ask(now);
        if new {
            self.control.push_back(Control::Ping(number));
        }
        number
    }

    /// PINGs that were answered since the last call.
    pub fn take_answers(&mut self) -> Vec<(u64, Duration)> {
        std::mem::take(&mut self.answers)
    }

    /// Bytes have come in: the peer is alive.
    pub fn received(&mut self, now: Instant) {
        self.liveness.received(now);
    }

    /// When [`Mux::handle_timeout`] should be called.
    #[must_use]
    pub fn timeout(&self) -> Instant {
        self.liveness.deadline()
    }

    /// Does what is due. May be called at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.liveness.check(now) {
            Verdict::Alive => {}
            Verdict::Ask => {
                self.ping(now);
            }
            Verdict::Dead => self.finish(CarrierEnd::PingTimeout),
        }
    }

    /// No new streams: tells the peer, once.
    pub fn go_away(&mut self) {
        if !self.goaway_sent && self.end.is_none() {
            self.goaway_sent = true;
            self.control.push_back(Control::GoAway { code: 0, message: String::new() });
        }
    }

    /// Whether both sides have said GOAWAY, no stream is on the wire, and nothing waits to be sent.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.goaway_sent && self.goaway_received && self.on_wire == 0 && !self.has_output()
    }

    /// Ends the carrier and all its streams. The first end stays. If the peer is to be told why, that is queued.
    pub fn finish(&mut self, end: CarrierEnd) {
        if self.end.is_some() {
            return;
        }
        self.control.clear();
        match &end {
            CarrierEnd::Protocol(error) => {
                self.control.push_back(Control::GoAway { code: error.to_wire(), message: error.to_string() });
            }
            CarrierEnd::Closed if !self.goaway_sent => {
                self.control.push_back(Control::GoAway { code: 0, message: String::new() });
            }
            _ => {}
        }
        self.end = Some(end.clone());
        self.line.clear();
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.take_off_wire(id, StreamEnd::CarrierLost(end.clone()));
        }
        self.wakes.task(&mut self.arrival_waker);
    }

    /// How the carrier ended.
    #[must_use]
    pub const fn end(&self) -> Option<&CarrierEnd> {
        self.end.as_ref()
    }

    /// Who is to be woken because of what has happened.
    pub fn take_wakes(&mut self) -> Wakes {
        std::mem::take(&mut self.wakes)
    }

    /// Frames other than data that may wait to be sent.
    const fn most_control(&self) -> usize {
        (self.config.max_streams as usize).saturating_mul(4).saturating_add(256)
    }

    /// The stream is no longer on the wire. It is forgotten if its handle is gone as well.
    fn take_off_wire(&mut self, id: u32, end: StreamEnd) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.on_wire() {
            return;
        }
        self.on_wire -= 1;
        self.queued_bytes -= stream.send.close();
        // What the peer may still send before it hears of this.
        let late = if stream.recv.fin { 0 } else { stream.recv.open_credit() };
        self.flood.stream_ended(late);
        // After FIN what has arrived is all there is, and the reader must not take less for the whole.
        if output::discards_unread(&end) && !stream.recv.fin {
            stream.recv.discard();
        }
        stream.recv.finish();
        stream.watch.set_end(end.clone());
        stream.end = Some(end);
        self.wakes.ended(&stream.watch);
        self.wakes.task(&mut stream.send.waker);
        let mut reader = stream.tell_reader();
        self.wakes.task(&mut reader);
        self.wakes.task(&mut stream.open_waker);
        if stream.released {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u32) {
        self.streams.remove(&id);
        if self.streams.is_empty() {
            self.idle_since = self.clock;
        }
    }
}

#[cfg(test)]
mod tests {
    use towline_model::InstanceId;

    use super::*;

    #[test]
    fn a_carrier_whose_ids_are_used_up_takes_no_more_streams() {
        let config = MuxConfig {
            side: Side::Gateway,
            initial_window: INITIAL_WINDOW,
            max_window: INITIAL_WINDOW,
            max_streams: 10,
            send_queue: SEND_QUEUE,
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(1),
            budget: Budget::new(0),
        };
        let mut mux = Mux::new(config, Instant::now());
        mux.last_id = MAX_STREAM_ID - 1;
        let target = OpenTarget::Instance(InstanceId::generate());
        assert_eq!(mux.open(&target), Ok(MAX_STREAM_ID));
        assert_eq!(mux.open(&target), Err(OpenError::Draining));
        assert!(mux.goaway_sent);
    }
}
