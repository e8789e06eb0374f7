//! `towline audit`: who did what in the team, or what concerns no team.

mod server_log;

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::{Value, json};
use towline_model::{CredentialId, Secret, Timestamp, UserId};

use crate::{
    cli::ClientArgs,
    client::{ClientError, types::text},
    cmd::Context,
    failure::Failure,
    output::Table,
};

const EXAMPLE: &str = "\
Example:
  towline audit
  towline audit --action service.deploy --since 2026-11-24T00:00:00Z
  towline audit --export > audit.jsonl
  towline audit --server-log --data-dir /var/lib/towline

What concerns no team is in the server's own log, which only whoever runs the server reads: accounts that were made, what \
people did who were in no team, teams that were deleted.";

/// The most entries of a page.
const MAX_COUNT: u32 = 100;

/// Arguments of `towline audit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct AuditArgs {
    /// Only this action, such as service.create.
    #[arg(long, value_name = "ACTION")]
    pub action: Option<String>,
    /// Only what this user did.
    #[arg(long, value_name = "ID")]
    pub user: Option<UserId>,
    /// Only what was done with this key.
    #[arg(long, value_name = "ID")]
    pub credential: Option<CredentialId>,
    /// Only what was done to the thing of this id.
    #[arg(long, value_name = "ID")]
    pub target: Option<String>,
    /// Only what was done at or after this moment.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<Timestamp>,
    /// Only what was done before this moment.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<Timestamp>,
    /// How many of the newest entries to show.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_COUNT)))]
    pub count: u32,
    /// Write every entry as a line of JSON, the oldest first.
    #[arg(long, conflicts_with = "count")]
    pub export: bool,
    /// Show the server's own log instead of the team's, from the database of the server in --data-dir, or the one named.
    #[arg(long)]
    pub server_log: bool,
    /// With --server-log: the database, sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME [default: SQLite in the data
    /// directory].
    #[arg(long, value_name = "URL", conflicts_with = "database_url_file")]
    pub database_url: Option<Secret<String>>,
    /// With --server-log: a file that holds only the database's URL.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub database_url_file: Option<PathBuf>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Shows or exports the audit log.
///
/// # Errors
/// When the server, or its database, cannot be reached or refuses.
pub async fn run(args: AuditArgs, context: &Context) -> Result<(), Failure> {
    if args.server_log {
        let store = server_log::open(&args, context).await?;
        let done = match args.export {
            true => server_log::export(&store, &args, context).await,
            false => server_log::newest(&store, &args).await.and_then(|entries| show(&entries, context)),
        };
        store.close().await;
        return done;
    }
    let mut query = filters(&args);
    let client = context.client(&args.client)?;
    if args.export {
        let mut response = client.open("/audit/export", &query).await?;
        let cut = |error| ClientError::transport(client.base(), &error);
        while let Some(bytes) = response.chunk().await.map_err(cut)? {
            context.output.bytes(&bytes)?;
        }
        return Ok(());
    }
    query.push(("per_page", args.count.to_string()));
    let mut answer: Value = client.get("/audit", &query).await?;
    match answer.get_mut("audit_list").map(Value::take) {
        Some(Value::Array(entries)) => show(&entries, context),
        _ => Err(ClientError::Shape("the list has no audit_list".to_owned()).into()),
    }
}

fn show(entries: &[Value], context: &Context) -> Result<(), Failure> {
    context.output.show(&json!({"audit_list": entries}), || {
        if entries.is_empty() {
            return "nothing was done that passes these filters".to_owned();
        }
        let mut table = Table::new(["TIME", "ACTION", "TARGET", "BY", "WITH", "FROM", "REQUEST"]);
        for entry in entries {
            let fields = ["at", "action", "target_name", "actor_name", "actor_kind", "address", "request_id"];
            table.row(fields.map(|field| text(entry, field)));
        }
        table.text()
    })
}

fn filters(args: &AuditArgs) -> Vec<(&'static str, String)> {
    let mut query = vec![];
    query.extend(args.action.clone().map(|action| ("action", action)));
    query.extend(args.user.map(|id| ("user_id", id.to_string())));
    query.extend(args.credential.map(|id| ("credential_id", id.to_string())));
    query.extend(args.target.clone().map(|id| ("target_id", id)));
    query.extend(args.since.map(|time| ("since", time.to_string())));
    query.extend(args.until.map(|time| ("until", time.to_string())));
    query
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "expected a time such as 2026-11-24T09:30:00Z".to_owned())
}
