//! Whether the peer is still there, and how far away it is: PING, PONG, silence and round-trip time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// PINGs that may be without an answer at a time.
const MAX_OUTSTANDING: usize = 8;
/// A round-trip time is measured again when it is older than this and bytes flow.
const RTT_STALE: Duration = Duration::from_secs(2);
/// What is assumed before the first measurement.
const RTT_UNKNOWN: Duration = Duration::from_millis(20);
/// A PING that is older than this many timeouts ends the connection even when other frames come in.
const PATIENCE: u32 = 3;

#[derive(Debug)]
struct Ping {
    number: u64,
    queued_at: Instant,
    sent_at: Option<Instant>,
}

/// The state of one connection's liveness.
#[derive(Debug)]
pub struct Liveness {
    interval: Duration,
    timeout: Duration,
    last_received: Instant,
    outstanding: VecDeque<Ping>,
    last_number: u64,
    rtt: Option<Duration>,
    shortest_rtt: Option<Duration>,
    rtt_at: Instant,
}

/// What to do when time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Alive,
    /// Send a PING.
    Ask,
    /// The peer is gone.
    Dead,
}

impl Liveness {
    pub const fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        let outstanding = VecDeque::new();
        Self {
            interval,
            timeout,
            last_received: now,
            outstanding,
            last_number: 0,
            rtt: None,
            shortest_rtt: None,
            rtt_at: now,
        }
    }

    /// Bytes have come in.
    pub fn received(&mut self, now: Instant) {
        self.last_received = self.last_received.max(now);
    }

    pub const fn last_received(&self) -> Instant {
        self.last_received
    }

    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The shortest one measured so far: what the path takes when nothing waits in a queue.
    pub const fn shortest_rtt(&self) -> Option<Duration> {
        self.shortest_rtt
    }

    pub fn rtt_or_guess(&self) -> Duration {
        self.rtt.unwrap_or(RTT_UNKNOWN)
    }

    /// A new PING's number and whether it is to be queued: when too many are out, the youngest one serves.
    pub fn ask(&mut self, now: Instant) -> (u64, bool) {
        if let Some(youngest) = self.outstanding.back()
            && self.outstanding.len() >= MAX_OUTSTANDING
        {
            return (youngest.number, false);
        }
        self.last_number += 1;
        self.outstanding.push_back(Ping { number: self.last_number, queued_at: now, sent_at: None });
        (self.last_number, true)
    }

    /// A PING has left.
    pub fn sent(&mut self, number: u64, now: Instant) {
        if let Some(ping) = self.outstanding.iter_mut().find(|ping| ping.number == number) {
            ping.sent_at = Some(now);
        }
    }

    /// A PONG has come. Gives the round-trip time; `None` when nobody asked. Older PINGs count as answered too.
    pub fn answered(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let position = self.outstanding.iter().position(|ping| ping.number == number && ping.sent_at.is_some())?;
        let ping = self.outstanding.drain(..=position).next_back()?;
        let sample = now.saturating_duration_since(ping.sent_at?);
        // Down at once, up slowly: queues make samples longer than the path is.
        self.rtt = Some(match self.rtt {
            Some(rtt) if sample > rtt => rtt + (sample - rtt) / 8,
            _ => sample,
        });
        self.shortest_rtt = Some(self.shortest_rtt.map_or(sample, |shortest| shortest.min(sample)));
        self.rtt_at = now;
        Some(sample)
    }

    /// Whether it is worth measuring the round-trip time again.
    pub fn rtt_is_stale(&self, now: Instant) -> bool {
        self.outstanding.is_empty() && now.saturating_duration_since(self.rtt_at) > RTT_STALE
    }

    /// When [`Liveness::check`] has something to say, if nothing comes in before.
    pub fn deadline(&self) -> Instant {
        match self.outstanding.front() {
            None => self.last_received + self.interval,
            Some(oldest) => {
                let silence = oldest.queued_at.max(self.last_received) + self.timeout;
                silence.min(oldest.queued_at + self.timeout * PATIENCE)
            }
        }
    }

    pub fn check(&self, now: Instant) -> Verdict {
        match (now >= self.deadline(), self.outstanding.is_empty()) {
            (false, _) => Verdict::Alive,
            (true, true) => Verdict::Ask,
            (true, false) => Verdict::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_is_asked_about_and_then_believed() {
        let start = Instant::now();
        let mut liveness = Liveness::new(10 * SECOND, 20 * SECOND, start);
        assert_eq!(liveness.check(start + 9 * SECOND), Verdict::Alive);
        let asked = start + 10 * SECOND;
        assert_eq!(liveness.check(asked), Verdict::Ask);
        liveness.ask(asked);
        assert_eq!(liveness.check(asked + 19 * SECOND), Verdict::Alive);
        assert_eq!(liveness.check(asked + 20 * SECOND), Verdict::Dead);
        liveness.received(asked + 19 * SECOND);
        assert_eq!(liveness.check(asked + 20 * SECOND), Verdict::Alive);
        assert_eq!(liveness.deadline(), asked + 39 * SECOND);
        liveness.received(asked + 59 * SECOND);
        assert_eq!(liveness.check(asked + 60 * SECOND), Verdict::Dead, "frames, but never an answer");
    }

    #[test]
    fn the_round_trip_time_follows_the_answers() {
        let start = Instant::now();
        let mut liveness = Liveness::new(SECOND, SECOND, start);
        assert_eq!(liveness.answered(1, start), None);
        let (number, queued) = liveness.ask(start);
        assert!(queued);
        assert_eq!(liveness.answered(number, start), None, "answered before it was sent");
        liveness.sent(number, start);
        assert_eq!(liveness.answered(number, start + SECOND), Some(SECOND));
        assert_eq!(liveness.answered(number, start + SECOND), None, "answered twice");
        assert_eq!(liveness.rtt(), Some(SECOND));
        let (number, _) = liveness.ask(start);
        liveness.sent(number, start);
        liveness.answered(number, start + 9 * SECOND);
        assert_eq!((liveness.rtt(), liveness.shortest_rtt()), (Some(2 * SECOND), Some(SECOND)));
    }

    #[test]
    fn few_pings_are_out_at_a_time() {
        let start = Instant::now();
        let mut liveness = Liveness::new(SECOND, SECOND, start);
        let queued = (0..100).filter(|_| liveness.ask(start).1).count();
        assert_eq!(queued, MAX_OUTSTANDING);
    }
}
