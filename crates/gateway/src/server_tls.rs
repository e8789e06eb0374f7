//! TLS with callers and agents: the server's certificate, from files that may be exchanged while it runs, or from whoever
//! hands it over while the server runs.
//!
//! One port takes TLS; plain HTTP is taken there from this machine's own addresses only, and anybody else who sends it is
//! told so. HTTP/2 is chosen by ALPN (RFC 7301). Which certificate authority issued the certificate, and how it is
//! renewed, is not known here: whoever renews it writes the files anew, and they are read again, or shows the new one. While
//! there is none yet, handshakes are refused with the alert `access_denied`.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{Acceptor, ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

pub use crate::challenge::OpenChallenge;
use crate::{
    certificate::{Certificate, CertificateError, Said},
    challenge::{self, Challenges},
};

/// The name of HTTP/2 in ALPN (RFC 9113 §3.2).
const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP11: &[u8] = b"http/1.1";
/// The longest file of certificates or of a key, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The server's side of TLS.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    source: Source,
}

/// Where certificates come from.
#[derive(Clone)]
enum Source {
    /// From files that are read again.
    Files(Arc<Watched>),
    /// From whoever asks an authority, which first wants to see a certificate of its own kind here.
    HandedOver(Challenges),
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The two do not belong together, or are of a kind that is not known here.
    #[error("the certificate in {} and the key in {} cannot be used together: {source}", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// TLS itself cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// The certificate of the moment, if there is one.
#[derive(Debug)]
struct Shown(ArcSwapOption<Certificate>);

/// The files that the certificate is from.
struct Watched {
    files: Files,
    /// When those that are in use were written.
    written: Mutex<Option<Written>>,
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// When the two files were last changed.
type Written = (SystemTime, SystemTime);

impl ServerTls {
    /// TLS with the certificates (PEM, the server's own first) and the private key (PEM: PKCS #8, PKCS #1 or SEC1) in these
    /// files.
    ///
    /// # Errors
    /// See [`ServerTlsError`].
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, ServerTlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let written = files.written().ok();
        let first = Arc::new(files.read()?);
        Self::new(Some(first), Source::Files(Arc::new(Watched { files, written: Mutex::new(written) })))
    }

    /// TLS with a certificate that is still to come, by [`ServerTls::show`]. Handshakes are refused until then.
    ///
    /// # Errors
    /// When TLS itself cannot be set up.
    pub fn awaiting() -> Result<Self, ServerTlsError> {
        Self::new(None, Source::HandedOver(Challenges::default()))
    }

    fn new(certificate: Option<Arc<Certificate>>, source: Source) -> Result<Self, ServerTlsError> {
        let shown = Arc::new(Shown(ArcSwapOption::new(certificate)));
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .map_err(ServerTlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP11.to_vec()];
        // Sessions are resumed without memory of them here, under a key that changes by itself.
        config.ticketer = ring::Ticketer::new().map_err(ServerTlsError::Setup)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), shown, source })
    }

    /// Shows this certificate in handshakes from now on.
    pub fn show(&self, certificate: Certificate) {
        self.shown.0.store(Some(Arc::new(certificate)));
    }

    /// What the certificate says of itself that is shown at the moment; `None` when there is none, or it cannot be read.
    #[must_use]
    pub fn said(&self) -> Option<Said> {
        self.shown.0.load().as_ref()?.said().cloned()
    }

    /// Shows a certificate authority this certificate in the handshakes of its challenge for the domain (RFC 8737), until
    /// what is returned is dropped. Only TLS that awaits its certificate answers challenges.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn open_challenge(
        &self,
        domain: &str,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<OpenChallenge, rustls::Error> {
        match &self.source {
            Source::HandedOver(challenges) => challenges.open(domain, certificate, key),
            Source::Files(_) => Err(rustls::Error::General("the certificate comes from files".to_owned())),
        }
    }

    /// Reads the files, if it comes from files, again if they were written since. When they cannot be used, which may be
    /// because only one of them has been written yet, the certificate that there is stays, and the next call looks again.
    ///
    /// # Errors
    /// See [`ServerTlsError`].
    pub fn reload(&self) -> Result<bool, ServerTlsError> {
        let Source::Files(watched) = &self.source else { return Ok(false) };
        let Some(certificate) = watched.read_again()? else { return Ok(false) };
        self.show(certificate);
        Ok(true)
    }

    /// Whether [`ServerTls::reload`] can ever find something new.
    pub(crate) const fn is_from_files(&self) -> bool {
        matches!(self.source, Source::Files(_))
    }

    /// Shakes hands with whoever has connected. `None` when that was an authority's challenge, which is over with it.
    pub(crate) async fn accept(&self, socket: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let Source::HandedOver(challenges) = &self.source else { return self.acceptor.accept(socket).await.map(Some) };
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        match challenges.answer_to(&start.client_hello()) {
            Some(config) => challenge::show(start, config).await.map(|()| None),
            // It knows nothing of challenges: one that is not open is refused like every protocol that is not spoken here.
            None => start.into_stream(Arc::clone(self.acceptor.config())).await.map(Some),
        }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ServerTls");
        if let Source::Files(watched) = &self.source {
            shown.field("files", &watched.files);
        }
        shown.finish_non_exhaustive()
    }
}

