//! `towline agent`: joins a server and runs containers on this machine.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use towline_model::Secret;
use url::Url;

use crate::{cli::parse_server_url, cmd::Context, failure::Failure};

const EXAMPLE: &str = "\
Example:
  towline agent --server https://towline.example.com --key ak-… --label gpu --label eu
  towline agent --server http://10.0.0.5:7070 --key-file /etc/towline/agent.key --name lab-machine

The agent dials the server and listens on no port. It finds the container engine by --docker-host, DOCKER_HOST, or at the \
usual sockets of Docker and Podman, and waits for one when there is none. When it is stopped, its containers go on \
running.";

/// How an agent appears and what it works with, whether alone or in `towline up`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Agent")]
pub struct AgentIdentityArgs {
    /// The agent's name, unique in its team: 1 to 100 characters [default: the machine's name].
    #[arg(id = "agent.name", long = "name", value_name = "NAME")]
    pub name: Option<String>,
    /// A label that services can require; repeat for several, at most 64.
    #[arg(id = "agent.label", long = "label", value_name = "LABEL")]
    pub label: Vec<String>,
    /// What runs the containers.
    #[arg(id = "agent.runtime", long = "runtime", value_name = "RUNTIME", value_enum, default_value = "docker")]
    pub runtime: RuntimeKind,
    /// The container engine's address, such as unix:///run/podman/podman.sock
    /// [default: DOCKER_HOST, else the usual sockets].
    #[arg(id = "agent.docker_host", long = "docker-host", value_name = "URL")]
    pub docker_host: Option<String>,
}

/// What can run containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuntimeKind {
    /// The Docker Engine API: Docker or Podman.
    Docker,
}

/// Arguments of `towline agent`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct AgentArgs {
    /// The server's URL.
    #[arg(long, value_name = "URL", value_parser = parse_server_url, value_hint = ValueHint::Url)]
    server: Url,
    /// The key that joins the team (ak-…).
    #[arg(
        id = "agent.key",
        long = "key",
        value_name = "KEY",
        conflicts_with = "agent.key_file",
        required_unless_present = "agent.key_file"
    )]
    key: Option<Secret<String>>,
    /// A file that holds only the key.
    #[arg(id = "agent.key_file", long = "key-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    identity: AgentIdentityArgs,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When a setting is wrong, or the server will never accept it.
pub async fn run(args: AgentArgs, context: &Context) -> Result<(), Failure> {
    let _ = (args, context);
    Err(Failure::new("not built yet"))
}
