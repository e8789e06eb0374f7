//! After a container's `101`: bytes in both directions, whatever they mean.

use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    time::{Instant, sleep_until},
};
use tokio_util::io::InspectReader;

use crate::{body::Terms, gateway::Shared, rewound::Rewound, upstream::Connection};

/// Bytes that wait in each direction.
const COPY_BUFFER: usize = 16 << 10;

/// Passes bytes between a caller and a container until both have ended (`true`), one has broken, or nothing is to be said any
/// more. Where this is not the end that a side meant, it has to be shown.
pub(crate) async fn switch<T>(shared: &Shared, caller_side: T, connection: &mut Connection, terms: Terms) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Activity::new();
    let early = std::mem::take(&mut connection.inbox.bytes);
    let container_side = Rewound::new(early, connection.socket());
    let mut container_side = InspectReader::new(container_side, |_| activity.note());
    let mut caller_side = InspectReader::new(caller_side, |_| activity.note());
    // Only the whole of a request has a deadline; this is none any more.
    let terms = Terms { deadline: None, ..terms };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut caller_side, &mut container_side, COPY_BUFFER, COPY_BUFFER) => {
            copied.is_ok()
        }
        _ = terms.over() => false,
        () = activity.ceased(terms.idle) => false,
        () = shared.cut.cancelled() => false,
    }
}

/// When something was last said.
struct Activity {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until nothing was said for so long.
    async fn ceased(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return pending().await };
        loop {
            let over = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if over <= Instant::now() {
                return;
            }
            sleep_until(over).await;
        }
    }
}
