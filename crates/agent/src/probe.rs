//! Health probes: when to ask, what an answer means, and the HTTP request itself.
//!
//! An instance is asked from outside its container, the way that requests come. [`Health`] is a pure state machine;
//! [`watch_health`] drives it for one run of one container.

mod h2c;

use std::{fmt, net::SocketAddr, pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc, time};
use towline_model::service::{AppProtocol, ProbeSpec};
use towline_tunnel::message::InstanceSpec;

use crate::runtime::{ContainerId, Runtime};

/// The first wait between probes of a container that has just started.
const FIRST_INTERVAL: Duration = Duration::from_millis(200);
/// The most of a body that is read so that the program sees its answer taken, in bytes.
const BODY_LIMIT: usize = 64 << 10;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Where the container's port is reached from this machine.
    pub endpoint: SocketAddr,
    /// The port inside the container, for `Host` and for words.
    pub exposed_port: u16,
    /// What is spoken.
    pub protocol: AppProtocol,
    /// The path, with its query.
    pub path: String,
    /// How long the whole request may take.
    pub timeout: Duration,
}

/// Why a probe failed, in a sentence for the service's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeFailure(pub String);

/// What the probes say of one run of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Health {
    /// It was not asked yet.
    #[default]
    Unknown,
    /// It has not passed yet, for the reason given.
    Starting(ProbeFailure),
    /// It passes.
    Passing,
    /// It passed once and now fails.
    Failing(ProbeFailure),
}

/// The probes of one run of a container: judges results and says when to ask again.
#[derive(Debug)]
pub(crate) struct Prober {
    spec: ProbeSpec,
    health: Health,
    failures: u32,
    asked: u32,
}

impl Prober {
    pub(crate) fn new(spec: ProbeSpec) -> Self {
        Self { spec, health: Health::Unknown, failures: 0, asked: 0 }
    }

    /// The health that the results so far say.
    pub(crate) const fn health(&self) -> &Health {
        &self.health
    }

    /// The next failure counts as the last one that is let pass.
    pub(crate) const fn lose_patience(&mut self) {
        self.failures = self.spec.failure_threshold;
    }

    /// Takes a result. Whether the health is another now.
    pub(crate) fn judge(&mut self, result: Result<(), ProbeFailure>) -> bool {
        self.asked = self.asked.saturating_add(1);
        let next = match result {
            Ok(()) => {
                self.failures = 0;
                Health::Passing
            }
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                match &self.health {
                    Health::Unknown | Health::Starting(_) => Health::Starting(why),
                    Health::Passing if self.failures < self.spec.failure_threshold => Health::Passing,
                    Health::Passing | Health::Failing(_) => Health::Failing(why),
                }
            }
        };
        let is_news = next != self.health;
        self.health = next;
        is_news
    }

    /// The wait before the next probe: short ones that grow until it passes for the first time, then the interval.
    pub(crate) fn wait(&self) -> Duration {
        let interval = Duration::from_secs(u64::from(self.spec.interval_seconds));
        match self.health {
            Health::Unknown => Duration::ZERO,
            // 200 ms for the first three seconds: most programs start within that. Then half as long again each time.
            Health::Starting(_) => {
                FIRST_INTERVAL.mul_f64(1.5_f64.powi(self.asked.saturating_sub(15).min(40) as i32)).min(interval)
            }
            Health::Passing | Health::Failing(_) => interval,
        }
    }
}

/// A change of a container's health.
#[derive(Debug)]
pub struct HealthChange {
    /// The container.
    pub container: ContainerId,
    /// Which run of it: see the sender.
    pub run: u64,
    /// Its health from now on.
    pub health: Health,
}

/// What one run of a container is probed with.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeRun {
    /// The container.
    pub container: ContainerId,
    /// Numbers the runs, so that a late result of an earlier one is recognised.
    pub run: u64,
    /// What is asked.
    pub target: ProbeTarget,
    /// How often, and how many failures are too many.
    pub spec: ProbeSpec,
}

