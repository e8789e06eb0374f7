//! Callers under TLS: the same as without it, told apart by ALPN and in what the container is told.

use std::{fs, sync::Arc, time::Duration};

use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_gateway::{
    GatewayConfig,
    certificate::Certificate,
    server_tls::{OpenChallenge, ServerTls},
    testing::{Container, World, wait_until, within},
};

/// A gateway with a certificate for `gateway.test`.
struct TlsWorld {
    world: World,
    certificate: CertificateDer<'static>,
    _files: TempDir,
}

impl TlsWorld {
    async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let files = tempfile::tempdir().unwrap();
        let path = |name| files.path().join(name);
        fs::write(path("cert.pem"), certificate.pem()).unwrap();
        fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let tls = ServerTls::load(&path("cert.pem"), &path("key.pem")).unwrap();
        let world = World::start_with(GatewayConfig { tls: Some(tls), ..GatewayConfig::default() }).await;
        Self { world, certificate: certificate.der().clone(), _files: files }
    }

    async fn connect(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(self.world.address).await.unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect("gateway.test".try_into().unwrap(), socket);
        within("the handshake", connecting).await.unwrap()
    }
}

fn get(key: &str) -> String {
    format!("GET /api/v1/r/containers/hello/a HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {key}\r\n\r\n")
}

/// Reads until what was read ends like this.
async fn read_until(stream: &mut TlsStream<TcpStream>, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let count = within("more", stream.read_buf(&mut read)).await.unwrap();
        assert!(count > 0, "it ended early: {}", String::from_utf8_lossy(&read));
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn http_1_passes_under_tls_and_the_container_is_told() {
    let container = Container::start(|mut exchange, _| async move {
        while let Some(head) = exchange.head().await? {
            exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}!", head.len() + 1)).await?;
        }
        Ok(())
    })
    .await;
    let tls = TlsWorld::start().await;
    let (team, _agent, _) = tls.world.hello(&container).await;
    for alpn in [&[][..], &["http/1.1"]] {
        let mut stream = tls.connect(alpn).await;
        // Two on one connection.
        for _ in 0..2 {
            stream.write_all(get(&team.key).as_bytes()).await.unwrap();
            let seen = read_until(&mut stream, "\r\n\r\n!").await;
            assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
            for line in ["x-forwarded-proto: https", "forwarded: for=127.0.0.1;host=\"gateway.test\";proto=https"] {
                assert!(seen.lines().any(|seen| seen.eq_ignore_ascii_case(line)), "{line} in {seen}");
            }
        }
    }
    let plain = tls.world.get(&team.key, "/api/v1/r/containers/hello/a").await;
    assert!(plain.text().to_lowercase().contains("x-forwarded-proto: http\r\n"), "this machine may speak plain HTTP");
}

#[tokio::test]
async fn http_2_is_chosen_by_alpn() {
    let container = Container::echo().await;
    let tls = TlsWorld::start().await;
    let (team, _agent, _) = tls.world.hello(&container).await;
    let stream = tls.connect(&["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = within("the handshake", handshake).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let request = Request::builder()
        .uri("https://gateway.test/api/v1/r/containers/hello/a")
        .header("authorization", format!("Bearer {}", team.key))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = within("an answer", sender.send_request(request)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("x-forwarded-proto: https"));
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_a_large_answer() {
    const LENGTH: usize = 8 << 20;
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await?;
        exchange.write(vec![b'x'; LENGTH]).await?;
        exchange.ended().await
    })
    .await;
    let tls = TlsWorld::start().await;
    let (team, agent, _) = tls.world.hello(&container).await;
    let mut stream = tls.connect(&[]).await;
    stream.write_all(get(&team.key).as_bytes()).await.unwrap();
    wait_until("the answer is on its way", || agent.streams() > 0).await;
    let mut read = Vec::new();
    let head_length = loop {
        within("the answer", stream.read_buf(&mut read)).await.unwrap();
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let mut count = read.len() - head_length;
    let mut piece = vec![0; 16 << 10];
    while count < LENGTH {
        // Somebody who takes turns with everything else there is to do.
        tokio::task::yield_now().await;
        let more = within("more", stream.read(&mut piece)).await.unwrap();
        assert!(more > 0, "it ended early");
        count += more;
    }
    assert_eq!(count, LENGTH);
}

/// TLS takes more than its socket does. What it holds back when an answer is over must still be sent once its caller reads,
/// though nobody writes any more. Which length brings that about depends on the system's buffers, so lengths are tried
/// until one is too long for all of them.
#[tokio::test]
async fn the_end_of_an_answer_is_not_kept_back() {
    const STEP: usize = 32 << 10;
    let container = Container::start(|mut exchange, _| async move {
        let head = exchange.head().await?.unwrap();
        let length: usize = head.split("length=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        exchange.write(head).await?;
        exchange.write(vec![b'x'; length]).await
    })
    .await;
    let tls = TlsWorld::start().await;
    let (team, agent, _) = tls.world.hello(&container).await;
    for length in (STEP..).step_by(STEP) {
        let mut stream = tls.connect(&[]).await;
        let request = get(&team.key).replace("/hello/a ", &format!("/hello/a?length={length} "));
        stream.write_all(request.as_bytes()).await.unwrap();
        wait_until("the container is asked", || container.accepted() >= length / STEP).await;
        let all_taken = wait_until("the gateway has taken all of the answer", || agent.streams() == 0);
        let fits = tokio::time::timeout(Duration::from_millis(500), all_taken).await.is_ok();
        let mut read = 0;
        let mut piece = vec![0; 64 << 10];
        while read < length {
            let count = within("the rest of the answer", stream.read(&mut piece)).await.unwrap();
            assert!(count > 0, "it ended early");
            read += count;
        }
        // A machine that is busy with something else may not have got to the first few in time.
        if !fits && length > 3 * STEP {
            return;
        }
    }
}

#[tokio::test]
async fn another_protocol_passes_under_tls_with_half_close() {
    let container = Container::start(|mut exchange, _| async move {
        exchange.head().await?;
        exchange.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n").await?;
        let mut said = exchange.buffer.split();
        while exchange.socket.read_buf(&mut said).await? > 0 {}
        exchange.write(said.to_ascii_uppercase()).await
    })
    .await;
    let tls = TlsWorld::start().await;
    let (team, _agent, _) = tls.world.hello(&container).await;
    let mut stream = tls.connect(&[]).await;
    let upgrade = get(&team.key).replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n");
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "HELLO");
}

/// A gateway that waits for its certificate.
struct Awaiting {
    world: World,
    tls: ServerTls,
}

impl Awaiting {
    async fn start() -> Self {
        let tls = ServerTls::awaiting().unwrap();
        let world = World::start_with(GatewayConfig { tls: Some(tls.clone()), ..GatewayConfig::default() }).await;
        Self { world, tls }
    }

    /// Opens the challenge of a domain; its certificate, too.
    fn open_challenge(&self, domain: &str) -> (OpenChallenge, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![domain.to_owned()]).unwrap();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (self.tls.open_challenge(domain, certificate.clone(), &key).unwrap(), certificate)
    }

    fn show_certificate(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let key = key.serialize_pem();
        self.tls.show(Certificate::from_pem(certificate.pem().as_bytes(), key.as_bytes()).unwrap());
        certificate.der().clone()
    }

    /// Shakes hands as somebody who takes any certificate.
    async fn connect(&self, name: &str, alpn: &[&str]) -> Result<TlsStream<TcpStream>, AlertDescription> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().dangerous();
        let mut config = builder.with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(self.world.address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connected = within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await;
        connected.map_err(|error| {
            let error = error.into_inner().and_then(|error| error.downcast::<TlsError>().ok());
            match error.as_deref() {
                Some(TlsError::AlertReceived(alert)) => *alert,
                other => panic!("no alert, but {other:?}"),
            }
        })
    }

    /// The certificate that a handshake shows, or the alert that it ends with.
    async fn shown(&self, name: &str, alpn: &[&str]) -> Result<CertificateDer<'static>, AlertDescription> {
        let stream = self.connect(name, alpn).await?;
        Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
    }
}

