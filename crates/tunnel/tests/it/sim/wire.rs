//! One direction of the connection: bytes that are on their way, in order, late, and not more than fit.

use std::{collections::VecDeque, io::IoSlice, time::Duration};

use bytes::{Bytes, BytesMut};
use towline_tunnel::mux::outbox::Outbox;

use super::random::Random;

#[derive(Debug)]
pub struct Wire {
    on_the_way: VecDeque<(Duration, Bytes)>,
    held: usize,
    pub capacity: usize,
    latency: Duration,
    jitter_ms: usize,
}

impl Wire {
    pub fn new(random: &mut Random) -> Self {
        let capacity = *random.pick(&[1, 7, 60, 1000, 100_000]);
        // A narrow wire that is long as well would take hours.
        let longest = if capacity < 60 { 1 } else { 100 };
        let latency = random.millis(longest);
        Self { on_the_way: VecDeque::new(), held: 0, capacity, latency, jitter_ms: random.skewed(longest) }
    }

    pub fn has_room(&self) -> bool {
        self.held < self.capacity
    }

    /// Takes some of what is to be sent, as a socket does.
    pub fn write(&mut self, outbox: &mut Outbox, now: Duration, random: &mut Random) {
        let mut slices = [IoSlice::new(&[]); 8];
        let used = outbox.slices(&mut slices);
        let offered: usize = slices[..used].iter().map(|slice| slice.len()).sum();
        let most = offered.min(self.capacity - self.held);
        let taken = if random.one_in(3) { random.between(1, most) } else { most };
        let bytes: BytesMut = slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(taken).collect();
        outbox.advance(taken);
        let earliest = self.on_the_way.back().map_or(now, |(at, _)| *at);
        let at = (now + self.latency + random.millis(self.jitter_ms.max(1))).max(earliest);
        self.held += taken;
        self.on_the_way.push_back((at, bytes.freeze()));
    }

    /// When the next bytes arrive.
    pub fn arrival(&self) -> Option<Duration> {
        self.on_the_way.front().map(|(at, _)| *at)
    }

    /// Some of the bytes that have arrived.
    pub fn read(&mut self, buffer: &mut BytesMut, now: Duration, random: &mut Random) {
        let Some((at, bytes)) = self.on_the_way.front_mut() else { return };
        if *at > now {
            return;
        }
        let taken = if random.one_in(3) { random.between(1, bytes.len()) } else { bytes.len() };
        buffer.extend_from_slice(&bytes.split_to(taken));
        self.held -= taken;
        if bytes.is_empty() {
            self.on_the_way.pop_front();
        }
    }

    pub fn cut(&mut self) {
        self.on_the_way.clear();
        self.held = 0;
    }
}
