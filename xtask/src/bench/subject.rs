//! What is measured: the way to the origin without anything, with one hop, and with two. All of them have the same origin
//! behind them.

mod origin;
mod proxies;
mod tunnels;

use std::{
    fs,
    net::TcpListener,
    ops::Add,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub use self::origin::Origin;
use super::{
    certificate::Certificate,
    process::{CpuTime, Running},
    provision::{Programs, Rivals},
    wan::Place,
};

/// Where processes that need no link reach each other.
pub const LOOPBACK: &str = "127.0.0.1";

/// What callers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge, without TLS.
    Http2,
    /// HTTP/1.1 within TLS.
    Https,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    /// What is spoken there.
    pub speech: Speech,
    /// An address.
    pub host: &'static str,
    /// A port.
    pub port: u16,
    /// What stands before the origin's path.
    pub prefix: String,
    /// The key that the request carries.
    pub key: Option<String>,
}

impl Target {
    /// Without prefix and key.
    pub const fn plain(speech: Speech, host: &'static str, port: u16) -> Self {
        Self { speech, host, port, prefix: String::new(), key: None }
    }

    /// The address of one of the origin's paths.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.speech == Speech::Https { "https" } else { "http" };
        format!("{scheme}://{}:{}{}{path}", self.host, self.port, self.prefix)
    }
}

/// What stands between callers and the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing.
    Direct,
    /// One nginx.
    Nginx,
    /// One HAProxy.
    Haproxy,
    /// One Envoy.
    Envoy,
    /// nginx before nginx.
    NginxTwice,
    /// rathole: a tunnel of plain TCP connections, without HTTP and without authentication of callers.
    Rathole,
    /// This project: authentication, HTTP, and the tunnel.
    Towline,
    /// The same with a thousand services on a hundred agents.
    TowlineMany,
}

impl Kind {
    /// All that are measured side by side, in the order of the tables.
    pub const ALL: [Self; 7] =
        [Self::Direct, Self::Nginx, Self::Haproxy, Self::Envoy, Self::NginxTwice, Self::Rathole, Self::Towline];

    /// Those of them that have processes of their own.
    pub const PROXIES: [Self; 6] =
        [Self::Nginx, Self::Haproxy, Self::Envoy, Self::NginxTwice, Self::Rathole, Self::Towline];

    /// All that may have a row in a table, in their order.
    pub fn rows() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain([Self::TowlineMany])
    }

    /// Its name in the tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::NginxTwice => "nginx → nginx",
            Self::Rathole => "rathole",
            Self::Towline => "Towline",
            Self::TowlineMany => "Towline, 1,000 services on 100 agents",
        }
    }
}

/// A subject that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Subject {
    /// What it is.
    pub kind: Kind,
    /// Its processes, the one that callers talk to first.
    pub processes: Vec<Running>,
    /// Where its callers go.
    pub target: Target,
}

impl Subject {
    /// CPU seconds that its processes have used, by role.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn cpu(&self) -> Result<Vec<(&'static str, CpuTime)>> {
        self.by_role(Running::cpu)
    }

    /// KiB of memory that its processes have, by role.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn memory(&self) -> Result<Vec<(&'static str, f64)>> {
        self.by_role(|process| Ok(process.memory()? as f64))
    }

    /// Ends its processes, one after the other, and waits until each has done what it does at its end.
    ///
    /// # Errors
    /// When one does not end, or not well.
    pub fn end(self) -> Result<()> {
        self.processes.into_iter().try_for_each(Running::end)
    }

    fn by_role<T>(&self, figure: impl Fn(&Running) -> Result<T>) -> Result<Vec<(&'static str, T)>>
    where
        T: Copy + Add<Output = T>,
    {
        let mut sums: Vec<(&'static str, T)> = vec![];
        for process in &self.processes {
            let value = figure(process)?;
            match sums.iter_mut().find(|(role, _)| *role == process.role) {
                Some((_, sum)) => *sum = *sum + value,
                None => sums.push((process.role, value)),
            }
        }
        Ok(sums)
    }
}

/// What subjects are started with.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// The programs.
    pub programs: &'a Programs,
    /// Where callers, proxies and gateways are.
    pub near: &'a Place,
    /// Where the origin and agents are.
    pub far: &'a Place,
    /// The origin's port.
    pub origin: u16,
    /// What callers speak.
    pub speech: Speech,
    /// The origin's port for that: of those that pass on bytes and nothing else.
    pub origin_of_callers: u16,
    /// What those show who speak TLS.
    pub certificate: &'a Certificate,
    /// Where configurations, logs and state go.
    pub scratch: &'a Path,
}

impl<'a> Stage<'a> {
    /// All in one place, with callers of HTTP/1.1.
    pub const fn at(
        place: &'a Place,
        programs: &'a Programs,
        origin: &Origin,
        (certificate, scratch): (&'a Certificate, &'a Path),
    ) -> Self {
        let (speech, port) = (Speech::Http1, origin.port);
        Self { programs, near: place, far: place, origin: port, speech, origin_of_callers: port, certificate, scratch }
    }

    /// Starts this project's server and agent, with the origin as their one service.
    ///
    /// # Errors
    /// When they do not start; with the last that they said.
    pub fn towline(&self) -> Result<Subject> {
        tunnels::towline(self)
    }

    /// Starts a subject and waits until it listens.
    ///
    /// # Errors
    /// When it does not start; with the last that it said.
    pub fn start(&self, rivals: &Rivals, kind: Kind) -> Result<Subject> {
        let started = match kind {
            Kind::Direct => {
                let target = Target::plain(self.speech, self.far.address, self.origin_of_callers);
                Ok(Subject { kind, processes: Vec::new(), target })
            }
            Kind::Nginx => proxies::nginx(self, rivals),
            Kind::Haproxy => proxies::haproxy(self, rivals),
            Kind::Envoy => proxies::envoy(self, rivals),
            Kind::NginxTwice => proxies::nginx_twice(self, rivals),
            Kind::Rathole => tunnels::rathole(self, rivals),
            Kind::Towline => self.towline(),
            Kind::TowlineMany => tunnels::towline_with_many(self),
        };
        started.with_context(|| format!("cannot start {}", kind.name()))
    }

    /// An empty directory.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.scratch.join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((LOOPBACK, 0))?.local_addr()?.port())
}

/// Waits for the ports of a process.
fn wait_for(place: &Place, running: &mut Running, ports: &[u16]) -> Result<()> {
    ports.iter().try_for_each(|port| running.wait_for(place.address, *port))
}
