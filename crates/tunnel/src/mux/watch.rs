//! What can be seen of a stream without its carrier's lock, also after the stream is gone.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::Notify;

use crate::end::StreamEnd;

/// What [`Watch::passed_on`] is while the application has not said anything.
const NOT_SAID: u64 = u64::MAX;

/// The facts of one stream that outlive it, or that are asked for too often to take a lock for.
#[derive(Debug)]
pub struct Watch {
    sent: AtomicU64,
    /// Bytes that the application has passed on, if it says so.
    passed_on: AtomicU64,
    /// Whether a read would bring something: bytes, the end, or an error. Changed with the lock held.
    is_readable: AtomicBool,
    /// What the peer says to have passed on, when it has ended its direction and passes on no more.
    delivered: OnceLock<u64>,
    end: OnceLock<StreamEnd>,
    ended: Notify,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            sent: AtomicU64::new(0),
            passed_on: AtomicU64::new(NOT_SAID),
            is_readable: AtomicBool::new(false),
            delivered: OnceLock::new(),
            end: OnceLock::new(),
            ended: Notify::new(),
        }
    }
}

impl Watch {
    /// Notes that the application has passed on so many bytes more of what it has read. Only whoever reads may say so.
    pub fn note_delivered(&self, bytes: u64) {
        let before = self.passed_on().unwrap_or(0);
        self.passed_on.store(before.saturating_add(bytes).min(NOT_SAID - 1), Ordering::Release);
    }

    /// What the application has passed on, if it says so.
    pub(super) fn passed_on(&self) -> Option<u64> {
        Some(self.passed_on.load(Ordering::Acquire)).filter(|bytes| *bytes != NOT_SAID)
    }

    /// Whether a read would bring something.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.is_readable.load(Ordering::Acquire)
    }

    pub(super) fn set_readable(&self, is_readable: bool) {
        self.is_readable.store(is_readable, Ordering::Release);
    }

    /// Bytes of the stream that were handed to the connection.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// How the stream ended.
    #[must_use]
    pub fn end(&self) -> Option<&StreamEnd> {
        self.end.get()
    }

    /// Waits for the end of the stream.
    pub async fn ended(&self) -> StreamEnd {
        loop {
            // Made before the look, so that an end in between is not missed.
            let ended = self.ended.notified();
            if let Some(end) = self.end.get() {
                return end.clone();
            }
            ended.await;
        }
    }

    /// Bytes of the stream that the peer has passed on, when it has said so and passes on no more.
    #[must_use]
    pub fn delivered(&self) -> Option<u64> {
        match self.end.get() {
            Some(StreamEnd::Reset { delivered, .. }) => Some(*delivered),
            _ => self.delivered.get().copied(),
        }
    }

    pub(super) fn set_delivered(&self, bytes: u64) {
        let _ = self.delivered.set(bytes);
    }

    pub(super) fn set_sent(&self, bytes: u64) {
        self.sent.store(bytes, Ordering::Release);
    }

    /// The first end stays.
    pub(super) fn set_end(&self, end: StreamEnd) {
        let _ = self.end.set(end);
    }

    /// Wakes those who wait. Apart from [`Watch::set_end`], so that it can be done without holding a lock.
    pub(super) fn wake(&self) {
        self.ended.notify_waiters();
    }
}
