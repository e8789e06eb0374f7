//! What can be done with Towline: the rules, one file for each noun.
//!
//! A verb takes values and ids, works in one transaction, and returns a value or a small error that says what to do.
//! It has been decided before that its principal may call it. It never sees HTTP. After a commit that changes routes or
//! credentials it refreshes the gateway's snapshot before it returns, so that what was answered is already true.

pub mod agent;
pub mod audit;
pub mod credential;
pub mod idempotency;
pub mod invitation;
pub mod log;
pub mod member;
pub mod oidc;
pub mod pairing;
pub mod password;
pub mod precondition;
pub mod secret;
pub mod service;
pub mod service_details;
pub mod sign_in;
pub mod team;
pub mod user;

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_gateway::Gateway;
use towline_model::{Clock, Principal, ServiceId, Timestamp};
use towline_store::{ServiceRow, Store, StoreError, Tx};

use crate::{
    app::{pairing::WrongCodes, password::Passwords},
    mail::Mailer,
    oidc::Oidc,
    rate_limit::RateLimits,
    reconcile::{Limits, Wake},
    secrets::Vault,
    snapshot::Publisher,
};

/// The longest body of a request when nothing else is wished, in bytes.
pub const DEFAULT_BODY_LIMIT: usize = 1 << 20;

/// Everything that verbs work with. Clones share it.
#[derive(Clone)]
pub struct App {
    pub(crate) inner: Arc<Parts>,
}

/// The parts of an [`App`].
pub struct Parts {
    /// The database.
    pub store: Store,
    /// The gateway: who asks, what is in flight, logs.
    pub gateway: Gateway,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The way to a fresh snapshot.
    pub publisher: Publisher,
    /// Wakes the reconciler.
    pub wake: Wake,
    /// The reconciler's deadlines.
    pub limits: Limits,
    /// The longest body of a request, in bytes.
    pub body_limit: usize,
    /// How long entries of the audit log are kept.
    pub audit_retention: Duration,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Counts requests.
    pub rate_limits: RateLimits,
    /// Wrong pairing codes that users have typed.
    pub wrong_codes: WrongCodes,
    /// Sends mail, when there is a mail server.
    pub mailer: Option<Mailer>,
    /// The identity provider that people sign in with, when there is one.
    pub oidc: Option<Oidc>,
    /// Where people and agents reach the server.
    pub public_url: String,
    /// Seals and opens secrets.
    pub vault: Vault,
    /// Owns the requests that change something, so that they end even when their caller goes away.
    pub tasks: TaskTracker,
    /// Cancelled when the server is told to end: endless answers end then.
    pub shutdown: CancellationToken,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { inner: Arc::new(parts) }
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.inner.gateway
    }

    /// The counters of requests.
    #[must_use]
    pub fn rate_limits(&self) -> &RateLimits {
        &self.inner.rate_limits
    }

    /// The longest body of a request, in bytes.
    #[must_use]
    pub fn body_limit(&self) -> usize {
        self.inner.body_limit
    }

    /// The owner of requests that run to their end.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Cancelled when the server is told to end.
    #[must_use]
    pub fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    /// Wakes the reconciler.
    #[must_use]
    pub fn wake(&self) -> Wake {
        self.inner.wake.clone()
    }

    /// Whether people can sign in with an identity provider.
    #[must_use]
    pub fn has_oidc(&self) -> bool {
        self.inner.oidc.is_some()
    }

    /// Whether people reach the server by HTTPS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.inner.public_url.starts_with("https://")
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check_database(&self) -> Result<(), StoreError> {
        self.inner.store.revision().await.map(drop)
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    async fn read(&self) -> Result<Tx, StoreError> {
        self.inner.store.read().await
    }

    async fn write(&self) -> Result<Tx, StoreError> {
        self.inner.store.write().await
    }

    /// Makes what was committed true for callers, then wakes the reconciler.
    async fn publish(&self) -> Result<(), StoreError> {
        let published = self.inner.publisher.refresh().await;
        self.inner.wake.wake();
        published
    }
}

/// The service of that id, if there is one for this principal.
async fn find_service(tx: &mut Tx, principal: &Principal, id: ServiceId) -> Result<Option<ServiceRow>, StoreError> {
    match principal.sees(id) {
        true => tx.find_service(principal.team_id(), id).await,
        false => Ok(None),
    }
}

/// Who did something, as events tell it.
async fn actor(tx: &mut Tx, principal: &Principal) -> Result<String, StoreError> {
    match principal {
        Principal::User { user_id, .. } | Principal::Device { user_id, .. } => {
            let user = tx.find_user(*user_id).await?;
            Ok(user.map_or_else(|| "a removed user".to_owned(), |user| user.email_address))
        }
        Principal::Integration { credential_id, team_id, .. } => {
            let key = tx.find_credential(*team_id, *credential_id).await?;
            Ok(key.map_or_else(|| "a removed key".to_owned(), |key| format!("the key {:?}", key.display_name)))
        }
    }
}
