//! Dialling the server: addresses, TCP, TLS and the HTTP upgrade, every step with a deadline.
//!
//! A [`Dialler`] holds no connection and no state that could go stale: names are resolved anew each time.

pub(crate) mod socket;
mod tls;
mod upgrade;

use std::{io, net::SocketAddr, time::Duration};

use http::{HeaderValue, Uri};
use tokio::{net::lookup_host, time::timeout};
use url::{Host, Url};

pub use self::{
    tls::ServerSocket,
    upgrade::{Rejection, UpgradedSocket},
};
use self::{tls::Tls, upgrade::UpgradeRequest};
use crate::config::{AgentConfig, ConfigError};

/// How long looking up the server's addresses may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the TCP connection to one address may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the TLS handshake may take.
const TLS_DEADLINE: Duration = Duration::from_secs(5);
/// How long the server may take to switch protocols.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

/// Opens connections to one server.
#[derive(Debug)]
pub struct Dialler {
    host: Host<String>,
    port: u16,
    authority: HeaderValue,
    /// The path of the base URL, without a slash at its end.
    prefix: String,
    tls: Option<Tls>,
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
        Ok(Self {
            authority: authority_of(server).ok_or_else(unusable)?,
            prefix: server.path().trim_end_matches('/').to_owned(),
            host,
            port,
            tls,
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

    /// Dials the server and switches the connection to `protocol`.
    ///
    /// # Errors
    /// Which step failed and why. Takes at most 25 seconds, plus 5 for each further address of the server.
    pub async fn dial(&self, path: &str, protocol: &'static str, bearer: &str) -> Result<UpgradedSocket, ConnectError> {
        let request = self.request(path, protocol, bearer)?;
        let addresses = self.resolve().await?;
        let tcp = socket::connect(&addresses, CONNECT_DEADLINE).await?;
        let socket = match &self.tls {
            None => ServerSocket::Plain(tcp),
            Some(tls) => timeout(TLS_DEADLINE, tls.connect(tcp)).await.map_err(|_| ConnectError::Timeout("TLS"))??,
        };
        timeout(UPGRADE_DEADLINE, request.send(socket)).await.map_err(|_| ConnectError::Timeout("HTTP"))?
    }

    fn request(&self, path: &str, protocol: &'static str, bearer: &str) -> Result<UpgradeRequest, ConnectError> {
        let uri: Uri = format!("{}{path}", self.prefix).parse().map_err(|_| ConnectError::Ticket)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {bearer}")).map_err(|_| ConnectError::Ticket)?;
        authorization.set_sensitive(true);
        Ok(UpgradeRequest { uri, protocol, host: self.authority.clone(), authorization })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let name = match &self.host {
            Host::Domain(name) => name.as_str(),
            Host::Ipv4(address) => return Ok(vec![(*address, self.port).into()]),
            Host::Ipv6(address) => return Ok(vec![(*address, self.port).into()]),
        };
        let failed = |source| ConnectError::Resolve { host: name.to_owned(), source };
        let lookup = timeout(RESOLVE_DEADLINE, lookup_host((name, self.port)));
        let found: Vec<_> =
            lookup.await.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?.collect();
        if found.is_empty() { Err(failed(io::ErrorKind::NotFound.into())) } else { Ok(found) }
    }
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
        matches!(self, Self::Rejected(rejection) if rejection.is_lasting())
    }
}

#[cfg(test)]
mod tests {
    use towline_model::Secret;

    use super::*;

    fn dialler(server: &str) -> Dialler {
        Dialler::new(&AgentConfig::new(server.parse().unwrap(), Secret::new(String::new()))).unwrap()
    }

    #[test]
    fn the_path_of_the_base_url_stays_in_front() {
        let request = dialler("http://example.com:8080/tow/").request("/api/v1/agent/session", "x", "k").unwrap();
        assert_eq!(request.uri, "/tow/api/v1/agent/session");
        assert_eq!(request.host, "example.com:8080");
        assert!(request.authorization.is_sensitive());
        let request = dialler("http://[::1]").request("/api", "x", "k").unwrap();
        assert_eq!((request.uri.path(), request.host.to_str().unwrap()), ("/api", "[::1]"));
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
            let error = dialler(&format!("{scheme}://127.0.0.1:{port}")).dial("/x", "x/1", "k").await.unwrap_err();
            assert!(matches!(error, ConnectError::Timeout(at) if at == step), "{error}");
            assert!(began.elapsed() <= UPGRADE_DEADLINE + Duration::from_secs(1));
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
