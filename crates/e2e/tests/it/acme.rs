//! A server that orders its certificate: from a real authority, which looks for the server itself, as it is in life.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, sync::Arc};

use reqwest::{Certificate, Client, Version};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_e2e::{
    acme::Pebble,
    claim::Claim,
    system::{Agent, AgentOptions, Server, ServerOptions},
    wait::{SOON, wait_until},
};

use crate::attached::{LocalProcess, attached};

/// Long enough for all tests.
const LONG: u32 = 3600;

/// A server, and the authority that it orders from.
struct World {
    server: Server,
    pebble: Pebble,
    port: Claim,
}

impl World {
    /// Starts the server, and the authority before it if it is to run from the beginning.
    async fn start(seconds: u32, is_up: bool, leads_to: Ipv4Addr) -> Self {
        let port = Claim::port();
        let mut pebble = Pebble::prepare(port.number(), seconds);
        pebble.lead_to(leads_to).await;
        if is_up {
            pebble.start().await;
        }
        let options = ServerOptions {
            listen: Some(port.address().to_string()),
            arguments: arguments(&pebble, port.number(), &["towline.test", "www.towline.test"]),
            ..ServerOptions::default()
        };
        Self { server: Server::start_with(options).await, pebble, port }
    }

    /// Waits for the first certificate, or for another one than this.
    async fn wait_for_certificate(&self, name: &str, before: Option<&[u8]>) -> Vec<u8> {
        let issuer = self.pebble.issuer().await;
        wait_until("there is a new certificate", SOON, async || {
            let stream = connect(&issuer, self.port.number(), name).await.map_err(|error| error.to_string())?;
            let shown = shown(&stream);
            if before == Some(&*shown) { Err("the one before is shown".to_owned()) } else { Ok(shown) }
        })
        .await
    }

    /// An agent of this machine, and a service with the name `hello` behind it.
    async fn serve_hello(&self) -> (Agent, LocalProcess) {
        let agent = self.server.start_agent_with(AgentOptions {
            name: "bare".to_owned(),
            docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
            server_url: Some(format!("http://{}", self.port.address())),
            ..AgentOptions::default()
        });
        let (agent, local, owner) = (agent.await, LocalProcess::start().await, self.server.owner().await);
        let id = owner.create_service(&attached("hello", &local.target())).await;
        owner.deploy(&id).await;
        owner.wait_for_ready(&id, 1).await;
        (agent, local)
    }

    fn hello(&self) -> String {
        let key = &self.server.bootstrap.api_key;
        format!("GET /api/v1/r/containers/hello/echo HTTP/1.1\r\nHost: towline.test\r\nX-Towline-Key: {key}\r\n\r\n")
    }
}

fn arguments(pebble: &Pebble, port: u16, domains: &[&str]) -> Vec<String> {
    let mut arguments = vec!["--public-url".to_owned(), format!("https://towline.test:{port}")];
    arguments.extend(["--acme-agree-tos", "--acme-contact", "ada@example.com"].map(str::to_owned));
    arguments.extend(["--acme-directory".to_owned(), pebble.directory_url()]);
    arguments.extend(["--acme-ca-file".to_owned(), pebble.ca_file().display().to_string()]);
    arguments.extend(domains.iter().flat_map(|domain| ["--acme-domain".to_owned(), (*domain).to_owned()]));
    arguments
}

