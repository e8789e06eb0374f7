//! The handshakes by which an ACME certificate authority finds out that a domain leads to this server: TLS-ALPN-01 (RFC 8737).
//!
//! The authority offers `acme-tls/1` and nothing else, and is shown a certificate that is good for nothing else. Nobody else
//! ever sees that certificate, and it is shown only while the authority has been asked to look. How it is made, and who
//! asks the authority, is not known here.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::server::StartHandshake;

/// The name of the protocol in ALPN (RFC 8737 §4).
const ALPN: &[u8] = b"acme-tls/1";

/// The challenges that are open, by domain.
#[derive(Clone, Default)]
pub(crate) struct Challenges(Arc<Mutex<HashMap<String, Arc<ServerConfig>>>>);

/// An open challenge. It is answered until this is dropped.
#[must_use]
pub struct OpenChallenge {
    challenges: Challenges,
    domain: String,
}

impl Challenges {
    /// Shows this certificate to whoever makes the challenge's handshake for the domain.
    pub(crate) fn open(
        &self,
        domain: &str,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<OpenChallenge, rustls::Error> {
        // Not `CertifiedKey::from_der`, which refuses the challenge's extension: that is critical and nobody knows it.
        let key = CertifiedKey::new(vec![certificate], ring::sign::any_supported_type(key)?);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Only(Arc::new(key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Each handshake has to show the certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let domain = domain.to_ascii_lowercase();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(domain.clone(), Arc::new(config));
        Ok(OpenChallenge { challenges: self.clone(), domain })
    }

    /// What to answer this hello with, if it is that of an open challenge.
    pub(crate) fn answer_to(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        if !hello.alpn()?.eq([ALPN]) {
            return None;
        }
        let domain = hello.server_name()?.to_ascii_lowercase();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&domain).cloned()
    }
}

/// Shows the certificate and ends the connection; nothing that comes on it is read (RFC 8737 §3).
pub(crate) async fn show(start: StartHandshake<TcpStream>, config: Arc<ServerConfig>) -> io::Result<()> {
    start.into_stream(config).await?.shutdown().await
}

impl Drop for OpenChallenge {
    fn drop(&mut self) {
        self.challenges.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.domain);
    }
}

impl fmt::Debug for OpenChallenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenChallenge").field("domain", &self.domain).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
