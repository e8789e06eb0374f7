//! One order at an ACME authority, from the account to the certificate (RFC 8555 §7), with the proof of TLS-ALPN-01
//! (RFC 8737). Whether and when there is another one is decided elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use instant_acme::{
    Account, AccountBuilder, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use towline_gateway::server_tls::{OpenChallenge, ServerTls};
use towline_model::{Clock, Secret};

use super::{
    AcmeConfig, Orders,
    kept::{self, Kept, KeptError},
    transport::Transport,
};

/// How often and for how long the authority is asked whether it has looked, or has issued, when it does not say itself.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(180));

/// Why certificates cannot be ordered at all.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The data directory.
    #[error("the certificate's directory cannot be used: {0}")]
    Kept(String),
    /// The HTTPS client.
    #[error("no HTTPS client can be made for the certificate authority: {0}")]
    Client(#[from] reqwest::Error),
}

impl From<KeptError> for AcmeError {
    fn from(error: KeptError) -> Self {
        Self::Kept(error.to_string())
    }
}

/// A certificate as it was issued, in PEM.
pub(crate) struct Issued {
    /// The certificate, and those between it and its authority.
    pub chain: String,
    /// Its private key.
    pub key: Secret<String>,
}

/// Who has to do something about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The authority could not be reached.
    Unreachable,
    /// It said no, or what it said cannot be used.
    Refused,
}

/// Why there is no certificate.
#[derive(Debug)]
pub(crate) struct Failure {
    pub kind: Kind,
    /// In the authority's words, if it is its.
    pub reason: String,
    /// The type of the authority's problem (RFC 8555 §6.7), without what all of them begin with.
    pub problem: Option<String>,
    /// How long the authority wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, reason: reason.into(), problem: None, retry_after: None }
    }

    /// What whoever runs the server can do about it.
    pub(super) fn next(&self) -> &'static str {
        if self.kind == Kind::Unreachable {
            return "this server must reach the authority's directory by HTTPS: look at --acme-directory, the network, and \
                --acme-ca-file if its certificate is not trusted";
        }
        match self.problem.as_deref() {
            Some("connection" | "tls" | "unauthorized" | "incorrectResponse") => {
                "port 443 of each domain must lead to this server's --listen, seen from the internet and with nothing between that \
                 ends TLS, also by IPv6 where the domain has an AAAA record"
            }
            Some("dns") => "each domain needs an A or AAAA record in the public DNS that leads to this server",
            Some("caa") => {
                "a CAA record of the domain forbids this authority to issue: change it, or take another authority"
            }
            Some("rateLimited") => "nothing; the authority is asked again when it wants to be",
            Some("rejectedIdentifier") => "the authority does not issue for such a name: look at --acme-domain",
            Some("externalAccountRequired") => {
                "this authority only serves accounts that were made with it before, which is not supported: take another one"
            }
            Some("userActionRequired") => {
                "the authority wants its new terms to be agreed to: follow the link that it gives"
            }
            Some("invalidContact" | "unsupportedContact") => "look at --acme-contact",
            _ => "nothing, if it passes; otherwise ask the authority",
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = if matches!(error, Error::Other(_)) { Kind::Unreachable } else { Kind::Refused };
        let retry_after = match &error {
            Error::Timeout(Some(at)) => Some(at.saturating_duration_since(Instant::now())),
            _ => None,
        };
        let problem = match &error {
            Error::Api(problem) => {
                problem.r#type.as_deref().and_then(|name| name.rsplit(':').next()).map(str::to_owned)
            }
            _ => None,
        };
        Self { kind, reason: error.to_string(), problem, retry_after }
    }
}

impl From<rcgen::Error> for Failure {
    fn from(error: rcgen::Error) -> Self {
        Self::refused(format!("no certificate request could be made: {error}"))
    }
}

impl From<KeptError> for Failure {
    fn from(error: KeptError) -> Self {
        Self::refused(error.to_string())
    }
}

/// An authority, and what is wanted of it.
pub(crate) struct Authority {
    directory: String,
    contacts: Vec<String>,
    names: Vec<String>,
    kept: Kept,
    tls: ServerTls,
    transport: Transport,
}

impl Orders for Authority {
    async fn order(&mut self) -> Result<Issued, Failure> {
        self.transport.take_told();
        let outcome = self.order_with_account().await;
        let told = self.transport.take_told();
        outcome.map_err(|failure| Failure { retry_after: failure.retry_after.or(told), ..failure })
    }
}

impl Authority {
    pub(super) fn new(
        config: AcmeConfig,
        names: Vec<String>,
        kept: Kept,
        tls: ServerTls,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AcmeError> {
        let transport = Transport::new(&config.roots, clock)?;
        let contacts = config.contacts.iter().map(|address| format!("mailto:{address}")).collect();
        Ok(Self { directory: config.directory, contacts, names, kept, tls, transport })
    }

    async fn order_with_account(&self) -> Result<Issued, Failure> {
        let account = match self.kept.account()? {
            Some(kept) if kept.directory == self.directory => self.known_account(kept).await,
            _ => self.new_account().await.map(Some),
        };
        let order = match account? {
            Some(account) => match self.new_order(&account).await {
                Err(Error::Api(problem)) if is_unknown_account(&problem) => None,
                other => Some(other?),
            },
            None => None,
        };
        let order = match order {
            Some(order) => order,
            None => {
                tracing::warn!(directory = %self.directory, "the certificate authority has forgotten the account; making a new one");
                self.new_order(&self.new_account().await?).await?
            }
        };
        self.finish(order).await
    }

    fn accounts(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(self.transport.clone()))
    }