/// The probe of an instance at that address.
#[must_use]
pub fn target_of(spec: &InstanceSpec, endpoint: SocketAddr) -> ProbeTarget {
    ProbeTarget {
        endpoint,
        exposed_port: spec.exposed_port,
        protocol: spec.app_protocol,
        path: spec.health_path.clone(),
        timeout: Duration::from_secs(u64::from(spec.probe.timeout_seconds)),
    }
}

/// Probes one run of a container and reports every change, until it is dropped.
pub async fn watch_health<R: Runtime>(runtime: &R, run: ProbeRun, changes: mpsc::Sender<HealthChange>) {
    let mut prober = Prober::new(run.spec);
    loop {
        time::sleep(prober.wait()).await;
        let result = time::timeout(run.target.timeout, runtime.probe(&run.target)).await;
        let result = result.unwrap_or_else(|_| Err(too_late(&run.target)));
        if prober.judge(result) {
            let change = HealthChange { container: run.container.clone(), run: run.run, health: prober.health.clone() };
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

fn too_late(target: &ProbeTarget) -> ProbeFailure {
    let ProbeTarget { path, timeout, .. } = target;
    ProbeFailure(format!("GET {path} was not answered within {} s", timeout.as_secs()))
}

/// Why an exchange says that a program is not healthy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It said so: a sentence.
    Unhealthy(String),
    /// It does not speak this.
    SpeaksNot(&'static str),
    /// It closed the connection without an answer.
    Closed,
}

/// Sends one `GET` and judges the status: 200 to 399 is healthy. Redirects are not followed. The caller sets the deadline.
///
/// # Errors
/// What went wrong, for the service's owner.
pub async fn get(target: &ProbeTarget) -> Result<(), ProbeFailure> {
    let port = target.exposed_port;
    let socket = TcpStream::connect(target.endpoint).await.map_err(|error| {
        ProbeFailure(format!("nothing answers on port {port} ({error}); the program must listen on 0.0.0.0:{port}"))
    })?;
    let host = HeaderValue::from_str(&format!("localhost:{port}"));
    let host = host.unwrap_or_else(|_| HeaderValue::from_static("localhost"));
    exchange(socket, target.protocol, &host, &target.path).await.map_err(|fault| {
        ProbeFailure(match fault {
            Fault::Unhealthy(why) => why,
            Fault::SpeaksNot(protocol) => format!("what answers on port {port} does not speak {protocol}"),
            // The engine's own proxy takes connections before the program does, and closes them again.
            Fault::Closed => format!(
                "the connection to port {port} was closed without an answer; the program must listen on 0.0.0.0:{port}"
            ),
        })
    })
}

/// Asks a program for its health. The caller sets the deadline.
pub(crate) async fn exchange(
    socket: TcpStream,
    protocol: AppProtocol,
    host: &HeaderValue,
    path: &str,
) -> Result<(), Fault> {
    match protocol {
        AppProtocol::Http1 => {
            let asked = http1(socket, host.clone(), path).await;
            judge(
                path,
                asked.map_err(|error| if error.is_parse() { Fault::SpeaksNot("HTTP/1.1") } else { Fault::Closed })?,
            )
        }
        AppProtocol::H2c => h2c::exchange(socket, host, path).await,
    }
}

fn judge(path: &str, status: StatusCode) -> Result<(), Fault> {
    match status.as_u16() {
        200..=399 => Ok(()),
        status => Err(Fault::Unhealthy(format!("GET {path} answered {status}; 200 to 399 is healthy"))),
    }
}

async fn http1(socket: TcpStream, host: HeaderValue, path: &str) -> Result<StatusCode, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let mut ask = pin!(async {
        let response = sender.send_request(request(host, path)).await?;
        let status = response.status();
        // The body is taken so that the program is not told of a broken pipe at each probe.
        let _ = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        Ok(status)
    });
    tokio::select! {
        biased;
        status = &mut ask => status,
        // A program that closes the connection behind its answer ends it before the answer has been taken.
        ended = connection => { ended?; ask.await }
    }
}

fn request(host: HeaderValue, path: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static("towline-probe"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    request
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not probed yet"),
            Self::Starting(why) | Self::Failing(why) => why.fmt(f),
            Self::Passing => f.write_str("healthy"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn failure(text: &str) -> ProbeFailure {
        ProbeFailure(text.to_owned())
    }

    #[test]
    fn an_instance_is_ready_at_its_first_success_and_fails_after_the_threshold() {
        let mut prober = Prober::new(ProbeSpec { failure_threshold: 3, ..ProbeSpec::default() });
        let steps = [
            (Err(failure("a")), true, Health::Starting(failure("a"))),
            (Err(failure("a")), false, Health::Starting(failure("a"))),
            (Err(failure("b")), true, Health::Starting(failure("b"))),
            (Ok(()), true, Health::Passing),
            (Err(failure("c")), false, Health::Passing),
            (Err(failure("c")), false, Health::Passing),
            (Ok(()), false, Health::Passing),
            (Err(failure("c")), false, Health::Passing),
            (Err(failure("c")), false, Health::Passing),
            (Err(failure("d")), true, Health::Failing(failure("d"))),
            (Ok(()), true, Health::Passing),
        ];
        for (index, (result, is_news, health)) in steps.into_iter().enumerate() {
            assert_eq!(prober.judge(result), is_news, "step {index}");
            assert_eq!(prober.health, health, "step {index}");
        }
    }

    #[test]
    fn probes_are_quick_until_the_first_success() {
        let mut prober = Prober::new(ProbeSpec { interval_seconds: 5, ..ProbeSpec::default() });
        assert_eq!(prober.wait(), Duration::ZERO);
        prober.judge(Err(failure("a")));
        assert_eq!(prober.wait(), FIRST_INTERVAL);
        for _ in 0..100 {
            prober.judge(Err(failure("a")));
            assert!(prober.wait() <= Duration::from_secs(5));
        }
        assert_eq!(prober.wait(), Duration::from_secs(5));
        prober.judge(Ok(()));
        assert_eq!(prober.wait(), Duration::from_secs(5));
    }

    async fn probe_of(answer: &'static [u8]) -> (Result<(), ProbeFailure>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = ProbeTarget {
            endpoint: listener.local_addr().unwrap(),
            exposed_port: 8080,
            protocol: AppProtocol::Http1,
            path: "/health?deep=1".to_owned(),
            timeout: Duration::from_secs(3),
        };
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let length = socket.read(&mut head).await.unwrap();
            socket.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        };
        tokio::join!(get(&target), serve)
    }

    #[tokio::test]
    async fn the_status_decides() {
        let (result, head) = probe_of(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(result, Ok(()));
        assert!(head.starts_with("GET /health?deep=1 HTTP/1.1\r\nhost: localhost:8080\r\n"), "{head}");
        assert_eq!(probe_of(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await.0, Ok(()));
        for (answer, expected) in [
            (&b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"[..], "answered 503"),
            (b"HTTP/1.0 404 No\r\n\r\n", "answered 404"),
            (b"", "without an answer"),
            (b"220 mail.example.com ESMTP\r\n", "does not speak HTTP"),
        ] {
            let text = probe_of(answer).await.0.unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_named() {
        let (_held, endpoint) = crate::tests::closed_port();
        let (path, timeout) = ("/".to_owned(), Duration::from_secs(3));
        let target = ProbeTarget { endpoint, exposed_port: 8080, protocol: AppProtocol::Http1, path, timeout };
        let text = get(&target).await.unwrap_err().to_string();
        assert!(text.contains("0.0.0.0:8080"), "{text}");
    }
}
