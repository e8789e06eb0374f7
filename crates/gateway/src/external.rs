//! TLS with servers elsewhere, spoken through the pipe: what the agent's machine moves is ciphertext.
//!
//! The gateway checks the server's certificate against the machine's trusted roots, and further ones that it was started
//! with. It offers HTTP/1.1 only. A handshake that fails has sent nothing of a caller's request.

use std::{
    error::Error,
    fmt, io,
    io::IoSlice,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Uri, uri::PathAndQuery};
use rustls::{
    ClientConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName},
};
use rustls_platform_verifier::Verifier;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_tunnel::{ResetCode, StreamEnd, TunnelStream};

use crate::{http2::exchange::Exchange, snapshot::ExternalRoute, upstream::FailureReason};

/// How long a handshake may take, with the connection that the agent opens for it.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);

/// What all external services share: trusted roots and settings.
#[derive(Clone)]
pub(crate) struct ExternalTls(Result<TlsConnector, String>);

impl fmt::Debug for ExternalTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalTls").field("usable", &self.0.is_ok()).finish()
    }
}

impl ExternalTls {
    /// Trusts the machine's roots and these. A machine without any is no reason not to start: only calls of external
    /// services fail.
    pub(crate) fn new(roots: &[CertificateDer<'static>]) -> Self {
        let config = || {
            let provider = Arc::new(default_provider());
            let verifier = Verifier::new_with_extra_roots(roots.iter().cloned(), Arc::clone(&provider))?;
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
            let mut config = builder.with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Self(config().map_err(|error: rustls::Error| error.to_string()))
    }

    /// Speaks TLS over a stream that was just opened, within `limit` or the deadline that there always is.
    pub(crate) async fn connect(
        &self,
        name: &ServerName<'static>,
        stream: TunnelStream,
        limit: Option<Duration>,
    ) -> Result<Socket, FailureReason> {
        let connector = self.0.as_ref().map_err(|error| {
            FailureReason::Tls(TlsFailure::Protocol(format!(
                "this server has no trusted roots to check it against: {error}"
            )))
        })?;
        let monitor = stream.monitor();
        let deadline = limit.map_or(HANDSHAKE_DEADLINE, |limit| limit.min(HANDSHAKE_DEADLINE));
        match timeout(deadline, connector.connect(name.clone(), stream)).await {
            Ok(Ok(socket)) => Ok(Socket::Tls(Mutex::new(Box::new(socket)))),
            Ok(Err(error)) => Err(reason_of(&error, monitor.end())),
            Err(_) => Err(match limit {
                Some(limit) if limit <= HANDSHAKE_DEADLINE => FailureReason::ConnectTimeout(limit),
                _ => FailureReason::Tls(TlsFailure::Protocol("the handshake took too long".to_owned())),
            }),
        }
    }
}

/// How TLS with a server fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFailure {
    /// Its certificate is not one that proves who it is.
    Certificate(String),
    /// What it speaks is not TLS, or not a TLS that is spoken here.
    Protocol(String),
}

/// What TLS itself says of an error, if it says anything.
pub(crate) fn tls_failure(error: &(dyn Error + 'static)) -> Option<TlsFailure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            let said = error.to_string();
            return Some(match error {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    TlsFailure::Certificate(said)
                }
                _ => TlsFailure::Protocol(said),
            });
        }
        // An io::Error answers source() with the source of what is inside it, which would skip the inside.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

fn reason_of(error: &io::Error, end: Option<StreamEnd>) -> FailureReason {
    if let Some(failure) = tls_failure(error) {
        return FailureReason::Tls(failure);
    }
    match StreamEnd::of(error).cloned().or(end) {
        Some(StreamEnd::Refused(refused)) => FailureReason::Refused(refused),
        Some(StreamEnd::Reset { code: ResetCode::ConnectionReset | ResetCode::ConnectFailed, .. }) => {
            FailureReason::Tls(TlsFailure::Protocol("it reset the connection during the handshake".to_owned()))
        }
        Some(StreamEnd::Reset { .. } | StreamEnd::CarrierLost(_)) => FailureReason::TunnelLost,
        _ => FailureReason::Tls(TlsFailure::Protocol("it closed the connection during the handshake".to_owned())),
    }
}

/// An external service, ready to be called.
#[derive(Debug)]
pub(crate) struct External {
    /// What its certificate must be for, and what it is asked for by (SNI).
    pub name: ServerName<'static>,
    path_prefix: String,
    /// Replaces what the caller sent as `Authorization`.
    pub authorization: Option<HeaderValue>,
}

impl External {
    /// `None` when the host is no name that a certificate could be for.
    pub(crate) fn of(route: &ExternalRoute) -> Option<Self> {
        Some(Self {
            name: ServerName::try_from(route.host.clone()).ok()?,
            path_prefix: route.path_prefix.clone(),
            authorization: route.authorization.clone(),
        })
    }

