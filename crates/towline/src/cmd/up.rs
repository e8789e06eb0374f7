//! `towline up`: server, gateway and an agent in one process on one machine.
//!
//! The agent is the real one: it dials the server over loopback with its own key, like one on another machine.

mod greeting;

use std::path::PathBuf;

use clap::{Args, ValueHint};
use towline_agent::{AgentConfig, Runtime};
use towline_model::Secret;
use towline_tunnel::message::EngineStatus;
use url::Url;

use self::greeting::Greeting;
use super::{
    agent::{self, AgentIdentityArgs},
    serve::{self, ServeArgs, Started},
};
use crate::{
    client::{connect::read_secret_file, is_loopback},
    cmd::Context,
    failure::Failure,
    signals::SignalWatch,
};

const NO_KEY: &str = "no agent runs in this process, since bootstrap.json with its key is gone; make a key with \
                      `towline key create --kind agent` and give it with --agent-key or TOWLINE_AGENT_KEY";

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
    /// The key that the agent of this process joins with (ak-…) [default: the first one, in bootstrap.json].
    #[arg(id = "agent.key", long = "agent-key", value_name = "KEY", conflicts_with = "agent.key_file")]
    agent_key: Option<Secret<String>>,
    /// A file that holds only that key.
    #[arg(id = "agent.key_file", long = "agent-key-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    agent_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub identity: AgentIdentityArgs,
}

/// Runs everything until it is told to stop.
///
/// # Errors
/// When the server cannot start, or stops by itself.
pub async fn run(args: UpArgs, context: &Context) -> Result<(), Failure> {
    let signals = SignalWatch::start()?;
    let shutdown = signals.shutdown();
    let mut started = tokio::select! {
        started = serve::start(&args.serve, None, true, context) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let protected = [started.data_dir.clone()].into_iter().chain(args.agent_key_file.clone()).collect();
    let runtime = agent::runtime(&args.identity, protected, context);
    let config = agent_key(&started, &args)?.map(|key| config(&started, key, &args)).transpose()?;
    greet(&started, &args, &Runtime::status(&runtime).await, context)?;
    if config.is_none() {
        context.output.warn(NO_KEY);
    }
    let mut agent = config.map(|config| agent::start(config, runtime));

    let ended = loop {
        tokio::select! {
            () = shutdown.cancelled() => break None,
            ended = started.server.ended() => break Some(ended),
            // The server goes on for the other machines.
            failure = agent::failed(&mut agent) => context.output.warn(failure.message()),
        }
    };
    // The server first: its requests in flight run through the agent.
    started.server.shutdown().await;
    tracing::debug!("the server has ended");
    if let Some(agent) = agent {
        agent.stop().await;
    }
    tracing::debug!("the agent has ended");
    match ended {
        None => Ok(()),
        Some(Ok(())) => Err(Failure::new("the server has stopped serving by itself")),
        Some(Err(error)) => Err(Failure::new(format!("the server has stopped serving: {error}"))),
    }
}

fn agent_key(started: &Started, args: &UpArgs) -> Result<Option<Secret<String>>, Failure> {
    match (&args.agent_key, &args.agent_key_file) {
        (Some(key), _) => Ok(Some(key.clone())),
        (None, Some(path)) => read_secret_file(path).map(Some),
        (None, None) => Ok(started.bootstrap().map(|bootstrap| bootstrap.agent_key.clone())),
    }
}

/// The agent of this process dials the address that is listened on, whatever the server's public URL is.
fn config(started: &Started, key: Secret<String>, args: &UpArgs) -> Result<AgentConfig, Failure> {
    let url = format!("http://{}", started.loopback_addr());
    let url = Url::parse(&url).map_err(|error| Failure::new(format!("{url}: {error}")))?;
    let config = agent::config(url, key, &args.identity)?;
    Ok(AgentConfig { workers: started.workers.clone(), ..config })
}

fn greet(started: &Started, args: &UpArgs, engine: &EngineStatus, context: &Context) -> Result<(), Failure> {
    let url_for_others = started.url_for_others(args.serve.public_url.as_ref());
    let greeting = Greeting {
        version: env!("CARGO_PKG_VERSION"),
        url: started.server.url(),
        is_local_only: Url::parse(&url_for_others).is_ok_and(|url| is_loopback(&url)),
        url_for_others: &url_for_others,
        bootstrap: started.bootstrap(),
        bootstrap_path: &started.bootstrap_path(),
        data_dir: (started.data_dir != context.environment.data_dir()).then_some(&started.data_dir),
        is_first: started.is_first,
        engine,
    };
    context.output.show(&greeting.to_json(), || greeting.to_text())
}
