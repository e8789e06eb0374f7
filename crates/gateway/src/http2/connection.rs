//! The HTTP/2 connections to one instance.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Error, Ping, PingPong, Reason,
    client::{Builder, SendRequest},
};
use tokio::time::{Instant, error::Elapsed, timeout};
use towline_tunnel::{ResetCode, StreamEnd, StreamMonitor};

use crate::{
    agents::link::CarrierLink,
    connect::{self, Need},
    gateway::Shared,
    service::Instance,
    upstream::{Connection, FailureReason},
};

/// How long a connection is kept that has no request. One that the container closes says so first (RFC 9113 §6.8), so
/// that nothing is lost by keeping it, as it would be with HTTP/1.1.
const KEEP: Duration = Duration::from_secs(60);
/// Requests at a time on one connection, also when the container would take more: one lost packet stops them all.
const MAX_STREAMS: usize = 100;
/// Bytes of an answer that may be ahead of its caller.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of a request that wait for the connection.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// How long a request waits for another one's new connection before it opens one of its own.
const OPENING: Duration = Duration::from_secs(1);

/// How long a container may take to send its first SETTINGS, where a request depends on them.
const SETTINGS_WAIT: Duration = Duration::from_secs(15);

/// The connections to one instance that take requests.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<Open>,
    /// Held by whoever opens one, so that many requests at once do not open many.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    connections: Vec<Arc<Http2Connection>>,
    closed: bool,
}

impl Connections {
    /// A place on the first connection that has one.
    fn take(&self) -> Option<Lease> {
        let mut open = self.open();
        open.connections.retain(|connection| !connection.is_over());
        open.connections.iter().find_map(Http2Connection::lease)
    }

    fn put(&self, connection: &Arc<Http2Connection>) {
        let mut open = self.open();
        if !open.closed {
            open.connections.push(Arc::clone(connection));
        }
    }

    /// Lets go of connections that take no requests any more, or have had none for long.
    pub(crate) fn expire(&self, now: Instant) {
        self.open().connections.retain(|connection| !connection.is_over() && !connection.is_idle(now));
    }

    /// Lets go of all, and keeps none any more. What runs on them goes on.
    pub(crate) fn close(&self) {
        let mut open = self.open();
        open.closed = true;
        open.connections.clear();
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection. It ends in order when nobody has it any more.
pub(crate) struct Http2Connection {
    sender: SendRequest<Bytes>,
    link: Arc<CarrierLink>,
    monitor: StreamMonitor,
    usage: Mutex<Usage>,
    /// What asks for a sign of life, until the container's SETTINGS are known to be here.
    unsettled: tokio::sync::Mutex<Option<PingPong>>,
    over: AtomicBool,
}

#[derive(Debug)]
struct Usage {
    active: usize,
    /// Whether it has had a request.
    used: bool,
    idle_since: Instant,
}

impl Http2Connection {
    fn lease(self: &Arc<Self>) -> Option<Lease> {
        let mut usage = self.usage();
        if usage.active >= self.sender.current_max_send_streams().min(MAX_STREAMS) {
            return None;
        }
        usage.active += 1;
        let reused = std::mem::replace(&mut usage.used, true);
        Some(Lease { connection: Arc::clone(self), reused })
    }

    fn is_over(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.over.load(Ordering::Relaxed)
            || self.link.is_retired()
            || matches!(self.sender.clone().poll_ready(&mut cx), std::task::Poll::Ready(Err(_)))
    }

    /// Waits for the container's SETTINGS: they come before anything else (RFC 9113 §3.4), so before the answer to a ping. `Err`
    /// when that does not come in time.
    async fn settle(&self) -> Result<(), Elapsed> {
        let settled = async {
            let mut unsettled = self.unsettled.lock().await;
            if let Some(pings) = &mut *unsettled {
                // One may be on its way, from a request that has waited no longer.
                let _ = pings.send_ping(Ping::opaque());
                // That it failed because the connection did is found out by whoever uses that.
                let _ = poll_fn(|cx| pings.poll_pong(cx)).await;
            }
            *unsettled = None;
        };
        timeout(SETTINGS_WAIT, settled).await
    }

    fn is_idle(&self, now: Instant) -> bool {
        let usage = self.usage();
        usage.active == 0 && now.saturating_duration_since(usage.idle_since) >= KEEP
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Http2Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2Connection").field("usage", &self.usage).finish_non_exhaustive()
    }
}

/// One request's place on a connection.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Arc<Http2Connection>,
    /// Whether the connection has had a request before.
    pub reused: bool,
}

impl Lease {
    pub(crate) fn link(&self) -> &Arc<CarrierLink> {
        &self.connection.link
    }

    pub(crate) fn monitor(&self) -> StreamMonitor {
        self.connection.monitor.clone()
    }

