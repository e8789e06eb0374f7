//! One end of one stream: an application that follows a plan and checks every byte that it gets.

use std::{
    io::IoSlice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Wake, Waker, ready},
    time::{Duration, Instant},
};

use bytes::BufMut;
use towline_tunnel::{ResetCode, StreamEnd, mux::Mux};

use super::random::Random;

/// A task: whether it was woken.
#[derive(Debug)]
pub struct Task(AtomicBool);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Task {
    pub fn woken() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    pub fn is_woken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn begin(self: &Arc<Self>) -> Waker {
        self.0.store(false, Ordering::Relaxed);
        Waker::from(Arc::clone(self))
    }

    pub fn wake_again(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How an end gets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Sends everything, shuts down, reads to the end.
    InOrder,
    /// Resets after everything that it had to send.
    ResetAfterData,
    /// Resets after so many bytes sent and received together.
    ResetAt(u64),
    /// Drops its handle then.
    DropAt(u64),
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub to_send: u64,
    pub exit: Exit,
    /// Whether it rests now and then instead of reading and writing.
    pub is_lazy: bool,
}

impl Plan {
    /// A plan to send `most` bytes or fewer.
    pub fn new(most: usize, random: &mut Random) -> Self {
        let to_send = random.skewed(most) as u64;
        let at = random.skewed(most) as u64;
        let exit = match random.between(0, 9) {
            0 => Exit::ResetAt(at),
            1 => Exit::DropAt(at),
            2 => Exit::ResetAfterData,
            _ => Exit::InOrder,
        };
        Self { to_send, exit, is_lazy: random.one_in(3) }
    }
}

/// What a stream's end has seen when it is over.
#[derive(Debug, Clone)]
pub struct Seen {
    pub end: Option<StreamEnd>,
    pub read_to_end: bool,
}

#[derive(Debug)]
pub struct Endpoint {
    pub task: Arc<Task>,
    pub plan: Plan,
    id: u32,
    pub rests_until: Option<Duration>,
    pub sent: u64,
    pub received: u64,
    shut_down: bool,
    write_failed: bool,
    read_to_end: bool,
    end: Option<StreamEnd>,
    pub seen: Option<Seen>,
    /// Tells this stream's bytes from those of others.
    mark: u64,
}

/// The byte that one end sends at an offset.
fn byte(mark: u64, offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ mark.wrapping_mul(131) ^ (offset >> 8)) as u8
}

impl Endpoint {
    pub fn new(id: u32, plan: Plan, mark: u64) -> Self {
        Self {
            task: Task::woken(),
            plan,
            id,
            rests_until: None,
            sent: 0,
            received: 0,
            shut_down: false,
            write_failed: false,
            read_to_end: false,
            end: None,
            seen: None,
            mark,
        }
    }

    pub const fn is_done(&self) -> bool {
        self.seen.is_some()
    }

    /// Does a few things, as a task does when it is woken.
    pub fn run(&mut self, mux: &mut Mux, now: (Instant, Duration), random: &mut Random) {
        let waker = self.task.begin();
        loop {
            if self.plan.is_lazy && random.one_in(8) {
                self.rests_until = Some(now.1 + random.millis(3000));
                return;
            }
            if self.leaves_early(mux, now.0) {
                return;
            }
            let writes = self.write(mux, now.0, &waker, random);
            if self.is_done() {
                return;
            }
            let reads = !self.read_to_end && self.read(mux, now.0, &waker, random).is_ready();
            if self.end.is_some() || self.read_to_end && (self.shut_down || self.write_failed) {
                return self.leave(mux, now.0);
            }
            if !writes && !reads {
                return;
            }
            if random.one_in(4) {
                self.task.wake_again();
                return;
            }
        }
    }

    fn leave(&mut self, mux: &mut Mux, now: Instant) {
        self.seen = Some(Seen { end: self.end.take(), read_to_end: self.read_to_end });
        mux.release(self.id, now);
    }

    fn leaves_early(&mut self, mux: &mut Mux, now: Instant) -> bool {
        let moved = self.sent + self.received;
        match self.plan.exit {
            Exit::ResetAt(at) if moved >= at => mux.reset(self.id, ResetCode::Internal),
            Exit::DropAt(at) if moved >= at => {}
            _ => return false,
        }
        self.leave(mux, now);
        true
    }

    /// Writes some; says whether more could be written.
    fn write(&mut self, mux: &mut Mux, now: Instant, waker: &Waker, random: &mut Random) -> bool {
        if self.shut_down || self.write_failed {
            return false;
        }
        if self.sent == self.plan.to_send {
            if self.plan.exit == Exit::ResetAfterData {
                mux.reset_after_data(self.id, ResetCode::ConnectionReset);
                self.leave(mux, now);
                return false;
            }
            self.write_failed = mux.shut_down(self.id).is_err();
            self.shut_down = true;
            return false;
        }
        let step = (self.plan.to_send - self.sent).min(random.between(1, 4000) as u64);
        let bytes: Vec<u8> = (self.sent..self.sent + step).map(|offset| byte(self.mark, offset)).collect();
        let (a, b) = bytes.split_at(random.between(0, bytes.len()));
        match mux.poll_write(self.id, &[IoSlice::new(a), IoSlice::new(b)], waker) {
            Poll::Ready(Ok(written)) => self.sent += written as u64,
            Poll::Ready(Err(_)) => self.write_failed = true,
            Poll::Pending => return false,
        }
        true
    }

    /// Reads some; pending when there is nothing to read now.
    fn read(&mut self, mux: &mut Mux, now: Instant, waker: &Waker, random: &mut Random) -> Poll<()> {
        let mut bytes = Vec::new();
        let most = random.between(1, 3000);
        match ready!(mux.poll_read(self.id, &mut (&mut bytes).limit(most), waker)) {
            Err(end) => self.end = Some(end),
            Ok(outcome) if outcome.bytes == 0 => self.read_to_end = true,
            Ok(outcome) => {
                for (offset, seen) in (self.received..).zip(&bytes) {
                    assert_eq!(*seen, byte(self.mark ^ 1, offset), "byte {offset} of stream {}", self.id);
                }
                self.received += outcome.bytes as u64;
                if outcome.credit_is_due {
                    mux.give_credit(self.id, now);
                }
            }
        }
        Poll::Ready(())
    }
}
