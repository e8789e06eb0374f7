//! `cargo xtask demo`: the whole system on this machine, from nothing to a container that answers.

mod calls;
mod system;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::{calls::Calls, system::System};
use crate::{
    engine, image,
    tools::{self, step},
};

const SLUG: &str = "hello";
const REPLICAS: u64 = 2;

/// What `cargo xtask demo` takes.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Prove each answer, stop everything, and exit with 0 or say what failed.
    #[arg(long)]
    check: bool,
    /// Leave it running after --check.
    #[arg(long, requires = "check")]
    keep: bool,
    /// Stop what an earlier run left running, and remove its containers.
    #[arg(long, conflicts_with_all = ["check", "keep"])]
    stop: bool,
}

/// Runs the demonstration, or ends one that runs.
///
/// # Errors
/// When something that is needed cannot be had, or an answer is not what it has to be. What was started is stopped then.
pub fn run(arguments: &DemoArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if arguments.stop {
        let was_running = runtime.block_on(System::stop_earlier())?;
        eprintln!("{}", if was_running { "stopped, and its containers are removed" } else { "no demo is running" });
        return Ok(());
    }
    let system = prepare(&runtime)?;
    // A signal ends the wait for the answers, and what was started is stopped below as after a failure.
    let result = runtime.block_on(async {
        tokio::select! {
            result = show(&system) => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    });
    if let Err(error) = result {
        eprintln!("\n---- the end of {} ----\n{}\n----", system.log().display(), system.end_of_log());
        runtime.block_on(system.stop())?;
        return Err(error);
    }
    if arguments.check && !arguments.keep {
        step("stopping");
        runtime.block_on(system.stop())?;
        eprintln!("\nEverything answered as it has to.");
        return Ok(());
    }
    eprintln!(
        "\nIt keeps running: {}\n  {} service list --data-dir {}\nStop it with:\n  cargo xtask demo --stop",
        system.url(),
        system.program().display(),
        system.data_dir().display()
    );
    Ok(())
}

fn prepare(runtime: &tokio::runtime::Runtime) -> Result<System> {
    tools::require(&[tools::CURL, tools::KILL])?;
    let engine = engine::ensure()?;
    let program = build()?;
    image::build()?;
    if runtime.block_on(System::stop_earlier())? {
        step("stopped an earlier demo");
    }
    step("starting towline up");
    runtime.block_on(System::start(program, engine.docker_host()))
}

fn build() -> Result<PathBuf> {
    step("building towline");
    // With the libraries' features of `xtask`, so that what was built for it is used.
    tools::run(tools::cargo().args(["build", "--package", "towline", "--package", "xtask", "--bin", "towline"]))?;
    Ok(tools::target().join("debug/towline"))
}

async fn show(system: &System) -> Result<()> {
    step(&format!("deploying {} as service {SLUG} with {REPLICAS} replicas", image::NAME));
    let replicas = REPLICAS.to_string();
    system.towline(&["service", "create", SLUG, "--image", image::NAME, "--replicas", &replicas]).await?;
    system.note_service(&shown(system).await?)?;
    system.towline(&["service", "deploy", SLUG, "--wait"]).await?;
    wait_for_replicas(system).await?;
    let calls = Calls::new(system.url(), system.key(), SLUG);
    calls.introduce();
    calls.proxy().await.context("the call through the proxy")?;
    calls.chat().await.context("the streamed chat completion")?;
    calls.invoke().await.context("the invoke")?;
    calls.websocket().await.context("the WebSocket")?;
    calls.every_replica(REPLICAS).await.context("the replicas")
}

async fn shown(system: &System) -> Result<Value> {
    let text = system.output(&["service", "show", SLUG, "-o", "json"]).await?;
    serde_json::from_str(&text).with_context(|| format!("towline service show printed no JSON: {text}"))
}

/// `deploy --wait` ends when one replica is ready; this waits for all, as long as the service may take to start one.
async fn wait_for_replicas(system: &System) -> Result<()> {
    let deadline = tokio::time::Instant::now() + system::PATIENCE;
    loop {
        let service = shown(system).await?;
        if service["instances_ready"] == REPLICAS {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            bail!("not every replica became ready: {service:#}");
        }
        tokio::time::sleep(system::POLL).await;
    }
}
