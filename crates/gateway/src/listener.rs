//! Accepts callers' connections and hands each request to whom it is for.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge are told apart by the first bytes. HTTP/1.1 is read by [`h1`](crate::h1),
//! HTTP/2 by [`caller_http2`](crate::caller_http2).

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body::Body;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::{
    caller::{Caller, Signal, is_trusted},
    caller_body::CallerBody,
    caller_http2,
    caller_stream::{CallerSocket, CallerStream},
    gateway::{BoxError, Shared},
    h1::{self, conn::CallerConn},
    on_runtime::OnRuntime,
    server_tls::{self, ServerTls},
};

/// How long a new connection may take to send its first bytes.
const FIRST_BYTES: Duration = Duration::from_secs(15);
/// How long to wait for the second of a connection's first bytes; doubled for each one more.
const SNIFF_PAUSE: Duration = Duration::from_millis(5);
/// The longest of these pauses.
const MAX_SNIFF_PAUSE: Duration = Duration::from_millis(250);
/// How often it is looked whether the certificate's files were written anew.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);
/// How often idle connections are looked for, callers' and containers'; more often where they are to end sooner.
const JANITOR: Duration = Duration::from_secs(1);
/// How long to wait when the machine has no sockets left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that was taken just before the drain has for its first bytes: they may be on their way through
/// this machine.
const LAST_BYTES: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then drains.
pub(crate) async fn serve<S, B>(
    shared: Arc<Shared>,
    listener: TcpListener,
    api: S,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(shared.config.max_connections));
    let janitor = shared.tasks.spawn(janitor(Arc::clone(&shared)));
    let from_files = shared.config.tls.clone().filter(ServerTls::is_from_files);
    let renewal = from_files.map(|tls| shared.tasks.spawn(renew_certificate(tls)));
    let accepted = shutdown.run_until_cancelled(accept_all(&shared, &listener, &api, (&room, &connections))).await;
    for connected in connected(listener) {
        if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
            deal(&shared, connected, &api, permit, &connections);
        }
    }
    janitor.abort();
    if let Some(renewal) = renewal {
        renewal.abort();
    }
    drain(&shared, &connections).await;
    accepted.unwrap_or(Ok(()))
}

