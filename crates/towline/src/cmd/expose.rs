//! `towline expose`: a process that already runs on this machine becomes a service, in one command.
//!
//! It defines an `attached` service (or brings it up to date), sees to it that an agent of this machine takes it, deploys
//! it and says how to call it. When no agent runs here, one runs in this process, without a container engine, and attaches
//! to nothing but that process.

mod own_agent;

use std::time::Duration;

use clap::{Args, ValueHint};
use serde_json::{Map, Value, json};
use towline_agent::identity;
use towline_model::{
    AgentId, Secret,
    service::{
        is_slug, own_label,
        place::{HostPort, TARGET_RULE},
    },
};

use self::own_agent::OwnAgent;
use crate::{
    cli::ClientArgs,
    client::{Client, ClientError, Service, types::text},
    cmd::{Context, agent, service::wait},
    failure::Failure,
    signals::SignalWatch,
};

const EXAMPLE: &str = "\
Example:
  towline expose 11434 --name ollama           # the model server on 127.0.0.1:11434
  towline expose 127.0.0.1:3000 --name site --health-path /healthz --rm

It goes on until Ctrl-C when the agent runs in this process; the service then answers 503 until it is exposed again. When an \
agent of this machine is online already (`towline up`, `towline agent`), that one takes the service, and the command ends.

An agent in this process needs an agent key (ak-…): --agent-key, TOWLINE_AGENT_KEY, the one that came with `towline login`, or the \
bootstrap.json of a server on this machine. `towline key create --kind agent --name this-machine` makes one.";

/// The label of agents that run in this command: they attach to one process only.
const EXPOSE_LABEL: &str = "towline.expose";
/// How long the service may take to run. Its process is there already.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Arguments of `towline expose`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ExposeArgs {
    /// The port on this machine's 127.0.0.1, or a host and a port as this machine reaches it.
    #[arg(value_name = "PORT | HOST:PORT", value_parser = parse_target)]
    target: HostPort,
    /// The service's name in URLs: 3 to 100 lower-case letters, digits and dashes.
    #[arg(long, value_name = "SLUG", value_parser = parse_slug)]
    name: String,
    /// The HTTP path that is probed; 200 to 399 is healthy [default: none, healthy while it takes connections].
    #[arg(long, value_name = "PATH")]
    health_path: Option<String>,
    /// Undeploy and delete the service at the end.
    #[arg(long)]
    rm: bool,
    /// Run an agent in this process also when one of this machine is online.
    #[arg(long)]
    own_agent: bool,
    /// The key that the agent of this process joins with (ak-…).
    #[arg(id = "agent.key", long = "agent-key", value_name = "KEY", conflicts_with = "agent.key_file")]
    agent_key: Option<Secret<String>>,
    /// A file that holds only that key.
    #[arg(id = "agent.key_file", long = "agent-key-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    agent_key_file: Option<std::path::PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Exposes a process until it is told to stop.
///
/// # Errors
/// When there is no key for the agent, or the server refuses.
pub async fn run(args: ExposeArgs, context: &Context) -> Result<(), Failure> {
    let signals = SignalWatch::start()?;
    let shutdown = signals.shutdown();
    let client = context.client(&args.client)?;
    let mut own = None;
    let agent_id = match agent_of_this_machine(&client, &args).await? {
        Some(agent_id) => agent_id,
        None => {
            let started = OwnAgent::start(&args, &client, context, &shutdown).await?;
            let agent_id = started.agent_id;
            own = Some(started.agent);
            agent_id
        }
    };
    let exposed = expose(&client, &args, agent_id, context);
    let service = tokio::select! {
        service = exposed => service?,
        failure = agent::failed(&mut own) => return Err(failure),
        () = shutdown.cancelled() => {
            stop(own).await;
            return Ok(());
        }
    };
    say(&service, &client, &args, own.is_some(), context)?;
    if own.is_none() && !args.rm {
        return Ok(());
    }
    let failure = tokio::select! {
        () = shutdown.cancelled() => None,
        failure = agent::failed(&mut own) => Some(failure),
    };
    let removed = if args.rm { remove(&client, &service, context).await } else { Ok(()) };
    stop(own).await;
    failure.map_or(removed, Err)
}

async fn stop(own: Option<agent::RunningAgent>) {
    if let Some(agent) = own {
        agent.stop().await;
    }
}

