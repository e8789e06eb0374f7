//! Accepts connections, serves HTTP/1.1 and HTTP/2 on them, and ends in good order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::SERVER;
use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::body::{Body, Cut};
use crate::call::{Call, Stop};
use crate::config::Config;
use crate::endpoints::dispatch;
use crate::exchange::Exchange;
use crate::query::Query;
use crate::state::Demo;
use crate::tap::{Conn, Tap};

/// How [`serve`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By the shutdown, with the requests that were in flight answered or out of time.
    Drained,
    /// By `POST /exit`, at once. The process is expected to end with this code.
    Exit(u8),
}

/// Serves until `shutdown` is cancelled; then accepts nothing more, gives what is in flight [`Config::drain`] to end, and returns.
pub async fn serve(listener: TcpListener, config: Config, shutdown: CancellationToken) -> Ended {
    let drain = config.drain;
    let demo = Arc::new(Demo::new(config, shutdown.clone()));
    tokio::select! {
        () = accept(&listener, &demo) => {}
        () = shutdown.cancelled() => {}
        () = demo.exit.cancelled() => {}
    }
    drop(listener);
    tokio::select! {
        () = demo.finish(drain) => {}
        () = demo.exit.cancelled() => demo.finish(Duration::ZERO).await,
    }
    // The last request in flight may have been the one that asked for the exit.
    if demo.exit.is_cancelled() {
        return Ended::Exit(u8::try_from(demo.exit_code.load(Ordering::Relaxed)).unwrap_or(1));
    }
    Ended::Drained
}

/// Never returns.
async fn accept(listener: &TcpListener, demo: &Arc<Demo>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => demo.spawn(connection(socket, demo.clone())),
            // The caller gave up first.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of file descriptors, or of memory: trying again at once would only burn the processor.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(socket: TcpStream, demo: Arc<Demo>) {
    // Chunks are sent as they are flushed. Without it they arrive later, and that is all.
    let _ = socket.set_nodelay(true);
    let shutdown = demo.shutdown.clone();
    let tap = Tap::new(socket);
    let conn = tap.conn();

    let mut builder = auto::Builder::new(Spawner(demo.clone()));
    builder.http1().timer(TokioTimer::new()).half_close(demo.config.half_close);
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(move |request| answer(request, demo.clone(), conn.clone()));
    let served = builder.serve_connection_with_upgrades(TokioIo::new(tap), service);
    let mut served = std::pin::pin!(served);
    // How a connection ended is told by its requests; a broken one is the caller's affair.
    let _ = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
}

/// Runs the streams of HTTP/2 as tasks of the server.
#[derive(Clone)]
struct Spawner(Arc<Demo>);

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

async fn answer(request: Request<Incoming>, demo: Arc<Demo>, conn: Conn) -> Result<Response<Body>, Cut> {
    // Once a request and in their order: this is what pairs a request with its head.
    let head = if request.version() <= Version::HTTP_11 { conn.next_head() } else { None };
    let query = Query::parse(request.uri().query());
    if let Some(key) = query.get("count") {
        demo.counts.add(key);
    }
    let key = query.get("key").unwrap_or(request.uri().path()).to_owned();
    let mut exchange = Exchange::begin(&demo, key);
    let is_head = request.method() == Method::HEAD;
    let reply = dispatch(Call { demo, conn, head, query, rest: String::new(), request }).await;
    let mut response = match reply {
        Ok(response) => response,
        Err(Stop::Refused(error)) => error.into_response(),
        Err(Stop::Cut) => {
            exchange.end();
            return Err(Cut);
        }
        Err(Stop::CallerGone) => return Err(Cut),
    };
    response.headers_mut().insert(SERVER, HeaderValue::from_static("towline-demo"));
    Ok(exchange.watch(response, is_head))
}
