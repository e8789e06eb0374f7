//! `towline key`: the team's keys. They are made by people who have signed in, never by another key.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use towline_model::CredentialId;

use crate::{
    cli::ClientArgs,
    client::{Client, types::text},
    cmd::Context,
    failure::Failure,
    output::Table,
};

const EXAMPLE: &str = "\
Example:
  towline key create --name ci --scope read --scope invoke
  towline key create --kind agent --name lab-machine
  towline key list
  towline key revoke 01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";

/// Arguments of `towline key`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct KeyArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key. It is shown once, on stdout.
    Create(CreateArgs),
    /// List the keys, without the keys themselves.
    List(ListArgs),
    /// Revoke a key. It holds for the very next request.
    Revoke(RevokeArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// sk-: a program that calls services.
    Integration,
    /// ak-: an agent that joins the team.
    Agent,
}

/// The kinds of key that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListedKind {
    /// sk-: programs that call services.
    Integration,
    /// ak-: agents.
    Agent,
    /// dk-: machines of users, by `towline login`.
    Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    /// List and show services and agents.
    Read,
    /// Call services.
    Invoke,
    /// Create, change, deploy and delete services.
    Manage,
}

const CREATE_EXAMPLE: &str = "\
Example:
  towline key create --name ci --expires-in-days 90
  towline key create --name partner --scope invoke --service hello
  TOWLINE_KEY=$(towline key create --name deploy --scope read --scope manage)";

#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
struct CreateArgs {
    /// What the key is for: 1 to 100 characters, shown in the list.
    #[arg(long)]
    name: String,
    /// What kind of key.
    #[arg(long, value_enum, default_value = "integration")]
    kind: KindName,
    /// What the key may do; repeat for several [default: read and invoke]. Only for integration keys.
    #[arg(long, value_enum)]
    scope: Vec<ScopeName>,
    /// A service that the key is for, by its slug; repeat for several [default: all of the team]. Only for integration
    /// keys.
    #[arg(long, value_name = "SLUG")]
    service: Vec<String>,
    /// After how many days it ends, 1 to 365 [default: never].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=365))]
    expires_in_days: Option<u16>,
    #[command(flatten)]
    client: ClientArgs,
}

const LIST_EXAMPLE: &str = "\
Example:
  towline key list --kind agent
  towline key list --kind device";

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLE)]
struct ListArgs {
    /// Only keys of this kind.
    #[arg(long, value_enum)]
    kind: Option<ListedKind>,
    #[command(flatten)]
    client: ClientArgs,
}

const REVOKE_EXAMPLE: &str = "\
Example:
  towline key revoke sk-4fT9aQz1x
  towline key revoke 01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";

