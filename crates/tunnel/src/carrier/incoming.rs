//! The agent's side: streams that the gateway opens.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use super::{Carrier, TunnelStream, inner::now};
use crate::{
    end::{RefuseCode, Refused},
    target::OpenTarget,
};

/// The streams that the gateway opens, on the agent's side. Dropped, the carrier takes no more of them
/// ([`Carrier::go_away`]), and those that wait are refused.
#[derive(Debug)]
pub struct Incoming {
    carrier: Carrier,
}

impl Incoming {
    pub(super) const fn new(carrier: Carrier) -> Self {
        Self { carrier }
    }

    /// The next one; `None` when the carrier has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<IncomingStream>> {
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        let arrival = state.mux.poll_arrival(cx.waker());
        inner.unlock(state);
        arrival.map(|arrival| {
            arrival.map(|(id, target)| IncomingStream { carrier: self.carrier.clone(), id, target, decided: false })
        })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.carrier.go_away();
        while let Poll::Ready(Some(stream)) = self.poll_next(&mut Context::from_waker(Waker::noop())) {
            drop(stream);
        }
    }
}

/// A stream that waits to be accepted or refused. Dropped, it is refused as [`RefuseCode::Draining`].
///
/// What the caller sends is received meanwhile, up to the first window.
#[derive(Debug)]
pub struct IncomingStream {
    carrier: Carrier,
    id: u32,
    target: OpenTarget,
    decided: bool,
}

impl IncomingStream {
    /// What the gateway wants to reach.
    #[must_use]
    pub const fn target(&self) -> &OpenTarget {
        &self.target
    }

    /// Accepts the stream.
    #[must_use]
    pub fn accept(mut self) -> TunnelStream {
        self.decided = true;
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        state.mux.accept(self.id);
        let watch = state.mux.watch(self.id).expect("a stream is kept until it is decided on");
        inner.pump(state);
        TunnelStream::new(self.carrier.clone(), self.id, watch)
    }

    /// Refuses it: nothing reached the container, so the gateway may try elsewhere.
    pub fn refuse(mut self, why: Refused) {
        self.decide_against(why);
    }

    fn decide_against(&mut self, why: Refused) {
        self.decided = true;
        let inner = self.carrier.inner();
        let mut state = inner.lock();
        state.mux.refuse(self.id, why, now());
        inner.pump(state);
    }
}

impl Drop for IncomingStream {
    fn drop(&mut self) {
        if !self.decided {
            self.decide_against(Refused::new(RefuseCode::Draining, "the agent is about to end"));
        }
    }
}
