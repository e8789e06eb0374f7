//! The program `towline-demo`: arguments, signals, exit code. Works as process 1 of an image with nothing else in it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's whole output")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use towline_demo::{Config, Ended, serve};

const USAGE: &str = "\
The demo service of Towline: a small HTTP server that shows and tests what a container can do.

Usage: towline-demo [--port PORT] [--host ADDRESS]

  --port PORT      port to listen on, 0 for any free one  [env: PORT] [default: 8080]
  --host ADDRESS   address to listen on                   [default: 0.0.0.0]
  --help           print this
  --version        print the version

Faults, for tests, by environment variable: DEMO_LISTEN_DELAY_MS, DEMO_HEALTH_DELAY_MS, DEMO_HEALTH_STATUS,
DEMO_EXIT_AFTER_MS, DEMO_EXIT_CODE, DEMO_IGNORE_SIGTERM, DEMO_HALF_CLOSE.

Example: towline-demo --port 0 --host 127.0.0.1
";

enum Command {
    Serve(SocketAddr),
    Print(String),
}

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "this is where this program reads its configuration")]
    let config = match Config::from_variables(|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => return wrong_usage(&error.to_string()),
    };
    let address = match parse_arguments(std::env::args().skip(1), config.port) {
        Ok(Command::Serve(address)) => address,
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(message) => return wrong_usage(&message),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the runtime: {error}")),
    };
    runtime.block_on(run(address, config))
}

fn wrong_usage(message: &str) -> ExitCode {
    eprintln!("towline-demo: {message}\n\n{USAGE}");
    ExitCode::from(2)
}

fn failed(message: &str) -> ExitCode {
    eprintln!("towline-demo: {message}");
    ExitCode::FAILURE
}

fn parse_arguments(mut arguments: impl Iterator<Item = String>, port: u16) -> Result<Command, String> {
    let mut address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || value.clone().or_else(|| arguments.next()).ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--port" => address.set_port(value()?.parse().map_err(|_| "--port needs a number from 0 to 65535")?),
            "--host" => address.set_ip(value()?.parse().map_err(|_| "--host needs an IP address")?),
            "--help" | "-h" => return Ok(Command::Print(USAGE.to_owned())),
            "--version" => return Ok(Command::Print(format!("towline-demo {}\n", env!("CARGO_PKG_VERSION")))),
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(Command::Serve(address))
}

async fn run(address: SocketAddr, config: Config) -> ExitCode {
    let shutdown = CancellationToken::new();
    let exit_code = config.exit_code;
    let exit_after = config.exit_after;
    tokio::select! {
        code = listen(address, config.clone(), shutdown.clone()) => code,
        code = watch_signals(shutdown, config.ignore_sigterm) => code,
        () = sleep_or_never(exit_after) => ExitCode::from(exit_code),
    }
}

async fn listen(address: SocketAddr, config: Config, shutdown: CancellationToken) -> ExitCode {
    if shutdown.run_until_cancelled(tokio::time::sleep(config.listen_delay)).await.is_none() {
        return ExitCode::SUCCESS;
    }
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return failed(&format!("cannot listen on {address}: {error}")),
    };
    println!("listening on http://{}", listener.local_addr().unwrap_or(address));
    match serve(listener, config, shutdown).await {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::Exit(code) => ExitCode::from(code),
    }
}

/// The first SIGTERM or SIGINT asks for the shutdown. Returns at the second one: somebody is in a hurry.
async fn watch_signals(shutdown: CancellationToken, ignore_sigterm: bool) -> ExitCode {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return failed("cannot listen for signals");
    };
    for _ in 0..2 {
        loop {
            tokio::select! {
                _ = terminate.recv() => if !ignore_sigterm { break },
                _ = interrupt.recv() => break,
            }
        }
        shutdown.cancel();
    }
    ExitCode::FAILURE
}

async fn sleep_or_never(delay: Option<Duration>) {
    match delay {
        Some(delay) => tokio::time::sleep(delay).await,
        None => std::future::pending().await,
    }
}
