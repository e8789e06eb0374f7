//! Finds a connection to an instance: an idle one, or a new one over a new stream.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout, timeout_at};
use towline_tunnel::{StreamEnd, TunnelStream, placement::StreamKind};

use crate::{
    agents::{
        link::LinkUse,
        session::{Wanted, Way},
    },
    external::{ExternalTls, Socket},
    service::Instance,
    upstream::{Connection, FailureReason},
};

/// How often to look again.
const MAX_ROUNDS: usize = 64;
/// A carrier that was silent for so long is asked for a sign of life before a request that cannot be sent twice.
const SILENCE: Duration = Duration::from_secs(16);
/// How long it may take to give one.
const PING_WAIT: Duration = Duration::from_secs(5);

/// What a request needs of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need<'a> {
    /// When it was begun to look for one.
    pub now: Instant,
    /// It asks for another protocol.
    pub upgrade: bool,
    /// It may be sent twice.
    pub idempotent: bool,
    /// Only a new stream will do.
    pub fresh: bool,
    /// How long it may wait for a carrier.
    pub wait: Duration,
    /// Nothing of it is to leave before the connection stands.
    pub confirm: bool,
    /// The longest that a new connection may take.
    pub connect_timeout: Option<Duration>,
    /// Bytes that the head of an answer may have.
    pub head_limit: usize,
    /// What is behind it is a server elsewhere.
    pub tls: Option<Tls<'a>>,
}

impl Need<'_> {
    const fn kind(&self) -> StreamKind {
        if self.upgrade { StreamKind::LongLived } else { StreamKind::Request }
    }
}

/// With whom TLS is spoken, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tls<'a> {
    pub client: &'a ExternalTls,
    pub name: &'a ServerName<'static>,
}

/// Finds a connection that is in use from now on. `None` when no carrier of the agent takes the request.
///
/// # Errors
/// When a new connection to a server elsewhere is not secure, and when one that is waited for is refused or takes too long.
/// Nothing of the request was sent.
pub(crate) async fn connect(instance: &Instance, need: Need<'_>) -> Result<Option<Box<Connection>>, FailureReason> {
    let mut deadline = None;
    let mut now = need.now;
    // Each round but the waiting one uses up a connection or a carrier that turned out to be gone.
    for _ in 0..MAX_ROUNDS {
        if !need.fresh
            && let Some(connection) = take_first(instance, need, now).await
        {
            return Ok(Some(connection));
        }
        let mut changed = pin!(instance.slot.changed());
        changed.as_mut().enable();
        // Without a session nobody will dial a carrier; the caller is told at once.
        let Some(session) = instance.slot.session() else { return Ok(None) };
        let wanted = Wanted {
            instance: instance.id,
            pool: if need.fresh || instance.pool.is_empty() { None } else { Some(&instance.pool) },
            replayable: need.idempotent,
            kind: need.kind(),
        };
        match session.place(&wanted, now) {
            Some(Way::Idle(connection)) => {
                if let Some(connection) = begin(connection, instance).await {
                    return Ok(Some(connection));
                }
            }
            Some(Way::New(stream, used)) => {
                if let Some(connection) = open(stream, used, need).await? {
                    return Ok(Some(connection));
                }
            }
            None => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + need.wait);
                if timeout_at(deadline, changed).await.is_err() {
                    return Ok(None);
                }
            }
        }
        // A round may have waited.
        now = Instant::now();
    }
    Ok(None)
}

async fn take_first(instance: &Instance, need: Need<'_>, now: Instant) -> Option<Box<Connection>> {
    while let Some(connection) = instance.pool.take_first(need.kind(), now, need.idempotent) {
        if let Some(connection) = begin(connection, instance).await {
            return Some(connection);
        }
    }
    None
}

/// Takes an idle connection into use, unless the container has closed it meanwhile.
async fn begin(mut connection: Box<Connection>, instance: &Instance) -> Option<Box<Connection>> {
    connection.begin_use();
    if poll_fn(|cx| Poll::Ready(connection.is_alive(cx))).await {
        return Some(connection);
    }
    note_closed(&connection, instance);
    None
}

/// Learns that the container closes connections that were idle for as long as this one.
pub(crate) fn note_closed(connection: &Connection, instance: &Instance) {
    if let Some(idle) = connection.idle_for {
        instance.pool.note_closed(idle, Instant::now());
    }
}

async fn open(
    mut stream: TunnelStream,
    used: LinkUse,
    need: Need<'_>,
) -> Result<Option<Box<Connection>>, FailureReason> {
    if !need.idempotent && used.link().carrier().last_received().elapsed() > SILENCE {
        let carrier = used.link().carrier();
        if !matches!(timeout(PING_WAIT, carrier.ping()).await, Ok(Ok(_))) {
            carrier.close();
            return Ok(None);
        }
    }
    let monitor = stream.monitor();
    let socket = match need.tls {
        None => {
            if need.confirm || need.connect_timeout.is_some() {
                opened(&mut stream, need.connect_timeout).await?;
            }
            Socket::Plain(stream)
        }
        Some(Tls { client, name }) => client.connect(name, stream, need.connect_timeout).await?,
    };
    Ok(Some(Box::new(Connection::new(socket, monitor, used, need.head_limit))))
}

/// Waits until the container has taken the connection.
async fn opened(stream: &mut TunnelStream, limit: Option<Duration>) -> Result<(), FailureReason> {
    let opened = match limit {
        Some(limit) => timeout(limit, stream.opened()).await.map_err(|_| FailureReason::ConnectTimeout(limit))?,
        None => stream.opened().await,
    };
    opened.map_err(|end| match end {
        StreamEnd::Refused(refused) => FailureReason::Refused(refused),
        _ => FailureReason::TunnelLost,
    })
}
