//! What the application does with a stream.
//!
//! Every id that is passed in belongs to a handle that has not been released; the stream is there as long as that holds.

use std::{
    io::IoSlice,
    task::{Poll, Waker},
    time::Instant,
};

use bytes::BufMut;

use super::{
    Control, Mux,
    stream::{Opening, SendState, Stream},
};
use crate::end::{Refused, ResetCode, StreamEnd};

/// What a read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Bytes read; 0 at the end of the stream.
    pub bytes: usize,
    /// [`Mux::give_credit`] should be called.
    pub credit_is_due: bool,
}

impl Mux {
    /// Agent: accepts a stream.
    pub fn accept(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.opening = Opening::Open;
        if stream.on_wire() {
            self.control.push_back(Control::Opened(id));
        }
    }

    /// Agent: refuses a stream. This releases it.
    pub fn refuse(&mut self, id: u32, why: Refused, now: Instant) {
        self.clock = self.clock.max(now);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.released = true;
        if stream.on_wire() {
            self.control.push_back(Control::Refused(id, why.clone()));
            self.take_off_wire(id, StreamEnd::Refused(why));
        } else {
            self.forget(id);
        }
    }

    /// Gateway: whether the agent has accepted the stream.
    pub fn poll_opened(&mut self, id: u32, waker: &Waker) -> Poll<Result<(), StreamEnd>> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err(StreamEnd::Finished)) };
        if matches!(stream.opening, Opening::Open) {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = &stream.end {
            return Poll::Ready(Err(end.clone()));
        }
        self.wakes.wait(&mut stream.open_waker, waker);
        Poll::Pending
    }

    /// Queues bytes of a stream, as many as there is room for; says how many.
    pub fn poll_write(&mut self, id: u32, data: &[IoSlice<'_>], waker: &Waker) -> Poll<Result<usize, StreamEnd>> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err(StreamEnd::Finished)) };
        if stream.send.state != SendState::Open {
            return Poll::Ready(Err(stream.end.clone().unwrap_or(StreamEnd::Finished)));
        }
        let mut room = self.config.send_queue.saturating_sub(stream.send.queue.len());
        if room == 0 {
            self.wakes.wait(&mut stream.send.waker, waker);
            return Poll::Pending;
        }
        let before = stream.send.queue.len();
        for slice in data {
            let step = room.min(slice.len());
            stream.send.queue.extend_from_slice(&slice[..step]);
            room -= step;
        }
        let written = stream.send.queue.len() - before;
        self.queued_bytes += written;
        self.note_writer(id);
        self.stand_in_line(id);
        Poll::Ready(Ok(written))
    }

    const fn note_writer(&mut self, id: u32) {
        if self.last_writer == id {
            self.writes_in_a_row = self.writes_in_a_row.saturating_add(1);
        } else {
            self.last_writer = id;
            self.writes_in_a_row = 0;
        }
    }

    /// Moves bytes that have arrived into `dst`.
    pub fn poll_read(&mut self, id: u32, dst: &mut impl BufMut, waker: &Waker) -> Poll<Result<ReadOutcome, StreamEnd>> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err(StreamEnd::Finished)) };
        if !stream.recv.queue.is_empty() {
            let bytes = stream.recv.read(dst);
            if stream.recv.queue.is_empty() && !stream.recv.fin && stream.on_wire() {
                stream.watch.set_readable(false);
            }
            let credit_is_due = stream.on_wire() && stream.recv.credit_is_due();
            return Poll::Ready(Ok(ReadOutcome { bytes, credit_is_due }));
        }
        if stream.recv.fin {
            return Poll::Ready(Ok(ReadOutcome { bytes: 0, credit_is_due: false }));
        }
        if let Some(end) = &stream.end {
            return Poll::Ready(Err(end.clone()));
        }
        self.wakes.wait(&mut stream.recv.waker, waker);
        Poll::Pending
    }

    /// Gives the peer credit for what was read.
    pub fn give_credit(&mut self, id: u32, now: Instant) {
        let rtt = self.liveness.rtt_or_guess();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.recv.give_credit(rtt, now);
        if stream.on_wire() && stream.recv.wants_update() {
            stream.recv.update_queued = true;
            self.control.push_back(Control::Window(id));
        }
        if self.liveness.rtt_is_stale(now) {
            self.ping(now);
        }
    }

    /// The stream carries one request after another. On the gateway's side, before OPEN is sent.
    pub fn set_keep_alive(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.keep_alive = true;
        }
    }

    /// Whether the stream carries one request after another.
    #[must_use]
    pub fn is_keep_alive(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.keep_alive)
    }

    /// Nothing more is passed on, and the FIN of this side's direction tells what was.
    pub fn tell_delivered(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.tells_delivered = true;
        }
    }

    /// Ends this side's direction of the stream after what is queued.
    ///
    /// # Errors
    /// How the stream ended before.
    pub fn shut_down(&mut self, id: u32) -> Result<(), StreamEnd> {
        let Some(stream) = self.streams.get_mut(&id) else { return Err(StreamEnd::Finished) };
        match (&stream.end, stream.send.state) {
            (Some(end), _) if *end != StreamEnd::Finished => return Err(end.clone()),
            (None, SendState::Open) => stream.send.state = SendState::Finishing,
            _ => {}
        }
        self.stand_in_line(id);
        Ok(())
    }

    /// Resets the stream at once.
    pub fn reset(&mut self, id: u32, code: ResetCode) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.on_wire() {
            return;
        }
        // A peer that was never told of the stream need not hear of its end.
        if !matches!(stream.opening, Opening::Queued(_)) {
            let delivered = stream.delivered();
            self.control.push_back(Control::Rst { stream: id, code, delivered });
        }
        self.take_off_wire(id, StreamEnd::LocalReset(code));
    }

    /// Resets the stream after what is queued. A FIN that is queued is sent before: what was complete stays so.
    pub fn reset_after_data(&mut self, id: u32, code: ResetCode) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.on_wire() && stream.send.state != SendState::Closed {
            stream.send.state = match stream.send.state {
                SendState::Finishing | SendState::FinishingThenResetting(_) => SendState::FinishingThenResetting(code),
                _ => SendState::Resetting(code),
            };
            self.stand_in_line(id);
        } else {
            self.reset(id, code);
        }
    }

    /// The application has dropped its handle. Unless both directions are finished or a reset is on its way, the stream
    /// is reset.
    pub fn release(&mut self, id: u32, now: Instant) {
        self.clock = self.clock.max(now);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.released = true;
        self.wakes.discard(&mut stream.send.waker);
        self.wakes.discard(&mut stream.recv.waker);
        self.wakes.discard(&mut stream.open_waker);
        let in_order = match stream.send.state {
            SendState::Finishing | SendState::Closed => stream.recv.fin,
            SendState::FinishingThenResetting(_) | SendState::Resetting(_) => true,
            SendState::Open => false,
        };
        if stream.on_wire() && !in_order {
            self.reset(id, ResetCode::Cancelled);
        } else if stream.on_wire() {
            stream.recv.discard();
            if stream.recv.credit_is_due() {
                self.give_credit(id, now);
            }
        } else {
            self.forget(id);
        }
    }

    /// Puts a stream into the line of those that have something to send, if it has.
    pub(super) fn stand_in_line(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.on_wire() && !stream.send.in_line && stream.send.is_ready() {
            stream.send.in_line = true;
            self.line.push_back(id);
        }
    }

    /// Whether the stream still waits for its OPEN to be sent.
    #[must_use]
    pub fn is_unsent(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| matches!(stream, Stream { opening: Opening::Queued(_), .. }))
    }
}