async fn accept_all<S, B>(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    api: &S,
    (room, connections): (&Arc<Semaphore>, &TaskTracker),
) -> io::Result<()>
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // A listener that has no address cannot be used at all.
    listener.local_addr()?;
    loop {
        let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
        // A socket belongs to the event queue of one runtime: it leaves this one's and enters a worker's.
        match listener.accept().await.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
            Ok(accepted) => deal(shared, accepted, api, permit, connections),
            Err(error) => {
                // Out of sockets, or a connection that was gone before it was accepted: neither ends the listener.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What has connected already, when nothing more is to be accepted: the kernel would reset these connections, whose callers
/// may have sent a request, when the listener is closed. It resets only those that come between the last look and the close.
fn connected(listener: TcpListener) -> Vec<(std::net::TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    // Not the runtime's listener, which knows only of connections that its event queue has told it of.
    let looked = listener.into_std().and_then(|listener| {
        loop {
            match listener.accept() {
                Ok((socket, peer)) => {
                    socket.set_nonblocking(true)?;
                    waiting.push((socket, peer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // One that is gone already; the others are not.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    });
    if let Err(error) = looked {
        tracing::warn!(%error, "connections that waited to be accepted are reset");
    }
    waiting
}

/// Lets the next worker serve a connection.
fn deal<S, B>(
    shared: &Arc<Shared>,
    (socket, peer): (std::net::TcpStream, SocketAddr),
    api: &S,
    permit: OwnedSemaphorePermit,
    connections: &TaskTracker,
) where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let worker = shared.config.workers.next();
    let api = OnRuntime { service: api.clone(), runtime: Handle::current() };
    let shared = Arc::clone(shared);
    let serving = async move {
        match TcpStream::from_std(socket) {
            Ok(socket) => connection(shared, socket, peer, api, permit).await,
            Err(error) => tracing::warn!(%peer, %error, "a connection could not be handed to a worker"),
        }
    };
    connections.spawn_on(serving, &worker);
}

/// Ends everything in order: tell, wait, cut.
async fn drain(shared: &Arc<Shared>, connections: &TaskTracker) {
    shared.stopping.cancel();
    shared.callers.tell_all(Signal::Drain);
    connections.close();
    let deadline = shared.config.drain_timeout;
    if timeout(deadline, connections.wait()).await.is_err() {
        tracing::warn!(seconds = deadline.as_secs_f32(), "requests that outlasted the drain are cut off");
    }
    shared.callers.tell_all(Signal::Cut);
    shared.cut.cancel();
    shared.tasks.close();
    let rest = async {
        connections.wait().await;
        shared.tasks.wait().await;
    };
    if timeout(shared.config.cut_grace, rest).await.is_err() {
        tracing::warn!(left = connections.len() + shared.tasks.len(), "not everything ended");
    }
}

/// Looks after what has no timer of its own.
async fn janitor(shared: Arc<Shared>) {
    let mut ticks = interval(JANITOR.min(shared.config.caller_idle / 4));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        shared.callers.end_idle(now, shared.config.caller_idle);
        let state = shared.state.load_full();
        if state.end_expired(shared.clock.now()) {
            shared.callers.wake_all();
        }
        state.instances().for_each(|instance| instance.http2.expire(now));
        for connection in state.instances().flat_map(|instance| instance.pool.take_expired(now)) {
            shared.tasks.spawn(connection.close());
        }
    }
}

/// One caller's connection from its first byte to its last.
async fn connection<S, B>(
    shared: Arc<Shared>,
    socket: TcpStream,
    peer: SocketAddr,
    api: S,
    permit: OwnedSemaphorePermit,
) where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // Small answers are not to wait for acknowledgements, and a caller whose machine has vanished is to be noticed even
    // when nothing is sent. Both fail only on a socket that is already gone.
    let _ = socket.set_nodelay(true);
    let _ = SockRef::from(&socket).set_tcp_keepalive(&keep_alive());
    let tls = shared.config.tls.as_ref();
    let (socket, is_http2) = tokio::select! {
        greeted = timeout(FIRST_BYTES, greet(socket, peer.ip(), tls)) => match greeted {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "a connection came to nothing"),
            Err(_) => return,
        },
        // A connection that says nothing need not be waited for.
        () = shared.stopping.cancelled().then(|()| sleep(LAST_BYTES)) => return,
    };
    let caller = Caller::new(peer, is_trusted(&shared.config.trusted_proxies, peer.ip()), socket.scheme());
    let caller = Arc::new(caller);
    let place = shared.callers.enter(&caller);
    // Everybody else has been told already.
    if shared.is_stopping() {
        caller.tell(Signal::Drain);
    }
    let io = CallerStream::new(socket, Arc::clone(&caller), (place, permit));
    match is_http2 {
        // Boxed, so that every connection does not keep room for it.
        true => Box::pin(caller_http2::serve::serve(shared, io, caller, api)).await,
        false => {
            let conn = CallerConn::new(io, caller, shared.config.head_limit);
            h1::serve::serve(shared, conn, api).await;
        }
    }
}

const fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4)
}

/// Finds out what a connection speaks, and shakes hands where that is TLS; says also whether it is HTTP/2.
async fn greet(socket: TcpStream, peer: IpAddr, tls: Option<&ServerTls>) -> io::Result<(CallerSocket, bool)> {
    if let Some(tls) = tls {
        if begins_tls(&socket).await? {
            let Some(stream) = tls.accept(socket).await? else {
                return Err(io::Error::other("it was a certificate authority's challenge, which was answered"));
            };
            let is_http2 = server_tls::is_http2(stream.get_ref().1);
            return Ok((CallerSocket::Tls(Box::new(stream)), is_http2));
        }
        // What stays inside this machine needs no TLS, and its callers need not know the name on the certificate.
        let is_here = peer.to_canonical().is_loopback() || socket.local_addr()?.ip() == peer;
        if !is_here {
            refuse_plain(socket).await?;
            return Err(io::Error::other("plain HTTP was sent where TLS is wanted"));
        }
    }
    let is_http2 = speaks_http2(&socket).await?;
    Ok((CallerSocket::Plain(socket), is_http2))
}

/// Whether the first byte is that of a TLS handshake (RFC 8446 §5.1). It stays in the socket.
async fn begins_tls(socket: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE: u8 = 22;
    let mut first = [0_u8];
    match socket.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == [HANDSHAKE]),
    }
}

/// Tells somebody who speaks plain HTTP that this is not spoken here.
async fn refuse_plain(mut socket: TcpStream) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\
        Content-Length: 60\r\n\r\nThis server speaks HTTPS; use a URL that begins with https.\n";
    // Closing with unread bytes would be a reset, and the answer would be lost.
    let mut request = [0_u8; 4096];
    let _ = socket.read(&mut request).await?;
    socket.write_all(ANSWER).await?;
    socket.shutdown().await
}

