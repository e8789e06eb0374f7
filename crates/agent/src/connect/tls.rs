//! TLS to the server: rustls with ring, checked against the machine's trusted roots or one file of certificates.

use std::{
    fmt,
    io::{self, IoSlice},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;

use super::ConnectError;
use crate::config::ConfigError;

/// Makes TLS connections to one name.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn new(host: &Host<String>, ca_file: Option<&Path>) -> Result<Self, ConfigError> {
        let name = match host {
            Host::Domain(name) => {
                ServerName::try_from(name.clone()).map_err(|_| ConfigError::ServerName(name.clone()))?
            }
            Host::Ipv4(address) => ServerName::IpAddress((*address).into()),
            Host::Ipv6(address) => ServerName::IpAddress((*address).into()),
        };
        let roots_failed = |error: rustls::Error| ConfigError::TrustedRoots(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(roots_failed)?;
        let builder = match ca_file {
            Some(path) => builder.with_root_certificates(roots_of(path)?),
            None => builder.with_platform_verifier().map_err(roots_failed)?,
        };
        let mut config = builder.with_no_client_auth();
        // The upgrade is HTTP/1.1; a server that offers more must not choose it.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(super) async fn connect(&self, socket: ServerSocket) -> Result<ServerSocket, ConnectError> {
        let name = self.name.clone();
        let secured = match socket {
            ServerSocket::Plain(socket) => {
                self.connector.connect(name, socket).await.map(|socket| ServerSocket::Tls(Box::new(socket)))
            }
            socket => self.connector.connect(name, socket).await.map(|socket| ServerSocket::Nested(Box::new(socket))),
        };
        secured.map_err(ConnectError::Tls)
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, ConfigError> {
    let unusable = |reason: String| ConfigError::CaFile { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unusable("it holds no certificate in PEM form".to_owned())) } else { Ok(roots) }
}

/// A connection to the server, secured or not.
#[derive(Debug)]
pub enum ServerSocket {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// TLS to the server inside TLS to a proxy.
    Nested(Box<TlsStream<Self>>),
}

impl AsyncRead for ServerSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Nested(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ServerSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Nested(socket) => Pin::new(socket).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            Self::Tls(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            Self::Nested(socket) => Pin::new(socket).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(socket) => socket.is_write_vectored(),
            Self::Nested(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
            Self::Nested(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Nested(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tempfile::NamedTempFile;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Shakes hands as a client that trusts `trusted` with a server that has a certificate of its own for `name`. Gives
    /// what the server said, and the protocol that was agreed on.
    async fn shake_hands(name: &str, host: &str, trusts_it: bool) -> Result<(String, Option<Vec<u8>>), ConnectError> {
        let made = |name: &str| generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let CertifiedKey { cert, signing_key } = made(name);
        let mut trusted = NamedTempFile::new().unwrap();
        let pem = if trusts_it { cert.pem() } else { made(name).cert.pem() };
        trusted.write_all(pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let serve = async {
            let (socket, _) = listener.accept().await.unwrap();
            if let Ok(mut socket) = acceptor.accept(socket).await {
                let _ = socket.write_all(b"secure").await;
                let _ = socket.shutdown().await;
            }
        };
        let tls = Tls::new(&Host::parse(host).unwrap(), Some(trusted.path())).unwrap();
        let connect = async {
            let mut socket = tls.connect(ServerSocket::Plain(socket)).await?;
            let mut said = String::new();
            socket.read_to_string(&mut said).await.unwrap();
            let ServerSocket::Tls(socket) = socket else { panic!("it is not secure") };
            Ok((said, socket.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)))
        };
        tokio::join!(connect, serve).0
    }

    #[tokio::test]
    async fn a_certificate_is_trusted_only_for_its_name_and_by_its_issuer() {
        let http1 = Some(b"http/1.1".to_vec());
        for name in ["towline.example.com", "127.0.0.1"] {
            assert_eq!(shake_hands(name, name, true).await.unwrap(), ("secure".to_owned(), http1.clone()));
        }
        for (host, trusts_it, expected) in [
            ("towline.example.com", false, "invalid peer certificate"),
            ("other.example.com", true, "not valid for name"),
        ] {
            let text = shake_hands("towline.example.com", host, trusts_it).await.unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn the_machines_roots_are_the_default() {
        Tls::new(&Host::parse("example.com").unwrap(), None).unwrap();
    }
}
