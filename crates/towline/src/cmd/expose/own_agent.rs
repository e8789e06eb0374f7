//! The agent that runs in `towline expose`: without a container engine, and with no reach but the exposed process.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use towline_agent::{AgentConfig, AgentStatus, NoRuntime, ReachPolicy, Rule, identity};
use towline_model::{AgentId, Secret, service::place::HostPort};

use super::{EXPOSE_LABEL, ExposeArgs};
use crate::{
    client::{
        Client,
        bootstrap::Bootstrap,
        connect::{bootstrap_of, companion_key, read_secret_file},
        shown,
    },
    cmd::{Context, agent},
    failure::Failure,
};

/// How long the agent may take to join.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);

/// An agent of this process that has joined.
pub(super) struct OwnAgent {
    pub agent: agent::RunningAgent,
    pub agent_id: AgentId,
}

impl OwnAgent {
    /// Starts it, and waits until it has joined.
    pub(super) async fn start(
        args: &ExposeArgs,
        client: &Client,
        context: &Context,
        shutdown: &CancellationToken,
    ) -> Result<Self, Failure> {
        let mut config = config(args, client, key(args, client, context)?)?;
        config.proxy = agent::conventional_proxy(&context.environment);
        let name = config.name.clone();
        let status = watch::Sender::new(AgentStatus::Connecting);
        let mut statuses = status.subscribe();
        let mut running = Some(agent::start_with_status(config, NoRuntime, status));
        let joined = async {
            let connected = statuses.wait_for(|status| matches!(status, AgentStatus::Connected { .. })).await;
            connected.ok().and_then(|status| match *status {
                AgentStatus::Connected { agent_id } => Some(agent_id),
                _ => None,
            })
        };
        let joined = tokio::select! {
            joined = timeout(JOIN_DEADLINE, joined) => joined.ok().flatten(),
            failure = agent::failed(&mut running) => return Err(failure),
            () = shutdown.cancelled() => None,
        };
        match (joined, running) {
            (Some(agent_id), Some(agent)) => {
                context.verbose(|| format!("the agent {name} of this process has joined"));
                Ok(Self { agent, agent_id })
            }
            (_, running) => {
                if let Some(running) = running {
                    running.stop().await;
                }
                let why = match &*statuses.borrow() {
                    AgentStatus::Disconnected { reason } => reason.clone(),
                    _ => "it was interrupted".to_owned(),
                };
                Err(Failure::new(format!("the agent of this process could not join: {why}")))
            }
        }
    }
}

fn config(args: &ExposeArgs, client: &Client, key: Secret<String>) -> Result<AgentConfig, Failure> {
    let mut config = AgentConfig::new(client.base().clone(), key);
    // Another name than that of an agent that may run here: each has its session. The same each time, so that the
    // service finds its agent again.
    let name = format!("{}/{}", identity::default_name(), args.name);
    config.name = name.chars().take(100).collect();
    config.labels = vec![EXPOSE_LABEL.to_owned()];
    config.reach = only(&args.target)?;
    config.validate().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(config)
}

/// Whoever may define services in the team is not to look around on this machine.
fn only(target: &HostPort) -> Result<ReachPolicy, Failure> {
    let rule = |text: &str| text.parse::<Rule>().map_err(|error| Failure::usage(error.to_string()));
    Ok(ReachPolicy {
        attach_allow: vec![rule(&target.to_string())?],
        external_allow: Vec::new(),
        external_deny: vec![rule("*")?],
    })
}

fn key(args: &ExposeArgs, client: &Client, context: &Context) -> Result<Secret<String>, Failure> {
    match (&args.agent_key, &args.agent_key_file) {
        (Some(key), _) => return Ok(key.clone()),
        (None, Some(path)) => return read_secret_file(path),
        (None, None) => {}
    }
    if let Some(key) = companion_key(client, context)? {
        return Ok(key);
    }
    let bootstrap: Option<Bootstrap> = bootstrap_of(client.base(), &args.client, context)?;
    bootstrap.and_then(|bootstrap| bootstrap.agent_key).ok_or_else(|| {
        Failure::new("no agent runs on this machine, and one in this process needs an agent key (ak-…)").hint(format!(
            "`towline login --server {server}` brings one; or make one with `towline key create --kind agent --name this-machine \
             --server {server}` and give it with --agent-key or TOWLINE_AGENT_KEY, or start an agent here with `towline agent --server {server} --key ak-…`",
            server = shown(client.base())
        ))
    })
}