/// Connects as somebody who trusts this issuer alone.
async fn connect(issuer: &str, port: u16, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(issuer.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), socket).await
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// One call on a connection that stays open.
async fn call(stream: &mut TlsStream<TcpStream>, request: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let head_end = loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "it ended: {answer}");
        answer.push_str(&String::from_utf8_lossy(&piece[..count]));
        if let Some(end) = answer.find("\r\n\r\n") {
            break end + 4;
        }
    };
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let head = answer[..head_end].to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse::<usize>().unwrap();
    let mut rest = vec![0; (head_end + length).saturating_sub(answer.len())];
    stream.read_exact(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_ordered_and_kept_and_callers_come_by_it() {
    let mut world = World::start(LONG, true, Ipv4Addr::LOCALHOST).await;
    let first = world.wait_for_certificate("towline.test", None).await;
    assert_eq!(world.wait_for_certificate("www.towline.test", None).await, first);
    let _hello = world.serve_hello().await;

    let (issuer, port) = (world.pebble.issuer().await, world.port.number());
    let mut stream = connect(&issuer, port, "towline.test").await.unwrap();
    call(&mut stream, &world.hello()).await;
    let http = Client::builder().tls_certs_only([Certificate::from_pem(issuer.as_bytes()).unwrap()]).no_proxy();
    let http = http.resolve("towline.test", world.port.address()).build().unwrap();
    let request = http.get(format!("https://towline.test:{port}/api/v1/r/containers/hello/echo"));
    let answer = request.header("x-towline-key", &world.server.bootstrap.api_key).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));

    for name in ["account.json", "certificate.pem"] {
        let path = world.server.directory().join("data/acme").join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(world.pebble.orders(), 1);

    // With the authority gone, a restart has nothing to ask it for.
    world.pebble.kill();
    world.server.kill();
    world.server.start_again().await;
    assert_eq!(shown(&connect(&issuer, port, "towline.test").await.unwrap()), first);
    let said = world.server.process.output();
    assert_eq!(said.matches("ordering a certificate").count(), 1, "{said}");

    // Other domains: the old certificate is shown until there is a new one. The authority has forgotten the account by now.
    let domains = ["towline.test", "new.towline.test"];
    world.server.kill();
    world.server.start_again_with(arguments(&world.pebble, port, &domains)).await;
    world.server.process.wait_for_output("no certificate could be had").await;
    assert_eq!(shown(&connect(&issuer, port, "towline.test").await.unwrap()), first);
    world.pebble.start().await;
    let second = world.wait_for_certificate("new.towline.test", None).await;
    assert_eq!(world.wait_for_certificate("towline.test", None).await, second);
    let said = world.server.process.output();
    assert!(said.contains("has forgotten the account"), "{said}");
    let issuer = world.pebble.issuer().await;
    connect(&issuer, port, "www.towline.test").await.unwrap_err();
    for secret in ["PRIVATE KEY", "key_pkcs8"] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_while_connections_go_on() {
    let world = World::start(30, true, Ipv4Addr::LOCALHOST).await;
    let first = world.wait_for_certificate("towline.test", None).await;
    let _hello = world.serve_hello().await;
    let (issuer, request) = (world.pebble.issuer().await, world.hello());
    let mut old = connect(&issuer, world.port.number(), "towline.test").await.unwrap();
    call(&mut old, &request).await;
    // Each new connection finds a certificate that is good, and the old one goes on.
    wait_until("there is a new certificate", SOON, async || {
        let mut new = connect(&issuer, world.port.number(), "towline.test").await.unwrap();
        call(&mut new, &request).await;
        call(&mut old, &request).await;
        if shown(&new) == first { Err("the one before is shown".to_owned()) } else { Ok(()) }
    })
    .await;
    call(&mut old, &request).await;
}

#[tokio::test]
async fn an_authority_that_is_down_is_asked_again_and_the_server_serves_meanwhile() {
    let mut world = World::start(LONG, false, Ipv4Addr::LOCALHOST).await;
    world.server.process.wait_for_output("no certificate could be had: HTTPS is refused until there is one").await;
    let said = world.server.process.output();
    assert!(said.contains("onnection refused") && said.contains("look at --acme-directory"), "{said}");
    world.server.api().get("/r/containers").await.expect(200);
    world.pebble.start().await;
    world.wait_for_certificate("towline.test", None).await;
    assert_eq!(world.pebble.orders(), 1);
}

#[tokio::test]
async fn a_refused_challenge_is_told_in_the_authoritys_words_and_the_server_goes_on() {
    // Nobody listens there.
    let mut world = World::start(LONG, true, Ipv4Addr::new(127, 0, 0, 77)).await;
    world.server.process.wait_for_output("no certificate could be had: HTTPS is refused until there is one").await;
    let said = world.server.process.output();
    assert!(said.contains("towline.test: API error: ") && said.contains("127.0.0.77"), "{said}");
    assert!(said.contains("port 443 of each domain must lead to this server"), "{said}");
    let error = connect(&world.pebble.issuer().await, world.port.number(), "towline.test").await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    world.server.api().get("/r/containers").await.expect(200);
    assert_eq!(world.pebble.orders(), 1, "it is not asked again at once");

    world.pebble.lead_to(Ipv4Addr::LOCALHOST).await;
    world.server.kill();
    world.server.start_again().await;
    world.wait_for_certificate("towline.test", None).await;
}

#[tokio::test]
async fn it_stops_while_an_order_is_on_its_way() {
    let mut world = World::start(LONG, false, Ipv4Addr::LOCALHOST).await;
    world.server.process.wait_for_output("ordering a certificate").await;
    assert!(world.server.process.terminate(SOON).await.success());
}
