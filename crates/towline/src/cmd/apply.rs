//! `towline apply`: makes the services what a file says.
//!
//! The file is the whole truth about each service in it: a field that it leaves out has its default. Applying the same
//! file twice changes nothing the second time. Nothing is remembered between runs; `--prune` deletes what the file does
//! not name.

mod file;
mod plan;

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use serde_json::{Value, json};
use towline_model::ServiceSpec;

pub use self::file::read_definitions;
use self::plan::{Action, Step};
use super::{
    secret::names::Names,
    service::{WaitArgs, wait},
};
use crate::{
    cli::ClientArgs,
    client::{Client, Service},
    cmd::Context,
    failure::Failure,
};

/// How long a service that is pruned may take to stop: its drain, its grace and some more.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);

const EXAMPLE: &str = "\
Example:
  towline apply -f services.yaml --diff
  towline apply -f services.yaml --wait
  towline apply -f services.yaml --prune --yes

A file holds one or several YAML documents (or JSON), each a service or a list of services, with the API's field names:
  service_slug: hello
  display_name: Hello
  docker_image: towline-demo:latest
  replica_count: 2
  env_config:
    - {env_name: MODEL, env_value: llama3}
    - {env_name: API_KEY, secret: openai-key}      # the name of a secret
  registry_auth_secret: registry                   # the name of a secret that is username:password";

/// Arguments of `towline apply`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ApplyArgs {
    /// The YAML or JSON file; - is stdin.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Only show what would change.
    #[arg(long)]
    diff: bool,
    /// Also stop and delete every service of the team that the file does not name; asks first.
    #[arg(long)]
    prune: bool,
    /// Do not ask before deleting.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Applies the file.
///
/// # Errors
/// When the file is wrong (nothing is changed then), when the server refuses, or when a service that was waited for failed.
pub async fn run(args: ApplyArgs, context: &Context) -> Result<(), Failure> {
    let mut definitions = read_definitions(&args.file)?;
    let client = context.client(&args.client)?;
    let mut names = Names::new(&client);
    for definition in &mut definitions {
        names.put_ids(definition).await?;
    }
    let wished = file::specs(definitions, &args.file)?;
    let present = client.services().await?;
    let steps = plan::plan(wished, &present, args.prune)?;
    if args.diff {
        return context.output.show(&plan::to_json(&steps), || plan::to_text(&steps));
    }
    confirm_deletions(&steps, &args, context)?;
    let mut deployed = vec![];
    for step in &steps {
        carry_out(&client, step, context).await?;
        if step.deploys() {
            deployed.push(client.service(&step.slug).await?);
        }
    }
    if let Some(time) = args.wait.time(context) {
        for service in &deployed {
            let service = wait::until_running(&client, service, time, &context.output).await?;
            context.output.note(format!("{}: running, {} ready", service.view.service_slug, service.view.ready()));
        }
    }
    context.output.show(&plan::to_json(&steps), || plan::summary(&steps))
}

async fn carry_out(client: &Client, step: &Step, context: &Context) -> Result<(), Failure> {
    let slug = &step.slug;
    let failed = |failure: Failure| {
        let hint = failure.hint_text().map(str::to_owned);
        let failure = Failure::new(format!("{slug}: {}", failure.message()));
        hint.into_iter().fold(failure, Failure::hint)
    };
    let id = match &step.action {
        Action::Keep => return Ok(()),
        Action::Create { spec } => {
            let made: Value =
                client.post("/containers", Some(&to_value(spec))).await.map_err(|error| failed(error.into()))?;
            crate::client::types::text(&made, "id")
        }
        Action::Update { service, changes, .. } => {
            let id = service.view.id;
            let body = Value::Object(changes.clone());
            client.put::<Value>(&format!("/containers/{id}"), &body).await.map_err(|error| failed(error.into()))?;
            id.to_string()
        }
        Action::Deploy { service } => service.view.id.to_string(),
        Action::Delete { service } => return delete(client, service, context).await.map_err(failed),
    };
    wait::deploy(client, &id, slug, &context.output).await.map_err(failed)?;
    context.output.note(format!("{slug}: {}", step.done()));
    Ok(())
}

async fn delete(client: &Client, service: &Service, context: &Context) -> Result<(), Failure> {
    let id = service.view.id;
    if matches!(service.view.service_status.as_str(), "deploying" | "running") {
        client.post::<Value>(&format!("/containers/{id}/undeploy"), None).await?;
    }
    if matches!(service.view.service_status.as_str(), "deploying" | "running" | "stopping") {
        wait::until_stopped(client, service, STOP_TIMEOUT, &context.output).await?;
    }
    client.delete(&format!("/containers/{id}")).await?;
    context.output.note(format!("{}: deleted", service.view.service_slug));
    Ok(())
}

fn confirm_deletions(steps: &[Step], args: &ApplyArgs, context: &Context) -> Result<(), Failure> {
    let doomed: Vec<_> = steps
        .iter()
        .filter(|step| matches!(step.action, Action::Delete { .. }))
        .map(|step| step.slug.as_str())
        .collect();
    if doomed.is_empty() || args.yes {
        return Ok(());
    }
    let question = format!("delete {}?", doomed.join(", "));
    if !context.output.can_ask() {
        return Err(Failure::usage(format!("there is no terminal to ask on: {question}")).hint("say --yes"));
    }
    if context.output.confirm(&question)? { Ok(()) } else { Err(Failure::new("nothing was changed")) }
}

fn to_value(spec: &ServiceSpec) -> Value {
    serde_json::to_value(spec).unwrap_or_else(|_| json!({}))
}
