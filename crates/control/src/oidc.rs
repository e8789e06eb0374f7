//! Sign-in with OpenID Connect, the protocol's side: the authorization code flow with PKCE, state and nonce (OpenID Connect
//! Core 1.0 §3.1, RFC 7636). Who is let in is decided in [`app::oidc`](crate::app::oidc).
//!
//! Nothing of a sign-in that has begun is kept here: what has to be the same at its end travels in a cookie of the browser
//! that began it, so that nobody can be signed in with somebody else's code (RFC 9700 §4.7).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use openidconnect::{
    AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse,
    core::{CoreAuthenticationFlow, CoreClient, CoreIdTokenClaims, CoreProviderMetadata, CoreUserInfoClaims},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use towline_model::Secret;
use url::{Host, Url};

/// How long the provider may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long what the provider says of itself is believed, its keys included.
const METADATA_LIFETIME: Duration = Duration::from_secs(600);
/// Where the provider sends people back to.
pub const CALLBACK_PATH: &str = "/api/v1/auth/oidc/callback";

/// Which provider, and what we are there.
#[derive(Debug, Clone)]
pub struct OidcConfig {
    /// The provider's URL, exactly as it names itself.
    pub issuer: String,
    /// Our id there.
    pub client_id: String,
    /// Our secret there; `None` for a public client.
    pub client_secret: Option<Secret<String>>,
    /// People with verified addresses of these domains get an account without an invitation.
    pub allowed_domains: Vec<String>,
}

/// Why OpenID Connect cannot be used with such settings.
#[derive(Debug, thiserror::Error)]
pub enum OidcConfigError {
    /// The issuer.
    #[error(
        "the OpenID Connect issuer {0:?} cannot be used; it must be an https:// URL, such as https://id.example.com"
    )]
    Issuer(String),
    /// The server's own URL.
    #[error("people cannot come back from the identity provider to {0:?}; set --public-url to this server's URL")]
    PublicUrl(String),
    /// No HTTP client.
    #[error("no HTTPS client can be made for the identity provider: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a sign-in went wrong.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The provider cannot be reached, or does not speak the protocol.
    #[error("the identity provider cannot be used at the moment; try again shortly")]
    Provider(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The provider's answer does not fit the sign-in.
    #[error("the identity provider did not confirm this sign-in; begin again at /api/v1/auth/oidc/start")]
    NotConfirmed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The address is not known to be the person's.
    #[error("the identity provider does not say that your e-mail address is verified; verify it there and try again")]
    Unverified,
}

/// What has to be the same at the end of a sign-in as at its beginning.
#[derive(Serialize, Deserialize)]
pub struct Attempt {
    state: String,
    nonce: String,
    verifier: String,
}

/// Who the provider says it is.
#[derive(Debug, Clone)]
pub struct Person {
    /// The provider.
    pub issuer: String,
    /// The person's id there, which never changes.
    pub subject: String,
    /// The person's verified e-mail address.
    pub email_address: String,
    /// The person's name.
    pub display_name: Option<String>,
}

