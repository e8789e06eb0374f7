//! Which proxy is taken, and what is said to it.

use std::{io::Write as _, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::ring::default_provider, pki_types::PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use towline_tunnel::upgrade::ConnectionKind;

use super::*;
use crate::connect::Dialler;

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn config(server: &str, proxy: ProxyConfig) -> AgentConfig {
    AgentConfig { proxy, ..AgentConfig::new(server.parse().unwrap(), secret("")) }
}

/// The proxy for a server by the variables `all`, `http`, `https` and `no`, as `host:port`.
fn conventional(server: &str, [all, http, https, no]: [&str; 4]) -> Option<String> {
    let proxy =
        ProxyConfig::Conventional { all: secret(all), http: secret(http), https: secret(https), no: no.to_owned() };
    Proxy::of(&config(server, proxy)).unwrap().map(|proxy| proxy.to_string())
}

#[test]
fn the_conventional_variables_choose_by_scheme_and_spare_what_they_name() {
    let server = "https://towline.example.com";
    let is = |proxy: &str| Some(proxy.to_owned());
    let all = ["http://all:1", "http://plain:2", "http://secure:3", ""];
    assert_eq!(conventional(server, all), is("secure:3"));
    assert_eq!(conventional("http://towline.example.com", all), is("plain:2"));
    assert_eq!(conventional(server, ["http://all:1", "", "", ""]), is("all:1"));
    assert_eq!(conventional(server, ["proxy.lan:3128", "", "", ""]), is("proxy.lan:3128"));
    assert_eq!(conventional(server, ["", "", "http://[2001:db8::1]:3128", ""]), is("[2001:db8::1]:3128"));
    assert_eq!(conventional(server, ["", "", "https://proxy.lan", ""]), is("proxy.lan:443"));
    assert_eq!(conventional(server, ["", "http://plain:2", "", ""]), None);
    assert_eq!(conventional(server, ["socks5://all:1", "", "", ""]), None, "it cannot be used and is left out");
    for (server, no) in [
        (server, "*"),
        (server, "lan, example.com"),
        (server, ".example.com"),
        ("https://10.1.2.3:7070", "10.0.0.0/8"),
        ("https://[2001:db8::7]", "2001:db8::7"),
        ("http://127.0.0.1:7070", ""),
        ("http://localhost:7070", ""),
        ("http://[::1]:7070", ""),
    ] {
        assert_eq!(conventional(server, ["http://all:1", "", "", no]), None, "{server} {no}");
    }
    assert_eq!(conventional("https://notexample.com", ["http://all:1", "", "", "example.com"]), is("all:1"));
}

#[test]
fn a_proxy_that_is_named_is_taken_also_for_this_machine_and_its_secrets_stay_hidden() {
    let always = |url: &str, credentials: Option<&str>| {
        let proxy = ProxyConfig::Always { url: secret(url), credentials: credentials.map(secret) };
        let config = config("http://127.0.0.1:7070", proxy);
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        Proxy::of(&config)
    };
    let header = |proxy: &Proxy| proxy.authorization.as_ref().map(|value| value.to_str().unwrap().to_owned());
    // ada:hunter2%
    let basic = Some("Basic YWRhOmh1bnRlcjIl".to_owned());
    for (url, credentials) in [
        ("http://ada:hunter2%25@proxy.lan:3128", None),
        ("http://proxy.lan:3128", Some("ada:hunter2%")),
        ("proxy.lan:3128", Some("ada:hunter2%")),
        ("http://bob:wrong@proxy.lan:3128", Some("ada:hunter2%")),
    ] {
        let proxy = always(url, credentials).unwrap().unwrap();
        assert_eq!((proxy.to_string(), header(&proxy)), ("proxy.lan:3128".to_owned(), basic.clone()), "{url}");
        assert!(!format!("{proxy:?}").contains("YWRh"), "{proxy:?}");
    }
    // What looks like a part of a URL is none (bob:p%3a:).
    let literal = always("http://proxy.lan", Some("bob:p%3a:")).unwrap().unwrap();
    assert_eq!(header(&literal).as_deref(), Some("Basic Ym9iOnAlM2E6"));
    assert_eq!(header(&always("http://proxy.lan", None).unwrap().unwrap()), None);
    for (url, credentials) in [("socks5://ada:hunter2@p", None), ("", None), ("http://p", Some("hunter2"))] {
        let text = always(url, credentials).unwrap_err().to_string();
        assert!(text.contains("user:password") && !text.contains("hunter2"), "{text}");
    }
}

async fn head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Asks a proxy that answers with these bytes for a connection. Gives what it was asked.
async fn connect(answer: &[u8]) -> (String, Result<ServerSocket, ConnectError>) {
    let url = secret("http://ada:hunter2@127.0.0.1:1");
    let always = ProxyConfig::Always { url, credentials: None };
    let proxy = Proxy::of(&config("https://towline.example.com", always)).unwrap().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let serve = async {
        let head = head(&mut server).await;
        // A proxy that is too long-winded is not listened to up to its end.
        let _ = server.write_all(answer).await;
        let _ = server.shutdown().await;
        head
    };
    let dial = proxy.connect(ServerSocket::Plain(client), "towline.example.com:443");
    tokio::join!(serve, dial)
}

#[tokio::test]
async fn the_proxy_is_asked_by_name_and_its_refusal_says_what_to_do() {
    let (head, socket) = connect(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
    assert!(head.starts_with("CONNECT towline.example.com:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: towline.example.com:443\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: Basic YWRhOmh1bnRlcjI=\r\n"), "{head}");
    assert!(matches!(socket.unwrap(), ServerSocket::Plain(_)));
    for (answer, expected, lasting) in [
        (
            &b"HTTP/1.1 407 No\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n"[..],
            "--proxy-credentials-file",
            true,
        ),
        (b"HTTP/1.0 407 No\r\nproxy-authenticate: Basic\r\n\r\n<html>", "--proxy-credentials-file", true),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "allowed", true),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "cannot reach the server", false),
        (b"HTTP/1.1 301 No\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", "takes CONNECT", true),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "spoke before", false),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no way through", false),
        (b"", "no way through", false),
        (&[&b"HTTP/1.1 200 OK\r\nx: "[..], &[b'x'; 40_000]].concat(), "no way through", false),
    ] {
        let error = connect(answer).await.1.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("127.0.0.1:1"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!((error.is_lasting(), error.reach()), (lasting, super::super::Reach::Route), "{text}");
    }
}

