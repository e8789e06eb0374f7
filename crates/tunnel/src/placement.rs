//! Which carrier a stream goes on, when to ask for more carriers, and which ones to give up. Pure functions: the caller
//! brings the loads and carries out what they say.
//!
//! The rule is *exclusive first*: a request gets a carrier that no other request is using while there is one, because
//! what isolates streams from each other's loss and slowness is separate connections. Sharing starts only when there is
//! no carrier without work; then the gateway also asks for more, up to the cap.

use std::time::Duration;

/// What one carrier has to carry, as the gateway sees it.
///
/// A stream that is an idle keep-alive connection in the gateway's pool is open and not busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarrierLoad {
    /// Whether the carrier takes new streams ([`Carrier::accepts_streams`](crate::Carrier::accepts_streams)).
    pub accepts_streams: bool,
    /// Streams that are open, busy or not.
    pub open_streams: usize,
    /// Of these, the ones that serve a request now.
    pub busy_streams: usize,
    /// Of the busy ones, WebSockets and answers that have streamed for more than ten seconds.
    pub long_lived_streams: usize,
    /// Of the open ones, idle keep-alive connections that this very request may reuse.
    pub reusable_connections: usize,
    /// Bytes that wait to be sent on the carrier.
    pub queued_bytes: usize,
    /// How long the carrier has had no open stream; zero while it has one.
    pub idle_for: Duration,
}

/// The limits of one agent's carriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacementLimits {
    /// Carriers without work that are kept, and asked for at the start.
    pub idle_min: usize,
    /// More are asked for when fewer than this are without work.
    pub ask_below: usize,
    /// The most carriers of one agent at this gateway.
    pub max_carriers: usize,
    /// The most carriers that may be on their way at a time.
    pub max_pending: usize,
    /// A carrier above `idle_min` that was idle for so long is given up.
    pub retire_after: Duration,
}

impl Default for PlacementLimits {
    fn default() -> Self {
        Self { idle_min: 4, ask_below: 2, max_carriers: 64, max_pending: 16, retire_after: Duration::from_secs(60) }
    }
}

/// What kind of stream is to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// An ordinary request.
    Request,
    /// One that is known to last: a WebSocket or another upgrade, or followed logs.
    LongLived,
}

/// Where a stream goes. The number is the carrier's index in the slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Reuse one of the carrier's `reusable_connections`.
    Reuse(usize),
    /// Open a new stream on the carrier.
    Open(usize),
    /// No carrier takes it.
    Unavailable,
}

/// Chooses where a stream goes.
#[must_use]
pub fn plan_placement(carriers: &[CarrierLoad], kind: StreamKind, limits: &PlacementLimits) -> Placement {
    let _ = (kind, limits);
    match carriers.iter().position(|carrier| carrier.accepts_streams) {
        Some(index) => Placement::Open(index),
        None => Placement::Unavailable,
    }
}

/// How many more carriers to ask the agent for, when `pending` are already on their way.
#[must_use]
pub fn plan_growth(carriers: &[CarrierLoad], pending: usize, limits: &PlacementLimits) -> usize {
    limits.idle_min.saturating_sub(carriers.len() + pending)
}

/// The indices of the carriers to give up, by GOAWAY.
#[must_use]
pub fn plan_retirement(carriers: &[CarrierLoad], limits: &PlacementLimits) -> Vec<usize> {
    let _ = (carriers, limits);
    Vec::new()
}
