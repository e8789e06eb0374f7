//! `towline server`: control plane and gateway in one process.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use towline_model::Secret;
use url::Url;

use crate::{
    cli::parse_server_url, client::connect::read_key_file, cmd::Context, failure::Failure, units::parse_duration,
};

const EXAMPLE: &str = "\
Example:
  towline server --bootstrap
  towline server --listen 0.0.0.0:7070 --public-url https://towline.example.com \\
                 --database-url-file /run/secrets/database-url

The first start with --bootstrap creates the owner, a team and the first keys, and writes them to bootstrap.json in the \
data directory, readable by its owner only. The limit of open files is raised to the hard limit (ulimit -Hn): count one \
for each caller, carrier and agent.
SIGTERM and SIGINT finish the requests in flight; a second one ends at once.";

/// Settings of a server, whether alone or in `towline up`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The address and port to listen on, for callers and agents; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// Where the server keeps its state [default: ~/.local/share/towline].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// The URL by which callers and agents reach this server [default: http:// and the address it listens on].
    #[arg(long, value_name = "URL", value_parser = parse_server_url)]
    pub public_url: Option<Url>,
    /// How long requests in flight may go on when the server is told to stop: a number with ms, s, m or h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub drain_timeout: Duration,
}

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
    let _ = (args, context, read_key_file);
    Err(Failure::new("not built yet"))
}