/// A provider that people sign in with.
pub struct Oidc {
    config: OidcConfig,
    issuer: IssuerUrl,
    redirect: RedirectUrl,
    http: reqwest::Client,
    known: Mutex<Option<(Instant, CoreProviderMetadata)>>,
}

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error(transparent)]
    Sent(#[from] reqwest::Error),
    #[error(transparent)]
    Built(#[from] http::Error),
}

/// An endpoint that the provider does not name.
#[derive(Debug, thiserror::Error)]
#[error("{0} is missing")]
struct Missing(&'static str);

impl Oidc {
    /// Prepares; asks the provider nothing yet.
    ///
    /// # Errors
    /// See [`OidcConfigError`].
    pub fn new(config: OidcConfig, public_url: &str) -> Result<Self, OidcConfigError> {
        // The process's TLS; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = || OidcConfigError::Issuer(config.issuer.clone());
        let url = Url::parse(&config.issuer).map_err(|_| wrong())?;
        let is_here = is_loopback(&url);
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(wrong());
        }
        let issuer = IssuerUrl::new(config.issuer.clone()).map_err(|_| wrong())?;
        let redirect = RedirectUrl::new(format!("{public_url}{CALLBACK_PATH}"))
            .map_err(|_| OidcConfigError::PublicUrl(public_url.to_owned()))?;
        let builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let http = if is_here { builder.no_proxy() } else { builder }.build()?;
        Ok(Self { config, issuer, redirect, http, known: Mutex::default() })
    }

    /// Whether addresses of this domain need no invitation.
    #[must_use]
    pub fn allows(&self, email_address: &str) -> bool {
        let domain = email_address.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.config.allowed_domains.iter().any(|allowed| allowed.eq_ignore_ascii_case(domain))
    }

    /// Where the person goes to sign in, and what has to be kept until the return.
    ///
    /// # Errors
    /// [`OidcError::Provider`].
    pub async fn begin(&self) -> Result<(Url, Attempt), OidcError> {
        let client = CoreClient::from_provider_metadata(self.provider().await?, self.id(), self.secret())
            .set_redirect_uri(self.redirect.clone());
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let (url, state, nonce) = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .add_scope(Scope::new("email".to_owned()))
            .add_scope(Scope::new("profile".to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        let attempt = Attempt {
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: verifier.secret().clone(),
        };
        Ok((url, attempt))
    }

    /// Exchanges the code that a person came back with for who it is.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn finish(&self, attempt: Attempt, code: String) -> Result<Person, OidcError> {
        let client = CoreClient::from_provider_metadata(self.provider().await?, self.id(), self.secret())
            .set_redirect_uri(self.redirect.clone());
        let http = self.caller();
        let request = client.exchange_code(AuthorizationCode::new(code)).map_err(provider)?;
        let request = request.set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier));
        let tokens = request.request_async(&http).await.map_err(not_confirmed)?;
        let id_token = tokens.id_token().ok_or_else(|| not_confirmed(Missing("the ID token")))?;
        let verifier = client.id_token_verifier();
        let claims = id_token.claims(&verifier, &Nonce::new(attempt.nonce)).map_err(|error| {
            // Perhaps its keys have changed.
            self.forget();
            not_confirmed(error)
        })?;
        if let Some(expected) = claims.access_token_hash() {
            let algorithm = id_token.signing_alg().map_err(not_confirmed)?;
            let key = id_token.signing_key(&verifier).map_err(not_confirmed)?;
            let actual = AccessTokenHash::from_token(tokens.access_token(), algorithm, key).map_err(not_confirmed)?;
            if actual != *expected {
                return Err(not_confirmed(Missing("the access token that belongs to the ID token")));
            }
        }
        if claims.email().is_some() {
            return self.person(claims);
        }
        // Many providers tell the address only here (OpenID Connect Core 1.0 §5.4).
        let subject = Some(claims.subject().clone());
        let request = client.user_info(tokens.access_token().clone(), subject).map_err(provider)?;
        let more: CoreUserInfoClaims = request.request_async(&http).await.map_err(not_confirmed)?;
        let is_verified = more.email_verified() == Some(true);
        let email = more.email().filter(|_| is_verified).ok_or(OidcError::Unverified)?;
        let name = more.name().and_then(|name| name.get(None)).map(|name| name.to_string());
        Ok(self.named(claims, email.to_string(), name))
    }

    fn person(&self, claims: &CoreIdTokenClaims) -> Result<Person, OidcError> {
        let is_verified = claims.email_verified() == Some(true);
        let email = claims.email().filter(|_| is_verified).ok_or(OidcError::Unverified)?;
        let name = claims.name().and_then(|name| name.get(None)).map(|name| name.to_string());
        Ok(self.named(claims, email.to_string(), name))
    }

    fn named(&self, claims: &CoreIdTokenClaims, email_address: String, display_name: Option<String>) -> Person {
        let (issuer, subject) = (self.config.issuer.clone(), claims.subject().to_string());
        Person { issuer, subject, email_address, display_name }
    }

    async fn provider(&self) -> Result<CoreProviderMetadata, OidcError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((since, metadata)) = known
            && since.elapsed() < METADATA_LIFETIME
        {
            return Ok(metadata);
        }
        let http = self.caller();
        let found = CoreProviderMetadata::discover_async(self.issuer.clone(), &http).await.map_err(provider)?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn id(&self) -> ClientId {
        ClientId::new(self.config.client_id.clone())
    }

    fn secret(&self) -> Option<ClientSecret> {
        self.config.client_secret.as_ref().map(|secret| ClientSecret::new(secret.expose().clone()))
    }

    /// Sends what the library wants to be sent.
    fn caller(&self) -> impl Fn(HttpRequest) -> BoxedCall + Send + Sync + use<> {
        let client = self.http.clone();
        move |request| {
            let client = client.clone();
            Box::pin(async move {
                let response = client.execute(request.try_into()?).await?;
                let mut answer = http::Response::builder().status(response.status());
                if let Some(headers) = answer.headers_mut() {
                    headers.clone_from(response.headers());
                }
                Ok(answer.body(response.bytes().await?.to_vec())?)
            })
        }
    }
}

type BoxedCall = std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send>>;

impl Attempt {
    /// Whether a person who comes back is the one who went.
    #[must_use]
    pub fn began(&self, state: &str) -> bool {
        // Both are known to the browser; nothing is to be learnt from the time that it takes.
        !state.is_empty() && self.state == state
    }
}

fn provider(error: impl std::error::Error + Send + Sync + 'static) -> OidcError {
    OidcError::Provider(Box::new(error))
}

fn not_confirmed(error: impl std::error::Error + Send + Sync + 'static) -> OidcError {
    OidcError::NotConfirmed(Box::new(error))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oidc(issuer: &str, domains: &[&str]) -> Result<Oidc, OidcConfigError> {
        let config = OidcConfig {
            issuer: issuer.to_owned(),
            client_id: "towline".to_owned(),
            client_secret: None,
            allowed_domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        };
        Oidc::new(config, "https://towline.example.com")
    }

    #[test]
    fn only_secure_issuers_are_taken_but_on_this_machine() {
        for good in ["https://id.example.com", "https://id.example.com/realms/x/", "http://127.0.0.1:8080"] {
            assert!(oidc(good, &[]).is_ok(), "{good}");
        }
        for bad in ["http://id.example.com", "id.example.com", "", "ftp://127.0.0.1"] {
            assert!(oidc(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_domain_is_allowed_as_a_whole() {
        let oidc = oidc("https://id.example.com", &["Example.com"]).unwrap();
        assert!(oidc.allows("ada@example.COM"));
        for other in ["ada@sub.example.com", "ada@notexample.com", "example.com", "ada@example.com.evil.net", ""] {
            assert!(!oidc.allows(other), "{other}");
        }
    }
}
