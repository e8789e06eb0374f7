//! `towline member`: who is in the team, as what, and who is invited.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use towline_model::{InvitationId, Secret, UserId};
use url::Url;

use super::login::read_password;
use crate::{
    cli::{ClientArgs, parse_server_url},
    client::{Client, Identity, connect, shown, types::text},
    cmd::Context,
    failure::Failure,
    output::{Table, printable},
};

const EXAMPLE: &str = "\
Example:
  towline member list
  towline member invite ada@example.com --role admin
  towline member set-role ada@example.com viewer
  towline member remove ada@example.com";

/// Arguments of `towline member`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct MemberArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the members.
    List(ListArgs),
    /// Give a member another role. It holds for the member's next request.
    SetRole(SetRoleArgs),
    /// Remove a member. The keys of the member's devices end.
    Remove(RemoveArgs),
    /// Invite somebody to the team.
    Invite(InviteArgs),
    /// List the open invitations.
    Invitations(InvitationsArgs),
    /// Take an open invitation back.
    RevokeInvitation(RevokeArgs),
    /// Accept an invitation, with a new account or as the user who is signed in.
    Accept(AcceptArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// Also works with people and keys.
    Admin,
    /// Defines, deploys and calls services.
    Member,
    /// Looks at things.
    Viewer,
}

const LIST_EXAMPLE: &str = "\
Example:
  towline member list -o json";

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLE)]
struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

const SET_ROLE_EXAMPLE: &str = "\
Example:
  towline member set-role ada@example.com admin";

#[derive(Debug, Args)]
#[command(after_help = SET_ROLE_EXAMPLE)]
struct SetRoleArgs {
    /// The member: e-mail address or id.
    #[arg(value_name = "MEMBER")]
    member: String,
    /// The role from now on. The owner's is handed over with `towline team transfer`.
    #[arg(value_enum)]
    role: RoleName,
    #[command(flatten)]
    client: ClientArgs,
}

const REMOVE_EXAMPLE: &str = "\
Example:
  towline member remove ada@example.com";

#[derive(Debug, Args)]
#[command(after_help = REMOVE_EXAMPLE)]
struct RemoveArgs {
    /// The member: e-mail address or id.
    #[arg(value_name = "MEMBER")]
    member: String,
    #[command(flatten)]
    client: ClientArgs,
}

const INVITE_EXAMPLE: &str = "\
Example:
  towline member invite ada@example.com
  towline member invite bob@example.com --role viewer -o json

When the server sends no mail, the token is printed, once: pass it on.";

#[derive(Debug, Args)]
#[command(after_help = INVITE_EXAMPLE)]
struct InviteArgs {
    /// The person's e-mail address.
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// What the person will be.
    #[arg(long, value_enum, default_value = "member")]
    role: RoleName,
    #[command(flatten)]
    client: ClientArgs,
}

const INVITATIONS_EXAMPLE: &str = "\
Example:
  towline member invitations";

#[derive(Debug, Args)]
#[command(after_help = INVITATIONS_EXAMPLE)]
struct InvitationsArgs {
    #[command(flatten)]
    client: ClientArgs,
}

const REVOKE_EXAMPLE: &str = "\
Example:
  towline member revoke-invitation ada@example.com";

#[derive(Debug, Args)]
#[command(after_help = REVOKE_EXAMPLE)]
struct RevokeArgs {
    /// The invited e-mail address, or the invitation's id.
    #[arg(value_name = "INVITATION")]
    invitation: String,
    #[command(flatten)]
    client: ClientArgs,
}

const ACCEPT_EXAMPLE: &str = "\
Example:
  towline member accept --server https://towline.example.com --token inv-… --name \"Ada Lovelace\"
  towline member accept --token inv-… --signed-in";

#[derive(Debug, Args)]
#[command(after_help = ACCEPT_EXAMPLE)]
struct AcceptArgs {
    /// The invitation's token.
    #[arg(long, value_name = "TOKEN")]
    token: Secret<String>,
    /// The server's URL [default: the one signed in to last, else http://127.0.0.1:7070].
    #[arg(long, value_name = "URL", value_parser = parse_server_url)]
    server: Option<Url>,
    /// Accept as the user who has signed in with `towline login --email`; without it, a new account is made.
    #[arg(long, conflicts_with_all = ["name", "password_stdin"])]
    signed_in: bool,
    /// Your name, for the other members: 1 to 100 characters.
    #[arg(long)]
    name: Option<String>,
    /// Read the password of the new account from stdin instead of asking for it.
    #[arg(long)]
    password_stdin: bool,
}

/// A member, found by what is known of the person.
pub struct FoundMember {
    /// The user's id.
    pub id: UserId,
    /// The user's e-mail address.
    pub name: String,
}

/// Does what was asked with members.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(args: MemberArgs, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::List(args) => list(&args, context).await,
        Verb::SetRole(args) => set_role(&args, context).await,
        Verb::Remove(args) => remove(&args, context).await,
        Verb::Invite(args) => invite(&args, context).await,
        Verb::Invitations(args) => invitations(&args, context).await,
        Verb::RevokeInvitation(args) => revoke(&args, context).await,
        Verb::Accept(args) => accept(args, context).await,
    }
}

