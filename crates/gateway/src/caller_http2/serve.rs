//! A caller's HTTP/2 connection: its limits, its requests as they come, and its end.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::server::{Builder, Connection};
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    keep_alive::KeepAlive,
    reply::Reply,
    respond::respond,
    signs::{Signs, Watched},
};
use crate::{
    caller::{Caller, Signal},
    caller_body::CallerBody,
    caller_stream::CallerStream,
    gateway::{BoxError, Shared},
};

/// Requests at a time on one connection.
const MAX_STREAMS: u32 = 128;
/// Bytes that the body of one request may be ahead of its container.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of an answer that a slow caller has not taken yet.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Resets of requests that nobody has looked at yet; one more ends the connection (CVE-2023-44487).
const MAX_HASTY_RESETS: usize = 20;
/// Requests that break the rules; one more ends the connection.
const MAX_FAULTS: usize = 1024;

/// Serves a caller to the end of its connection.
pub(crate) async fn serve<S, B>(shared: Arc<Shared>, io: CallerStream, caller: Arc<Caller>, api: S)
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let signs = Arc::new(Signs::default());
    let mut handshake = pin!(builder(shared.config.head_limit).handshake(Watched::new(io, Arc::clone(&signs))));
    let shaken = poll_fn(|cx| match caller.poll_signal(cx) {
        Signal::Cut => Poll::Ready(None),
        Signal::Run | Signal::Drain => handshake.as_mut().poll(cx).map(Result::ok),
    });
    let Some(mut conn) = shaken.await else { return };
    let Some(pings) = conn.ping_pong() else { return };
    let config = &shared.config;
    let keep_alive = KeepAlive::new((pings, Arc::clone(&signs)), config.ping_after, config.ping_patience);
    let mut served = Served { shared, caller, api, conn, signs, keep_alive, draining: false };
    poll_fn(move |cx| served.poll(cx)).await;
}

/// The head of each request may have `head_limit` bytes, as RFC 9113 §10.5.1 counts them. A longer one is a 431.
fn builder(head_limit: usize) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        // Room for every stream's window, so that uploads that wait never stop the others (tunnels.md §6).
        .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .max_header_list_size(u32::try_from(head_limit).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_HASTY_RESETS)
        .max_local_error_reset_streams(Some(MAX_FAULTS))
        // RFC 8441 §3: WebSockets can be opened.
        .enable_connect_protocol();
    builder
}

/// A connection after its handshake.
struct Served<S> {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    api: S,
    conn: Connection<Watched<CallerStream>, Bytes>,
    signs: Arc<Signs>,
    keep_alive: KeepAlive,
    draining: bool,
}

impl<S> Served<S> {
    /// Ready when the connection has ended, or is to end at once.
    fn poll<B>(&mut self, cx: &mut Context<'_>) -> Poll<()>
    where
        S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match self.caller.poll_signal(cx) {
            Signal::Cut => return Poll::Ready(()),
            Signal::Drain if !self.draining => {
                self.draining = true;
                self.conn.graceful_shutdown();
            }
            Signal::Run | Signal::Drain => {}
        }
        if self.keep_alive.poll_silent(cx).is_ready() {
            tracing::debug!(peer = %self.caller.peer, "a caller says nothing any more");
            self.caller.abort_on_close();
            return Poll::Ready(());
        }
        let ended = self.poll_requests(cx);
        self.signs.note_turn();
        ended
    }

    /// Gives each request that has come a task of its own, and writes what there is to write.
    fn poll_requests<B>(&mut self, cx: &mut Context<'_>) -> Poll<()>
    where
        S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        loop {
            match ready!(self.conn.poll_accept(cx)) {
                Some(Ok((request, response))) => {
                    let active = self.caller.begin(!request.body().is_end_stream());
                    let reply = Reply::new(response, Arc::clone(&self.signs));
                    let (shared, api) = (Arc::clone(&self.shared), self.api.clone());
                    self.shared.tasks.spawn(respond(shared, active, (request, reply), api));
                }
                Some(Err(error)) => {
                    tracing::debug!(peer = %self.caller.peer, %error, "an HTTP/2 connection broke");
                    return Poll::Ready(());
                }
                // No more come, and everything is written.
                None => return Poll::Ready(()),
            }
        }
    }
}
