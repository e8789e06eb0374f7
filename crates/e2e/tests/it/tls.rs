//! A server under TLS: its agent, its command line and its callers all check the certificate, which is renewed while
//! everything runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use towline_e2e::{
    claim::Claim,
    dir::test_dir,
    system::{AgentOptions, Server, ServerOptions, towline},
    tls_front::Authority,
    wait::{SOON, wait_until},
};

use crate::attached::LocalProcess;

/// What a server under TLS and its callers are told of.
pub struct Files {
    pub authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    _port: Claim,
}

/// Starts a server with a certificate for `localhost`.
pub async fn start(directory: &Path) -> (Server, Authority, Files) {
    let path = |name: &str| directory.join(name);
    let claim = Claim::port();
    let port = claim.number();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let files = Files { authority: path("ca.pem"), certificate, key, _port: claim };
    let authority = Authority::new();
    authority.write_pem(&files.authority);
    authority.write_certificate(&files.certificate, &files.key);
    let server = Server::start_with(ServerOptions {
        listen: Some(format!("127.0.0.1:{port}")),
        arguments: [
            ["--public-url", &format!("https://localhost:{port}")],
            ["--tls-cert", &shows(&files.certificate)],
            ["--tls-key", &shows(&files.key)],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect(),
        ..ServerOptions::default()
    })
    .await;
    assert_eq!(server.bootstrap.url, format!("https://localhost:{port}"));
    (server, authority, files)
}

fn shows(path: &Path) -> String {
    path.display().to_string()
}

async fn connect(authority: &Authority, port: u16) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = TlsConnector::from(Arc::new(authority.client()));
    connector.connect("localhost".try_into().unwrap(), socket).await.unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The answer to one call of the service.
async fn call(authority: &Authority, port: u16, key: &str) -> String {
    let mut stream = connect(authority, port).await;
    let request = format!(
        "GET /api/v1/r/containers/hello/echo HTTP/1.1\r\nHost: localhost\r\nX-Towline-Key: {key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn everybody_comes_by_tls_and_the_certificate_is_renewed() {
    let directory = test_dir();
    let (server, authority, files) = start(directory.path()).await;
    let port = server.api().address().port();
    let _agent = server
        .start_agent_with(AgentOptions {
            name: "tls".to_owned(),
            docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
            arguments: vec!["--ca-file".to_owned(), shows(&files.authority)],
            ..AgentOptions::default()
        })
        .await;
    let local = LocalProcess::start().await;
    let owner = server.owner().await;
    let spec = json!({
        "service_slug": "hello", "display_name": "hello", "service_type": "attached", "attached_target": local.target(),
    });
    let id = owner.create_service(&spec).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    let key = &server.bootstrap.api_key;
    let answer = call(&authority, port, key).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#"["x-forwarded-proto","https"]"#), "{answer}");

    let mut list = towline(directory.path());
    list.args(["service", "list", "-o", "json", "--server", &server.bootstrap.url]);
    list.env("TOWLINE_KEY", key).env("SSL_CERT_FILE", &files.authority);
    let listed = list.output().unwrap();
    let said = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && said.contains("hello"), "{said}{}", String::from_utf8_lossy(&listed.stderr));

    let before = shown(&connect(&authority, port).await);
    authority.write_certificate(&files.certificate, &files.key);
    wait_until("new connections get the new certificate", SOON, async || {
        if shown(&connect(&authority, port).await) == before { Err("the old one is shown".to_owned()) } else { Ok(()) }
    })
    .await;
    assert!(call(&authority, port, key).await.starts_with("HTTP/1.1 200 "), "the agent's session goes on");
}
