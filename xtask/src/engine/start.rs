//! Installs and starts Docker where a task may do that: as root on Debian and its relatives.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::{Engine, find_engine};
use crate::tools::{self, Need, find, step};

/// How long a fresh engine may take to answer. It creates its storage and its firewall rules first.
const START: Duration = Duration::from_secs(90);

/// Without the last two an engine can neither route nor pull.
const PACKAGES: &[Need] = &[
    Need {
        name: "dockerd",
        package: "docker.io",
        purpose: "the container engine",
        is_met: || find("dockerd").is_some(),
    },
    Need {
        name: "iptables",
        package: "iptables",
        purpose: "the engine's networks",
        is_met: || find("iptables").is_some(),
    },
    Need {
        name: "root certificates",
        package: "ca-certificates",
        purpose: "pulling images",
        is_met: has_root_certificates,
    },
];

fn has_root_certificates() -> bool {
    Path::new("/etc/ssl/certs/ca-certificates.crt").exists()
}

/// Starts the engine that is installed, or installs it first.
///
/// # Errors
/// When that is not possible here (the error says what to do by hand), or the engine does not come up (with its last words).
pub fn start_engine() -> Result<Engine> {
    if !cfg!(target_os = "linux") || !tools::is_root() {
        bail!("no container engine answers here. {}", advice());
    }
    if find("dockerd").is_none() {
        if !is_debian() {
            bail!("no container engine is installed here. {}", advice());
        }
        tools::require(PACKAGES)?;
        // Where services are started on installation, this one is on its way already.
        if let Ok(engine) = wait_for_engine(Duration::from_secs(3), None) {
            return Ok(engine);
        }
    }
    if Path::new("/run/systemd/system").exists() {
        step("starting Docker (systemctl start docker)");
        tools::run(Command::new("systemctl").args(["start", "docker"]))?;
        return wait_for_engine(START, None).context("`systemctl status docker` says more");
    }
    start_in_background()
}

fn start_in_background() -> Result<Engine> {
    ensure_cgroups()?;
    let dockerd = find("dockerd").context("`dockerd` is not here")?;
    let (log, pid) = (state_directory()?.join("dockerd.log"), state_directory()?.join("dockerd.pid"));
    step(&format!("starting dockerd in the background, log in {}", log.display()));
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    // By setsid, so that it outlives this task and the terminal.
    let mut daemon = Command::new("setsid")
        .arg(dockerd)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("cannot start dockerd")?;
    std::fs::write(&pid, format!("{}\n", daemon.id()))?;
    wait_for_engine(START, Some(&mut daemon)).map_err(|error| {
        anyhow!("dockerd does not come up: {error:#}. The end of {}:\n{}", log.display(), last_words(&log))
    })
}

/// Without an init system nobody may have mounted these, and no container starts without them.
fn ensure_cgroups() -> Result<()> {
    let directory = Path::new("/sys/fs/cgroup");
    let is_mounted = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    if is_mounted {
        return Ok(());
    }
    tools::run(Command::new("mount").args(["-t", "cgroup2", "cgroup2"]).arg(directory))
}

fn state_directory() -> Result<PathBuf> {
    let directory = tools::target().join("engine");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

/// Until an engine answers, or the deadline has passed, or the process that should have become one has ended.
#[expect(clippy::disallowed_methods, reason = "an engine does not say when it is ready; it has to be asked")]
fn wait_for_engine(deadline: Duration, mut daemon: Option<&mut Child>) -> Result<Engine> {
    let start = Instant::now();
    loop {
        match find_engine() {
            Ok(engine) => return Ok(engine),
            Err(_) if start.elapsed() > deadline => bail!("no engine answered within {} s", deadline.as_secs()),
            Err(_) => {}
        }
        if let Some(status) = daemon.as_mut().and_then(|daemon| daemon.try_wait().ok()?) {
            bail!("it ended ({status})");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What went wrong stands at the end, among progress that helps nobody.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("level=info")).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

fn is_debian() -> bool {
    find("apt-get").is_some()
}

fn advice() -> &'static str {
    if cfg!(target_os = "macos") {
        return "Install and start one of: Docker Desktop, OrbStack, `brew install colima docker && colima start`, \
                `brew install podman && podman machine init && podman machine start`; then start again";
    }
    if is_debian() {
        return "Run this as root once, or `sudo apt-get install -y docker.io iptables ca-certificates && sudo usermod -aG docker $USER`, \
                log in again, then start again";
    }
    "Install and start one, then start again. Fedora: `sudo dnf install -y moby-engine && sudo systemctl enable --now docker`. \
     Arch: `sudo pacman -S docker && sudo systemctl enable --now docker`. Alpine: `apk add docker && service docker start`. \
     Or Podman with its socket, without root: `systemctl --user enable --now podman.socket`"
}
