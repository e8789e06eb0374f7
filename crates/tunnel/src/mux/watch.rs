//! What can be seen of a stream from outside, also after the stream is gone.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

use crate::end::StreamEnd;

/// The facts of one stream that outlive it.
#[derive(Debug, Default)]
pub struct Watch {
    sent: AtomicU64,
    /// What the peer says to have passed on, when it has ended its direction and passes on no more.
    delivered: OnceLock<u64>,
    end: OnceLock<StreamEnd>,
    ended: Notify,
}

impl Watch {
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
