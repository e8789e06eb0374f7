//! A server that orders its certificate: from a real authority, which looks for the server itself, as it is in life.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderValue, StatusCode, header};
use reqwest::{Certificate, Client, Version};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_e2e::{
    acme::Pebble,
    acme_wire::{Exchange, Wire},
    claim::Claim,
    system::{Agent, AgentOptions, Server, ServerOptions},
    wait::{SOON, wait_until},
};

use crate::attached::{LocalProcess, attached};

/// Long enough for all tests.
const LONG: u32 = 3600;

const DOMAINS: [&str; 2] = ["towline.test", "www.towline.test"];
const CONTACT: &str = "ada@example.com";

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
        let directory = pebble.directory_url();
        Self::start_server(port, pebble, &directory).await
    }

    /// The same, with an authority that runs, over a wire where its answers are changed.
    async fn start_over(change: impl Fn(&mut Exchange) + Send + Sync + 'static) -> (Self, Wire) {
        let port = Claim::port();
        let mut pebble = Pebble::prepare(port.number(), LONG);
        pebble.start().await;
        let wire = Wire::to(&pebble, change).await;
        (Self::start_server(port, pebble, &wire.directory_url()).await, wire)
    }

    async fn start_server(port: Claim, pebble: Pebble, directory: &str) -> Self {
        let options = ServerOptions {
            listen: Some(port.address().to_string()),
            arguments: arguments(&pebble, directory, port.number(), (CONTACT, &DOMAINS)),
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

fn arguments(pebble: &Pebble, directory: &str, port: u16, (contact, domains): (&str, &[&str])) -> Vec<String> {
    let mut arguments = vec!["--public-url".to_owned(), format!("https://towline.test:{port}")];
    arguments.extend(["--acme-agree-tos", "--acme-contact", contact, "--acme-directory", directory].map(str::to_owned));
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
    let directory = world.pebble.directory_url();
    world.server.start_again_with(arguments(&world.pebble, &directory, port, (CONTACT, &domains))).await;
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

#[tokio::test]
async fn an_authority_that_wants_to_be_left_alone_for_long_is() {
    let (mut world, wire) = World::start_over(|exchange| {
        if exchange.path == "/order-plz" {
            let problem = json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "come back tomorrow" });
            (exchange.status, exchange.body) = (StatusCode::TOO_MANY_REQUESTS, problem.to_string().into());
            exchange.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("86400"));
        }
    })
    .await;
    world.server.process.wait_for_output("no certificate could be had: HTTPS is refused until there is one").await;
    let said = world.server.process.output();
    assert!(said.contains("come back tomorrow") && said.contains("asked again when it wants to be"), "{said}");
    let again_in = said.split("again_in=").nth(1).unwrap().split(|c: char| !c.is_ascii_digit()).next().unwrap();
    assert!((86_400..=95_040).contains(&again_in.parse::<u64>().unwrap()), "{again_in}");
    assert_eq!(wire.take_seen().iter().filter(|exchange| exchange.path == "/order-plz").count(), 1);
}

#[tokio::test]
async fn a_nonce_that_the_authority_refuses_is_replaced() {
    let is_changed = AtomicBool::new(false);
    let (world, wire) = World::start_over(move |exchange| {
        if exchange.path == "/nonce-plz" && !is_changed.swap(true, Ordering::SeqCst) {
            exchange.headers.insert("replay-nonce", HeaderValue::from_static("bm9uZSBvZiBpdHM"));
        }
    })
    .await;
    world.wait_for_certificate("towline.test", None).await;
    let seen = wire.take_seen();
    let refused: Vec<_> = seen.iter().filter(|exchange| !exchange.status.is_success()).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].json()["type"], "urn:ietf:params:acme:error:badNonce");
    assert!(!world.server.process.output().contains("no certificate could be had"), "it is nothing to speak of");
}

#[tokio::test]
async fn the_authority_is_told_of_another_contact_once() {
    let (mut world, wire) = World::start_over(|_| ()).await;
    world.wait_for_certificate("towline.test", None).await;
    let account = |seen: Vec<Exchange>| {
        let is_account = |exchange: &Exchange| exchange.path.starts_with("/my-account/");
        seen.into_iter().filter(is_account).collect::<Vec<_>>()
    };
    assert_eq!(account(wire.take_seen()).len(), 0, "a new account has its contact from the beginning");
    // Another order is wanted each time, without which the authority is asked nothing.
    for (domain, told) in [("one.towline.test", 1), ("two.towline.test", 0)] {
        let (port, new) = (world.port.number(), ("grace@example.com", &["towline.test", domain][..]));
        world.server.kill();
        world.server.start_again_with(arguments(&world.pebble, &wire.directory_url(), port, new)).await;
        world.wait_for_certificate(domain, None).await;
        let seen = account(wire.take_seen());
        assert_eq!(seen.len(), told, "{seen:?}");
        for exchange in seen {
            assert_eq!(exchange.payload["contact"], json!(["mailto:grace@example.com"]));
            assert_eq!(exchange.json()["contact"], json!(["mailto:grace@example.com"]), "it has taken it");
        }
    }
    let said = world.server.process.output();
    assert!(!said.contains("has forgotten the account"), "{said}");
}
