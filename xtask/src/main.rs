//! The tasks of this repository that are more than one cargo command: `cargo xtask --help`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tasks talk to the person who started them")]

mod archive;
mod bench;
mod demo;
mod engine;
mod fuzz;
mod image;
mod openapi;
mod podman;
mod postgres;
mod release;
mod sdk;
mod test;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The tasks of this repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure beside other proxies and tunnels on this machine; writes docs/performance.md
    #[command(after_help = "Example: cargo xtask bench --quick")]
    Bench(bench::BenchArgs),
    /// Run the whole system on this machine and call a service in four ways; it keeps running
    #[command(after_help = "Example: cargo xtask demo --check")]
    Demo(demo::DemoArgs),
    /// Run the fuzz targets, one after the other, with whatever they need installed or named
    #[command(after_help = "Example: cargo xtask fuzz --seconds 300 whole_path")]
    Fuzz(fuzz::FuzzArgs),
    /// Build the demo service's image, towline-demo:latest, in the local container engine
    #[command(after_help = "Example: cargo xtask image && docker run --rm -p 127.0.0.1:8080:8080 towline-demo")]
    Image,
    /// Rewrite openapi.json from the code
    #[command(after_help = "Example: cargo xtask openapi && git diff openapi.json")]
    Openapi,
    /// Build the program as it is installed, guided by a profile, and print where it is
    #[command(after_help = "Example: cargo xtask release --retrain")]
    Release(release::ReleaseArgs),
    /// Bring everything that the tests need, then run all of them
    #[command(after_help = "Example: cargo xtask test -- reconcile")]
    Test(test::TestArgs),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Image => {
            let image = image::build()?;
            println!("{} is ready ({})", image::NAME, image.id);
            Ok(())
        }
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Openapi => openapi::run(),
        Task::Release(arguments) => release::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
    }
}
