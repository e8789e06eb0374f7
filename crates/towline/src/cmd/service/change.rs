//! Commands that change a service: create, update, deploy, restart, undeploy, delete.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::{Map, Value, json};

use super::{FieldArgs, WaitArgs, wait};
use crate::{
    cli::ClientArgs,
    client::Service,
    cmd::{Context, apply, secret::names::Names},
    failure::Failure,
};

const CREATE_EXAMPLE: &str = "\
Example:
  towline service create hello --image towline-demo:latest --replicas 2
  towline service create llama --image ghcr.io/org/llama:1.2 --port 8000 --gpus 1 --env MODEL=8b
  towline service create ollama --attached-target 127.0.0.1:11434 --required-label gpu-box
  towline service create -f hello.yaml --replicas 3";

/// Arguments of `towline service create`.
#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
pub struct CreateArgs {
    /// The name in URLs: 3 to 100 lower-case letters, digits and dashes. It cannot be changed.
    #[arg(required_unless_present = "file")]
    slug: Option<String>,
    /// A YAML or JSON file with the fields of one service, named as in the API; - is stdin. Options win over it.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Where the service's process comes from: deployed, attached or external. It cannot be changed [default: what
    /// --attached-target or --external-url say, else deployed].
    #[arg(long, value_name = "TYPE", visible_alias = "type")]
    service_type: Option<String>,
    #[command(flatten)]
    fields: FieldArgs,
    #[command(flatten)]
    client: ClientArgs,
}

const UPDATE_EXAMPLE: &str = "\
Example:
  towline service update hello --image towline-demo:2 --replicas 3
  towline service update hello --clear memory_limit_bytes
  towline service deploy hello             # makes it effective";

/// Arguments of `towline service update`.
#[derive(Debug, Args)]
#[command(after_help = UPDATE_EXAMPLE)]
pub struct UpdateArgs {
    /// The service's slug or id.
    slug: String,
    /// A YAML or JSON file with the fields to change, named as in the API; - is stdin. Options win over it.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// A field, named as in the API, that returns to its default; repeat for several.
    #[arg(long, value_name = "FIELD")]
    clear: Vec<String>,
    #[command(flatten)]
    fields: FieldArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Defines a service.
pub async fn create(args: &CreateArgs, context: &Context) -> Result<(), Failure> {
    let mut body = file_fields(args.file.as_ref())?;
    body.extend(args.fields.to_json(&body)?);
    let typed = [("service_slug", &args.slug), ("service_type", &args.service_type)];
    let told = [("attached_target", "attached"), ("external_url", "external")];
    if let Some((_, name)) = told.into_iter().find(|(field, _)| body.contains_key(*field)) {
        body.entry("service_type").or_insert_with(|| json!(name));
    }
    body.extend(typed.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?)))));
    if let (false, Some(slug)) = (body.contains_key("display_name"), body.get("service_slug").cloned()) {
        body.insert("display_name".to_owned(), slug);
    }
    let slug = body.get("service_slug").and_then(Value::as_str).unwrap_or_default().to_owned();
    let client = context.client(&args.client)?;
    Names::new(&client).put_ids(&mut body).await?;
    let made: Value = client.post("/containers", Some(&Value::Object(body))).await?;
    context.output.show(&made, || format!("created {slug}; run it with: towline service deploy {slug}"))
}

/// Changes a service.
pub async fn update(args: &UpdateArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let service = client.service(&args.slug).await?;
    let mut changes = file_fields(args.file.as_ref())?;
    let mut present = service.fields().clone();
    present.extend(changes.clone());
    changes.extend(args.fields.to_json(&present)?);
    changes.extend(args.clear.iter().map(|field| (field.clone(), Value::Null)));
    if changes.is_empty() {
        return Err(Failure::usage("nothing to change was given").hint("see towline service update --help"));
    }
    Names::new(&client).put_ids(&mut changes).await?;
    let made: Value = client.put(&format!("/containers/{}", service.view.id), &Value::Object(changes)).await?;
    let slug = &service.view.service_slug;
    context.output.show(&made, || format!("updated {slug}; make it effective with: towline service deploy {slug}"))
}

/// Runs the service as it is defined now.
pub async fn deploy(client: &ClientArgs, slug: &str, wait: &WaitArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(client)?;
    let service = client.service(slug).await?;
    let done = wait::deploy(&client, &service.view.id.to_string(), &service.view.service_slug, &context.output).await?;
    begun(&client, &service, "deploy", &done, wait, context).await
}

/// Replaces every instance by a fresh one.
pub async fn restart(client: &ClientArgs, slug: &str, wait: &WaitArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(client)?;
    let service = client.service(slug).await?;
    let done: Value = client.post(&format!("/containers/{}/restart", service.view.id), None).await?;
    begun(&client, &service, "restart", &done, wait, context).await
}

/// Waits for what was begun, if it is to be waited for, and says how far it is.
async fn begun(
    client: &crate::client::Client,
    service: &Service,
    verb: &str,
    done: &Value,
    wait: &WaitArgs,
    context: &Context,
) -> Result<(), Failure> {
    let slug = &service.view.service_slug;
    match wait.time(context) {
        Some(time) => {
            let service = wait::until_running(client, service, time, &context.output).await?;
            context.output.show(&service.json, || format!("{slug} is running, {} ready", service.view.ready()))
        }
        None => context
            .output
            .show(done, || format!("{verb} of {slug} has begun; towline service show {slug} tells how far it is")),
    }
}

/// Stops a service.
pub async fn undeploy(client: &ClientArgs, slug: &str, wait: &WaitArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(client)?;
    let service = client.service(slug).await?;
    let done: Value = client.post(&format!("/containers/{}/undeploy", service.view.id), None).await?;
    let slug = &service.view.service_slug;
    match wait.time(context) {
        Some(time) => {
            let service = wait::until_stopped(&client, &service, time, &context.output).await?;
            context.output.show(&service.json, || format!("{slug} is stopped"))
        }
        None => context.output.show(&done, || format!("{slug} is stopping")),
    }
}

/// Forgets a service.
pub async fn delete(client: &ClientArgs, slug: &str, context: &Context) -> Result<(), Failure> {
    let client = context.client(client)?;
    let service = client.service(slug).await?;
    client.delete(&format!("/containers/{}", service.view.id)).await?;
    context.output.show(&json!({"id": service.view.id}), || format!("deleted {}", service.view.service_slug))
}

fn file_fields(path: Option<&PathBuf>) -> Result<Map<String, Value>, Failure> {
    let Some(path) = path else { return Ok(Map::new()) };
    let mut definitions = apply::read_definitions(path)?;
    match (definitions.pop(), definitions.is_empty()) {
        (Some(fields), true) => Ok(fields),
        (None, _) => Ok(Map::new()),
        _ => Err(Failure::usage(format!("{} holds several services", path.display())).hint("use towline apply -f")),
    }
}
