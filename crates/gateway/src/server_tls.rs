//! TLS with callers and agents: the server's certificate, from files that may be exchanged while it runs.
//!
//! One port takes TLS; plain HTTP is taken there from this machine's own addresses only, and anybody else who sends it is
//! told so. HTTP/2 is chosen by ALPN (RFC 7301). Which certificate authority issued the certificate, and how it is
//! renewed, is not known here: whoever renews it writes the files anew, and they are read again.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

/// The name of HTTP/2 in ALPN (RFC 9113 §3.2).
const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP11: &[u8] = b"http/1.1";
/// The longest file of certificates or of a key, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The server's side of TLS.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
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

/// The certificate of the moment.
struct Certificate {
    files: Files,
    current: ArcSwap<CertifiedKey>,
    /// When the files that are in use were written.
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
        let current = ArcSwap::from_pointee(files.read()?);
        let certificate = Arc::new(Certificate { files, current, written: Mutex::new(written) });
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .map_err(ServerTlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP11.to_vec()];
        // Sessions are resumed without memory of them here, under a key that changes by itself.
        config.ticketer = ring::Ticketer::new().map_err(ServerTlsError::Setup)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// Reads the files again if they were written since. When they cannot be used, which may be because only one of them
    /// has been written yet, the certificate that there is stays, and the next call looks again.
    ///
    /// # Errors
    /// See [`ServerTlsError`].
    pub fn reload(&self) -> Result<bool, ServerTlsError> {
        self.certificate.reload()
    }

    pub(crate) const fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.certificate.files).finish_non_exhaustive()
    }
}

/// Whether the handshake chose HTTP/2.
pub(crate) fn is_http2(connection: &rustls::ServerConnection) -> bool {
    connection.alpn_protocol() == Some(ALPN_HTTP2)
}

impl Certificate {
    fn reload(&self) -> Result<bool, ServerTlsError> {
        let mut known = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.files.written()?;
        if *known == Some(written) {
            return Ok(false);
        }
        self.current.store(Arc::new(self.files.read()?));
        *known = Some(written);
        Ok(true)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
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

    fn read(&self) -> Result<CertifiedKey, ServerTlsError> {
        let content = |path: &PathBuf, reason: String| ServerTlsError::Content { path: path.clone(), reason };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&self.certificate)?)
            .collect::<Result<_, _>>()
            .map_err(|error| content(&self.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(content(&self.certificate, "there is no certificate in it; it must be in PEM".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|error| {
            content(&self.key, format!("no private key could be read, which must be in PEM: {error}"))
        })?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| ServerTlsError::Mismatch {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
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
        let shown = || tls.certificate.current.load().cert[0].clone();
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
