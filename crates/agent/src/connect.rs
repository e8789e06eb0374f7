//! Dialling the server: addresses, TCP, proxies, TLS and the HTTP upgrade, every step with a deadline.
//!
//! A [`Dialler`] holds no connection, and names are resolved anew each time. What it remembers are guesses: which way
//! to the server worked last ([`ladder`]), and how long connections live on it ([`lifetimes`]).

#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
mod ladder;
mod lifetimes;
mod proxy;
mod rejection;
pub(crate) mod socket;
mod tls;
mod upgrade;

use std::{io, net::SocketAddr, time::Duration};

use http::{HeaderValue, StatusCode, Uri};
use tokio::{
    net::lookup_host,
    time::{Instant, timeout},
};
use towline_tunnel::{
    SessionEnd, ping,
    upgrade::{ConnectionKind, Framing},
};
use url::{Host, Url};

pub use self::{
    ladder::Rung, lifetimes::SHORTEST as SHORTEST_LIFETIME, proxy::ProxyConfig, rejection::Rejection,
    tls::ServerSocket, upgrade::Transport,
};
use self::{
    ladder::{Ladder, Reach},
    lifetimes::Lifetimes,
    proxy::Proxy,
    tls::Tls,
    upgrade::UpgradeRequest,
};
use crate::config::{AgentConfig, ConfigError};

/// How long looking up the server's addresses may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the TCP connection to one address may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the TLS handshake may take.
const TLS_DEADLINE: Duration = Duration::from_secs(5);
/// How long a proxy may take to connect to the server.
const PROXY_DEADLINE: Duration = Duration::from_secs(10);
/// How long the server may take to switch protocols.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the server may take to answer a ping, where a way is tested.
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// Opens connections to one server.
#[derive(Debug)]
pub struct Dialler {
    host: Host<String>,
    port: u16,
    authority: HeaderValue,
    /// The path of the base URL, without a slash at its end.
    prefix: String,
    tls: Option<Tls>,
    proxy: Option<Proxy>,
    ladder: Ladder,
    lifetimes: Lifetimes,
}

/// A connection that was opened.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub transport: Transport,
    /// The way that it took.
    pub rung: Rung,
    /// When.
    pub at: Instant,
}

impl Dialler {
    /// Prepares to dial the configured server. Reads certificates; dials nothing.
    ///
    /// # Errors
    /// When the URL or the certificates cannot be used.
    pub fn new(config: &AgentConfig) -> Result<Self, ConfigError> {
        let server = &config.server;
        let unusable = || ConfigError::Server(server.scheme().to_owned());
        let host = server.host().ok_or_else(unusable)?.to_owned();
        let port = server.port_or_known_default().ok_or_else(unusable)?;
        let tls = match server.scheme() {
            "https" => Some(Tls::new(&host, config.ca_file.as_deref())?),
            _ => None,
        };
        let proxy = Proxy::of(config)?;
        Ok(Self {
            authority: authority_of(server).ok_or_else(unusable)?,
            prefix: server.path().trim_end_matches('/').to_owned(),
            host,
            port,
            tls,
            ladder: Ladder::new(rungs(proxy.is_some(), &config.proxy)),
            proxy,
            lifetimes: Lifetimes::new(config.connection_lifetime),
        })
    }

