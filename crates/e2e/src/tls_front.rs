//! An HTTPS server elsewhere: TLS of this process in front of any HTTP server, with certificates of a test's own authority.

use std::{net::SocketAddr, path::Path, sync::Arc};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// An authority that issues certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// As it should be.
    None,
    /// For another name.
    WrongName,
    /// Its time is over.
    Expired,
    /// Issued by nobody but itself.
    SelfSigned,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one, which nobody trusts yet.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Towline test authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes its certificate for those who shall trust it.
    pub fn write_pem(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("a file in the test's directory");
    }

    /// Writes a new certificate for `localhost`, and its private key.
    pub fn write_certificate(&self, certificate: &Path, key: &Path) {
        let (pair, issued) = self.issue_for("localhost", Flaw::None);
        std::fs::write(certificate, issued.pem()).expect("a file in the test's directory");
        std::fs::write(key, pair.serialize_pem()).expect("a file in the test's directory");
    }

    /// What a client checks servers against that trusts this authority alone.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("it was made here");
        roots.add(own).expect("an authority's certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has the default versions");
        builder.with_root_certificates(roots).with_no_client_auth()
    }

    fn issue(&self, flaw: Flaw) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let name = if flaw == Flaw::WrongName { "elsewhere.example" } else { "localhost" };
        let (key, certificate) = self.issue_for(name, flaw);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key in PKCS #8");
        (certificate.der().clone(), key)
    }

    fn issue_for(&self, name: &str, flaw: Flaw) -> (KeyPair, Certificate) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a valid name");
        if flaw == Flaw::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = match flaw {
            Flaw::SelfSigned => params.self_signed(&key),
            _ => params.signed_by(&key, &self.issuer),
        };
        (key, certificate.expect("a certificate"))
    }
}

/// A running TLS server for `localhost`; it ends when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens.
    pub addr: SocketAddr,
    _task: JoinSet<()>,
}

impl TlsFront {
    /// Listens on a free port and passes what comes on to `behind`.
    pub async fn start(authority: &Authority, flaw: Flaw, behind: SocketAddr) -> Self {
        let (certificate, key) = authority.issue(flaw);
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has the default versions");
        let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).expect("the key fits");
        // A server that prefers HTTP/2, as most do.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut secure) = acceptor.accept(socket).await else { return };
                    let Ok(mut plain) = TcpStream::connect(behind).await else { return };
                    let _ = copy_bidirectional(&mut secure, &mut plain).await;
                });
            }
        });
        Self { addr, _task: task }
    }

    /// Its URL, by the name that its certificate is for.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.addr.port())
    }
}