/// Whether the handshake chose HTTP/2.
pub(crate) fn is_http2(connection: &rustls::ServerConnection) -> bool {
    connection.alpn_protocol() == Some(ALPN_HTTP2)
}

impl Watched {
    /// The certificate in the files, if they were written since they were read.
    fn read_again(&self) -> Result<Option<Certificate>, ServerTlsError> {
        let mut known = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.files.written()?;
        if *known == Some(written) {
            return Ok(None);
        }
        let certificate = self.files.read()?;
        *known = Some(written);
        Ok(Some(certificate))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|certificate| Arc::clone(certificate.key()))
    }
}

impl Files {
    fn written(&self) -> Result<Written, ServerTlsError> {
        let written = |path: &PathBuf| {
            let modified = path.metadata().and_then(|metadata| metadata.modified());
            modified.map_err(|source| ServerTlsError::File { path: path.clone(), source })
        };
        Ok((written(&self.certificate)?, written(&self.key)?))
    }

    fn read(&self) -> Result<Certificate, ServerTlsError> {
        let content = |path: &PathBuf, reason: String| ServerTlsError::Content { path: path.clone(), reason };
        Certificate::from_pem(&read(&self.certificate)?, &read(&self.key)?).map_err(|error| match error {
            CertificateError::Certificate(reason) => content(&self.certificate, reason),
            CertificateError::Key(_) => content(&self.key, error.to_string()),
            CertificateError::Mismatch(source) => {
                ServerTlsError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone(), source }
            }
        })
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, ServerTlsError> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut content));
    read.map(|_| content).map_err(|source| ServerTlsError::File { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn issue() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// As if the file had been written later than before.
    fn write_later(path: &Path, text: &str, seconds: u64) {
        fs::write(path, text).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        file.set_modified(before + Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn a_certificate_is_exchanged_when_both_files_fit() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let (first, second) = (issue(), issue());
        fs::write(&certificate, &first.0).unwrap();
        fs::write(&key, &first.1).unwrap();
        let tls = ServerTls::load(&certificate, &key).unwrap();
        let shown = || tls.shown.0.load().as_ref().unwrap().key().cert[0].clone();
        let before = shown();
        assert!(!tls.reload().unwrap(), "nothing was written");

        write_later(&certificate, &second.0, 10);
        assert!(matches!(tls.reload(), Err(ServerTlsError::Mismatch { .. })), "the key is still the old one");
        assert_eq!(shown(), before);
        write_later(&key, &second.1, 20);
        assert!(tls.reload().unwrap());
        assert_ne!(shown(), before);
        assert!(!tls.reload().unwrap());
    }

    #[test]
    fn what_is_no_certificate_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (certificate, key) = issue();
        fs::write(path("cert.pem"), certificate).unwrap();
        fs::write(path("key.pem"), key).unwrap();
        fs::write(path("other.pem"), issue().1).unwrap();
        fs::write(path("empty.pem"), "").unwrap();
        for (certificate, key, says) in [
            ("missing.pem", "key.pem", "missing.pem: No such file"),
            ("empty.pem", "key.pem", "no certificate in it"),
            ("cert.pem", "empty.pem", "no private key"),
            ("cert.pem", "other.pem", "cannot be used together"),
        ] {
            let error = ServerTls::load(&path(certificate), &path(key)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