    /// The path and query of a request, behind the service's own path.
    pub(crate) fn path(&self, target: &PathAndQuery) -> Option<Uri> {
        if self.path_prefix.is_empty() {
            return Some(Uri::from(target.clone()));
        }
        PathAndQuery::try_from(format!("{}{target}", self.path_prefix)).ok().map(Uri::from)
    }
}

/// A stream of the tunnel, with or without TLS inside. As with the stream itself, two tasks may use its two directions.
pub(crate) enum Socket {
    Plain(TunnelStream),
    Tls(Mutex<Box<TlsStream<TunnelStream>>>),
    /// One request on an HTTP/2 connection.
    Http2(Box<Exchange>),
}

impl Socket {
    /// Whether a read would wait for sure, as far as is known here without one.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_quiet(),
            // They may have bytes of their own.
            Self::Tls(_) | Self::Http2(_) => false,
        }
    }

    /// Resets the stream at once.
    pub(crate) fn abort(&self, code: ResetCode) {
        match self {
            Self::Plain(stream) => stream.abort(code),
            Self::Tls(stream) => locked(stream).get_ref().0.abort(code),
            Self::Http2(exchange) => exchange.abort(),
        }
    }
}

fn locked(stream: &Mutex<Box<TlsStream<TunnelStream>>>) -> MutexGuard<'_, Box<TlsStream<TunnelStream>>> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for &Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match **self {
            Socket::Plain(ref stream) => Pin::new(&mut &*stream).poll_read(cx, buf),
            Socket::Tls(ref stream) => Pin::new(&mut **locked(stream)).poll_read(cx, buf),
            Socket::Http2(ref exchange) => exchange.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for &Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match **self {
            Socket::Plain(ref stream) => Pin::new(&mut &*stream).poll_write(cx, data),
            Socket::Tls(ref stream) => Pin::new(&mut **locked(stream)).poll_write(cx, data),
            Socket::Http2(ref exchange) => exchange.poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match **self {
            Socket::Plain(ref stream) => Pin::new(&mut &*stream).poll_write_vectored(cx, data),
            Socket::Tls(ref stream) => Pin::new(&mut **locked(stream)).poll_write_vectored(cx, data),
            Socket::Http2(ref exchange) => {
                exchange.poll_write(cx, data.iter().find(|part| !part.is_empty()).map_or(&[], |part| part))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match **self {
            // What is written to a stream is on its way.
            Socket::Plain(_) => Poll::Ready(Ok(())),
            Socket::Tls(ref stream) => Pin::new(&mut **locked(stream)).poll_flush(cx),
            Socket::Http2(ref exchange) => exchange.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match **self {
            Socket::Plain(ref stream) => Pin::new(&mut &*stream).poll_shutdown(cx),
            Socket::Tls(ref stream) => Pin::new(&mut **locked(stream)).poll_shutdown(cx),
            Socket::Http2(ref exchange) => exchange.poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(path_prefix: &str) -> External {
        let route = ExternalRoute {
            host: "api.example.com".to_owned(),
            authority: "api.example.com".to_owned(),
            path_prefix: path_prefix.to_owned(),
            authorization: None,
        };
        External::of(&route).unwrap()
    }

    #[test]
    fn the_services_path_stands_before_the_requests() {
        for (prefix, target, expected) in [
            ("", "/", "/"),
            ("", "/a?b=c", "/a?b=c"),
            ("/v1", "/", "/v1/"),
            ("/v1", "/chat/completions?x=%2F", "/v1/chat/completions?x=%2F"),
            ("/v1", "//a", "/v1//a"),
            ("/a%2Fb", "/c", "/a%2Fb/c"),
        ] {
            let target = PathAndQuery::try_from(target).unwrap();
            assert_eq!(external(prefix).path(&target).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn names_and_addresses_can_be_called() {
        for (host, usable) in [("api.example.com", true), ("127.0.0.1", true), ("::1", true), ("a b", false)] {
            let route = ExternalRoute {
                host: host.to_owned(),
                authority: host.to_owned(),
                path_prefix: String::new(),
                authorization: None,
            };
            assert_eq!(External::of(&route).is_some(), usable, "{host}");
        }
    }

    #[test]
    fn what_tls_says_is_found_inside_other_errors() {
        let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let error = io::Error::new(io::ErrorKind::InvalidData, certificate);
        assert!(matches!(reason_of(&error, None), FailureReason::Tls(TlsFailure::Certificate(_))));
        let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert!(matches!(reason_of(&error, None), FailureReason::Tls(TlsFailure::Protocol(_))));
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert!(matches!(reason_of(&error, None), FailureReason::Tls(TlsFailure::Protocol(_))));
        let lost = StreamEnd::Reset { code: ResetCode::Draining, delivered: 0 };
        assert!(matches!(reason_of(&error, Some(lost)), FailureReason::TunnelLost));
    }
}
