//! `towline up`: server, gateway and an agent in one process on one machine.

use clap::Args;

use super::{agent::AgentIdentityArgs, serve::ServeArgs};
use crate::{cmd::Context, failure::Failure};

const EXAMPLE: &str = "\
Example:
  towline up
  towline up --listen 0.0.0.0:7070 --data-dir /srv/towline

It starts without a container engine too, says how to get one, and picks it up when it appears.
SIGTERM and SIGINT finish the requests in flight; a second one ends at once. Containers go on running.";

/// Arguments of `towline up`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct UpArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    #[command(flatten)]
    pub identity: AgentIdentityArgs,
}

/// Runs everything until it is told to stop.
///
/// # Errors
/// When the server cannot start.
pub async fn run(args: UpArgs, context: &Context) -> Result<(), Failure> {
    let _ = (args, context);
    Err(Failure::new("not built yet"))
}