/// An agent of this machine that is online and can take the service, unless the command is to run its own.
async fn agent_of_this_machine(client: &Client, args: &ExposeArgs) -> Result<Option<AgentId>, Failure> {
    let is_near = args.target.host == "localhost"
        || args.target.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    // Agents attach to their own machine unless they are told otherwise, and only they know what they were told.
    if args.own_agent || !is_near {
        return Ok(None);
    }
    let machine_id = identity::machine_id();
    let agents = client.list("/r/agents", "agent_list", &[]).await?;
    let found = agents.iter().find(|agent| {
        let has = |field: &str, wanted: &str| {
            agent.get(field).and_then(Value::as_array).is_some_and(|list| list.iter().any(|entry| entry == wanted))
        };
        agent["machine_id"] == machine_id.as_str()
            && agent["agent_status"] == "online"
            && has("capabilities", "attached")
            && !has("labels", EXPOSE_LABEL)
    });
    Ok(found.and_then(|agent| text(agent, "id").parse().ok()))
}

/// Defines the service or brings it up to date, and deploys it unless it runs just so already.
async fn expose(client: &Client, args: &ExposeArgs, agent_id: AgentId, context: &Context) -> Result<Service, Failure> {
    let definition = definition(args, agent_id);
    let service = match client.service(&args.name).await {
        Ok(service) => {
            if text(&service.json, "service_type") != "attached" {
                return Err(Failure::new(format!("the team has a service {} of another type", args.name))
                    .hint("choose another --name, or delete that service"));
            }
            let id = service.view.id;
            let _: Value = client.put(&format!("/containers/{id}"), &Value::Object(definition)).await?;
            client.service(&args.name).await?
        }
        Err(ClientError::NoSuchService(_)) => {
            let mut definition = definition;
            definition.extend(identity_fields(args));
            let _: Value = client.post("/containers", Some(&Value::Object(definition))).await?;
            client.service(&args.name).await?
        }
        Err(error) => return Err(error.into()),
    };
    let runs_just_so = service.view.service_status == "running" && service.json["has_undeployed_changes"] == false;
    if !runs_just_so {
        wait::deploy(client, &service.view.id.to_string(), &args.name, &context.output).await?;
    }
    wait::until_running(client, &service, READY_DEADLINE, &context.output).await
}

fn definition(args: &ExposeArgs, agent_id: AgentId) -> Map<String, Value> {
    let fields = json!({
        "attached_target": args.target.to_string(),
        "health_path": args.health_path,
        "required_labels": [own_label(agent_id)],
        "replica_count": 1,
    });
    let Value::Object(fields) = fields else { unreachable!("it was written as an object") };
    fields
}

/// What only a new service is given.
fn identity_fields(args: &ExposeArgs) -> Map<String, Value> {
    let fields = json!({
        "service_slug": args.name,
        "display_name": args.name,
        "service_desc": format!("{} on {}", args.target, identity::default_name()),
        "service_type": "attached",
    });
    let Value::Object(fields) = fields else { unreachable!("it was written as an object") };
    fields
}

fn say(service: &Service, client: &Client, args: &ExposeArgs, own: bool, context: &Context) -> Result<(), Failure> {
    let url = client.url(&format!("/r/containers/{}/", args.name));
    let mut json = service.json.clone();
    json["url"] = json!(url);
    context.output.show(&json, || {
        let until = match (own, args.rm) {
            (true, true) => "until Ctrl-C, which also deletes the service",
            (true, false) => "until Ctrl-C",
            (false, true) => "by an agent that runs on this machine; Ctrl-C deletes the service",
            (false, false) => "by an agent that runs on this machine; towline service undeploy ends it",
        };
        format!(
            "{target} is the service {slug}, {until}\n\n  URL   {url}\n  Call  curl -H \"Authorization: Bearer $TOWLINE_KEY\" {url}",
            target = args.target,
            slug = args.name,
        )
    })
}

async fn remove(client: &Client, service: &Service, context: &Context) -> Result<(), Failure> {
    let id = service.view.id;
    let _: Value = client.post(&format!("/containers/{id}/undeploy"), None).await?;
    wait::until_stopped(client, service, STOP_DEADLINE, &context.output).await?;
    client.delete(&format!("/containers/{id}")).await?;
    context.output.note(format!("deleted {}", service.view.service_slug));
    Ok(())
}

fn parse_target(text: &str) -> Result<HostPort, String> {
    let target = match text.parse::<u16>() {
        Ok(port) => HostPort::parse(&format!("127.0.0.1:{port}")),
        Err(_) => HostPort::parse(text),
    };
    target.ok_or_else(|| format!("it {TARGET_RULE}, or a port"))
}

fn parse_slug(text: &str) -> Result<String, String> {
    let rule = "it must be 3 to 100 lower-case letters, digits and dashes, with a letter or digit at both ends";
    if is_slug(text) { Ok(text.to_owned()) } else { Err(rule.to_owned()) }
}
