//! `towline server`: control plane and gateway in one process.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::json;
use towline_model::Secret;

use super::serve::{self, ServeArgs, Started};
use crate::{client::connect::read_secret_file, cmd::Context, failure::Failure, signals::SignalWatch};

const EXAMPLE: &str = "\
Example:
  towline server --bootstrap
  towline server --listen 0.0.0.0:7070 --public-url https://towline.example.com \\
                 --database-url-file /run/secrets/database-url

The first start with --bootstrap creates the owner, a team and the first keys, and writes them to bootstrap.json in the \
data directory, readable by its owner only. The limit of open files is raised to the hard limit (ulimit -Hn): count one \
for each caller, carrier and agent.
SIGTERM and SIGINT finish the requests in flight; a second one ends at once.";

/// Arguments of `towline server`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ServerArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// The database: sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME [default: SQLite in the data directory].
    #[arg(long, value_name = "URL", conflicts_with = "database_url_file")]
    database_url: Option<Secret<String>>,
    /// A file that holds only the database's URL.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    database_url_file: Option<PathBuf>,
    /// At the first start with an empty database, create the owner, a team and the first keys.
    #[arg(long)]
    bootstrap: bool,
}

/// Runs the server until it is told to stop.
///
/// # Errors
/// When it cannot start or its listener fails.
pub async fn run(args: ServerArgs, context: &Context) -> Result<(), Failure> {
    let signals = SignalWatch::start()?;
    let database_url = match (args.database_url, &args.database_url_file) {
        (Some(url), _) => Some(url),
        (None, Some(path)) => Some(read_secret_file(path)?),
        (None, None) => None,
    };
    let shutdown = signals.shutdown();
    let mut started = tokio::select! {
        started = serve::start(&args.serve, database_url, args.bootstrap, context) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    announce(&started, context)?;
    tokio::select! {
        () = shutdown.cancelled() => {
            started.server.shutdown().await;
            Ok(())
        }
        ended = started.server.ended() => Err(match ended {
            Ok(()) => Failure::new("the server has stopped serving by itself"),
            Err(error) => Failure::new(format!("the server has stopped serving: {error}")),
        }),
    }
}

/// Says where the server is; secrets stay in their file.
fn announce(started: &Started, context: &Context) -> Result<(), Failure> {
    let url = started.server.url();
    let file = started.bootstrap().map(|_| started.bootstrap_path().display().to_string());
    let shown = json!({"url": url, "address": started.server.addr(), "bootstrap_file": file});
    context.output.show(&shown, || match (&file, started.is_first) {
        (Some(file), true) => format!("Towline listens at {url}; the first sign-in and keys are in {file}"),
        _ => format!("Towline listens at {url}"),
    })
}
