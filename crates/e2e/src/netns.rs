//! Network namespaces as machines of their own, joined by virtual cables. They need root.
//!
//! Names hold the process id of the test, so that what a killed test left behind is recognised and removed by the next one.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::process::run;

const PREFIX: &str = "twe";

/// A network namespace with loopback up and nothing else. Dropping it removes it and its cables.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Panics
    /// When that is not allowed.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_leftovers();
        }
        let name = format!("{PREFIX}{}n{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name, as in `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on what is inside.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-n", &self.name], arguments].concat());
    }

    /// Runs a program inside and returns what it printed. Only the network is another.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let namespace = format!("--net=/run/netns/{}", self.name);
        run("nsenter", &[&[namespace.as_str(), program], arguments].concat())
    }

    /// A command inside that is not run yet.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// Lays a cable between two namespaces, with an address in CIDR notation at each end; `name` is at most 8 characters and
    /// becomes the interface's name at both ends.
    ///
    /// # Panics
    /// When that fails.
    pub fn connect(&self, name: &str, address: &str, other: &Self, other_address: &str) {
        run("ip", &["-n", &self.name, "link", "add", name, "type", "veth", "peer", "name", name, "netns", &other.name]);
        for (end, address) in [(self, address), (other, other_address)] {
            end.ip(&["addr", "add", address, "dev", name]);
            end.ip(&["link", "set", name, "up"]);
        }
    }

    /// Lays a cable between the machine's own namespace and this one.
    ///
    /// # Panics
    /// When that fails.
    pub fn connect_to_host(&self, host_address: &str, address: &str) {
        let host_end = format!("{}h", self.name);
        run("ip", &["link", "add", &host_end, "type", "veth", "peer", "name", "host", "netns", &self.name]);
        run("ip", &["addr", "add", host_address, "dev", &host_end]);
        run("ip", &["link", "set", &host_end, "up"]);
        self.ip(&["addr", "add", address, "dev", "host"]);
        self.ip(&["link", "set", "host", "up"]);
    }

    /// The sockets that a process listens on, TCP and UDP, as `ss` prints them.
    #[must_use]
    pub fn listening(&self, process: u32) -> Vec<String> {
        let sockets = self.run("ss", &["-H", "-l", "-t", "-u", "-n", "-p"]);
        let owner = format!("pid={process},");
        sockets.lines().filter(|line| line.contains(&owner)).map(str::to_owned).collect()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Ends what still runs inside and removes it. Cables go with either of their ends.
fn remove(name: &str) {
    let quiet = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output();
    if let Ok(pids) = quiet("ip", &["netns", "pids", name]) {
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            let _ = quiet("kill", &["-KILL", pid]);
        }
    }
    let _ = quiet("ip", &["link", "del", &format!("{name}h")]);
    let _ = quiet("ip", &["netns", "del", name]);
}

fn remove_leftovers() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('n').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}
