//! Where the program's own logs go: to stderr, as lines or as JSON.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{cli::GlobalArgs, failure::Failure};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `default` is the level of a command that says nothing else.
pub fn start(global: &GlobalArgs, default: &str, no_color: bool) -> Result<(), Failure> {
    let directives = global.log_level.as_deref().unwrap_or(default);
    let filter = EnvFilter::builder().parse(directives).map_err(|error| {
        Failure::usage(format!("--log-level {directives:?}: {error}"))
            .hint("use off, error, warn, info, debug or trace, or directives such as info,towline_gateway=debug")
    })?;
    // Below that, the container engine's client writes down whole requests, and with them what containers are given in
    // their environment. Whatever else is asked for, that is never logged.
    let filter = filter.add_directive("bollard=info".parse().expect("it is a directive"));
    let registry = tracing_subscriber::registry().with(filter);
    let started = match global.log_format {
        LogFormat::Text => {
            let ansi = !no_color && io::IsTerminal::is_terminal(&io::stderr());
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(ansi)).try_init()
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(io::stderr)).try_init(),
    };
    started.map_err(|error| Failure::new(format!("cannot start logging: {error}")))
}
