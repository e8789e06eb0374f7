//! Whether anybody is still at the other end: one that has said nothing for a while is pinged (RFC 9113 §6.7), and has gone
//! when nothing at all comes back.
//!
//! Anything that is heard counts, not only the answer to the ping: that one waits behind what the caller has to send.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::signs::Signs;

/// How long a caller may say nothing before it is pinged.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may go on saying nothing then.
const PATIENCE: Duration = Duration::from_secs(20);

/// What asks a silent caller whether it is there.
pub(super) struct KeepAlive {
    pings: PingPong,
    signs: Arc<Signs>,
    /// Whether a ping is on its way.
    asked: bool,
    next_look: Pin<Box<Sleep>>,
}

impl KeepAlive {
    pub(super) fn new(pings: PingPong, signs: Arc<Signs>) -> Self {
        Self { pings, signs, asked: false, next_look: Box::pin(sleep(SILENCE)) }
    }

    /// Ready when nobody is there.
    pub(super) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.next_look.as_mut().poll(cx));
            if self.asked && self.pings.poll_pong(cx).is_ready() {
                self.asked = false;
            }
            let heard = self.signs.take_heard();
            if self.asked && !heard {
                return Poll::Ready(());
            }
            if !heard {
                // It fails when the connection is over, which is noticed elsewhere.
                self.asked = self.pings.send_ping(Ping::opaque()).is_ok();
            }
            let wait = if self.asked { PATIENCE } else { SILENCE };
            self.next_look.as_mut().reset(Instant::now() + wait);
        }
    }
}
