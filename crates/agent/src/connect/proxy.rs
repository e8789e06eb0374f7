//! HTTP proxies: a connection to the server through CONNECT (RFC 9110 §9.3.6). The server's name is looked up by the proxy.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use towline_model::Secret;
use url::{Host, Url};

use super::{
    ConnectError, ServerSocket,
    tls::Tls,
    upgrade::{self, Socket},
};
use crate::config::{AgentConfig, ConfigError};

/// Through which proxy the server is reached. Nothing of it is ever shown: each value may hold a password.
#[derive(Debug, Clone, Default)]
pub enum ProxyConfig {
    /// Through none.
    #[default]
    None,
    /// Through this one and never without it.
    Always {
        /// `http://[user:password@]host[:port]` or `https://…`, to the proxy itself.
        url: Secret<String>,
        /// `user:password` instead of the URL's.
        credentials: Option<Secret<String>>,
    },
    /// As the conventional variables say; without the proxy when it does not work.
    Conventional {
        /// `ALL_PROXY`.
        all: Secret<String>,
        /// `HTTP_PROXY`, for a server without TLS.
        http: Secret<String>,
        /// `HTTPS_PROXY`, for a server with TLS.
        https: Secret<String>,
        /// `NO_PROXY`: names with what is below them, addresses, ranges, or `*`.
        no: String,
    },
}

/// A proxy for one server.
pub(super) struct Proxy {
    pub(super) host: Host<String>,
    pub(super) port: u16,
    tls: Option<Tls>,
    pub(super) authorization: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Proxy {
    /// The proxy for the configured server, if one is to be used.
    ///
    /// # Errors
    /// When the given proxy cannot be used. One of the conventional variables that cannot be used is warned of and left out.
    pub(super) fn of(config: &AgentConfig) -> Result<Option<Self>, ConfigError> {
        match &config.proxy {
            ProxyConfig::None => Ok(None),
            ProxyConfig::Always { url, credentials } => {
                let url = with_credentials(url, credentials.as_ref())?;
                let matcher = Matcher::builder().all(url.expose().clone()).build();
                let intercept = intercept(&matcher, &config.server).ok_or(ConfigError::Proxy)?;
                Self::new(&intercept, config).map(Some)
            }
            ProxyConfig::Conventional { .. } if is_loopback(&config.server) => Ok(None),
            ProxyConfig::Conventional { all, http, https, no } => {
                let [all, http, https] = [all, http, https].map(|value| value.expose().clone());
                let matcher = Matcher::builder().all(all).http(http).https(https).no(no.clone()).build();
                let Some(intercept) = intercept(&matcher, &config.server) else { return Ok(None) };
                let proxy = Self::new(&intercept, config);
                if let Err(error) = &proxy {
                    tracing::warn!("the proxy of the environment is not used: {error}");
                }
                Ok(proxy.ok())
            }
        }
    }

    fn new(intercept: &Intercept, config: &AgentConfig) -> Result<Self, ConfigError> {
        // By the parser of the server's URL: it knows the default ports and the forms of addresses.
        let url: Url = intercept.uri().to_string().parse().map_err(|_| ConfigError::Proxy)?;
        let host = url.host().ok_or(ConfigError::Proxy)?.to_owned();
        let port = url.port_or_known_default().ok_or(ConfigError::Proxy)?;
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some(Tls::new(&host, config.ca_file.as_deref())?),
            _ => return Err(ConfigError::Proxy),
        };
        Ok(Self { host, port, tls, authorization: intercept.basic_auth().cloned() })
    }

    /// Secures the connection to the proxy, if that is wanted.
    pub(super) async fn secure(&self, socket: ServerSocket) -> Result<ServerSocket, ConnectError> {
        match &self.tls {
            None => Ok(socket),
            Some(tls) => tls.connect(socket).await,
        }
    }

    /// Has a connection to the proxy passed on to the server.
    pub(super) async fn connect<S: Socket>(&self, socket: S, target: &str) -> Result<S, ConnectError> {
        let broken = |reason: String| ConnectError::ProxyBroken { proxy: self.to_string(), reason };
        let request = self.request(target).ok_or_else(|| broken(format!("{target} cannot be asked for")))?;
        match upgrade::exchange(socket, request, |response| response.status().is_success()).await {
            Ok(socket) => socket.into_fresh().ok_or_else(|| broken("it spoke before it was spoken to".to_owned())),
            Err(ConnectError::Rejected(rejection)) => Err(ConnectError::ProxyRefused {
                proxy: self.to_string(),
                target: target.to_owned(),
                status: rejection.status(),
            }),
            Err(error) => Err(broken(error.to_string())),
        }
    }

    fn request(&self, target: &str) -> Option<Request<Empty<Bytes>>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::builder().authority(target).build().ok()?;
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_str(target).ok()?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(upgrade::USER_AGENT));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        Some(request)
    }
}

/// What a proxy's refusal means.
pub(super) fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        // 401 is no proxy's word, and tinyproxy's for a wrong password all the same.
        401 | 407 => {
            "it wants a user name and a password, or does not accept these; give them with --proxy-credentials-file, or in the \
             proxy's URL (http://user:password@host:port)"
        }
        403 | 405 => {
            "it does not pass connections on to there; have the server's host and port allowed, name the host in NO_PROXY, or \
             start the agent with --proxy none"
        }
        502..=504 => "it cannot reach the server; check the server's URL as the proxy sees it",
        _ => "check the proxy's URL: is there an HTTP proxy that takes CONNECT?",
    }
}

fn intercept(matcher: &Matcher, server: &Url) -> Option<Intercept> {
    matcher.intercept(&server.as_str().parse().ok()?)
}

fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn with_credentials(url: &Secret<String>, credentials: Option<&Secret<String>>) -> Result<Secret<String>, ConfigError> {
    let Some(credentials) = credentials else { return Ok(url.clone()) };
    let (user, password) = credentials.expose().split_once(':').ok_or(ConfigError::ProxyCredentials)?;
    let scheme = if url.expose().contains("://") { "" } else { "http://" };
    let mut url: Url = format!("{scheme}{}", url.expose()).parse().map_err(|_| ConfigError::Proxy)?;
    // The URL's own rules would take a `%3a` in a password for a colon.
    let [user, password] = [user, password].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
    url.set_username(&user).and_then(|()| url.set_password(Some(&password))).map_err(|()| ConfigError::Proxy)?;
    Ok(Secret::new(url.into()))
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