#[derive(Debug, Args)]
#[command(after_help = REVOKE_EXAMPLE)]
struct RevokeArgs {
    /// The key's id, or the part of it that `towline key list` shows, or the whole key.
    #[arg(value_name = "KEY")]
    wanted: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Does what was asked with keys.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(args: KeyArgs, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::Create(args) => create(args, context).await,
        Verb::List(args) => list(args, context).await,
        Verb::Revoke(args) => revoke(args, context).await,
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), Failure> {
    let mut body =
        Map::from_iter([("kind".to_owned(), json!(args.kind.as_str())), ("display_name".to_owned(), json!(args.name))]);
    if let Some(days) = args.expires_in_days {
        body.insert("expires_in_days".to_owned(), json!(days));
    }
    if !args.scope.is_empty() {
        let scopes: Vec<_> = args.scope.iter().map(|scope| scope.as_str()).collect();
        body.insert("scopes".to_owned(), json!(scopes));
    }
    if !args.service.is_empty() {
        body.insert("services".to_owned(), json!(args.service));
    }
    let made: Value = context.client(&args.client)?.post("/credentials", Some(&Value::Object(body))).await?;
    if context.output.is_interactive() {
        context.output.note("Keep the key now: it is not shown again.");
    }
    context.output.show(&made, || text(&made, "raw_key"))
}

async fn list(args: ListArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let keys = all_keys(&client, args.kind).await?;
    // Whose machine a device's key is on matters more than its name, which is the machine's. JSON has the id.
    let has_devices = keys.iter().any(|key| text(key, "kind") == "device") && !context.output.is_json();
    let members = if has_devices { client.list("/members", "member_list", &[]).await? } else { vec![] };
    context.output.show(&json!({"credentials": keys}), || {
        let mut table = Table::new(["KEY", "NAME", "KIND", "OF", "SCOPES", "SERVICES", "EXPIRES", "LAST USED", "ID"]);
        for key in &keys {
            let prefix = format!("{}…", text(key, "key_prefix"));
            let [name, kind, scopes, services, expires, used, id] =
                ["display_name", "kind", "scopes", "services", "expires_at", "last_used_at", "id"]
                    .map(|field| text(key, field));
            table.row([prefix, name, kind, holder(key, &members), scopes, services, expires, used, id]);
        }
        table.text()
    })
}

/// Who acts with a device's key; empty for the team's keys.
fn holder(key: &Value, members: &[Value]) -> String {
    if text(key, "kind") != "device" {
        return String::new();
    }
    let id = text(key, "created_by");
    let member = members.iter().find(|member| text(member, "user_id") == id);
    member.map_or(id, |member| text(member, "email_address"))
}

async fn revoke(args: RevokeArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let id = match args.wanted.parse::<CredentialId>() {
        Ok(id) => id,
        Err(_) => find_key(&all_keys(&client, None).await?, &args.wanted)?,
    };
    client.delete(&format!("/credentials/{id}")).await?;
    context.output.show(&json!({"id": id}), || format!("revoked {id}"))
}

async fn all_keys(client: &Client, kind: Option<ListedKind>) -> Result<Vec<Value>, Failure> {
    let filter: Vec<_> = kind.map(|kind| ("kind", kind.as_str().to_owned())).into_iter().collect();
    Ok(client.list("/credentials", "credentials", &filter).await?)
}

/// The one key that begins like `wanted`, or that `wanted` begins like.
fn find_key(keys: &[Value], wanted: &str) -> Result<CredentialId, Failure> {
    let wanted = wanted.trim_end_matches('…');
    let fits = |key: &&Value| {
        let prefix = text(key, "key_prefix");
        wanted.len() > 3 && !prefix.is_empty() && (prefix.starts_with(wanted) || wanted.starts_with(&prefix))
    };
    let found: Vec<_> = keys.iter().filter(fits).collect();
    match found[..] {
        [key] => text(key, "id").parse().map_err(|error| Failure::new(format!("{error}"))),
        [] => Err(Failure::new("no key begins like that").hint("`towline key list` shows all of them")),
        _ => Err(Failure::usage("several keys begin like that").hint("give the id; `towline key list` shows it")),
    }
}

impl KindName {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::Agent => "agent",
        }
    }
}

impl ListedKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::Agent => "agent",
            Self::Device => "device",
        }
    }
}

impl ScopeName {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Invoke => "invoke",
            Self::Manage => "manage",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_what_is_known_of_it() {
        let (one, two) = (CredentialId::generate(), CredentialId::generate());
        let keys = [json!({"id": one, "key_prefix": "sk-aaaaaaaa1"}), json!({"id": two, "key_prefix": "sk-aaaaaaaa2"})];
        assert_eq!(find_key(&keys, "sk-aaaaaaaa1").unwrap(), one);
        assert_eq!(find_key(&keys, "sk-aaaaaaaa2…").unwrap(), two);
        assert_eq!(find_key(&keys, "sk-aaaaaaaa2therestofthekey").unwrap(), two);
        assert!(find_key(&keys, "sk-aaaaaaaa").is_err());
        assert!(find_key(&keys, "sk-").is_err());
        assert!(find_key(&keys, "dk-bbbbbbbb1").is_err());
    }
}