    fn contacts(&self) -> Vec<&str> {
        self.contacts.iter().map(String::as_str).collect()
    }

    /// The account that is kept; `None` when the authority does not know it.
    async fn known_account(&self, kept: kept::Account) -> Result<Option<Account>, Failure> {
        let is_reached_otherwise = kept.contacts != self.contacts;
        let again = if is_reached_otherwise { self.kept.account()? } else { None };
        let account = self.accounts().from_credentials(kept.credentials).await?;
        if let Some(kept) = again {
            match account.update_contacts(&self.contacts()).await {
                Err(Error::Api(problem)) if is_unknown_account(&problem) => return Ok(None),
                other => other?,
            }
            self.kept.keep_account(&kept::Account { contacts: self.contacts.clone(), ..kept }).await?;
        }
        Ok(Some(account))
    }

    async fn new_account(&self) -> Result<Account, Failure> {
        let contacts = self.contacts();
        let wanted = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = self.accounts().create(&wanted, self.directory.clone(), None).await?;
        let (directory, contacts) = (self.directory.clone(), self.contacts.clone());
        self.kept.keep_account(&kept::Account { directory, contacts, credentials }).await?;
        tracing::info!(directory = %self.directory, account = account.id(), "an account was made at the certificate authority");
        Ok(account)
    }

    async fn new_order(&self, account: &Account) -> Result<Order, Error> {
        let identifiers: Vec<_> = self.names.iter().cloned().map(Identifier::Dns).collect();
        account.new_order(&NewOrder::new(&identifiers)).await
    }

    /// Proves that the domains lead here, and fetches the certificate.
    async fn finish(&self, mut order: Order) -> Result<Issued, Failure> {
        let open = self.open_challenges(&mut order).await?;
        if order.state().status != OrderStatus::Ready {
            match order.poll_ready(&POLL).await {
                Ok(OrderStatus::Ready) => {}
                Ok(status) => {
                    let silent = format!("the order is {status:?}, and the authority does not say why");
                    return Err(refusal(&mut order, Failure::refused(silent)).await);
                }
                Err(error @ Error::Api(_)) => return Err(refusal(&mut order, error.into()).await),
                Err(error) => return Err(error.into()),
            }
        }
        drop(open);
        // A key of its own for each certificate: one that was found out is good for this one only.
        let key = KeyPair::generate()?;
        let mut request = CertificateParams::new(self.names.clone())?;
        request.distinguished_name = DistinguishedName::new();
        order.finalize_csr(request.serialize_request(&key)?.der()).await?;
        let chain = order.poll_certificate(&POLL).await?;
        Ok(Issued { chain, key: Secret::new(key.serialize_pem()) })
    }

    /// Answers the challenge of each domain that is not proven yet, and tells the authority to look.
    async fn open_challenges(&self, order: &mut Order) -> Result<Vec<OpenChallenge>, Failure> {
        let mut open = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let domain = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                status => {
                    return Err(Failure::refused(format!("the order's proof for {domain} is {status:?} already")));
                }
            }
            let mut challenge = authorization.challenge(ChallengeType::TlsAlpn01).ok_or_else(|| {
                let way = "prove themselves by TLS (tls-alpn-01), which is the only way here: take another authority";
                Failure::refused(format!("the authority does not let domains such as {domain} {way}"))
            })?;
            open.push(self.open_challenge(&domain, challenge.key_authorization().digest().as_ref())?);
            challenge.set_ready().await?;
        }
        Ok(open)
    }

    /// RFC 8737 §3: a certificate for the domain that it issued itself, with the digest in a critical extension.
    fn open_challenge(&self, domain: &str, digest: &[u8]) -> Result<OpenChallenge, Failure> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![domain.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = params.self_signed(&key)?;
        let unusable =
            |error: &dyn std::fmt::Display| Failure::refused(format!("the challenge cannot be answered: {error}"));
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| unusable(&error))?;
        let opened = self.tls.open_challenge(domain, certificate.der().clone(), &key);
        opened.map_err(|error| unusable(&error))
    }
}

/// Why an order is not ready, as its challenges tell: they know which domain it was, and not every authority says anything in
/// the order itself. When they are silent, it is what was known before.
async fn refusal(order: &mut Order, known: Failure) -> Failure {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let domain = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            let failure = Failure::from(Error::Api(problem));
            return Failure { reason: format!("{domain}: {}", failure.reason), ..failure };
        }
    }
    known
}

fn is_unknown_account(problem: &Problem) -> bool {
    problem.r#type.as_deref().is_some_and(|name| name.ends_with(":accountDoesNotExist"))
}