    /// Whether what is said can be read on the way.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let is_loopback = match &self.host {
            Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        self.tls.is_none() && !is_loopback
    }

    /// Opens a connection for frames, the way that worked last or another one.
    ///
    /// # Errors
    /// Which step failed and why. One way takes at most 45 seconds, plus 5 for each further address of the server, and there
    /// are at most four.
    pub async fn dial(&self, kind: ConnectionKind, bearer: &str) -> Result<Dialled, ConnectError> {
        let (transport, rung) = ladder::choose(&self.ladder, |rung| self.dial_on(rung, kind, bearer)).await?;
        Ok(Dialled { transport, rung, at: Instant::now() })
    }

    /// Tests now and again whether a better way to the server than the present one works by now, for ever.
    pub async fn retest(&self, key: &str) {
        ladder::retest(&self.ladder, |rung| self.probe(rung, key)).await;
    }

    /// Tests one way. Frames have to pass, not only the request: a session is opened, nothing is said but a ping, and that is all.
    async fn probe(&self, rung: Rung, key: &str) -> Result<(), ConnectError> {
        let transport = self.dial_on(rung, ConnectionKind::Session, key).await?;
        let answer = timeout(PING_DEADLINE, ping(transport)).await;
        answer.map_err(|_| ConnectError::Timeout("ping"))?.map_err(ConnectError::Frames)
    }

    /// Which ways to the server there are.
    pub(crate) const fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// How long connections live.
    pub(crate) const fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    async fn dial_on(&self, rung: Rung, kind: ConnectionKind, bearer: &str) -> Result<Transport, ConnectError> {
        let request = self.request(rung.framing, kind, bearer)?;
        let socket = match &self.proxy {
            Some(proxy) if rung.via_proxy => self.through(proxy).await?,
            _ => ServerSocket::Plain(socket::connect(&self.resolve().await?, CONNECT_DEADLINE).await?),
        };
        let socket = match &self.tls {
            None => socket,
            Some(tls) => {
                timeout(TLS_DEADLINE, tls.connect(socket)).await.map_err(|_| ConnectError::Timeout("TLS"))??
            }
        };
        timeout(UPGRADE_DEADLINE, request.send(socket)).await.map_err(|_| ConnectError::Timeout("HTTP"))?
    }

    /// A connection to the server through a proxy, which looks its name up.
    async fn through(&self, proxy: &Proxy) -> Result<ServerSocket, ConnectError> {
        let unreachable =
            |error: ConnectError| ConnectError::ProxyBroken { proxy: proxy.to_string(), reason: error.to_string() };
        let addresses = resolve(&proxy.host, proxy.port).await.map_err(unreachable)?;
        let socket = socket::connect(&addresses, CONNECT_DEADLINE).await.map_err(unreachable)?;
        let secured = timeout(TLS_DEADLINE, proxy.secure(ServerSocket::Plain(socket))).await;
        let socket = secured.map_err(|_| unreachable(ConnectError::Timeout("TLS")))?.map_err(unreachable)?;
        let target = format!("{}:{}", self.host, self.port);
        let connected = timeout(PROXY_DEADLINE, proxy.connect(socket, &target)).await;
        connected.map_err(|_| unreachable(ConnectError::Timeout("CONNECT")))?
    }

    fn request(&self, framing: Framing, kind: ConnectionKind, bearer: &str) -> Result<UpgradeRequest, ConnectError> {
        let uri: Uri = format!("{}{}", self.prefix, kind.path()).parse().map_err(|_| ConnectError::Ticket)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {bearer}")).map_err(|_| ConnectError::Ticket)?;
        authorization.set_sensitive(true);
        Ok(UpgradeRequest { uri, kind, framing, host: self.authority.clone(), authorization })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        resolve(&self.host, self.port).await
    }
}

/// The ways to the server, from the top. A proxy that somebody has named is never gone around.
fn rungs(has_proxy: bool, config: &ProxyConfig) -> Vec<Rung> {
    let through = has_proxy.then(|| Rung::pair(true)).into_iter().flatten();
    let without = !(has_proxy && matches!(config, ProxyConfig::Always { .. }));
    through.chain(without.then(|| Rung::pair(false)).into_iter().flatten()).collect()
}

async fn resolve(host: &Host<String>, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    let name = match host {
        Host::Domain(name) => name.as_str(),
        Host::Ipv4(address) => return Ok(vec![(*address, port).into()]),
        Host::Ipv6(address) => return Ok(vec![(*address, port).into()]),
    };
    let failed = |source| ConnectError::Resolve { host: name.to_owned(), source };
    let lookup = timeout(RESOLVE_DEADLINE, lookup_host((name, port)));
    let found: Vec<_> = lookup.await.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?.collect();
    if found.is_empty() { Err(failed(io::ErrorKind::NotFound.into())) } else { Ok(found) }
}

fn authority_of(server: &Url) -> Option<HeaderValue> {
    let host = server.host_str()?;
    let text = server.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    HeaderValue::from_str(&text).ok()
}

/// Why a connection to the server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server's name has no address, or cannot be looked up.
    #[error("cannot find the server's address: looking up {host} failed: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address took the connection.
    #[error("cannot connect to the server at {address}: {source}")]
    Connect {
        /// The address that was tried last.
        address: SocketAddr,
        /// What went wrong there.
        source: io::Error,
    },
    /// A step took too long.
    #[error("the server did not answer in time ({0})")]
    Timeout(&'static str),
    /// The TLS handshake failed.
    #[error("no secure connection to the server: {0}")]
    Tls(io::Error),
    /// The HTTP exchange broke off.
    #[error("the server broke off the HTTP request: {0}")]
    Http(#[from] hyper::Error),
    /// The server answered, and not with a switch of protocols.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The proxy cannot be reached, or does not behave as one.
    #[error("no way through the proxy {proxy}: {reason}")]
    ProxyBroken {
        /// The proxy.
        proxy: String,
        /// What went wrong.
        reason: String,
    },
    /// The proxy does not connect to the server.
    #[error("the proxy {proxy} refuses to connect to {target} (status {}): {}", .status.as_u16(), proxy::advice(*.status))]
    ProxyRefused {
        /// The proxy.
        proxy: String,
        /// The server's host and port.
        target: String,
        /// The proxy's answer.
        status: StatusCode,
    },
    /// The connection was switched, and frames do not pass.
    #[error("frames do not pass to the server: {0}")]
    Frames(SessionEnd),
    /// A key or ticket that cannot be sent in a header.
    #[error("the key or ticket has characters that cannot be sent")]
    Ticket,
}

impl ConnectError {
    /// What the machine said of the connection to the address that was tried last.
    pub(crate) fn into_source(self) -> Option<io::Error> {
        if let Self::Connect { source, .. } = self { Some(source) } else { None }
    }

    /// Whether trying again soon is in vain: somebody has to change something first.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.is_lasting(),
            Self::ProxyRefused { status, .. } => !status.is_server_error(),
            _ => false,
        }
    }

    /// How far it reaches: whether another way to the server may work.
    pub(crate) fn reach(&self) -> Reach {
        match self {
            Self::Ticket => Reach::Everywhere,
            Self::Rejected(rejection) => rejection.reach(),
            Self::Http(_) | Self::Frames(_) | Self::Timeout("HTTP" | "ping") => Reach::Rung,
            _ => Reach::Route,
        }
    }
}

