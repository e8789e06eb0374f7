//! A certificate authority that speaks ACME and is nobody of ours: Debian's `pebble`, of the makers of Let's Encrypt, with
//! the DNS in which it looks domains up.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::{Certificate, Client};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    claim::Claim,
    dir::test_dir,
    process::Process,
    tls_front::Authority,
    wait::{SOON, wait_until},
};

/// A `pebble` and a `pebble-challtestsrv`, each a process.
#[derive(Debug)]
pub struct Pebble {
    /// The authority, while it runs.
    pub process: Option<Process>,
    dns: Process,
    ports: [Claim; 4],
    directory: TempDir,
}

impl Pebble {
    /// Prepares one that looks for domains' servers at this port of loopback, and whose certificates are good for so many seconds. It
    /// does not run yet; its DNS does.
    ///
    /// # Panics
    /// When it is not installed.
    #[must_use]
    pub fn prepare(port: u16, seconds: u32) -> Self {
        // The process's TLS, for clients; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = test_dir();
        let path = |name: &str| directory.path().join(name);
        let ports = [(); 4].map(|()| Claim::port());
        let own = Authority::new();
        own.write_pem(&path("ca.pem"));
        own.write_certificate(&path("cert.pem"), &path("key.pem"));
        let [acme, management, names, names_management] = ports.each_ref().map(|port| port.address().to_string());
        let config = json!({ "pebble": {
            "listenAddress": acme, "managementListenAddress": management, "tlsPort": port, "httpPort": 1,
            "certificate": path("cert.pem"), "privateKey": path("key.pem"), "certificateValidityPeriod": seconds,
        } });
        fs::write(path("pebble.json"), config.to_string()).expect("a file in the test's directory");
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-dns01", &names, "-management", &names_management, "-defaultIPv4", "127.0.0.1"]);
        command.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let dns = Process::start("pebble-challtestsrv (Debian: pebble)", &mut command, &path("dns.log"));
        Self { process: None, dns, ports, directory }
    }

    /// Starts it. What an earlier process knew, its accounts too, is forgotten.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self) {
        let mut command = Command::new("pebble");
        command.arg("-config").arg(self.directory.path().join("pebble.json"));
        command.args(["-dnsserver", &self.ports[2].address().to_string()]);
        // No breaks before it looks, every domain proven anew, and no request refused by chance, since orders are counted.
        command.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0"), ("PEBBLE_WFE_NONCEREJECT", "0")]);
        let mut process = Process::start("pebble", &mut command, &self.directory.path().join("pebble.log"));
        let http = self.http();
        wait_until("pebble answers", SOON, async || {
            process.assert_runs();
            self.dns_runs()?;
            http.get(self.directory_url()).send().await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        self.process = Some(process);
    }

    fn dns_runs(&self) -> Result<(), String> {
        let said = self.dns.output();
        // It says so for each of its listeners, and nothing when one cannot listen.
        if said.contains("Starting management server") { Ok(()) } else { Err(said) }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// How many orders it has taken since it was prepared.
    #[must_use]
    pub fn orders(&self) -> usize {
        let said = fs::read_to_string(self.directory.path().join("pebble.log")).unwrap_or_default();
        said.matches(" orders in the db").count()
    }

    /// Where its directory is.
    #[must_use]
    pub fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.ports[0].number())
    }

    /// What its own HTTPS shows: the files with the certificate, which is for `localhost`, and with its key.
    #[must_use]
    pub fn certificate_files(&self) -> [PathBuf; 2] {
        ["cert.pem", "key.pem"].map(|name| self.directory.path().join(name))
    }

    /// What its own HTTPS is checked against.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// What the certificates are checked against that it issues, in PEM.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn issuer(&self) -> String {
        let url = format!("https://localhost:{}/roots/0", self.ports[1].number());
        let answer = self.http().get(url).send().await.expect("pebble runs");
        answer.text().await.expect("a certificate in PEM")
    }

    /// Lets every name lead to this address.
    ///
    /// # Panics
    /// When its DNS does not run.
    pub async fn lead_to(&self, address: Ipv4Addr) {
        let url = format!("http://{}/set-default-ipv4", self.ports[3].address());
        let body = json!({ "ip": address.to_string() });
        let answer = wait_until("the DNS takes an address", SOON, async || {
            Client::new().post(&url).json(&body).send().await.map_err(|error| error.to_string())
        })
        .await;
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    /// A client that trusts it.
    pub(crate) fn http(&self) -> Client {
        client(&self.ca_file())
    }
}

/// An HTTP client that trusts the certificates in this PEM file alone. It speaks HTTP/1.1, so that a `Host` that is given to it
/// is what it sends.
fn client(ca_file: &Path) -> Client {
    let pem = fs::read(ca_file).expect("a file in the test's directory");
    let root = Certificate::from_pem(&pem).expect("a certificate in PEM");
    Client::builder().tls_certs_only([root]).http1_only().no_proxy().build().expect("a client")
}
