//! Signing in with an e-mail address and a password.

use std::io::{self, Read};

use serde_json::{Value, json};
use towline_model::{Secret, TeamId};
use url::Url;

use super::LoginArgs;
use crate::{
    client::{Client, Identity, Login, Tokens, shown, types::text},
    cmd::Context,
    failure::Failure,
};

/// The longest password that is read, in bytes.
const MAX_PASSWORD: u64 = 4096;

/// Asks for the password and exchanges it for tokens. Gives the team that commands are about, too.
pub(super) async fn sign_in(
    server: &Url,
    email: &str,
    args: &LoginArgs,
    context: &Context,
) -> Result<(Login, TeamId), Failure> {
    let password = if args.password_stdin {
        read_password()?
    } else if context.output.can_ask() {
        context.output.ask_secret(&format!("Password of {email} at {}", shown(server)))?
    } else {
        return Err(Failure::usage("there is no terminal to ask for the password on").hint("use --password-stdin"));
    };
    let nobody = context.told_of_waits(Client::new(server.clone(), Identity::Nobody)?);
    let body = json!({"email_address": email, "user_password": password.expose()});
    let tokens: Tokens = nobody.post("/auth/login", Some(&body)).await?;
    let team_id = match args.team {
        Some(team_id) => team_id,
        None => only_team(&whoami(server, &tokens).await?)?,
    };
    Ok((tokens.into_login(email.to_owned(), team_id), team_id))
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
pub(in crate::cmd) fn read_password() -> Result<Secret<String>, Failure> {
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
