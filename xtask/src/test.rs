//! `cargo xtask test`: brings everything that the tests need, then runs all of them.

use std::process::Command;

use anyhow::{Context, Result, bail};
use tokio::{
    process::Command as AsyncCommand,
    signal::unix::{SignalKind, signal},
};

use crate::{
    engine, image,
    podman::{self, Podman},
    postgres::Cluster,
    sdk,
    tools::{self, Need, find, step},
};

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Leave out the tests that need a container engine, PostgreSQL, a balancer, a certificate authority, an SDK or a browser.
    #[arg(long)]
    fast: bool,
    /// Passed on to cargo-nextest, such as a part of a test's name.
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// What `--fast` leaves out, as nextest filters, and what to say about it.
const SLOW: [(&str, &str); 5] = [
    (
        "package(towline-e2e) and test(/^(acme|browser|docker|ladder|netns|registry|stalled_readers|sdk|mail|oidc)::/)",
        "end to end with containers, balancers, a certificate authority, SDKs and a browser",
    ),
    ("package(towline-agent) and test(/docker_engine/)", "the agent against Docker and Podman"),
    ("package(towline-store) and test(/postgres|both_engines/)", "the store on PostgreSQL"),
    ("package(towline-e2e) and test(/postgres/)", "the server on PostgreSQL"),
    ("package(xtask) and test(/postgres::/)", "the PostgreSQL cluster of the tests"),
];

/// Provides what the tests need, runs them and takes away what ran beside them.
///
/// # Errors
/// When something that is needed cannot be had, or a test fails.
pub fn run(arguments: &TestArgs) -> Result<()> {
    require_nextest()?;
    if arguments.fast {
        step("leaving out, because of --fast:");
        SLOW.iter().for_each(|(_, what)| eprintln!("      {what}"));
        let filters: Vec<_> = SLOW.iter().map(|(filter, _)| format!("({filter})")).collect();
        let rest = format!("not ({})", filters.join(" or "));
        build()?;
        return nextest(arguments, &["-E", &rest], &[]);
    }
    tools::require(NEEDS)?;
    tools::require(&podman::NEEDS)?;
    engine::ensure()?;
    sdk::provision()?;
    image::build()?;
    build()?;
    step("starting a PostgreSQL cluster for this run");
    let cluster = Cluster::start("postgres")?;
    step("starting a Podman for this run");
    let podman = Podman::start("podman")?;
    let variables = [("TOWLINE_TEST_POSTGRES_URL", cluster.url()), ("TOWLINE_TEST_PODMAN_HOST", &podman.host())];
    nextest(arguments, &[], &variables)
}

/// Builds the same units as the tests', so that nothing is built twice: the end-to-end tests start the binary itself.
fn build() -> Result<()> {
    step("building the workspace");
    tools::run(tools::cargo().args(["build", "--workspace", "--all-targets"]))
}

/// Runs the tests to their end. A signal to this task is passed on, so that nextest ends its tests and they clean up; what
/// belongs to the task is dropped after that.
fn nextest(arguments: &TestArgs, filter: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    step("running the tests");
    let mut command = AsyncCommand::from(tools::cargo());
    command.args(["nextest", "run", "--workspace"]).args(filter).args(&arguments.nextest);
    command.envs(variables.iter().copied());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut child = command.spawn().context("cannot start cargo nextest")?;
        let signal_name = tokio::select! {
            status = child.wait() => return status.map_err(anyhow::Error::from),
            _ = interrupt.recv() => "-INT",
            _ = terminate.recv() => "-TERM",
        };
        if let Some(id) = child.id() {
            tools::run(Command::new("kill").args([signal_name, &id.to_string()]))?;
        }
        child.wait().await.map_err(anyhow::Error::from)
    })?;
    if !status.success() {
        bail!("tests failed: cargo nextest ended with {status}");
    }
    Ok(())
}

fn require_nextest() -> Result<()> {
    if find("cargo-nextest").is_some() || tools::output(Command::new("cargo").args(["nextest", "--version"])).is_ok() {
        return Ok(());
    }
    step("installing cargo-nextest, once (some minutes)");
    tools::run(Command::new("cargo").args(["install", "cargo-nextest@0.9.143", "--locked"]))
        .context("cannot install cargo-nextest; see https://nexte.st for other ways to get it")
}

fn has_python_venv() -> bool {
    tools::output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}

const NEEDS: &[Need] = &[
    tools::CURL,
    tools::KILL,
    Need {
        name: "ip, ss",
        package: "iproute2",
        purpose: "network namespaces",
        is_met: || find("ip").is_some() && find("ss").is_some(),
    },
    Need {
        name: "nsenter",
        package: "util-linux",
        purpose: "network namespaces",
        is_met: || find("nsenter").is_some(),
    },
    Need {
        name: "iptables",
        package: "iptables",
        purpose: "the container engine, network namespaces",
        is_met: || find("iptables").is_some(),
    },
    Need {
        name: "postgres",
        package: "postgresql",
        purpose: "the store's second engine",
        is_met: || find("initdb").is_some(),
    },
    Need {
        name: "docker-registry",
        package: "docker-registry",
        purpose: "pulling images",
        is_met: || find("docker-registry").is_some(),
    },
    Need { name: "nginx", package: "nginx", purpose: "agents behind a balancer", is_met: || find("nginx").is_some() },
    Need {
        name: "haproxy",
        package: "haproxy",
        purpose: "agents behind a balancer",
        is_met: || find("haproxy").is_some(),
    },
    Need {
        name: "tinyproxy",
        package: "tinyproxy-bin",
        purpose: "agents behind a CONNECT proxy",
        is_met: || find("tinyproxy").is_some(),
    },
    Need {
        name: "pebble",
        package: "pebble",
        purpose: "a certificate authority that speaks ACME",
        is_met: || find("pebble").is_some() && find("pebble-challtestsrv").is_some(),
    },
    Need {
        name: "python3 with venv",
        package: "python3-venv",
        purpose: "the vendors' packages and the mail server of PyPI",
        is_met: has_python_venv,
    },
    Need {
        name: "chromium",
        package: "chromium",
        purpose: "WebSockets and cookies as a browser has them",
        is_met: || find("chromium").is_some() || find("chromium-browser").is_some() || find("google-chrome").is_some(),
    },
    Need {
        name: "node",
        package: "nodejs",
        purpose: "the vendors' packages of npm",
        is_met: || find("node").is_some(),
    },
    Need { name: "npm", package: "npm", purpose: "the vendors' packages of npm", is_met: || find("npm").is_some() },
];
