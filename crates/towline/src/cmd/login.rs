//! `towline login` and `towline logout`: a user's sign-in on this machine.
//!
//! A sign-in is keys of this machine's own, which somebody lets in at a page of the server ([`pairing`]), or with `--email` a
//! pair of tokens ([`password`]), for scripts and for what a device's key does not allow. There is one for each server.

mod pairing;
mod password;

use clap::Args;
use serde_json::{Value, json};
use towline_model::{Secret, TeamId};
use url::Url;

pub(super) use self::password::read_password;
use crate::{
    cli::parse_server_url,
    client::{Client, ClientError, CredentialsFile, Identity, Kept, connect, shown},
    cmd::Context,
    failure::Failure,
};

const LOGIN_EXAMPLE: &str = "\
Example:
  towline login --server https://towline.example.com
  echo \"$PASSWORD\" | towline login --server http://127.0.0.1:7070 --email ada@example.com --password-stdin

Without --email a link is shown: whoever opens it and signs in there lets this machine in. The keys of this machine are kept in \
~/.config/towline/credentials.json, readable by you only; `towline expose` joins with them, too. They do everything with services, but \
make no keys and invite nobody: for that, sign in with --email. A password is not kept.";

const LOGOUT_EXAMPLE: &str = "\
Example:
  towline logout
  towline logout --server https://towline.example.com";

/// Arguments of `towline login`.
#[derive(Debug, Args)]
#[command(after_help = LOGIN_EXAMPLE)]
pub struct LoginArgs {
    /// The server's URL [default: the one signed in to last, else http://127.0.0.1:7070].
    #[arg(long, value_name = "URL", value_parser = parse_server_url)]
    server: Option<Url>,
    /// Sign in with this e-mail address and a password instead of a link.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Read the password from stdin instead of asking for it; only with --email.
    #[arg(long)]
    password_stdin: bool,
    /// The id of the team that commands are about; needed with --email when you are in several.
    #[arg(long, value_name = "ID")]
    team: Option<TeamId>,
}

/// Arguments of `towline logout`.
#[derive(Debug, Args)]
#[command(after_help = LOGOUT_EXAMPLE)]
pub struct LogoutArgs {
    /// The server's URL [default: the one signed in to last].
    #[arg(long, value_name = "URL", value_parser = parse_server_url)]
    server: Option<Url>,
}

/// Signs in and keeps it. The sign-in to the same server that there was before is ended.
///
/// # Errors
/// When the server refuses, nobody lets this machine in, or the file cannot be written.
pub async fn login(args: LoginArgs, context: &Context) -> Result<(), Failure> {
    let file = file(context)?;
    let server = connect::server_to_sign_in_to(args.server.as_ref(), &file.read()?)?;
    if args.email.is_none() && (args.password_stdin || args.team.is_some()) {
        let failure = Failure::usage("--password-stdin and --team are for a sign-in with --email");
        return Err(failure.hint("without --email, the team is chosen at the page that lets this machine in"));
    }
    // Before anybody is asked anything: is there a place for the answer?
    drop(file.lock().await?);
    match &args.email {
        Some(email) => {
            let (login, team_id) = password::sign_in(&server, email, &args, context).await?;
            keep(&file, &server, Kept::Login(login), context).await?;
            let answer = json!({"server": server, "email_address": email, "team_id": team_id});
            context.output.show(&answer, || format!("signed in to {} as {email}", shown(&server)))
        }
        None => {
            let Some(device) = pairing::pair(&server, context).await? else {
                return Err(Failure::new("nobody has let this machine in; it was interrupted"));
            };
            let key = device.device_key.clone();
            keep(&file, &server, Kept::Device(device), context).await?;
            say_who(&server, key, context).await
        }
    }
}

/// Says which team this machine is in now.
async fn say_who(server: &Url, key: Secret<String>, context: &Context) -> Result<(), Failure> {
    let team: Value = Client::new(server.clone(), Identity::Key(key))?.get("/teams/current", &[]).await?;
    let answer = json!({"server": server, "team_id": team["id"], "team_name": team["team_name"], "role": team["role"]});
    context.output.show(&answer, || {
        let text = |field: &str| team[field].as_str().unwrap_or_default().to_owned();
        format!("signed in to {} as {} in the team {}", shown(server), text("role"), text("team_name"))
    })
}

/// Keeps a new sign-in, and ends the one that it replaces.
async fn keep(file: &CredentialsFile, server: &Url, kept: Kept, context: &Context) -> Result<(), Failure> {
    let locked = file.lock().await?;
    let mut credentials = locked.read()?;
    let before = credentials.take(server.as_str());
    credentials.keep(server.as_str(), kept);
    credentials.current = Some(server.to_string());
    locked.write(&credentials)?;
    if let Some(before) = before
        && let Err(error) = end(server, &before).await
    {
        context.output.warn(format!("the sign-in before this one could not be ended at the server: {error}"));
    }
    Ok(())
}

/// Ends a sign-in at the server and forgets it here.
///
/// # Errors
/// When there is none, or the file cannot be written. A server that cannot be reached is only noted.
pub async fn logout(args: LogoutArgs, context: &Context) -> Result<(), Failure> {
    let file = file(context)?;
    let locked = file.lock().await?;
    let mut credentials = locked.read()?;
    let server = args.server.map(|url| url.to_string()).or_else(|| credentials.current.clone());
    let kept = server.and_then(|server| credentials.take(&server).map(|kept| (server, kept)));
    let Some((server, kept)) = kept else {
        return Err(Failure::new("there is no such sign-in on this machine"));
    };
    if let Err(error) = end(&parse_server_url(&server).map_err(Failure::new)?, &kept).await {
        context.output.warn(format!("the sign-in is forgotten here, but could not be ended at the server: {error}"));
    }
    if credentials.current.as_ref() == Some(&server) {
        let next = credentials.servers().next().cloned();
        credentials.current = next;
    }
    locked.write(&credentials)?;
    context.output.show(&json!({"server": server}), || format!("signed out of {}", server.trim_end_matches('/')))
}

/// Ends a sign-in at the server. That it has ended already is no error.
async fn end(server: &Url, kept: &Kept) -> Result<(), ClientError> {
    let ended = match kept {
        Kept::Device(device) => {
            let client = Client::new(server.clone(), Identity::Key(device.device_key.clone()))?;
            client.post::<Value>("/auth/device/revoke", None).await
        }
        Kept::Login(login) => {
            let body = json!({"refresh_token": login.refresh_token.expose()});
            Client::new(server.clone(), Identity::Nobody)?.post::<Value>("/auth/logout", Some(&body)).await
        }
    };
    match ended {
        Err(error) if error.code() != "unauthenticated" => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn file(context: &Context) -> Result<CredentialsFile, Failure> {
    connect::credentials_file(context)
        .ok_or_else(|| Failure::new("there is no place for the sign-in").hint("set HOME or XDG_CONFIG_HOME"))
}
