//! What stands between agents and servers: nginx, HAProxy, and the CONNECT proxy tinyproxy, as processes.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use tempfile::TempDir;

use crate::{
    claim::Claim,
    dir::test_dir,
    process::Process,
    wait::{SOON, wait_until},
};

/// A running balancer or proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct Between {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The process.
    pub process: Process,
    _port: Claim,
    _directory: TempDir,
}

/// What nginx does with upgrades.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrades {
    /// It passes all of them on.
    All,
    /// It passes WebSockets on, and makes ordinary requests of the others.
    WebSocket,
    /// It passes WebSockets on, and answers the others with 400.
    WebSocketElse400,
    /// It passes WebSockets on, and closes the connection of the others without an answer.
    WebSocketElseClosed,
    /// It passes none on.
    None,
}

/// The user name and the password of the CONNECT proxy.
pub const PROXY_LOGIN: (&str, &str) = ("ada", "hunter2");

impl Between {
    /// nginx before a server. With a certificate and its key, it ends TLS. `idle` is its limit for silence.
    pub async fn nginx(server: SocketAddr, upgrades: Upgrades, tls: Option<(&Path, &Path)>, idle: &str) -> Self {
        let (map, refuse) = match upgrades {
            Upgrades::All => ("default $http_upgrade;", ""),
            Upgrades::WebSocket => ("~*^websocket$ websocket;", ""),
            Upgrades::WebSocketElse400 => ("~*^websocket$ websocket;", "if ($refused) { return 400; }"),
            Upgrades::WebSocketElseClosed => ("~*^websocket$ websocket;", "if ($refused) { return 444; }"),
            Upgrades::None => ("", ""),
        };
        let (secure, certificate) = tls.map_or_else(Default::default, |(certificate, key)| {
            let lines = format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display());
            (" ssl", lines)
        });
        Self::start("nginx", |addr, directory| {
            let here = directory.display();
            let text = format!(
                "daemon off; master_process off; error_log stderr; pid {here}/pid;\n\
                 events {{ worker_connections 512; }}\n\
                 http {{\n\
                 access_log off; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
                 fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;\n\
                 map $http_upgrade $passed_upgrade {{ {map} }}\n\
                 map $passed_upgrade $passed_connection {{ default upgrade; '' close; }}\n\
                 map $http_upgrade $refused {{ default 1; '' ''; ~*^websocket$ ''; }}\n\
                 server {{\n\
                 listen {addr}{secure}; {certificate}\n\
                 location / {{\n\
                 {refuse}\n\
                 proxy_pass http://{server}; proxy_http_version 1.1; proxy_set_header Host $http_host;\n\
                 proxy_set_header Upgrade $passed_upgrade; proxy_set_header Connection $passed_connection;\n\
                 proxy_read_timeout {idle}; proxy_send_timeout {idle};\n\
                 }} }} }}\n"
            );
            let mut command = Command::new("nginx");
            command.args(["-p", &here.to_string(), "-c"]).arg(written(directory, &text));
            command
        })
        .await
    }

    /// HAProxy before a server, with the rules of HTTP. `tunnel` is its limit for silence after an upgrade, `rule` one more line
    /// for what comes in.
    pub async fn haproxy(server: SocketAddr, tunnel: &str, rule: &str) -> Self {
        Self::start("haproxy", |addr, directory| {
            let text = format!(
                "global\n maxconn 500\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n \
                 timeout tunnel {tunnel}\nfrontend in\n bind {addr}\n {rule}\n default_backend out\nbackend out\n server one {server}\n"
            );
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f"]).arg(written(directory, &text));
            command
        })
        .await
    }

    /// A proxy that connects to wherever it is asked to by those who know [`PROXY_LOGIN`].
    pub async fn connect_proxy() -> Self {
        Self::start("tinyproxy", |addr, directory| {
            let (user, password) = PROXY_LOGIN;
            let text = format!(
                "Port {}\nListen {}\nTimeout 600\nMaxClients 200\nLogLevel Connect\nBasicAuth {user} {password}\n",
                addr.port(),
                addr.ip()
            );
            let mut command = Command::new("tinyproxy");
            command.args(["-d", "-c"]).arg(written(directory, &text));
            command
        })
        .await
    }

    async fn start(program: &str, command: impl FnOnce(SocketAddr, &Path) -> Command) -> Self {
        let directory = test_dir();
        // Those programs cannot be given port 0.
        let port = Claim::port();
        let addr = port.address();
        let mut command = command(addr, directory.path());
        let mut process = Process::start(program, &mut command, &directory.path().join("log"));
        wait_until(&format!("{program} listens"), SOON, async || {
            process.assert_runs();
            tokio::net::TcpStream::connect(addr).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { addr, process, _port: port, _directory: directory }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

fn written(directory: &Path, text: &str) -> std::path::PathBuf {
    let file = directory.join("configuration");
    fs::write(&file, text).expect("a file in the test's directory");
    file
}
