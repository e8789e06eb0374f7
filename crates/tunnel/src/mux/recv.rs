//! The receiving half of a stream: what has arrived, and how much the peer may send.

use std::{
    collections::VecDeque,
    task::Waker,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes};

use crate::{budget::Budget, end::ProtocolError};

/// Payloads shorter than this are copied.
const SHARE_FROM: usize = 4 << 10;
/// Payloads of one stream that may share the read buffer's memory at a time. Each keeps the whole read buffer alive, so
/// what comes on top is copied: a reader that lags behind costs what it has not read, and not a multiple.
const MAX_SHARED: usize = 4;
/// Copied bytes are gathered in pieces of at most this size.
const PIECE: usize = 16 << 10;
/// A piece's memory is kept for the next bytes when it is not larger than this.
const KEEP: usize = 4 << 10;
/// A reader that takes longer than this, and longer than eight round trips, for half a window is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Below this, timers and wake-ups say more than the path does.
const SHORTEST_RTT: Duration = Duration::from_millis(1);

/// Bytes that have arrived and are not read yet.
#[derive(Debug, Default)]
pub struct RecvQueue {
    pieces: VecDeque<Piece>,
    len: usize,
    shared: usize,
    spare: Vec<u8>,
}

#[derive(Debug)]
enum Piece {
    Shared(Bytes),
    Copied { bytes: Vec<u8>, read: usize },
}

impl RecvQueue {
    pub const fn len(&self) -> usize {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, payload: Bytes) {
        self.len += payload.len();
        if payload.len() >= SHARE_FROM && self.shared < MAX_SHARED {
            self.shared += 1;
            self.pieces.push_back(Piece::Shared(payload));
            return;
        }
        match self.pieces.back_mut() {
            Some(Piece::Copied { bytes, .. }) if bytes.len() + payload.len() <= PIECE => {
                bytes.extend_from_slice(&payload);
            }
            _ => {
                let mut bytes = std::mem::take(&mut self.spare);
                bytes.extend_from_slice(&payload);
                self.pieces.push_back(Piece::Copied { bytes, read: 0 });
            }
        }
    }