/// Takes every certificate, also one that is good for nothing but a challenge.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

const CHALLENGE: &[&str] = &["acme-tls/1"];
const ORDINARY: &[&str] = &["h2", "http/1.1"];

#[tokio::test]
async fn handshakes_are_refused_until_there_is_a_certificate() {
    let awaiting = Awaiting::start().await;
    for alpn in [&[][..], ORDINARY] {
        assert_eq!(awaiting.shown("gateway.test", alpn).await, Err(AlertDescription::AccessDenied));
    }
    let metric = "towline_tls_certificate_expiry_timestamp_seconds";
    assert!(!awaiting.world.gateway.metrics().contains(metric));
    let (first, second) = (awaiting.show_certificate(), awaiting.shown("gateway.test", ORDINARY).await);
    assert_eq!(second, Ok(first));
    let renewed = awaiting.show_certificate();
    assert_eq!(awaiting.shown("gateway.test", &[]).await, Ok(renewed));
    assert!(awaiting.world.gateway.metrics().contains(metric));
}

/// RFC 8737 §3: the authority offers that protocol alone, and names the domain.
#[tokio::test]
async fn a_challenge_is_answered_while_it_is_open_and_to_nobody_else() {
    let awaiting = Awaiting::start().await;
    let ordinary = awaiting.show_certificate();
    let refused = Err(AlertDescription::NoApplicationProtocol);
    assert_eq!(awaiting.shown("a.test", CHALLENGE).await, refused);
    let (open_a, certificate_a) = awaiting.open_challenge("a.test");
    let (open_b, certificate_b) = awaiting.open_challenge("B.test");
    assert_eq!(awaiting.shown("a.test", CHALLENGE).await, Ok(certificate_a));
    assert_eq!(awaiting.shown("b.test", CHALLENGE).await, Ok(certificate_b.clone()));
    assert_eq!(awaiting.shown("c.test", CHALLENGE).await, refused);
    for alpn in [&[][..], ORDINARY, &["acme-tls/1", "h2"], &["http/1.1", "acme-tls/1"]] {
        assert_eq!(awaiting.shown("a.test", alpn).await, Ok(ordinary.clone()), "{alpn:?}");
    }
    drop(open_a);
    assert_eq!(awaiting.shown("a.test", CHALLENGE).await, refused);
    assert_eq!(awaiting.shown("b.test", CHALLENGE).await, Ok(certificate_b));
    drop(open_b);
    assert_eq!(awaiting.shown("b.test", CHALLENGE).await, refused);
}

#[tokio::test]
async fn no_request_is_read_after_a_challenge() {
    let awaiting = Awaiting::start().await;
    let (_open, _) = awaiting.open_challenge("a.test");
    let mut stream = awaiting.connect("a.test", CHALLENGE).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    let mut answer = Vec::new();
    // It is over at once, and stays so for who sends something all the same: nothing, or a socket that is closed already.
    assert_eq!(within("the end", stream.read_to_end(&mut answer)).await.unwrap(), 0, "{answer:?}");
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
}
