//! Which carrier a stream goes on, when to ask for more carriers, and which ones to give up. Pure functions: the caller
//! brings the loads and carries out what they say.
//!
//! The rule is *exclusive first*: a request gets a carrier that no other request is using while there is one, because
//! what isolates streams from each other's loss and slowness is separate connections. Sharing starts only when there is
//! no carrier without work; then the gateway also asks for more, up to the cap.
//!
//! On a *near* carrier, one with a round trip of at most [`NEAR`], it is the other way round: requests keep each other
//! company on as few carriers as can be, as long as they are short and small. There a lost packet costs little, because it
//! is missed and sent again at once, and what counts is the CPU: frames of many requests share a system call, a packet and
//! a wake-up (the figures are in docs/performance.md). What lasts or carries much gets a carrier of its own there too.

use std::{cmp::Reverse, time::Duration};

/// The longest round trip to an agent that counts as near: the same machine, room or building.
pub const NEAR: Duration = Duration::from_millis(2);
/// Requests that keep each other company on one near carrier.
const COMPANY: usize = 32;
/// Bytes that wait on a carrier that takes more company, at most.
const COMPANY_BYTES: usize = 64 << 10;

/// What one carrier has to carry, as the gateway sees it.
///
/// A stream that is an idle keep-alive connection in the gateway's pool is open and not busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CarrierLoad {
    /// Whether the carrier takes new streams ([`Carrier::accepts_streams`](crate::Carrier::accepts_streams)).
    pub accepts_streams: bool,
    /// Streams that are open, busy or not.
    pub open_streams: usize,
    /// Of these, the ones that serve a request now.
    pub busy_streams: usize,
    /// Of the busy ones, WebSockets, answers that have streamed for more than ten seconds, and large ones.
    pub long_lived_streams: usize,
    /// Of the open ones, idle keep-alive connections that this very request may reuse.
    pub reusable_connections: usize,
    /// Bytes that wait to be sent on the carrier.
    pub queued_bytes: usize,
    /// How long the carrier has had no open stream; zero while it has one.
    pub idle_for: Duration,
    /// Whether its round trip is at most [`NEAR`].
    pub is_near: bool,
    /// Whether it is read by the thread that the request is on: then nobody else has to be woken for it.
    pub is_here: bool,
    /// Whether the thread that reads it here is to use the agent's thread that reads it there, rather than another
    /// ([`Workers::is_paired_with`](crate::Workers::is_paired_with)).
    pub is_paired: bool,
}

impl CarrierLoad {
    const fn is_without_work(&self) -> bool {
        self.busy_streams == 0
    }

    /// Orders carriers by the threads that read them, from those that are used last.
    #[must_use]
    pub const fn fit_of_threads(&self) -> (bool, bool) {
        (self.is_here, self.is_paired)
    }

    /// Orders carriers from the least busy one: by what waits, then by how many work.
    const fn busyness(&self) -> (usize, usize) {
        (self.queued_bytes, self.busy_streams)
    }

    /// Whether one more short request is welcome beside those that it has.
    #[must_use]
    pub const fn takes_company(&self) -> bool {
        self.is_near && self.long_lived_streams == 0 && self.busy_streams < COMPANY && self.queued_bytes < COMPANY_BYTES
    }

    /// Requests that should have a carrier of their own, and have not.
    fn crowd(&self) -> usize {
        match self {
            _ if self.has_only_long_lived() => 0,
            _ if self.is_near => self.busy_streams.saturating_sub(COMPANY),
            _ => self.busy_streams.saturating_sub(1),
        }
    }

