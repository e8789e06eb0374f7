//! One carrier as the gateway uses it: how much work is on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use towline_tunnel::{
    Carrier, RequestCount, Workers,
    placement::{CarrierLoad, NEAR},
};

/// A carrier and the count of the requests that use it.
///
/// An idle keep-alive connection to a container is an open stream too, but it is no work: that is why the carrier's
/// own count of streams is not enough to place by.
#[derive(Debug)]
pub(crate) struct CarrierLink {
    carrier: Carrier,
    busy: AtomicUsize,
    long_lived: AtomicUsize,
    retired: AtomicBool,
    /// The worker that reads it.
    worker: Option<usize>,
    /// Counts the requests over all carriers that this worker reads, but for long-lived ones: an open stream of events must not
    /// make everything else slower.
    requests: RequestCount,
    /// Whether that worker is to use the agent's worker that reads it.
    is_paired: bool,
}

impl CarrierLink {
    /// A carrier that is read by the worker on which this is called.
    pub(crate) fn new(carrier: Carrier, is_paired: bool) -> Self {
        Self {
            carrier,
            busy: AtomicUsize::new(0),
            long_lived: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            worker: Workers::here(),
            requests: RequestCount::here(),
            is_paired,
        }
    }

    /// Takes no new requests from now on, not even over connections that are open.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.carrier.go_away();
    }

    /// Ends every stream on it at once.
    pub(crate) fn cut(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.carrier.close();
    }

    /// Whether it takes no new requests.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether either side has said that it takes no new streams.
    pub(crate) fn is_going_away(&self) -> bool {
        !self.carrier.accepts_streams() && self.carrier.is_going_away()
    }

    pub(crate) const fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// The worker that reads it; `None` for the runtime.
    pub(crate) const fn worker(&self) -> Option<usize> {
        self.worker
    }

    /// Requests that use it now.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Begins to use it.
    pub(crate) fn begin(self: &Arc<Self>) -> LinkUse {
        let mut used = LinkUse { link: Arc::clone(self), by: By::Nobody };
        used.begin();
        used
    }

    /// What it has to carry, for the planning of placements.
    pub(crate) fn load(&self, now: Instant, reusable_connections: usize) -> CarrierLoad {
        let open_streams = self.carrier.active_streams();
        CarrierLoad {
            accepts_streams: self.carrier.accepts_streams(),
            open_streams,
            busy_streams: self.busy(),
            long_lived_streams: self.long_lived.load(Ordering::Relaxed),
            reusable_connections,
            queued_bytes: self.carrier.queued_bytes(),
            idle_for: if open_streams == 0 {
                now.saturating_duration_since(self.carrier.idle_since())
            } else {
                Duration::ZERO
            },
            is_near: self.carrier.shortest_rtt().is_some_and(|rtt| rtt <= NEAR),
            is_here: self.worker == Workers::here(),
            is_paired: self.is_paired,
        }
    }
}

/// The use of a carrier by one request, or by one after another; in between it does not count.
#[derive(Debug)]
pub(crate) struct LinkUse {
    link: Arc<CarrierLink>,
    by: By,
}

/// By what a carrier is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Nobody,
    Request,
    /// A request that lasts.
    LongLived,
}

impl LinkUse {
    pub(crate) const fn link(&self) -> &Arc<CarrierLink> {
        &self.link
    }

    /// A request begins.
    pub(crate) fn begin(&mut self) {
        self.end();
        self.link.busy.fetch_add(1, Ordering::Relaxed);
        self.link.requests.begin();
        self.by = By::Request;
    }

    /// The request turned out to last.
    pub(crate) fn mark_long_lived(&mut self) {
        if self.by == By::Request {
            self.by = By::LongLived;
            self.link.long_lived.fetch_add(1, Ordering::Relaxed);
            self.link.requests.end();
        }
    }

    /// It is over.
    pub(crate) fn end(&mut self) {
        match std::mem::replace(&mut self.by, By::Nobody) {
            By::Nobody => return,
            By::Request => self.link.requests.end(),
            By::LongLived => drop(self.link.long_lived.fetch_sub(1, Ordering::Relaxed)),
        }
        self.link.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for LinkUse {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use towline_tunnel::{CarrierConfig, gateway_carrier};

    use super::*;

    #[tokio::test]
    async fn a_request_counts_on_the_carriers_worker_until_it_ends_or_turns_out_to_last() {
        let workers = Workers::start(1, Duration::ZERO).unwrap();
        let made = workers.next().spawn(async {
            let (io, _peer) = tokio::io::duplex(1024);
            let (carrier, _driver) = gateway_carrier(io, CarrierConfig::default());
            (Arc::new(CarrierLink::new(carrier, false)), RequestCount::here())
        });
        let (link, there) = made.await.unwrap();
        let counts = || (link.busy(), there.count());
        let (mut short, mut lasting) = (link.begin(), link.begin());
        assert_eq!(counts(), (2, 2));
        assert_eq!(RequestCount::here().count(), 0);
        lasting.mark_long_lived();
        lasting.mark_long_lived();
        assert_eq!(counts(), (2, 1));
        drop(lasting);
        assert_eq!(counts(), (1, 1));
        short.end();
        assert_eq!(counts(), (0, 0));
        short.mark_long_lived();
        assert_eq!((counts(), link.load(Instant::now(), 0).long_lived_streams), ((0, 0), 0), "nobody uses it");
        short.begin();
        assert_eq!(counts(), (1, 1));
        drop(short);
        assert_eq!(counts(), (0, 0));
    }
}
