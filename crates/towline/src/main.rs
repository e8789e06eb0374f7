//! The one binary: command line, configuration, the API client, and the processes that it starts.
//!
//! What the processes do is in the libraries: `towline-control` (with `towline-gateway`) and `towline-agent`. This
//! crate reads settings, wires them up, and talks to the person in front of it.

mod cli;
mod client;
mod cmd;
mod config;
mod failure;
mod limits;
mod logs;
mod output;
mod signals;
mod tls;
mod units;

use std::{process::ExitCode, time::Duration};

use self::{
    cli::{Cli, Command},
    cmd::Context,
    config::Environment,
    failure::Failure,
    output::Output,
};

/// How long the runtime waits for threads that the system holds, such as one that reads stdin.
const EXIT_PATIENCE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let environment = Environment::of_process();
    let no_color = environment.no_color();
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match config::parse(&arguments, &environment) {
        Ok(cli) => cli,
        Err(error) => return error.report(no_color),
    };
    let output = Output::to_process(cli.global.output, no_color);
    match start(cli, environment, output.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn start(cli: Cli, environment: Environment, output: Output) -> Result<(), Failure> {
    let serves = matches!(cli.command, Command::Up(_) | Command::Server(_) | Command::Agent(_));
    logs::start(&cli.global, if serves { "info" } else { "warn" }, environment.no_color())?;
    if serves {
        limits::raise_open_files();
    }
    tls::install();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the runtime", &error))?;
    let context = Context { output, environment, config_file: cli.global.config, verbose: cli.global.verbose };
    let done = runtime.block_on(cmd::run(cli.command, &context));
    runtime.shutdown_timeout(EXIT_PATIENCE);
    done
}
