//! `cargo xtask bench`: Towline beside other proxies and tunnels on this machine, in one run.
//!
//! What counts are ratios: all subjects have the same origin and the same load, take turns within every round (second by second
//! where a demand is in doubt), and the median of all rounds or turns is told. It is no test: nothing fails for being slow.

pub mod certificate;
mod demands;
mod h2load;
mod load;
mod measure;
mod plot;
mod process;
pub mod provision;
mod report;
mod results;
mod stats;
pub mod subject;
pub mod wan;
pub mod work;
mod wrk;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::{measure::Bench, results::Results};
use crate::{
    release::{self, ReleaseArgs},
    tools::{self, step},
};

/// Open files that the load needs: ten thousand idle connections, and some.
const OPEN_FILES: u64 = 15_000;

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// How many rounds; the medians are told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// How long each subject is measured in a round under a load of small requests, in seconds: at a time, or by turns of one.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
    /// One round of one second each; writes no document.
    #[arg(long)]
    quick: bool,
    /// Only this, and what else is named so; writes no document.
    #[arg(long, value_enum)]
    only: Vec<Measure>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Measure {
    /// Small JSON over 1, 32 and 256 connections.
    Json,
    /// Small JSON from callers of HTTP/2.
    Http2,
    /// Small JSON by TLS.
    Tls,
    /// A connection for each request.
    Setup,
    /// 64 KiB and 100 MiB each way.
    Bodies,
    /// WebSocket echoes.
    Websocket,
    /// A thousand open streams of events.
    Sse,
    /// Ten thousand idle connections.
    Idle,
    /// A thousand services on a hundred agents.
    Routes,
    /// A slow and lossy link between the proxy and the origin.
    Wan,
}

impl BenchArgs {
    fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }

    const fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    const fn seconds(&self) -> u64 {
        if self.quick { 1 } else { self.seconds }
    }

    const fn is_whole(&self) -> bool {
        !self.quick && self.only.is_empty()
    }
}

/// Measures, prints the tables, and writes them and a plot to `docs` when the run was whole.
///
/// # Errors
/// When something that is needed cannot be had, or a subject does not start. A load that fails is told in the tables.
pub fn run(arguments: &BenchArgs) -> Result<()> {
    let rivals = provision::rivals()?;
    let programs = provision::programs(&release::program(&ReleaseArgs::default())?)?;
    raise_limit()?;
    let scratch = tools::target().join("bench/scratch");
    let mut results = Results::default();
    Bench::new((&programs, &rivals), &scratch, arguments)?.run(&mut results)?;
    let raw = tools::target().join("bench/results.json");
    std::fs::write(&raw, serde_json::to_vec_pretty(&results.raw())?).context("cannot write the raw figures")?;
    let text = report::tables(&results, arguments.rounds());
    println!("{text}");
    step(&format!("the figures of every round are in {}", raw.display()));
    if arguments.is_whole() {
        report::write(&text)?;
        plot::write(&results)?;
    }
    Ok(())
}

fn raise_limit() -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= OPEN_FILES) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES), maximum })
        .context("10,000 idle connections need a limit of open files (ulimit -n) of 15000 at least")
}
