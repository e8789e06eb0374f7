//! Finds a connection to an instance: an idle one, or a new one over a new stream.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};
use towline_tunnel::{TunnelStream, placement::StreamKind};

use crate::{
    agents::{
        link::Busy,
        session::{Wanted, Way},
    },
    service::Instance,
    upstream::Connection,
};

/// How often to look again.
const MAX_ROUNDS: usize = 64;
/// A carrier that was silent for so long is asked for a sign of life before a request that cannot be sent twice.
const SILENCE: Duration = Duration::from_secs(16);
/// How long it may take to give one.
const PING_WAIT: Duration = Duration::from_secs(5);

/// What a request needs of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// It asks for another protocol.
    pub upgrade: bool,
    /// It may be sent twice.
    pub idempotent: bool,
    /// Only a new stream will do.
    pub fresh: bool,
    /// How long it may wait for a carrier.
    pub wait: Duration,
}

/// Finds a connection that is in use from now on. `None` when no carrier of the agent takes the request.
pub(crate) async fn connect(instance: &Instance, need: Need) -> Option<Connection> {
    let deadline = Instant::now() + need.wait;
    // Each round but the waiting one uses up a connection or a carrier that turned out to be gone.
    for _ in 0..MAX_ROUNDS {
        if !need.fresh
            && let Some(connection) = take_exclusive(instance, need).await
        {
            return Some(connection);
        }
        let mut changed = pin!(instance.slot.changed());
        changed.as_mut().enable();
        // Without a session nobody will dial a carrier; the caller is told at once.
        let session = instance.slot.session()?;
        let wanted = Wanted {
            instance: instance.id,
            pool: if need.fresh || instance.pool.is_empty() { None } else { Some(&instance.pool) },
            replayable: need.idempotent,
            kind: if need.upgrade { StreamKind::LongLived } else { StreamKind::Request },
        };
        match session.place(&wanted, Instant::now()) {
            Some(Way::Idle(connection)) => {
                if let Some(connection) = begin(connection).await {
                    return Some(connection);
                }
            }
            Some(Way::New(stream, busy)) => {
                if let Some(connection) = open(stream, busy, need).await {
                    return Some(connection);
                }
            }
            None => timeout_at(deadline, changed).await.ok()?,
        }
    }
    None
}

async fn take_exclusive(instance: &Instance, need: Need) -> Option<Connection> {
    while let Some(connection) = instance.pool.take_exclusive(Instant::now(), need.idempotent) {
        if let Some(connection) = begin(connection).await {
            return Some(connection);
        }
    }
    None
}

/// Takes an idle connection into use, unless the container has closed it meanwhile.
async fn begin(mut connection: Connection) -> Option<Connection> {
    connection.begin_use();
    let alive = poll_fn(|cx| Poll::Ready(connection.is_alive(cx))).await;
    alive.then_some(connection)
}

async fn open(stream: TunnelStream, busy: Busy, need: Need) -> Option<Connection> {
    if !need.idempotent && busy.link().carrier().last_received().elapsed() > SILENCE {
        let carrier = busy.link().carrier();
        if !matches!(timeout(PING_WAIT, carrier.ping()).await, Ok(Ok(_))) {
            carrier.close();
            return None;
        }
    }
    Connection::new(stream, busy).await.ok()
}
