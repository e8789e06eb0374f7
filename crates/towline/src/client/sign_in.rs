//! A user's sign-in: access tokens that are valid when they are handed out.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use towline_model::{Clock, Secret, SystemClock, TeamId};
use url::Url;

use super::{
    ClientError,
    credentials::{CredentialsFile, Locked, Login},
    patience::Patience,
};

/// A token that expires sooner than this is renewed before it is used.
const MARGIN: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to a sign-in or a renewal.
#[derive(Debug, Deserialize)]
pub struct Tokens {
    access_token: Secret<String>,
    refresh_token: Secret<String>,
    /// Seconds that the access token is valid for.
    expires_in: u64,
}

impl Tokens {
    /// What is kept of it.
    pub fn into_login(self, email_address: String, team_id: TeamId) -> Login {
        Login {
            email_address,
            team_id,
            refresh_token: self.refresh_token,
            access_token: self.access_token,
            access_expires_at: SystemClock.now() + Duration::from_secs(self.expires_in),
        }
    }

    /// The token that calls are made with.
    pub const fn access_token(&self) -> &Secret<String> {
        &self.access_token
    }
}

/// Who can sign in anew without being asked: the owner, by the server's `bootstrap.json`.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The owner's address.
    pub email_address: String,
    /// The owner's password.
    pub user_password: Secret<String>,
    /// The owner's team.
    pub team_id: TeamId,
}

/// A sign-in to one server, kept in a file that several runs share.
pub struct SignIn {
    server: Url,
    file: CredentialsFile,
    owner: Option<Owner>,
    current: Mutex<Option<Login>>,
}

impl SignIn {
    /// The sign-in to `server` that is kept in `file`, or can be had as `owner`.
    pub fn new(server: Url, file: CredentialsFile, owner: Option<Owner>) -> Self {
        Self { server, file, owner, current: Mutex::new(None) }
    }

    /// A token that is valid for a while. Waits that the server asks for are those of the call that needs it.
    pub(super) async fn access_token(
        &self,
        http: &reqwest::Client,
        patience: &mut Patience<'_>,
    ) -> Result<Secret<String>, ClientError> {
        let mut current = self.current.lock().await;
        if current.is_none() {
            *current = self.file.read()?.logins.remove(self.server.as_str());
        }
        if let Some(login) = &*current
            && is_fresh(login)
        {
            return Ok(login.access_token.clone());
        }
        let login = self.refresh(http, None, patience).await?;
        Ok(current.insert(login).access_token.clone())
    }

    /// A token instead of one that the server refused.
    pub(super) async fn renew(
        &self,
        http: &reqwest::Client,
        refused: &Secret<String>,
        patience: &mut Patience<'_>,
    ) -> Result<Secret<String>, ClientError> {
        let mut current = self.current.lock().await;
        let login = self.refresh(http, Some(refused), patience).await?;
        Ok(current.insert(login).access_token.clone())
    }

    /// Gets new tokens, unless another run has got some meanwhile.
    async fn refresh(
        &self,
        http: &reqwest::Client,
        refused: Option<&Secret<String>>,
        patience: &mut Patience<'_>,
    ) -> Result<Login, ClientError> {
        let locked = self.file.lock().await?;
        let kept = locked.read()?.logins.remove(self.server.as_str());
        let Some(kept) = kept else { return self.sign_in_anew(http, &locked, patience).await };
        let is_refused = refused.is_some_and(|refused| refused.expose() == kept.access_token.expose());
        if is_fresh(&kept) && !is_refused {
            return Ok(kept);
        }
        let body = json!({ "refresh_token": kept.refresh_token.expose() });
        match ask_for_tokens(http, &self.server, "/auth/refresh", &body, patience).await {
            Ok(tokens) => self.keep(&locked, tokens.into_login(kept.email_address, kept.team_id)),
            Err(ClientError::Refused(problem)) if problem.http_status == StatusCode::UNAUTHORIZED.as_u16() => {
                self.sign_in_anew(http, &locked, patience).await
            }
            Err(error) => Err(error),
        }
    }

    async fn sign_in_anew(
        &self,
        http: &reqwest::Client,
        locked: &Locked<'_>,
        patience: &mut Patience<'_>,
    ) -> Result<Login, ClientError> {
        let Some(owner) = &self.owner else {
            return Err(ClientError::SignInEnded(super::shown(&self.server).to_owned()));
        };
        let body = json!({ "email_address": owner.email_address, "user_password": owner.user_password.expose() });
        let tokens = ask_for_tokens(http, &self.server, "/auth/login", &body, patience).await?;
        self.keep(locked, tokens.into_login(owner.email_address.clone(), owner.team_id))
    }

    fn keep(&self, locked: &Locked<'_>, login: Login) -> Result<Login, ClientError> {
        let mut credentials = locked.read()?;
        credentials.logins.insert(self.server.to_string(), login.clone());
        locked.write(&credentials)?;
        Ok(login)
    }
}

async fn ask_for_tokens(
    http: &reqwest::Client,
    server: &Url,
    path: &str,
    body: &serde_json::Value,
    patience: &mut Patience<'_>,
) -> Result<Tokens, ClientError> {
    let url = format!("{}/api/v1{path}", super::shown(server));
    loop {
        let sent = http.post(&url).json(body).timeout(TIMEOUT).send().await;
        let response = sent.map_err(|error| ClientError::transport(server, &error))?;
        if !patience.has_waited(&response).await {
            return super::decode(super::check(response).await?).await;
        }
    }
}

fn is_fresh(login: &Login) -> bool {
    SystemClock.now() + MARGIN < login.access_expires_at
}