    /// Whether a WebSocket can be opened on it (RFC 8441 §3).
    async fn takes_websockets(&self) -> Result<(), FailureReason> {
        let sender = &self.connection.sender;
        if sender.is_extended_connect_protocol_enabled() {
            return Ok(());
        }
        if self.connection.settle().await.is_err() {
            let fault = format!("it has not sent its SETTINGS within {} seconds; {HINT}", SETTINGS_WAIT.as_secs());
            return Err(FailureReason::BrokeHttp(fault));
        }
        match sender.is_extended_connect_protocol_enabled() || self.connection.is_over() {
            true => Ok(()),
            false => Err(FailureReason::NoWebSockets),
        }
    }

    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.clone()
    }

    /// What it means that a request failed; also whether the container has provably not looked at it.
    pub(crate) fn judge(&self, error: &Error) -> (FailureReason, bool) {
        if !error.is_reset() {
            // It was the connection that failed; its own task may not know yet.
            self.connection.over.store(true, Ordering::Relaxed);
        }
        judge(error, &self.connection.monitor)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut usage = self.connection.usage();
        usage.active -= 1;
        usage.idle_since = Instant::now();
    }
}

/// What to look at when a container breaks HTTP/2 from its first byte on.
const HINT: &str = "is what it speaks HTTP/2 without TLS (h2c)?";

/// RFC 9113 §8.7: what was refused, and what a `GOAWAY` does not speak of as begun, was not processed.
fn judge(error: &Error, monitor: &StreamMonitor) -> (FailureReason, bool) {
    if error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
        return (FailureReason::Closed, true);
    }
    if error.is_reset() && error.is_remote() {
        let reason = error.reason().unwrap_or(Reason::NO_ERROR);
        return (FailureReason::BrokeHttp(format!("it reset the request: {}", reason.description())), false);
    }
    if error.is_reset() || error.is_go_away() {
        return (FailureReason::BrokeHttp(format!("{error}; {HINT}")), false);
    }
    let reason = match monitor.end() {
        Some(StreamEnd::Refused(refused)) => FailureReason::Refused(refused),
        Some(StreamEnd::Reset { code: ResetCode::ConnectionReset | ResetCode::ConnectFailed, .. }) => {
            FailureReason::Closed
        }
        Some(StreamEnd::Reset { .. } | StreamEnd::CarrierLost(_)) => FailureReason::TunnelLost,
        Some(StreamEnd::Finished | StreamEnd::LocalReset(_)) | None => FailureReason::Closed,
    };
    (reason, false)
}

/// Finds a place for a request, on a new connection if need be. `None` when no carrier of the agent takes it.
///
/// # Errors
/// As [`connect::connect`], and when the container does not take what is asked for.
pub(crate) async fn connect(
    instance: &Instance,
    need: Need<'_>,
    shared: &Shared,
) -> Result<Option<Box<Connection>>, FailureReason> {
    let Some(lease) = lease(instance, need, shared).await? else { return Ok(None) };
    if need.upgrade {
        lease.takes_websockets().await?;
    }
    Ok(Some(Box::new(Connection::http2(lease))))
}

async fn lease(instance: &Instance, need: Need<'_>, shared: &Shared) -> Result<Option<Lease>, FailureReason> {
    if let Some(lease) = instance.http2.take() {
        return Ok(Some(lease));
    }
    let _turn = timeout(OPENING, instance.http2.opening.lock()).await;
    if let Some(lease) = instance.http2.take() {
        return Ok(Some(lease));
    }
    // It will last: many requests share it.
    let need = Need { fresh: true, upgrade: true, ..need };
    let Some(connection) = connect::connect(instance, need).await? else { return Ok(None) };
    let connection = start(*connection, shared).await?;
    let lease = connection.lease();
    instance.http2.put(&connection);
    Ok(lease)
}

/// Begins to speak HTTP/2 on a new connection.
async fn start(connection: Connection, shared: &Shared) -> Result<Arc<Http2Connection>, FailureReason> {
    let Some((stream, monitor, busy)) = connection.into_stream() else {
        return Err(FailureReason::BrokeHttp("HTTP/2 with it is spoken without TLS".to_owned()));
    };
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        // Room for every request's window, so that an answer that nobody reads never stops the others.
        .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS as u32)
        .initial_max_send_streams(MAX_STREAMS)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .max_header_list_size(u32::try_from(shared.config.head_limit).unwrap_or(u32::MAX))
        .enable_push(false);
    let (sender, mut driver) = builder.handshake(stream).await.map_err(|error| judge(&error, &monitor).0)?;
    let pings = driver.ping_pong();
    let cut = shared.cut.clone();
    shared.tasks.spawn(async move {
        if let Some(Err(error)) = cut.run_until_cancelled(driver).await {
            tracing::debug!(%error, "an HTTP/2 connection to a container ended");
        }
    });
    Ok(Arc::new(Http2Connection {
        sender,
        link: Arc::clone(busy.link()),
        monitor,
        usage: Mutex::new(Usage { active: 0, used: false, idle_since: Instant::now() }),
        unsettled: tokio::sync::Mutex::new(pings),
        over: AtomicBool::new(false),
    }))
}
