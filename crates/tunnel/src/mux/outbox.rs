//! Frames on their way into the socket: encoded once, written in as few calls as it takes, resumed after partial writes.
//!
//! Headers and short payloads lie one after the other in one buffer, long payloads stay where they are. So small
//! requests leave in one plain write, and bulk leaves in one vectored write without being copied again.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{self, Frame};

/// Payloads shorter than this are copied behind their header.
const COPY_BELOW: usize = 2 << 10;
/// A buffer that has grown beyond this is given back when it is empty.
const KEEP: usize = 8 << 10;

/// Encoded frames that wait for the socket.
#[derive(Debug)]
pub struct Outbox {
    /// Headers and short payloads; what is already written is cut off the front.
    inline: BytesMut,
    /// The order in which the pieces leave.
    pieces: VecDeque<Piece>,
    len: usize,
    copy_all: bool,
}

#[derive(Debug)]
enum Piece {
    /// So many bytes of `inline`.
    Inline(usize),
    Payload(Bytes),
}

impl Outbox {
    /// An empty one. Without `vectored` every payload is copied, so that a frame is never written in two calls.
    #[must_use]
    pub fn new(vectored: bool) -> Self {
        Self { inline: BytesMut::new(), pieces: VecDeque::new(), len: 0, copy_all: !vectored }
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &Frame) {
        let before = self.inline.len();
        frame.encode(&mut self.inline);
        self.grew_inline(before);
    }

    /// Appends a DATA frame with the first `length` bytes of `queue`.
    pub fn push_data(&mut self, stream: u32, queue: &mut BytesMut, length: usize) {
        let before = self.inline.len();
        frame::put_data_header(&mut self.inline, stream, length);
        if length < COPY_BELOW || self.copy_all {
            self.inline.extend_from_slice(&queue[..length]);
            queue.advance(length);
            self.grew_inline(before);
        } else {
            self.grew_inline(before);
            self.pieces.push_back(Piece::Payload(queue.split_to(length).freeze()));
            self.len += length;
        }
    }

    fn grew_inline(&mut self, before: usize) {
        let more = self.inline.len() - before;
        self.len += more;
        match self.pieces.back_mut() {
            Some(Piece::Inline(length)) => *length += more,
            _ => self.pieces.push_back(Piece::Inline(more)),
        }
    }

    /// Fills `slices` with what is to be written next and says how many it used.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut inline = &self.inline[..];
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let bytes = match piece {
                Piece::Inline(length) => inline.split_off(..*length).expect("pieces and bytes go together"),
                Piece::Payload(payload) => payload,
            };
            *slice = IoSlice::new(bytes);
            used += 1;
        }
        used
    }

    /// Drops the first `written` bytes.
    ///
    /// # Panics
    /// When that is more than there are.
    pub fn advance(&mut self, mut written: usize) {
        assert!(written <= self.len, "more was written than there was");
        self.len -= written;
        while written > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let left = match piece {
                Piece::Inline(length) => {
                    let step = written.min(*length);
                    self.inline.advance(step);
                    *length -= step;
                    written -= step;
                    *length
                }
                Piece::Payload(payload) => {
                    let step = written.min(payload.len());
                    payload.advance(step);
                    written -= step;
                    payload.len()
                }
            };
            if left == 0 {
                self.pieces.pop_front();
            }
        }
        if self.len == 0 {
            self.reset();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
        self.reset();
    }

    fn reset(&mut self) {
        self.inline.clear();
        if self.inline.capacity() > KEEP {
            self.inline = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let used = outbox.slices(&mut slices);
            let next: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
            wire.extend_from_slice(&next);
            outbox.advance(next.len());
        }
        wire
    }

    #[test]
    fn frames_leave_whole_and_in_order_at_any_step() {
        for vectored in [true, false] {
            for step in [1, 3, 8, 4096, 1 << 20] {
                let mut outbox = Outbox::new(vectored);
                let mut expected = BytesMut::new();
                for (stream, length) in [(1, 10), (2, 3000), (1, 5000), (3, 0)] {
                    let payload = Bytes::from(vec![stream as u8; length]);
                    let mut queue = BytesMut::from(&payload[..]);
                    outbox.push(&Frame::Ping(9));
                    outbox.push_data(stream, &mut queue, length);
                    Frame::Ping(9).encode(&mut expected);
                    Frame::Data { stream, payload }.encode(&mut expected);
                }
                assert_eq!(outbox.len(), expected.len());
                assert_eq!(drain(&mut outbox, step), &expected[..], "vectored {vectored}, step {step}");
            }
        }
    }
}