/// The server's side of TLS with a certificate of its own, and that certificate.
fn secure(name: &str) -> (TlsAcceptor, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), cert.pem())
}

/// An agent's dialler that goes through the proxy with TLS at that address, and trusts these certificates.
fn dialler(proxy: std::net::SocketAddr, trusted: &[&str]) -> Dialler {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(trusted.concat().as_bytes()).unwrap();
    let url = secret(&format!("https://ada:hunter2@{proxy}"));
    let always = ProxyConfig::Always { url, credentials: None };
    let mut config = config("https://towline.example.com", always);
    config.ca_file = Some(file.path().to_owned());
    Dialler::new(&config).unwrap()
}

#[tokio::test]
async fn tls_to_the_server_goes_through_tls_to_the_proxy() {
    let (outer, proxys) = secure("127.0.0.1");
    let (inner, servers) = secure("towline.example.com");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = dialler(listener.local_addr().unwrap(), &[&proxys, &servers]);
    let serve = async {
        let (socket, _) = listener.accept().await.unwrap();
        let mut outside = outer.accept(socket).await.unwrap();
        let asked = head(&mut outside).await;
        outside.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let mut inside = inner.accept(outside).await.unwrap();
        let upgrade = head(&mut inside).await;
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: towline-session/1\r\n\r\nframes";
        inside.write_all(answer.as_bytes()).await.unwrap();
        inside.shutdown().await.unwrap();
        (asked, upgrade)
    };
    let dial = async {
        let mut dialled = dialler.dial(ConnectionKind::Session, "ak-1").await.unwrap();
        assert!(dialled.rung.via_proxy);
        let mut frames = String::new();
        dialled.transport.read_to_string(&mut frames).await.unwrap();
        frames
    };
    let ((asked, upgrade), frames) = tokio::join!(serve, dial);
    assert_eq!(frames, "frames");
    // Each hears what is for it and nothing else.
    assert!(asked.contains("proxy-authorization: Basic YWRhOmh1bnRlcjI=\r\n") && !asked.contains("ak-1"), "{asked}");
    assert!(upgrade.contains("authorization: Bearer ak-1\r\n") && !upgrade.contains("proxy-"), "{upgrade}");
}

#[tokio::test]
async fn a_proxy_with_another_certificate_learns_nothing() {
    let (outer, _) = secure("127.0.0.1");
    let (_, another) = secure("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = dialler(listener.local_addr().unwrap(), &[&another]);
    let serve = async {
        let (socket, _) = listener.accept().await.unwrap();
        assert!(outer.accept(socket).await.is_err(), "the agent shakes no hands");
    };
    let (error, ()) = tokio::join!(dialler.dial(ConnectionKind::Session, "ak-1"), serve);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("no way through the proxy 127.0.0.1:") && text.contains("no secure connection"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}
