//! What goes out: control frames first, then one frame of each stream in turn.

use std::time::Instant;

use super::{
    Control, Mux,
    outbox::Outbox,
    stream::{Opening, SendState},
};
use crate::{
    end::{ResetCode, StreamEnd},
    frame::{Frame, MAX_PAYLOAD},
};

/// Bytes that are encoded ahead of the socket. Control frames overtake all data but these.
pub const BATCH: usize = 64 << 10;

impl Mux {
    /// Whether [`Mux::transmit`] has something to do.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.control.is_empty() || !self.line.is_empty()
    }

    /// Fills the outbox up to [`BATCH`] bytes.
    pub fn transmit(&mut self, outbox: &mut Outbox, now: Instant) {
        self.clock = self.clock.max(now);
        while outbox.len() < BATCH {
            if let Some(control) = self.control.pop_front() {
                self.send_control(control, outbox, now);
            } else if let Some(id) = self.line.pop_front() {
                self.send_data(id, outbox);
            } else {
                break;
            }
        }
    }

    fn send_control(&mut self, control: Control, outbox: &mut Outbox, now: Instant) {
        let frame = match control {
            Control::Open(id) => {
                let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.on_wire()) else { return };
                let Opening::Queued(target) = std::mem::replace(&mut stream.opening, Opening::Asked) else { return };
                Frame::Open { stream: id, target, keep_alive: stream.keep_alive }
            }
            Control::Opened(id) => {
                if !self.streams.get(&id).is_some_and(|stream| stream.on_wire()) {
                    return;
                }
                Frame::Opened { stream: id }
            }
            Control::Window(id) => {
                let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.on_wire()) else { return };
                let Some(increment) = stream.recv.announce() else { return };
                Frame::Window { stream: id, increment }
            }
            Control::Refused(id, why) => Frame::Refused { stream: id, why },
            Control::Rst { stream, code, delivered } => Frame::Rst { stream, code, delivered },
            Control::Ping(number) => {
                self.liveness.sent(number, now);
                Frame::Ping(number)
            }
            Control::Pong(number) => {
                self.pongs_queued -= 1;
                Frame::Pong(number)
            }
            Control::GoAway { code, message } => Frame::GoAway { code, message },
        };
        outbox.push(&frame);
    }

    /// Sends one frame of a stream, and what ends the stream if that was the last one.
    fn send_data(&mut self, id: u32, outbox: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.on_wire()) else { return };
        let send = &mut stream.send;
        send.in_line = false;
        let credit = usize::try_from(send.credit).unwrap_or(usize::MAX);
        let length = send.queue.len().min(credit).min(MAX_PAYLOAD);
        if length > 0 {
            outbox.push_data(id, &mut send.queue, length);
            send.credit -= length as u64;
            send.sent += length as u64;
            self.queued_bytes -= length;
            stream.watch.set_sent(send.sent);
            send.trim();
        }
        if send.queue.len() <= self.config.send_queue / 2 {
            self.wakes.task(&mut send.waker);
        }
        let fin = stream.fin(id);
        let send = &mut stream.send;
        match send.state {
            _ if !send.queue.is_empty() => self.stand_in_line(id),
            SendState::Finishing => {
                send.state = SendState::Closed;
                outbox.push(&fin);
                self.close_if_finished(id);
            }
            SendState::FinishingThenResetting(code) => {
                send.state = SendState::Closed;
                outbox.push(&fin);
                self.close_if_finished(id);
                self.reset(id, code);
            }
            SendState::Resetting(code) => {
                let delivered = stream.delivered();
                outbox.push(&Frame::Rst { stream: id, code, delivered });
                self.take_off_wire(id, StreamEnd::LocalReset(code));
            }
            SendState::Open | SendState::Closed => {}
        }
    }

    /// Takes a stream off the wire when both directions are closed.
    pub(super) fn close_if_finished(&mut self, id: u32) {
        let finished = self
            .streams
            .get(&id)
            .is_some_and(|stream| stream.recv.fin && stream.send.state == SendState::Closed && stream.on_wire());
        if finished {
            self.take_off_wire(id, StreamEnd::Finished);
        }
    }
}

/// Whether a reset ends the reader's part at once, or lets it read what had arrived.
pub(super) const fn discards_unread(end: &StreamEnd) -> bool {
    matches!(
        end,
        StreamEnd::Reset { code: ResetCode::Cancelled, .. } | StreamEnd::LocalReset(_) | StreamEnd::Refused(_)
    )
}
