//! After a container's `101`: bytes in both directions, whatever they mean.

use tokio::io::copy_bidirectional_with_sizes;

use super::conn::CallerConn;
use crate::{gateway::Shared, rewound::Rewound, standing::Standing, upstream::Connection};

/// Bytes that wait in each direction.
const COPY_BUFFER: usize = 16 << 10;

/// Passes bytes until both sides have ended, or one has broken.
pub(super) async fn switch(
    shared: &Shared,
    conn: &mut CallerConn,
    connection: &mut Connection,
    standing: Option<Standing>,
) {
    let caller = std::sync::Arc::clone(&conn.caller);
    let early = std::mem::take(&mut connection.inbox.bytes);
    let mut container_side = Rewound::new(early, connection.socket());
    let mut caller_side = Rewound::new(std::mem::take(&mut conn.inbox.bytes), &mut conn.io);
    let lost = async {
        match &standing {
            Some(standing) => standing.lost().await,
            None => std::future::pending().await,
        }
    };
    let finished = tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut caller_side, &mut container_side, COPY_BUFFER, COPY_BUFFER) => {
            copied.is_ok()
        }
        () = lost => false,
        () = shared.cut.cancelled() => false,
    };
    if !finished {
        // Both sides are to see that this is not the end that the other one meant.
        caller.abort_on_close();
    }
}