/// Looks again and again whether the certificate's files were written anew.
async fn renew_certificate(tls: ServerTls) {
    let mut ticks = interval(CERTIFICATE_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let tls = tls.clone();
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(true)) => tracing::info!("the certificate was read again"),
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the new certificate cannot be used; the one before stays"),
        }
    }
}

/// Whether the first bytes are those of HTTP/2 (RFC 9113 §3.4). They stay in the socket.
///
/// Four of them are enough, because no request of HTTP/1 can have the method `PRI` (RFC 9113 §11.6).
async fn speaks_http2(socket: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI ";
    let mut first = [0_u8; PREFACE.len()];
    let mut pause = SNIFF_PAUSE;
    loop {
        let seen = socket.peek(&mut first).await?;
        if first[..seen] != PREFACE[..seen] {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        if seen == 0 || socket.ready(Interest::READABLE).await?.is_read_closed() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // They come in pieces; the socket counts as readable all the time.
        sleep(pause).await;
        pause = (pause * 2).min(MAX_SNIFF_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (caller, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn plain_http_from_elsewhere_is_told_to_use_tls() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        let tls = ServerTls::load(&path("cert"), &path("key")).unwrap();
        for (peer, is_taken) in [("192.0.2.1", false), ("::ffff:127.0.0.9", true), ("127.0.0.1", true)] {
            let (mut caller, socket) = pair().await;
            caller.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let greeted = greet(socket, peer.parse().unwrap(), Some(&tls)).await;
            assert_eq!(greeted.is_ok(), is_taken, "{peer}");
            drop(greeted);
            let mut answer = String::new();
            let read = caller.read_to_string(&mut answer).await;
            if !is_taken {
                read.unwrap();
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("HTTPS"), "{answer}");
                assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{answer}");
            }
        }
    }

    #[tokio::test]
    async fn versions_are_told_apart_by_the_first_bytes() {
        for (pieces, expected) in [
            (&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"][..], true),
            (&["P", "RI", " "], true),
            (&["GET / HTTP/1.1\r\n"], false),
            (&["P", "OST / HTTP/1.1\r\n"], false),
            (&["PR", "INT / HTTP/1.1\r\n"], false),
        ] {
            let (mut caller, socket) = pair().await;
            let send = async {
                for piece in pieces {
                    caller.write_all(piece.as_bytes()).await.unwrap();
                    sleep(SNIFF_PAUSE).await;
                }
            };
            let (found, ()) = tokio::join!(speaks_http2(&socket), send);
            assert_eq!(found.unwrap(), expected, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_caller_that_ends_within_its_first_bytes_is_not_waited_for() {
        for said in ["", "P"] {
            let (mut caller, socket) = pair().await;
            caller.write_all(said.as_bytes()).await.unwrap();
            caller.shutdown().await.unwrap();
            let found = timeout(FIRST_BYTES / 3, speaks_http2(&socket)).await.unwrap();
            assert_eq!(found.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{said:?}");
        }
    }
}