#[cfg(test)]
mod tests {
    use towline_model::Secret;

    use super::*;
    use crate::tests::server::{Passes, TestServer};

    fn dialler(server: &str) -> Dialler {
        Dialler::new(&AgentConfig::new(server.parse().unwrap(), Secret::new(String::new()))).unwrap()
    }

    #[test]
    fn the_path_of_the_base_url_stays_in_front() {
        let request = dialler("http://example.com:8080/tow/");
        let request = request.request(Framing::Bare, ConnectionKind::Session, "k").unwrap();
        assert_eq!(request.uri, "/tow/api/v1/agent/session");
        assert_eq!(request.host, "example.com:8080");
        assert!(request.authorization.is_sensitive());
        let request = dialler("http://[::1]").request(Framing::Bare, ConnectionKind::Carrier, "k").unwrap();
        assert_eq!((request.uri.path(), request.host.to_str().unwrap()), ("/api/v1/agent/carrier", "[::1]"));
    }

    #[test]
    fn plain_http_is_exposed_except_on_this_machine() {
        for (server, exposed) in [
            ("http://10.0.0.5:7070", true),
            ("http://example.com", true),
            ("http://localhost:7070", false),
            ("http://127.0.0.1:7070", false),
            ("http://[::1]:7070", false),
            ("https://example.com", false),
        ] {
            assert_eq!(dialler(server).is_exposed(), exposed, "{server}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        for (scheme, step) in [("http", "HTTP"), ("https", "TLS")] {
            let began = tokio::time::Instant::now();
            let dialler = dialler(&format!("{scheme}://127.0.0.1:{port}"));
            let error = dialler.dial(ConnectionKind::Session, "k").await.unwrap_err();
            assert!(matches!(error, ConnectError::Timeout(at) if at == step), "{error}");
            assert!(began.elapsed() <= 2 * UPGRADE_DEADLINE + Duration::from_secs(1), "two ways");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_better_way_is_taken_when_frames_pass_on_it_again() {
        let mut server = TestServer::start().await;
        let dialler = dialler(&format!("http://{}", server.address));
        let dialled = async || {
            let dialled = dialler.dial(ConnectionKind::Session, "ak-1").await.unwrap();
            dialled.rung.framing
        };
        // Tests the ways once, and at the least one time more.
        let test = async || {
            tokio::select! {
                () = dialler.retest("ak-1") => unreachable!("it never ends"),
                () = tokio::time::sleep(ladder::RETEST_INTERVAL + 3 * PING_DEADLINE) => {}
            }
        };
        for (passes, expected) in [
            (Passes::WebSockets, Framing::WebSocket),
            (Passes::WebSocketsInTruth, Framing::WebSocket),
            (Passes::Everything, Framing::Bare),
        ] {
            *server.passes.lock().unwrap() = passes;
            if passes == Passes::WebSockets {
                assert_eq!(dialled().await, expected);
            }
            test().await;
            assert_eq!(dialled().await, expected, "{passes:?}");
        }
        // Nothing was said on the sessions of the tests but pings, and the server has got each with the agent's key.
        while let Some(session) = server.opened_session() {
            assert_eq!(session.key, "ak-1");
        }
    }

    #[test]
    fn a_ca_file_that_cannot_be_used_is_a_configuration_error() {
        let mut config = AgentConfig::new("https://example.com".parse().unwrap(), Secret::new(String::new()));
        config.ca_file = Some("/does/not/exist.pem".into());
        assert!(Dialler::new(&config).unwrap_err().to_string().contains("/does/not/exist.pem"));
        let empty = tempfile::NamedTempFile::new().unwrap();
        config.ca_file = Some(empty.path().to_owned());
        assert!(Dialler::new(&config).unwrap_err().to_string().contains("no certificate"));
    }
}
