//! Callers under TLS: the same as without it, told apart by ALPN and in what the container is told.

use std::{fs, sync::Arc, time::Duration};

use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_gateway::{
    GatewayConfig,
    server_tls::ServerTls,
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