async fn list(args: &ListArgs, context: &Context) -> Result<(), Failure> {
    let members = context.client(&args.client)?.list("/members", "member_list", &[]).await?;
    context.output.show(&json!({"member_list": members}), || {
        let mut table = Table::new(["ADDRESS", "NAME", "ROLE", "ID"]);
        for member in &members {
            table.row(["email_address", "display_name", "role", "user_id"].map(|field| text(member, field)));
        }
        table.text()
    })
}

async fn set_role(args: &SetRoleArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let member = find_member(&client, &args.member).await?;
    let role = args.role.as_str();
    let done: Value = client.put(&format!("/members/{}", member.id), &json!({"role": role})).await?;
    context.output.show(&done, || format!("{} is {role} now", printable(&member.name)))
}

async fn remove(args: &RemoveArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let member = find_member(&client, &args.member).await?;
    client.delete(&format!("/members/{}", member.id)).await?;
    context.output.show(&json!({"id": member.id}), || format!("removed {}", printable(&member.name)))
}

async fn invite(args: &InviteArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let body = json!({"email_address": args.address, "invitation_role": args.role.as_str()});
    let made: Value = client.post("/invitations", Some(&body)).await?;
    if text(&made, "mail_status") == "failed" {
        context.output.warn("the mail could not be sent; pass the token on yourself");
    }
    context.output.show(&made, || {
        let token = text(&made, "token");
        if token.is_empty() {
            return format!("invited {}; the token was sent by mail", printable(&args.address));
        }
        let server = shown(client.base());
        format!(
            "invited {}; the token is shown this once, and accepted with:\n  \
             towline member accept --server {server} --token {token}",
            printable(&args.address)
        )
    })
}

async fn invitations(args: &InvitationsArgs, context: &Context) -> Result<(), Failure> {
    let open = context.client(&args.client)?.list("/invitations", "invitation_list", &[]).await?;
    context.output.show(&json!({"invitation_list": open}), || {
        if open.is_empty() {
            return "nobody is invited; `towline member invite ADDRESS` invites somebody".to_owned();
        }
        let mut table = Table::new(["ADDRESS", "ROLE", "ENDS", "ID"]);
        for invitation in &open {
            table.row(["email_address", "invitation_role", "expires_at", "id"].map(|field| text(invitation, field)));
        }
        table.text()
    })
}

async fn revoke(args: &RevokeArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client(&args.client)?;
    let id = match args.invitation.parse::<InvitationId>() {
        Ok(id) => id.to_string(),
        Err(_) => {
            let open = client.list("/invitations", "invitation_list", &[]).await?;
            let wanted = args.invitation.to_lowercase();
            let found = open.iter().find(|invitation| text(invitation, "email_address") == wanted);
            let nobody = || {
                Failure::new(format!("{} is not invited", printable(&args.invitation)))
                    .hint("`towline member invitations` shows who is")
            };
            found.map(|invitation| text(invitation, "id")).ok_or_else(nobody)?
        }
    };
    client.delete(&format!("/invitations/{id}")).await?;
    context.output.show(&json!({"id": id}), || format!("revoked {id}"))
}

async fn accept(args: AcceptArgs, context: &Context) -> Result<(), Failure> {
    let (client, body) = if args.signed_in {
        let server = ClientArgs { server: args.server.clone(), key: None, key_file: None, data_dir: None };
        (context.client(&server)?, json!({"token": args.token.expose()}))
    } else {
        let credentials = connect::credentials_file(context).map(|file| file.read()).transpose()?.unwrap_or_default();
        let server = connect::server_to_sign_in_to(args.server.as_ref(), &credentials)?;
        let password = new_password(&args, &server, context)?;
        let mut body = json!({"token": args.token.expose(), "user_password": password.expose()});
        if let Some(name) = &args.name {
            body["display_name"] = json!(name);
        }
        (Client::new(server, Identity::Nobody)?, body)
    };
    let done: Value = client.post("/invitations/accept", Some(&body)).await?;
    let (server, team, role) = (shown(client.base()), text(&done, "team_id"), text(&done, "role"));
    context.output.show(&done, || {
        format!(
            "you are {role} of the team {team}; work in it with: towline login --server {server} (or, with a password, add \
             --email <your address> --team {team})"
        )
    })
}

fn new_password(args: &AcceptArgs, server: &Url, context: &Context) -> Result<Secret<String>, Failure> {
    if args.password_stdin {
        return read_password();
    }
    if !context.output.can_ask() {
        return Err(Failure::usage("there is no terminal to ask for the new password on").hint("use --password-stdin"));
    }
    let password = context.output.ask_secret(&format!("Password for your new account at {}", shown(server)))?;
    let again = context.output.ask_secret("The same once more")?;
    match password.expose() == again.expose() {
        true => Ok(password),
        false => Err(Failure::new("the two passwords differ; nothing was done")),
    }
}

/// The member of that e-mail address or id.
pub async fn find_member(client: &Client, wanted: &str) -> Result<FoundMember, Failure> {
    let members = client.list("/members", "member_list", &[]).await?;
    let address = wanted.to_lowercase();
    let found = members.iter().find(|row| text(row, "email_address") == address || text(row, "user_id") == wanted);
    let Some(row) = found else {
        return Err(Failure::new(format!("there is no member {} in this team", printable(wanted)))
            .hint("`towline member list` shows all of them"));
    };
    let id = text(row, "user_id").parse().map_err(|error| Failure::new(format!("{error}")))?;
    Ok(FoundMember { id, name: text(row, "email_address") })
}

impl RoleName {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }
}
