//! The API client: one server, one identity, JSON in and out.
//!
//! It knows HTTP and the contract's shapes. It does not print, and it does not decide which server or key is meant:
//! [`connect`] does that.

pub mod bootstrap;
pub mod connect;
mod credentials;
mod error;
mod patience;
mod sign_in;
pub mod sse;
#[cfg(test)]
pub mod test_server;
#[cfg(test)]
mod tests;
pub mod types;

use std::{net::IpAddr, time::Duration};

use reqwest::{Method, RequestBuilder, Response, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use towline_model::{Secret, TeamId, service::is_slug};
use url::{Host, Url};

use self::patience::Patience;
pub use self::{
    credentials::{CredentialsFile, DeviceLogin, Kept, Login},
    error::ClientError,
    patience::Notice,
    sign_in::{SignIn, Tokens},
    types::Service,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call of the management API may take as a whole.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How many entries are asked for at once.
const PAGE: usize = 100;

/// With what the client comes to the server.
pub enum Identity {
    /// With nothing: only to sign in.
    Nobody,
    /// With a key, which names its team by itself.
    Key(Secret<String>),
    /// As a user in a team.
    User {
        /// Gives valid access tokens.
        sign_in: Box<SignIn>,
        /// The team that calls are about.
        team_id: TeamId,
    },
}

/// A client of one server.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    identity: Identity,
    notice: Notice,
}

impl Client {
    /// A client of the server at `base`.
    ///
    /// # Errors
    /// When the machine's trusted certificates cannot be read.
    pub fn new(base: Url, identity: Identity) -> Result<Self, ClientError> {
        Ok(Self { http: http_client(&base)?, base, identity, notice: Notice::default() })
    }

    /// Tells somebody when a call has to wait.
    #[must_use]
    pub fn with_notice(self, tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { notice: Notice::new(tell), ..self }
    }

    /// The key that calls are made with, if it is a key.
    pub const fn key(&self) -> Option<&Secret<String>> {
        match &self.identity {
            Identity::Key(key) => Some(key),
            Identity::Nobody | Identity::User { .. } => None,
        }
    }

    /// The server's base URL.
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// The URL of a path of the API, such as `/containers`. The path is taken as it is.
    pub fn url(&self, path: &str) -> String {
        format!("{}/api/v1{path}", shown(&self.base))
    }

    /// Reads something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, ClientError> {
        decode(self.send(Method::GET, path, query, None).await?).await
    }

    /// Does something that has an answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Option<&Value>) -> Result<T, ClientError> {
        decode(self.send(Method::POST, path, &[], body).await?).await
    }

    /// Changes something.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ClientError> {
        decode(self.send(Method::PUT, path, &[], Some(body)).await?).await
    }

    /// Removes something.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, &[], None).await.map(drop)
    }

    /// Reads every page of a list, each once whatever is added and deleted meanwhile.
    pub async fn list(&self, path: &str, field: &str, filters: &[(&str, String)]) -> Result<Vec<Value>, ClientError> {
        let (mut all, mut cursor) = (vec![], None::<String>);
        loop {
            let mut query = filters.to_vec();
            query.push(("per_page", PAGE.to_string()));
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let mut answer: Value = self.get(path, &query).await?;
            let Some(Value::Array(items)) = answer.get_mut(field).map(Value::take) else {
                return Err(ClientError::Shape(format!("the list has no {field}")));
            };
            all.extend(items);
            cursor = answer.pointer("/page_meta/next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Every service of the team.
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        self.list("/containers", "container_list", &[]).await?.into_iter().map(Service::try_from).collect()
    }

    /// The service of that slug or id, in full.
    pub async fn service(&self, slug: &str) -> Result<Service, ClientError> {
        if let Ok(id) = slug.parse::<towline_model::ServiceId>() {
            return self.get::<Value>(&format!("/containers/{id}"), &[]).await?.try_into();
        }
        // What cannot be a slug cannot be part of a path either.
        if !is_slug(slug) {
            return Err(ClientError::NoSuchService(slug.to_owned()));
        }
        match self.get::<Value>(&format!("/r/containers/{slug}"), &[]).await {
            Err(error) if error.code() == "not_found" => Err(ClientError::NoSuchService(slug.to_owned())),
            answer => answer?.try_into(),
        }
    }

    /// Opens an answer that is read as it arrives; there is no limit to how long that takes.
    pub async fn open(&self, path: &str, query: &[(&str, String)]) -> Result<Response, ClientError> {
        let mut patience = self.notice.patience();
        let bearer = self.bearer(&mut patience).await?;
        loop {
            let request = self.authorized(self.http.get(self.url(path)).query(query), bearer.as_ref());
            let response = request.send().await.map_err(|error| ClientError::transport(&self.base, &error))?;
            if !patience.has_waited(&response).await {
                return check(response).await;
            }
        }
    }

    /// A request that this client's identity may make, for a path of the API that is taken as it is.
    pub async fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, ClientError> {
        let bearer = self.bearer(&mut self.notice.patience()).await?;
        Ok(self.authorized(self.http.request(method, url), bearer.as_ref()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Response, ClientError> {
        let attempt = async |bearer: Option<&Secret<String>>| {
            let mut request = self.http.request(method.clone(), self.url(path)).query(query).timeout(CALL_TIMEOUT);
            if let Some(body) = body {
                request = request.json(body);
            }
            let sent = self.authorized(request, bearer).send().await;
            sent.map_err(|error| ClientError::transport(&self.base, &error))
        };
        let mut patience = self.notice.patience();
        let (mut bearer, mut is_renewed) = (self.bearer(&mut patience).await?, false);
        loop {
            let response = attempt(bearer.as_ref()).await?;
            if patience.has_waited(&response).await {
                continue;
            }
            // A token can be refused before its time, when the server's signing key or its clock has changed.
            if response.status() == 401
                && !is_renewed
                && let (Identity::User { sign_in, .. }, Some(refused)) = (&self.identity, &bearer)
            {
                (bearer, is_renewed) = (Some(sign_in.renew(&self.http, refused, &mut patience).await?), true);
                continue;
            }
            return check(response).await;
        }
    }

    async fn bearer(&self, patience: &mut Patience<'_>) -> Result<Option<Secret<String>>, ClientError> {
        match &self.identity {
            Identity::Nobody => Ok(None),
            Identity::Key(key) => Ok(Some(key.clone())),
            Identity::User { sign_in, .. } => sign_in.access_token(&self.http, patience).await.map(Some),
        }
    }

    fn authorized(&self, request: RequestBuilder, bearer: Option<&Secret<String>>) -> RequestBuilder {
        let request = match bearer {
            Some(bearer) => request.bearer_auth(bearer.expose()),
            None => request,
        };
        match &self.identity {
            Identity::User { team_id, .. } => request.header("x-team-id", team_id.to_string()),
            Identity::Nobody | Identity::Key(_) => request,
        }
    }
}

fn http_client(base: &Url) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("towline/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    // No proxy can reach this machine's loopback for us.
    if is_loopback(base) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| ClientError::Setup(error::with_causes(&error)))
}

/// A server's URL as people write it.
pub fn shown(server: &Url) -> &str {
    server.as_str().trim_end_matches('/')
}

/// Whether a URL names this machine and nothing else.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

async fn check(response: Response) -> Result<Response, ClientError> {
    if response.status().is_success() { Ok(response) } else { Err(ClientError::from_answer(response).await) }
}

async fn decode<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let url = response.url().clone();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"));
    let body = response.bytes().await.map_err(|error| ClientError::transport(&url, &error))?;
    serde_json::from_slice(&body).map_err(|error| {
        let what = if is_json { error.to_string() } else { "the answer is not JSON".to_owned() };
        ClientError::Shape(what)
    })
}
