//! The origins: nginx with a small JSON answer and files, and the demo service with streams, WebSockets and uploads.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::Result;

use super::{
    LOOPBACK, Speech, free_port,
    proxies::{nginx_frame, nginx_listen},
};
use crate::bench::{certificate::Certificate, process::Running, wan::Place};

/// What a small answer is.
const SMALL: &str =
    r#"{"id":"0197a3c2-7a52-7cc1-b9b1-6fd0a1c9c3c7","object":"item","name":"small","tags":["a","b"],"count":42}"#;

/// An origin. Dropping it ends it.
#[derive(Debug)]
pub struct Origin {
    /// Its port of HTTP/1.1.
    pub port: u16,
    others: [u16; 2],
    _process: Running,
}

impl Origin {
    /// nginx with `/json`, `/2m`, `/64k` and `/100m`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn files(nginx: &Path, place: &Place, certificate: &Certificate, directory: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory.join("files"))?;
        for (name, size) in [("64k", 64 << 10), ("2m", 2 << 20), ("100m", 100 << 20)] {
            File::create(directory.join("files").join(name))?.set_len(size)?;
        }
        let (port, others) = (free_port()?, [free_port()?, free_port()?]);
        let listen: String = [(Speech::Http1, port), (Speech::Http2, others[0]), (Speech::Https, others[1])]
            .map(|(speech, port)| nginx_listen(speech, &port.to_string(), certificate))
            .concat();
        let http = format!(
            "server {{ {listen} root {root};
               location = /json {{ default_type application/json; return 200 '{SMALL}'; }} }}",
            root = directory.join("files").display(),
        );
        let conf = directory.join("nginx.conf");
        fs::write(&conf, nginx_frame(directory, &http))?;
        let mut command = place.command(nginx);
        command.arg("-p").arg(directory).arg("-c").arg(&conf).arg("-e").arg(directory.join("error.log"));
        let origin = Self::start(place.address, port, &command, &directory.join("nginx.log"))?;
        Ok(Self { others, ..origin })
    }

    /// The demo service, with `/sse`, `/ws`, `/health`, and `/upload`, which reads all that is sent before it answers, as
    /// nginx by itself does not.
    ///
    /// # Errors
    /// When it does not start.
    pub fn streams(demo: &Path, directory: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory)?;
        let port = free_port()?;
        let mut command = Command::new(demo);
        command.args(["--host", LOOPBACK, "--port", &port.to_string()]);
        Self::start(LOOPBACK, port, &command, &directory.join("demo.log"))
    }

    /// Its port for callers that speak so. The demo service has one for all that it knows.
    pub const fn port_of(&self, speech: Speech) -> u16 {
        match speech {
            Speech::Http1 => self.port,
            Speech::Http2 => self.others[0],
            Speech::Https => self.others[1],
        }
    }

    fn start(host: &str, port: u16, command: &Command, log: &Path) -> Result<Self> {
        let mut process = Running::start("origin", command, log)?;
        process.wait_for(host, port)?;
        Ok(Self { port, others: [port; 2], _process: process })
    }
}
