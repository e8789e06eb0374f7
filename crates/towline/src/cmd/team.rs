//! `towline team`: the team that commands are about, and the user's other teams.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::member::find_member;
use crate::{
    cli::ClientArgs,
    client::types::text,
    cmd::Context,
    failure::Failure,
    output::{Table, printable},
};

const EXAMPLE: &str = "\
Example:
  towline team show
  towline team create \"Analytical Engines\"
  towline team transfer ada@example.com
  towline team delete --yes";

/// Arguments of `towline team`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct TeamArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the team that commands are about.
    Show(ShowArgs),
    /// List the teams that you are in.
    List(ListArgs),
    /// Make a further team, which you own.
    Create(CreateArgs),
    /// Give the team another name.
    Rename(RenameArgs),
    /// Make another member the owner; you become an admin.
    Transfer(TransferArgs),
    /// Leave the team. The owner cannot.
    Leave(LeaveArgs),
    /// Delete the team with its services, keys and agents. There is no way back.
    Delete(DeleteArgs),
}

const SHOW_EXAMPLE: &str = "\
Example:
  towline team show -o json";

#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLE)]
struct ShowArgs {
    #[command(flatten)]
    client: ClientArgs,
}

const LIST_EXAMPLE: &str = "\
Example:
  towline team list";

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLE)]
struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

const CREATE_EXAMPLE: &str = "\
Example:
  towline team create \"Analytical Engines\"";

#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
struct CreateArgs {
    /// The team's name: 1 to 100 characters.
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

const RENAME_EXAMPLE: &str = "\
Example:
  towline team rename \"Difference Engines\"";

#[derive(Debug, Args)]
#[command(after_help = RENAME_EXAMPLE)]
struct RenameArgs {
    /// The team's new name: 1 to 100 characters.
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

const TRANSFER_EXAMPLE: &str = "\
Example:
  towline team transfer ada@example.com";

#[derive(Debug, Args)]
#[command(after_help = TRANSFER_EXAMPLE)]
struct TransferArgs {
    /// The member who becomes the owner: e-mail address or id.
    #[arg(value_name = "MEMBER")]
    member: String,
    #[command(flatten)]
    client: ClientArgs,
}

const LEAVE_EXAMPLE: &str = "\
Example:
  towline team leave --yes";

#[derive(Debug, Args)]
#[command(after_help = LEAVE_EXAMPLE)]
struct LeaveArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

const DELETE_EXAMPLE: &str = "\
Example:
  towline team delete --yes";

#[derive(Debug, Args)]
#[command(after_help = DELETE_EXAMPLE)]
struct DeleteArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Does what was asked with teams.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(args: TeamArgs, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::Show(args) => show(&args, context).await,
        Verb::List(args) => list(&args, context).await,
        Verb::Create(args) => create(&args, context).await,
        Verb::Rename(args) => rename(&args, context).await,
        Verb::Transfer(args) => transfer(&args, context).await,
        Verb::Leave(args) => leave(&args, context).await,
        Verb::Delete(args) => delete(&args, context).await,
    }
}

async fn show(args: &ShowArgs, context: &Context) -> Result<(), Failure> {
    let team: Value = context.client(&args.client)?.get("/teams/current", &[]).await?;
    context.output.show(&team, || {
        let mut table = Table::new(["NAME", "YOUR ROLE", "MEMBERS", "CREATED", "ID"]);
        table.row(["team_name", "role", "member_count", "created_at", "id"].map(|field| text(&team, field)));
        table.text()
    })
}

async fn list(args: &ListArgs, context: &Context) -> Result<(), Failure> {
    let teams = context.client(&args.client)?.list("/teams", "team_list", &[]).await?;
    context.output.show(&json!({"team_list": teams}), || {
        if teams.is_empty() {
            return "you are in no team; `towline team create NAME` makes one".to_owned();
        }
        let mut table = Table::new(["NAME", "YOUR ROLE", "CREATED", "ID"]);
        for team in &teams {
            table.row(["team_name", "role", "created_at", "id"].map(|field| text(team, field)));
        }
        table.text()
    })
}

async fn create(args: &CreateArgs, context: &Context) -> Result<(), Failure> {
    let made: Value = context.client(&args.client)?.post("/teams", Some(&json!({"team_name": args.name}))).await?;
    let id = text(&made, "id");
    context.output.show(&made, || {
        format!(
            "made {}; make it the one that commands are about with: towline login --email <your address> --team {id}",
            printable(&args.name)
        )
    })
}

async fn rename(args: &RenameArgs, context: &Context) -> Result<(), Failure> {
    let body = json!({"team_name": args.name});
    let made: Value = context.client(&args.client)?.put("/teams/current", &body).await?;
    context.output.show(&made, || format!("the team is called {} now", printable(&args.name)))
}

async fn transfer(args: &TransferArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let member = find_member(&client, &args.member).await?;
    let body = json!({"user_id": member.id});
    let done: Value = client.post("/teams/current/transfer", Some(&body)).await?;
    context.output.show(&done, || format!("{} owns the team now; you are an admin", printable(&member.name)))
}

async fn leave(args: &LeaveArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let team: Value = client.get("/teams/current", &[]).await?;
    let name = printable(&text(&team, "team_name"));
    confirm(&format!("Leave the team {name}?"), args.yes, context)?;
    let done: Value = client.post("/teams/current/leave", None).await?;
    context.output.show(&done, || format!("you have left {name}"))
}

async fn delete(args: &DeleteArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let team: Value = client.get("/teams/current", &[]).await?;
    let name = printable(&text(&team, "team_name"));
    confirm(&format!("Delete the team {name} with its services, keys and agents, for good?"), args.yes, context)?;
    let progress = context.output.progress(format!("deleting {name}: its agents stop their containers"));
    let deleted = client.delete("/teams/current").await;
    drop(progress);
    deleted?;
    context.output.show(&json!({"id": text(&team, "id")}), || format!("deleted {name}"))
}

fn confirm(question: &str, yes: bool, context: &Context) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !context.output.can_ask() {
        return Err(Failure::usage(format!("there is no terminal to ask on: {question}")).hint("say --yes"));
    }
    if context.output.confirm(question)? { Ok(()) } else { Err(Failure::new("nothing was changed")) }
}
