//! What a key or a membership is to the requests that it let in: something that ends once, for good.
//!
//! Every request has a clone of one and looks at it whenever it is polled, often on several cores at a time. So neither takes a
//! lock, as clones and looks of a [`CancellationToken`] do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Something that ends once. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lifetime(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    has_ended: AtomicBool,
    /// For those who wait.
    end: CancellationToken,
}

impl Lifetime {
    /// One that is over already.
    pub(crate) fn over() -> Self {
        let lifetime = Self::default();
        lifetime.end();
        lifetime
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.0.has_ended.store(true, Ordering::Release);
        self.0.end.cancel();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::Acquire)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        self.0.end.cancelled().await;
    }
}
