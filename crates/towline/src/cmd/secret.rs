//! `towline secret`: values that services refer to. They are stored once and never shown again.
//!
//! A value is never an argument: arguments are seen by everybody on the machine in the list of processes, and stay in the
//! shell's history.

pub mod names;
mod rotate;

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueHint};
use serde_json::{Map, Value, json};
use towline_model::Secret;

use self::names::Names;
use crate::{cli::ClientArgs, client::types::text, cmd::Context, failure::Failure, output::Table};

const EXAMPLE: &str = "\
Example:
  towline secret create openai-key                       # asks for the value
  towline service create chat --image chat:1 --env-secret OPENAI_API_KEY=openai-key
  towline secret list

A value is read from the terminal, from stdin or from a file, never from an argument: arguments can be seen by everybody on \
this machine while the command runs, and stay in the shell's history.";

/// Arguments of `towline secret`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct SecretArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Store a secret.
    Create(CreateArgs),
    /// List the secrets, without their values.
    List(ListArgs),
    /// Show a secret, without its value, and where it is used.
    Show(ShowArgs),
    /// Change a secret's value, name or description.
    Update(UpdateArgs),
    /// Forget a secret that no service uses.
    Delete(DeleteArgs),
    /// On the server's machine, while the server is stopped: make a new key and seal every secret anew under it.
    RotateKey(Box<rotate::RotateArgs>),
}

const CREATE_EXAMPLE: &str = "\
Example:
  towline secret create openai-key                                     # asks for the value
  printf %s \"$TOKEN\" | towline secret create openai-key
  towline secret create registry --value-file login.txt                # username:password, for --registry-auth

One line break at the end of the value is left out.";

#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
struct CreateArgs {
    /// The secret's name, unique in the team: letters, digits and any of . _ - /.
    name: String,
    /// What it is, for people, at most 1000 characters.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The file that holds the value; - is stdin [default: ask on a terminal, else stdin].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    value_file: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

const LIST_EXAMPLE: &str = "\
Example:
  towline secret list
  towline secret list -o json | jq -r '.secret_list[].name'";

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLE)]
struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

const SHOW_EXAMPLE: &str = "\
Example:
  towline secret show openai-key";

#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLE)]
struct ShowArgs {
    /// The secret's name or id.
    secret: String,
    #[command(flatten)]
    client: ClientArgs,
}

const UPDATE_EXAMPLE: &str = "\
Example:
  towline secret update openai-key                        # asks for the new value
  towline secret update openai-key --value-file key.txt
  towline secret update openai-key --name openai/production
  towline service restart chat                            # its containers get the new value

One line break at the end of the value is left out.";

#[derive(Debug, Args)]
#[command(after_help = UPDATE_EXAMPLE)]
struct UpdateArgs {
    /// The secret's name or id.
    secret: String,
    /// Another name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Another description, at most 1000 characters.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The file that holds the new value; - is stdin. Without any option, the value is asked for or read from stdin.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    value_file: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

const DELETE_EXAMPLE: &str = "\
Example:
  towline secret delete openai-key";

#[derive(Debug, Args)]
#[command(after_help = DELETE_EXAMPLE)]
struct DeleteArgs {
    /// The secret's name or id.
    secret: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Does what was asked with secrets.
///
/// # Errors
/// When the server cannot be reached or refuses, or the value cannot be read.
pub async fn run(args: SecretArgs, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::Create(args) => create(args, context).await,
        Verb::List(args) => list(args, context).await,
        Verb::Show(args) => show(args, context).await,
        Verb::Update(args) => update(args, context).await,
        Verb::Delete(args) => delete(args, context).await,
        Verb::RotateKey(args) => rotate::run(*args, context).await,
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let value = read_value(args.value_file.as_deref(), &args.name, context)?;
    let mut body = Map::from_iter([("name".to_owned(), json!(args.name)), ("value".to_owned(), json!(value.expose()))]);
    body.extend(args.description.map(|text| ("description".to_owned(), json!(text))));
    let made: Value = client.post("/secrets", Some(&Value::Object(body))).await?;
    context.output.show(&made, || format!("stored {}", args.name))
}

async fn list(args: ListArgs, context: &Context) -> Result<(), Failure> {
    let secrets = context.client(&args.client)?.list("/secrets", "secret_list", &[]).await?;
    context.output.show(&json!({"secret_list": secrets}), || {
        let mut table = Table::new(["NAME", "USED BY", "CHANGED", "DESCRIPTION", "ID"]);
        for secret in &secrets {
            let [name, changed, description, id] =
                ["name", "updated_at", "description", "id"].map(|field| text(secret, field));
            let mut users: Vec<_> = used_by(secret).iter().map(|place| text(place, "service_slug")).collect();
            users.dedup();
            table.row([name, users.join(", "), changed, description, id]);
        }
        table.text()
    })
}

async fn show(args: ShowArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let id = Names::new(&client).id(&args.secret).await?;
    let secret: Value = client.get(&format!("/secrets/{id}"), &[]).await?;
    context.output.show(&secret, || {
        let mut table = Table::new(["FIELD", "VALUE"]);
        for field in ["name", "description", "id", "created_at", "updated_at"] {
            table.row([field.to_owned(), text(&secret, field)]);
        }
        for place in used_by(&secret) {
            let only = if place["is_in_definition"] == false { " (only in the deploy that runs)" } else { "" };
            let place = format!("{} {}{only}", text(place, "service_slug"), text(place, "field"));
            table.row(["used_by".to_owned(), place]);
        }
        table.text()
    })
}

async fn update(args: UpdateArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let id = Names::new(&client).id(&args.secret).await?;
    let mut changes = Map::new();
    changes.extend(args.name.map(|text| ("name".to_owned(), json!(text))));
    changes.extend(args.description.map(|text| ("description".to_owned(), json!(text))));
    if args.value_file.is_some() || changes.is_empty() {
        let value = read_value(args.value_file.as_deref(), &args.secret, context)?;
        changes.insert("value".to_owned(), json!(value.expose()));
    }
    let is_value = changes.contains_key("value");
    let made: Value = client.put(&format!("/secrets/{id}"), &Value::Object(changes)).await?;
    context.output.show(&made, || match is_value {
        true => format!("changed {}; deploy or restart the services that use it", args.secret),
        false => format!("changed {}", args.secret),
    })
}

async fn delete(args: DeleteArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let id = Names::new(&client).id(&args.secret).await?;
    client.delete(&format!("/secrets/{id}")).await?;
    context.output.show(&json!({"id": id}), || format!("deleted {}", args.secret))
}

fn used_by(secret: &Value) -> &[Value] {
    secret["used_by"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Reads a value from a file, from the person at the terminal, or from stdin.
fn read_value(file: Option<&Path>, name: &str, context: &Context) -> Result<Secret<String>, Failure> {
    let text = match file {
        None if context.output.can_ask() => return context.output.ask_secret(&format!("Value of {name}")),
        None if io::stdin().is_terminal() => {
            return Err(Failure::usage("there is no terminal to ask for the value on").hint("use --value-file"));
        }
        Some(path) if path != Path::new("-") => fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read the value in {}: {error}", path.display()))),
        _ => io::read_to_string(io::stdin())
            .map_err(|error| Failure::usage(format!("cannot read the value from stdin: {error}"))),
    };
    let text = Secret::new(text?);
    let value = text.expose().strip_suffix('\n').unwrap_or(text.expose());
    Ok(Secret::new(value.strip_suffix('\r').unwrap_or(value).to_owned()))
}
