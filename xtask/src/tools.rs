//! The programs that a task needs: found, installed on Debian as root, or named together with the command that gets them.

use std::{
    ffi::OsStr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Something that must be on the machine.
#[derive(Clone, Copy)]
pub struct Need {
    /// What it is called in messages.
    pub name: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// What it is for, to be told to whoever has to install it by hand.
    pub purpose: &'static str,
    /// Whether it is there.
    pub is_met: fn() -> bool,
}

impl Need {
    /// What is missing, where, and what for.
    fn describe(&self) -> String {
        format!("  {:<16} {} (Debian: {})", self.name, self.purpose, self.package)
    }
}

/// Makes sure that everything is there; on Debian as root by installing what is missing.
///
/// # Errors
/// Names everything that is missing and the command that gets it.
pub fn require(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.is_met)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let install = format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    let list = missing.iter().map(|need| need.describe()).collect::<Vec<_>>().join("\n");
    if find("apt-get").is_none() {
        bail!("these programs are missing:\n{list}\nInstall them with the package manager of this machine.");
    }
    if !is_root() {
        bail!("these programs are missing:\n{list}\nInstall them:\n  sudo sh -c '{install}'");
    }
    step(&format!("installing {}", packages.join(", ")));
    apt_get(&["update"])?;
    apt_get(&[&["install", "-y", "--no-install-recommends"][..], &packages[..]].concat())?;
    let still: Vec<_> = missing.iter().filter(|need| !(need.is_met)()).map(|need| need.describe()).collect();
    if !still.is_empty() {
        bail!("these programs are still missing after `{install}`:\n{}", still.join("\n"));
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    run(Command::new("apt-get")
        .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Where a program is: in `PATH`, or where Debian keeps what only root or PostgreSQL's own scripts call.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .chain(postgres_directories())
        .map(|directory| directory.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// `/usr/lib/postgresql/<version>/bin`, newest first.
fn postgres_directories() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))).collect()
}

/// Runs a command to its end, with its output on ours.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed; what it says on stderr is part of the error.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", shown(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// What users make calls with.
pub const CURL: Need =
    Need { name: "curl", package: "curl", purpose: "calls as users make them", is_met: || find("curl").is_some() };

/// What signals are sent with; the smallest systems have it as a word of the shell only.
pub const KILL: Need =
    Need { name: "kill", package: "procps", purpose: "ending what was started", is_met: || find("kill").is_some() };

/// `cargo` as it runs this task.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// `rustc` as cargo calls it.
pub fn rustc() -> Command {
    let mut command = Command::new(variable("RUSTC").unwrap_or_else(|| "rustc".to_owned()));
    command.current_dir(root());
    command
}

/// The target that programs for this machine are built for, such as `x86_64-unknown-linux-gnu`.
///
/// # Errors
/// When rustc does not say.
pub fn host() -> Result<String> {
    let version = output(rustc().arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` does not name its host")?.to_owned())
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the repository")
}

/// Where cargo puts what it builds, and the tasks what they make.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |directory| root().join(directory))
}

/// The value of an environment variable; empty counts as absent.
#[expect(clippy::disallowed_methods, reason = "a task has no configuration but its environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Says what is being done now.
pub fn step(what: &str) {
    eprintln!("==> {what}");
}