    const fn has_only_long_lived(&self) -> bool {
        self.busy_streams > 0 && self.long_lived_streams >= self.busy_streams
    }
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

/// Chooses where a stream goes. Among equals one that is here is taken, then one that is paired, then the first one, so that
/// those at the end fall idle and are given up.
///
/// 0. For a request: the near carrier here, paired before others, that has the most company and takes more, else one
///    elsewhere; an idle keep-alive connection there before a new stream.
/// 1. An idle keep-alive connection whose carrier has no work.
/// 2. A new stream on a carrier without work: one without any open stream before one with idle connections of others.
/// 3. For a long-lived stream, when half of the cap is in use: a carrier that has only such streams.
/// 4. An idle keep-alive connection on the least busy carrier; else a new stream on the least busy carrier.
///
/// Carriers that serve only long-lived streams are shared with requests last of all within step 4 when nothing else
/// tells two carriers apart.
#[must_use]
pub fn plan_placement(carriers: &[CarrierLoad], kind: StreamKind, limits: &PlacementLimits) -> Placement {
    let all = || carriers.iter().enumerate();
    let reusable = || all().filter(|(_, carrier)| carrier.reusable_connections > 0);
    let open = || all().filter(|(_, carrier)| carrier.accepts_streams);
    if kind == StreamKind::Request {
        let company = |(_, carrier): &(usize, &CarrierLoad)| carrier.takes_company();
        // Of equals the first one, which `max_by_key` would not take.
        let order = |(_, carrier): &(usize, &CarrierLoad)| Reverse((carrier.fit_of_threads(), carrier.busy_streams));
        if let Some((index, _)) = reusable().filter(company).min_by_key(order) {
            return Placement::Reuse(index);
        }
        if let Some((index, _)) = open().filter(company).min_by_key(order) {
            return Placement::Open(index);
        }
    }
    let threads = |(_, carrier): &(usize, &CarrierLoad)| Reverse(carrier.fit_of_threads());
    if let Some((index, _)) = reusable().filter(|(_, carrier)| carrier.is_without_work()).min_by_key(threads) {
        return Placement::Reuse(index);
    }
    let without_work = open().filter(|(_, carrier)| carrier.is_without_work());
    if let Some((index, _)) =
        without_work.min_by_key(|(_, carrier)| (carrier.open_streams, Reverse(carrier.fit_of_threads())))
    {
        return Placement::Open(index);
    }
    if kind == StreamKind::LongLived && carriers.len() * 2 >= limits.max_carriers {
        let shared = open().filter(|(_, carrier)| carrier.has_only_long_lived());
        if let Some((index, _)) = shared.min_by_key(|(_, carrier)| carrier.busyness()) {
            return Placement::Open(index);
        }
    }
    let order = |(_, carrier): &(usize, &CarrierLoad)| (carrier.busyness(), carrier.has_only_long_lived());
    match (reusable().min_by_key(order), open().min_by_key(order)) {
        (Some((index, _)), _) => Placement::Reuse(index),
        (None, Some((index, _))) => Placement::Open(index),
        (None, None) => Placement::Unavailable,
    }
}

/// How many more carriers to ask the agent for, when `pending` are already on their way.
///
/// Nothing while enough carriers are without work. Else as many as it takes to have `idle_min` of them and to give every
/// request that shares a carrier now one of its own, within the caps.
#[must_use]
pub fn plan_growth(carriers: &[CarrierLoad], pending: usize, limits: &PlacementLimits) -> usize {
    let idle = carriers.iter().filter(|carrier| carrier.accepts_streams && carrier.is_without_work()).count();
    let sharing: usize = carriers.iter().map(CarrierLoad::crowd).sum();
    if idle + pending >= limits.ask_below + sharing {
        return 0;
    }
    let wanted = limits.idle_min + sharing;
    let room = limits.max_carriers.saturating_sub(carriers.len() + pending);
    wanted.saturating_sub(idle + pending).min(room).min(limits.max_pending.saturating_sub(pending))
}

/// The indices of the carriers to give up, by GOAWAY: those that have been idle for long, beyond the ones that are kept.
/// The longest idle goes first.
#[must_use]
pub fn plan_retirement(carriers: &[CarrierLoad], limits: &PlacementLimits) -> Vec<usize> {
    let idle = |carrier: &CarrierLoad| carrier.accepts_streams && carrier.open_streams == 0;
    let surplus = carriers.iter().filter(|carrier| idle(carrier)).count().saturating_sub(limits.idle_min);
    let mut tired: Vec<usize> = (0..carriers.len())
        .filter(|&index| idle(&carriers[index]) && carriers[index].idle_for >= limits.retire_after)
        .collect();
    tired.sort_by_key(|&index| Reverse((carriers[index].idle_for, index)));
    tired.truncate(surplus);
    tired
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: PlacementLimits = PlacementLimits {
        idle_min: 4,
        ask_below: 2,
        max_carriers: 8,
        max_pending: 4,
        retire_after: Duration::from_secs(60),
    };

    /// A carrier from a short text: open/busy streams, then `l` for each long-lived, `r` reusable, `q` for KiB queued,
    /// `x` when it takes no streams, `n` when it is near, `h` when it is here, `p` when it is paired.
    fn load(text: &str) -> CarrierLoad {
        let (open, rest) = text.split_once('/').unwrap();
        let flags = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let count = |flag| flags.chars().filter(|&c| c == flag).count();
        CarrierLoad {
            accepts_streams: count('x') == 0,
            open_streams: open.parse().unwrap(),
            busy_streams: rest[..rest.len() - flags.len()].parse().unwrap(),
            long_lived_streams: count('l'),
            reusable_connections: count('r'),
            queued_bytes: count('q') << 10,
            idle_for: Duration::ZERO,
            is_near: count('n') > 0,
            is_here: count('h') > 0,
            is_paired: count('p') > 0,
        }
    }

    fn loads(text: &str) -> Vec<CarrierLoad> {
        text.split_whitespace().map(load).collect()
    }

    #[test]
    fn placements() {
        use Placement::{Open, Reuse, Unavailable};
        use StreamKind::{LongLived, Request};
        let cases = [
            ("", Request, Unavailable, "no carrier"),
            ("0/0x", Request, Unavailable, "none takes streams"),
            ("1/1 0/0", Request, Open(1), "an idle carrier before a busy one"),
            ("1/0 0/0", Request, Open(1), "an empty carrier before one with idle connections of others"),
            ("1/0 1/1", Request, Open(0), "idle connections of others are no work"),
            ("0/0 1/0r", Request, Reuse(1), "an idle connection on a carrier without work comes first"),
            ("0/0 2/1r", Request, Open(0), "an idle connection beside work comes after an idle carrier"),
            ("1/0rx 0/0", Request, Reuse(0), "draining carriers may still be reused"),
            ("2/1q 2/1r", Request, Reuse(1), "all busy: an idle connection"),
            ("2/1rq 2/1rr 1/1", Request, Reuse(1), "the least busy one of them, by queued bytes"),
            ("3/3 2/2 4/4", Request, Open(1), "all busy: the fewest working"),
            ("1/1qq 2/2q 9/9", Request, Open(2), "queued bytes weigh more than streams"),
            ("1/1l 1/1", Request, Open(1), "beside a short request rather than a WebSocket"),
            ("1/1 1/1l", LongLived, Open(0), "below half of the cap WebSockets do not share by themselves"),
            ("1/1 1/1 1/1 2/2ll 1/1lq", LongLived, Open(3), "above it they do"),
            ("1/1 1/1 1/1 2/2ll 0/0", LongLived, Open(4), "but not before an idle carrier"),
            ("0/0n 3/3n 2/2n", Request, Open(1), "near: where the most company is"),
            ("0/0n 3/3n 2/1rn", Request, Reuse(2), "near: an idle connection before a new one"),
            ("40/32rn 2/1rn 1/0rn", Request, Reuse(1), "near: but no more than it takes"),
            ("2/2ln 1/1n 0/0n", Request, Open(1), "near: not beside what lasts"),
            ("2/2n 0/0n", LongLived, Open(1), "near: what lasts is by itself"),
            ("2/2 1/1n", Request, Open(1), "near before far"),
            ("3/3n 1/1nh", Request, Open(1), "near and here before the most company"),
            ("3/3nh 1/1nhp", Request, Open(1), "near: paired before the most company"),
            ("3/3np 1/1nh", Request, Open(1), "near: here before paired"),
            ("1/0r 1/0rh", Request, Reuse(1), "here, when nothing else tells them apart"),
            ("0/0 0/0h", Request, Open(1), "the same for new streams"),
            ("1/0rh 1/0rhp", Request, Reuse(1), "paired, of those that are here"),
            ("0/0h 0/0hp", Request, Open(1), "the same for new streams"),
        ];
        for (carriers, kind, expected, why) in cases {
            assert_eq!(plan_placement(&loads(carriers), kind, &LIMITS), expected, "{carriers:?}: {why}");
        }
    }

    #[test]
    fn growth() {
        let cases = [
            ("", 0, 4, "the first carriers"),
            ("", 4, 0, "they are on their way"),
            ("0/0 0/0 0/0 0/0", 0, 0, "enough"),
            ("1/1 1/1 0/0 0/0", 0, 0, "still enough"),
            ("1/1 1/1 1/1 0/0", 0, 3, "fill up to four idle ones"),
            ("1/1 1/1 1/1 0/0", 1, 0, "one is on its way, that will do for now"),
            ("3/3", 0, 4, "every request wants its own, but few are dialled at a time"),
            ("3/3", 2, 2, "the same with some on their way"),
            ("1/1 1/1 1/1 1/1 1/1 1/1 1/1", 0, 1, "up to the cap"),
            ("9/9 9/9 9/9 9/9 9/9 9/9 9/9 9/9", 0, 0, "the cap"),
            ("2/2ll 0/0 0/0", 0, 0, "WebSockets may share among themselves"),
            ("0/0x 0/0x", 0, 4, "draining carriers do not count as idle"),
            ("32/32n 0/0n 0/0n", 0, 0, "near: company is wanted"),
            ("34/34n 0/0n 0/0n", 0, 4, "near: up to a point"),
        ];
        for (carriers, pending, expected, why) in cases {
            assert_eq!(plan_growth(&loads(carriers), pending, &LIMITS), expected, "{carriers:?}+{pending}: {why}");
        }
    }

    #[test]
    fn retirement() {
        let idle = |seconds| CarrierLoad {
            accepts_streams: true,
            idle_for: Duration::from_secs(seconds),
            ..CarrierLoad::default()
        };
        let check = |seconds: &[u64], expected: &[usize]| {
            let carriers: Vec<_> = seconds.iter().map(|&seconds| idle(seconds)).collect();
            assert_eq!(plan_retirement(&carriers, &LIMITS), expected, "{seconds:?}");
        };
        check(&[99, 99, 99, 99], &[]);
        check(&[10, 80, 70, 10, 10], &[1]);
        check(&[10, 80, 70, 10, 10, 10], &[1, 2]);
        check(&[59, 59, 59, 59, 59, 59], &[]);
        check(&[70, 70, 70, 70, 70], &[4]);
    }

    prop_compose! {
        fn any_load()(
            accepts_streams: bool, idle in 0..4usize, busy in 0..4usize, long in 0..4usize, reusable in 0..4usize,
            queued in 0..3usize, idle_for in 0..120u64, is_near: bool, is_here: bool, is_paired: bool
        ) -> CarrierLoad {
            let open_streams = idle + busy;
            CarrierLoad {
                accepts_streams,
                open_streams,
                busy_streams: busy,
                long_lived_streams: long.min(busy),
                reusable_connections: reusable.min(idle),
                queued_bytes: queued << 10,
                idle_for: Duration::from_secs(if open_streams == 0 { idle_for } else { 0 }),
                is_near,
                is_here,
                is_paired,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_placement_is_possible_and_exclusive_first(
            carriers in proptest::collection::vec(any_load(), 0..10), long_lived: bool,
        ) {
            let kind = if long_lived { StreamKind::LongLived } else { StreamKind::Request };
            let free = |carrier: &CarrierLoad| {
                carrier.is_without_work() && (carrier.accepts_streams || carrier.reusable_connections > 0)
            };
            match plan_placement(&carriers, kind, &LIMITS) {
                Placement::Reuse(index) => prop_assert!(carriers[index].reusable_connections > 0),
                Placement::Open(index) => prop_assert!(carriers[index].accepts_streams),
                Placement::Unavailable => {
                    prop_assert!(!carriers.iter().any(|load| load.accepts_streams || load.reusable_connections > 0));
                }
            }
            if let Placement::Reuse(index) | Placement::Open(index) = plan_placement(&carriers, kind, &LIMITS) {
                let company = !long_lived && carriers[index].takes_company();
                prop_assert!(company || carriers[index].is_without_work() || !carriers.iter().any(free));
            }
        }

        #[test]
        fn growth_and_retirement_keep_the_limits_and_do_not_fight(
            carriers in proptest::collection::vec(any_load(), 0..10), pending in 0..6usize,
        ) {
            let more = plan_growth(&carriers, pending, &LIMITS);
            prop_assert!(more == 0 || carriers.len() + pending + more <= LIMITS.max_carriers);
            prop_assert!(more == 0 || pending + more <= LIMITS.max_pending);
            let given_up = plan_retirement(&carriers, &LIMITS);
            let idle = |carrier: &&CarrierLoad| carrier.accepts_streams && carrier.open_streams == 0;
            prop_assert!(given_up.is_empty() || carriers.iter().filter(idle).count() - given_up.len() >= LIMITS.idle_min);
            // What is left after giving up is enough not to ask for more, unless requests share carriers.
            let sharing = carriers.iter().any(|carrier| carrier.busy_streams > 1);
            prop_assert!(given_up.is_empty() || more == 0 || sharing);
        }
    }
}
