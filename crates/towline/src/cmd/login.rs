//! `towline login` and `towline logout`: a user's sign-in on this machine.

use std::io::{self, Read};

use clap::Args;
use serde_json::{Value, json};
use towline_model::{Secret, TeamId};
use url::Url;

use crate::{
    cli::parse_server_url,
    client::{Client, CredentialsFile, Identity, Tokens, connect, shown, types::text},
    cmd::Context,
    failure::Failure,
};

const LOGIN_EXAMPLE: &str = "\
Example:
  towline login --server https://towline.example.com --email ada@example.com
  echo \"$PASSWORD\" | towline login --server http://127.0.0.1:7070 --email ada@example.com --password-stdin

The sign-in is kept in ~/.config/towline/credentials.json, readable by you only. The password is not kept.";

const LOGOUT_EXAMPLE: &str = "\
Example:
  towline logout
  towline logout --server https://towline.example.com";

/// The longest password that is read, in bytes.
const MAX_PASSWORD: u64 = 4096;

/// Arguments of `towline login`.
#[derive(Debug, Args)]
#[command(after_help = LOGIN_EXAMPLE)]
pub struct LoginArgs {
    /// The server's URL [default: the one signed in to last, else http://127.0.0.1:7070].
    #[arg(long, value_name = "URL", value_parser = parse_server_url)]
    server: Option<Url>,
    /// Your e-mail address.
    #[arg(long, value_name = "ADDRESS")]
    email: String,
    /// Read the password from stdin instead of asking for it.
    #[arg(long)]
    password_stdin: bool,
    /// The id of the team that commands are about; needed when you are in several.
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

/// Signs in and keeps it.
///
/// # Errors
/// When the server refuses, or the file cannot be written.
pub async fn login(args: LoginArgs, context: &Context) -> Result<(), Failure> {
    let file = file(context)?;
    let server = connect::server_to_sign_in_to(args.server.as_ref(), &file.read()?)?;
    let password = if args.password_stdin {
        read_password()?
    } else if context.output.can_ask() {
        context.output.ask_secret(&format!("Password of {} at {}", args.email, shown(&server)))?
    } else {
        return Err(Failure::usage("there is no terminal to ask for the password on").hint("use --password-stdin"));
    };
    let nobody = Client::new(server.clone(), Identity::Nobody)?;
    let tokens: Tokens = nobody
        .post("/auth/login", Some(&json!({"email_address": args.email, "user_password": password.expose()})))
        .await?;
    let team_id = match args.team {
        Some(team_id) => team_id,
        None => only_team(&whoami(&server, &tokens).await?)?,
    };
    let locked = file.lock().await?;
    let mut credentials = locked.read()?;
    credentials.logins.insert(server.to_string(), tokens.into_login(args.email.clone(), team_id));
    credentials.current = Some(server.to_string());
    locked.write(&credentials)?;
    let answer = json!({"server": server, "email_address": args.email, "team_id": team_id});
    context.output.show(&answer, || format!("signed in to {} as {}", shown(&server), args.email))
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
    let Some((server, login)) = server.and_then(|server| credentials.logins.remove_entry(&server)) else {
        return Err(Failure::new("there is no such sign-in on this machine"));
    };
    let nobody = Client::new(parse_server_url(&server).map_err(Failure::new)?, Identity::Nobody)?;
    let body = json!({"refresh_token": login.refresh_token.expose()});
    if let Err(error) = nobody.post::<Value>("/auth/logout", Some(&body)).await {
        context.output.warn(format!("the sign-in is forgotten here, but could not be ended at the server: {error}"));
    }
    if credentials.current.as_ref() == Some(&server) {
        credentials.current = credentials.logins.keys().next().cloned();
    }
    locked.write(&credentials)?;
    context.output.show(&json!({"server": server}), || format!("signed out of {}", server.trim_end_matches('/')))
}

fn file(context: &Context) -> Result<CredentialsFile, Failure> {
    connect::credentials_file(context)
        .ok_or_else(|| Failure::new("there is no place for the sign-in").hint("set HOME or XDG_CONFIG_HOME"))
}

async fn whoami(server: &Url, tokens: &Tokens) -> Result<Value, Failure> {
    let user = Client::new(server.clone(), Identity::Key(tokens.access_token().clone()))?;
    Ok(user.get("/users/me", &[]).await?)
}

/// The team of a user who is in one team.
fn only_team(user: &Value) -> Result<TeamId, Failure> {
    let teams = user.get("team_list").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let id = |team: &Value| text(team, "team_id").parse::<TeamId>().ok();
    match teams {
        [] => Err(Failure::new("you are in no team").hint("ask an owner or admin of a team to invite you")),
        [team] => id(team).ok_or_else(|| Failure::new("cannot understand the server's list of your teams")),
        teams => {
            let names: Vec<_> =
                teams.iter().filter_map(|team| Some(format!("{} {}", id(team)?, text(team, "team_name")))).collect();
            Err(Failure::usage("you are in several teams")
                .hint(format!("choose one with --team: {}", names.join(", "))))
        }
    }
}

/// The password on stdin, without the line break that ends it.
pub(super) fn read_password() -> Result<Secret<String>, Failure> {
    let mut text = String::new();
    io::stdin()
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .map_err(|error| Failure::io("cannot read the password from stdin", &error))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(password.strip_suffix('\r').unwrap_or(password).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_one_team_need_not_name_it() {
        let (one, two) = (TeamId::generate(), TeamId::generate());
        assert_eq!(only_team(&json!({"team_list": [{"team_id": one}]})).unwrap(), one);
        assert!(only_team(&json!({"team_list": []})).unwrap_err().message().contains("no team"));
        let user = json!({"team_list": [{"team_id": one, "team_name": "A"}, {"team_id": two, "team_name": "B"}]});
        let failure = only_team(&user).unwrap_err();
        assert_eq!(failure.hint_text().unwrap(), format!("choose one with --team: {one} A, {two} B"));
    }
}