    /// Moves bytes into `dst` until one of the two is used up; says how many.
    pub fn read(&mut self, dst: &mut impl BufMut) -> usize {
        let before = self.len;
        while dst.has_remaining_mut() {
            let Some(piece) = self.pieces.front_mut() else { break };
            let room = dst.remaining_mut();
            match piece {
                Piece::Shared(bytes) => {
                    let step = room.min(bytes.len());
                    dst.put_slice(&bytes[..step]);
                    bytes.advance(step);
                    self.len -= step;
                    if bytes.is_empty() {
                        self.shared -= 1;
                        self.pieces.pop_front();
                    }
                }
                Piece::Copied { bytes, read } => {
                    let step = room.min(bytes.len() - *read);
                    dst.put_slice(&bytes[*read..*read + step]);
                    *read += step;
                    self.len -= step;
                    if *read == bytes.len() {
                        let mut bytes = std::mem::take(bytes);
                        self.pieces.pop_front();
                        if bytes.capacity() <= KEEP {
                            bytes.clear();
                            self.spare = bytes;
                        }
                    }
                }
            }
        }
        before - self.len
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The part of the budget that a window has grown into; given back when dropped.
#[derive(Debug)]
struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Charge {
    fn grow(&mut self, bytes: usize) -> bool {
        let taken = self.budget.try_take(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    fn shrink_to(&mut self, bytes: usize) {
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.budget.give_back(surplus);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// The receiving half of a stream.
///
/// `granted` − `consumed` is what the peer can make this side hold; it is at most the window when credit is given.
#[derive(Debug)]
pub struct RecvHalf {
    pub queue: RecvQueue,
    pub waker: Option<Waker>,
    /// The peer has sent FIN.
    pub fin: bool,
    /// A WINDOW frame is queued.
    pub update_queued: bool,
    /// Nobody reads any more: what arrives is thrown away. Credit is still given, because the peer may read what this
    /// side still has to send only after it has sent all of its own.
    discard: bool,
    window: u64,
    granted: u64,
    announced: u64,
    received: u64,
    /// Read, or thrown away.
    consumed: u64,
    read: u64,
    /// When the first bytes since the last credit came.
    busy_since: Option<Instant>,
    charge: Charge,
    initial: u64,
    largest: u64,
}

impl RecvHalf {
    pub fn new(initial: u32, largest: u32, budget: Budget) -> Self {
        let initial = u64::from(initial);
        Self {
            queue: RecvQueue::default(),
            waker: None,
            fin: false,
            update_queued: false,
            discard: false,
            window: initial,
            granted: initial,
            announced: initial,
            received: 0,
            consumed: 0,
            read: 0,
            busy_since: None,
            charge: Charge { budget, bytes: 0 },
            initial,
            largest: u64::from(largest).max(initial),
        }
    }

    /// Bytes that the application has read.
    pub const fn bytes_read(&self) -> u64 {
        self.read
    }

    pub const fn is_discarding(&self) -> bool {
        self.discard
    }

    /// Bytes that the peer may still send.
    pub const fn open_credit(&self) -> u64 {
        self.announced - self.received
    }

    /// The present size of the window.
    #[cfg(test)]
    pub const fn window(&self) -> u64 {
        self.window
    }

    pub fn push(&mut self, payload: Bytes, now: Instant) -> Result<(), ProtocolError> {
        let length = payload.len() as u64;
        if length > self.open_credit() {
            return Err(ProtocolError::WindowOverrun);
        }
        self.received += length;
        if self.discard {
            self.consumed += length;
        } else {
            self.busy_since.get_or_insert(now);
            self.queue.push(payload);
        }
        Ok(())
    }

    pub fn read(&mut self, dst: &mut impl BufMut) -> usize {
        let bytes = self.queue.read(dst);
        self.consumed += bytes as u64;
        self.read += bytes as u64;
        bytes
    }

    /// Whether it is time to give credit: half of the window is used up.
    pub const fn credit_is_due(&self) -> bool {
        !self.fin && self.granted - self.consumed <= self.window / 2
    }

    /// Sizes the window by how fast half of it was drained, and gives credit.
    pub fn give_credit(&mut self, rtt: Duration, now: Instant) {
        let rtt = rtt.max(SHORTEST_RTT);
        // Without data since the last credit there is nothing to judge by.
        let drained_in = self.busy_since.take().map(|since| now.saturating_duration_since(since));
        match drained_in {
            Some(time) if time <= rtt * 3 / 2 => self.grow(),
            Some(time) if time > SLOW.max(rtt * 8) => self.window = (self.window / 2).max(self.initial),
            _ => {}
        }
        self.granted = self.granted.max(self.consumed + self.window);
        self.settle(if self.discard { 0 } else { self.granted - self.consumed });
        if !self.queue.is_empty() {
            self.busy_since = Some(now);
        }
    }

    fn grow(&mut self) {
        let wanted = (self.window * 2).min(self.largest);
        let covered = self.initial + self.charge.bytes as u64;
        let more = usize::try_from(wanted.saturating_sub(covered)).unwrap_or(usize::MAX);
        if self.charge.grow(more) {
            self.window = wanted;
        }
    }

    /// Gives back what is not needed to cover `held` bytes.
    fn settle(&mut self, held: u64) {
        let needed = usize::try_from(held.saturating_sub(self.initial)).unwrap_or(usize::MAX);
        self.charge.shrink_to(needed);
    }

    /// Whether a WINDOW frame is to be queued. A window that shrinks may have nothing to tell.
    pub const fn wants_update(&self) -> bool {
        !self.update_queued && self.granted > self.announced
    }

    /// The increment that a WINDOW frame is to carry; `None` when there is nothing to tell.
    pub fn announce(&mut self) -> Option<u32> {
        self.update_queued = false;
        if self.fin || self.granted <= self.announced {
            return None;
        }
        let increment = u32::try_from(self.granted - self.announced).unwrap_or(u32::MAX);
        self.announced += u64::from(increment);
        Some(increment)
    }

    /// The peer will send nothing more.
    pub fn finish(&mut self) {
        self.settle(self.queue.len() as u64);
    }

    /// Nobody will read any more.
    pub fn discard(&mut self) {
        self.discard = true;
        self.consumed += self.queue.len() as u64;
        self.queue.clear();
        self.window = self.initial;
        self.busy_since = None;
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1 << 10;

    fn half(budget: &Budget) -> RecvHalf {
        RecvHalf::new(64 * KIB, 1024 * KIB, budget.clone())
    }

    /// Fills half of the window, reads it after `time`, and gives credit.
    fn round(half: &mut RecvHalf, now: &mut Instant, time: Duration) {
        let bytes = usize::try_from(half.window() / 2).unwrap();
        half.push(Bytes::from(vec![0; bytes]), *now).unwrap();
        *now += time;
        let mut sink = Vec::new();
        assert_eq!(half.read(&mut (&mut sink).limit(bytes)), bytes);
        assert!(half.credit_is_due());
        half.give_credit(Duration::from_millis(50), *now);
        half.announce();
    }

    #[test]
    fn windows_grow_for_fast_readers_and_shrink_for_slow_ones() {
        let budget = Budget::new(64 << 20);
        let mut half = half(&budget);
        let mut now = Instant::now();
        for expected in [128, 256, 512, 1024, 1024] {
            round(&mut half, &mut now, Duration::from_millis(50));
            assert_eq!(half.window(), expected << 10);
            assert_eq!(budget.used() as u64, half.window() - (64 << 10));
        }
        round(&mut half, &mut now, Duration::from_millis(500));
        assert_eq!(half.window(), 1024 << 10);
        for _ in 0..20 {
            let bytes = half.window() / 2;
            round(&mut half, &mut now, Duration::from_secs(2));
            assert!(half.window() >= bytes);
        }
        assert_eq!(half.window(), 64 << 10);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn without_budget_the_first_window_stays() {
        let budget = Budget::new(0);
        let mut half = half(&budget);
        let mut now = Instant::now();
        round(&mut half, &mut now, Duration::ZERO);
        assert_eq!(half.window(), 64 << 10);
    }

    #[test]
    fn the_budget_is_given_back() {
        let budget = Budget::new(64 << 20);
        let mut now = Instant::now();
        let mut finished = half(&budget);
        round(&mut finished, &mut now, Duration::ZERO);
        finished.fin = true;
        finished.finish();
        assert_eq!(budget.used(), 0);
        let mut dropped = half(&budget);
        round(&mut dropped, &mut now, Duration::ZERO);
        assert!(budget.used() > 0);
        drop(dropped);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn more_than_the_window_is_an_error() {
        let mut half = half(&Budget::new(0));
        let now = Instant::now();
        half.push(Bytes::from(vec![0; 64 << 10]), now).unwrap();
        assert_eq!(half.push(Bytes::from_static(b"x"), now), Err(ProtocolError::WindowOverrun));
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut queue = RecvQueue::default();
        let mut expected = Vec::new();
        for (round, length) in [5, 5000, 10, 6000, 7000, 8000, 9000, 3, 20_000, 1].into_iter().enumerate() {
            let bytes = vec![round as u8; length];
            expected.extend_from_slice(&bytes);
            queue.push(Bytes::from(bytes));
        }
        assert_eq!(queue.len(), expected.len());
        assert!(queue.shared <= MAX_SHARED);
        let mut seen = Vec::new();
        while queue.read(&mut (&mut seen).limit(777)) > 0 {}
        assert_eq!(seen, expected);
        assert_eq!((queue.len(), queue.shared), (0, 0));
    }
}
