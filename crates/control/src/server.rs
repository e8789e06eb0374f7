//! A whole server in one process: store, gateway, reconciler and API put together, started and ended in order.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_gateway::{
    Gateway, GatewayConfig,
    server_tls::{ServerTls, ServerTlsError},
};
use towline_model::{Clock, Secret};
use towline_store::{ConnectError, Store, StoreError, StoreOptions};

use crate::{
    acme::{Acme, AcmeConfig, AcmeError},
    agent_events::AgentEvents,
    app::{App, Parts, audit, pairing::WrongCodes, password::Passwords},
    bootstrap::{Bootstrap, BootstrapError, FirstStart},
    http::router::router,
    last_used::{self, LastUsed},
    mail::{MailConfig, MailConfigError, Mailer},
    oidc::{Oidc, OidcConfig, OidcConfigError},
    private_file,
    rate_limit::{RateLimitConfig, RateLimits},
    reconcile::{DesiredSets, Limits, Reconciler, Wake},
    secrets::{KeyRing, KeyRingError, KeySource, Vault},
    signing_key::{self, SigningKeyError},
    snapshot::Publisher,
};

/// How a server runs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where the signing key and the bootstrap file are. Created if it is missing.
    pub data_dir: PathBuf,
    /// `sqlite://PATH` or `postgres://…`.
    pub database_url: Secret<String>,
    /// Where the keys are that secrets are sealed under.
    pub secrets_key: KeySource,
    /// How the database is used.
    pub store: StoreOptions,
    /// Where callers and agents reach the server; `None` for `http://` and the address that is listened on.
    pub public_url: Option<String>,
    /// Whether an empty database gets its first owner, team and keys.
    pub bootstrap: bool,
    /// How mail is sent; `None` when it is not.
    pub mail: Option<MailConfig>,
    /// The identity provider that people sign in with; `None` for none.
    pub oidc: Option<OidcConfig>,
    /// Which certificate is ordered for TLS with callers and agents, instead of [`GatewayConfig::tls`]; `None` for none.
    pub acme: Option<AcmeConfig>,
    /// Limits of the gateway.
    pub gateway: GatewayConfig,
    /// Deadlines of services.
    pub limits: Limits,
    /// How often one may ask.
    pub rate_limits: RateLimitConfig,
    /// The longest body of a request of the management API, in bytes. Default 1 MiB.
    pub body_limit: usize,
    /// How long entries of the audit log are kept. Default 400 days.
    pub audit_retention: Duration,
    /// How often it is written down when keys were last used. Default 30 s.
    pub last_used_interval: Duration,
}

impl ServerConfig {
    /// A server with SQLite in its data directory and every default.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        let database_url = Secret::new(format!("sqlite://{}", data_dir.join("towline.db").display()));
        Self {
            secrets_key: KeySource::in_data_dir(&data_dir),
            data_dir,
            database_url,
            store: StoreOptions::default(),
            public_url: None,
            bootstrap: false,
            mail: None,
            oidc: None,
            acme: None,
            gateway: GatewayConfig::default(),
            limits: Limits::default(),
            rate_limits: RateLimitConfig::default(),
            body_limit: crate::app::DEFAULT_BODY_LIMIT,
            audit_retention: audit::DEFAULT_RETENTION,
            last_used_interval: last_used::DEFAULT_INTERVAL,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("cannot create the data directory {}: {source}; choose another with --data-dir", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The listener has no address.
    #[error("the listening socket cannot be used: {0}")]
    Listener(io::Error),
    /// The mail server.
    #[error(transparent)]
    Mail(#[from] MailConfigError),
    /// The identity provider.
    #[error(transparent)]
    Oidc(#[from] OidcConfigError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    /// The certificate that is to be ordered.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// The signing key.
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    /// The keys that secrets are sealed under.
    #[error(transparent)]
    SecretsKey(#[from] KeyRingError),
    /// The database cannot be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The first start.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A server that runs. Dropping it ends it at once; [`Server::shutdown`] ends it in order.
pub struct Server {
    addr: SocketAddr,
    url: String,
    bootstrap: Option<Bootstrap>,
    app: App,
    store: Store,
    /// Ends the listener.
    stop_serving: CancellationToken,
    /// Ends the loops behind it.
    stop_working: CancellationToken,
    serving: JoinSet<io::Result<()>>,
    working: JoinSet<()>,
}

impl Server {
    /// Opens the database and starts serving on the listener.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(config: ServerConfig, listener: TcpListener, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let addr = listener.local_addr().map_err(StartError::Listener)?;
        let url = config.public_url.clone().unwrap_or_else(|| url_of(addr));
        let oidc = config.oidc.clone().map(|oidc| Oidc::new(oidc, &url)).transpose()?;
        let mailer = config.mail.as_ref().map(Mailer::new).transpose()?;
        private_file::create_directory(&config.data_dir)
            .map_err(|source| StartError::DataDir { path: config.data_dir.clone(), source })?;
        let tokens = signing_key::load_or_create(&config.data_dir)?;
        let store = Store::connect(&config.database_url, config.store.clone()).await?;
        let sealed_under = store.read().await?.sealing_keys_in_use().await?;
        let vault = Vault::new(KeyRing::load(&config.secrets_key, &sealed_under)?);
        let passwords = Passwords::new();
        let first_start =
            FirstStart { store: &store, passwords: &passwords, clock: &*clock, data_dir: &config.data_dir, url: &url };
        let bootstrap = if config.bootstrap { first_start.run().await? } else { None };
        forget_sessions(&store).await?;
        if config.database_url.expose().starts_with("sqlite:") {
            forget_unanswered(&store).await?;
        }

        let awaiting = config.acme.is_some().then(ServerTls::awaiting).transpose()?;
        let tls = awaiting.clone().or(config.gateway.tls);
        let gateway_config = GatewayConfig { tls, ..config.gateway };
        let (gateway, events) = Gateway::new(gateway_config, tokens, Arc::clone(&clock));
        let publisher = Publisher::new(store.clone(), vault.clone(), gateway.clone(), Arc::clone(&clock));
        publisher.refresh().await?;
        let acme = match config.acme.zip(awaiting) {
            Some((acme, tls)) => Some(Acme::new(acme, &config.data_dir, tls, Arc::clone(&clock))?),
            None => None,
        };
        let (stop_serving, stop_working) = (CancellationToken::new(), CancellationToken::new());
        let app = App::new(Parts {
            store: store.clone(),
            gateway: gateway.clone(),
            clock: Arc::clone(&clock),
            publisher: publisher.clone(),
            wake: Wake::default(),
            limits: config.limits,
            body_limit: config.body_limit,
            audit_retention: config.audit_retention,
            passwords,
            rate_limits: RateLimits::new(&config.rate_limits),
            wrong_codes: WrongCodes::default(),
            vault: vault.clone(),
            mailer,
            oidc,
            public_url: url.clone(),
            tasks: TaskTracker::new(),
            shutdown: stop_serving.clone(),
        });

        let desired = Arc::new(DesiredSets::default());
        let mut working = JoinSet::new();
        let reconciler = Reconciler {
            store: store.clone(),
            gateway: gateway.clone(),
            clock: Arc::clone(&clock),
            publisher: publisher.clone(),
            vault,
            desired: Arc::clone(&desired),
            limits: config.limits,
            wake: app.wake(),
            up_since: clock.now(),
        };
        working.spawn(reconciler.run(stop_working.clone()));
        let agents = AgentEvents::new(&app, desired);
        working.spawn(agents.run(events, stop_working.clone()));
        let last_used = LastUsed::new(store.clone(), gateway.clone(), config.last_used_interval);
        working.spawn(last_used.run(stop_working.clone()));

        let mut serving = JoinSet::new();
        let (api, stop) = (router(&app), stop_serving.clone());
        serving.spawn(async move { gateway.serve(listener, api, stop).await });
        tracing::info!(%addr, "serving");
        if let Some(acme) = acme {
            // Its proof needs the listener, and so it ends with it.
            working.spawn(acme.run(stop_serving.clone()));
        }
        Ok(Self { addr, url, bootstrap, app, store, stop_serving, stop_working, serving, working })
    }

    /// The address that is listened on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where callers and agents reach the server.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What its API works with.
    #[must_use]
    pub const fn app(&self) -> &App {
        &self.app
    }

    /// The database that it works on.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// What the first start made, now or once; `None` without [`ServerConfig::bootstrap`], and when the file is gone.
    #[must_use]
    pub const fn bootstrap(&self) -> Option<&Bootstrap> {
        self.bootstrap.as_ref()
    }

    /// Serves what can be measured on a listener of its own, `GET /metrics`, to everybody who can connect to it, until the
    /// server ends. Its drain can be watched there too.
    pub fn serve_metrics(&mut self, listener: TcpListener) {
        let (gateway, stop) = (self.app.gateway().clone(), self.stop_working.clone());
        let headers = [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        let page = Router::new().route("/metrics", get(async move || (headers, gateway.metrics())));
        self.working.spawn(async move {
            let served = axum::serve(listener, page).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "metrics are served no more");
            }
        });
    }

    /// Returns when the server has stopped serving by itself.
    ///
    /// # Errors
    /// Why it did.
    pub async fn ended(&mut self) -> io::Result<()> {
        match self.serving.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Ok(()),
        }
    }

    /// Ends the server: takes nothing new, finishes what is in flight (as long as the gateway's drain may last), then
    /// stops what works behind it and closes the database.
    pub async fn shutdown(mut self) {
        self.stop_serving.cancel();
        while let Some(result) = self.serving.join_next().await {
            if let Ok(Err(error)) = result {
                tracing::warn!(%error, "the listener ended with an error");
            }
        }
        self.app.tasks().close();
        self.app.tasks().wait().await;
        self.stop_working.cancel();
        while self.working.join_next().await.is_some() {}
        self.store.close().await;
    }
}

/// Nobody has a session with a server that has just started. (With several servers on one database this is each server's
/// own sessions only; there is one for now.)
async fn forget_sessions(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    tx.clear_all_sessions().await?;
    tx.commit().await
}

/// No other server uses a SQLite database: requests without an answer were cut off with the server before this one, and
/// can be sent again with the same `Idempotency-Key`.
async fn forget_unanswered(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    let count = tx.release_unanswered_idempotency_keys().await?;
    if count > 0 {
        tracing::warn!(count, "requests with an Idempotency-Key were cut off when the server stopped");
    }
    tx.commit().await
}

/// A server that listens on every address is reached on this machine's own.
fn url_of(addr: SocketAddr) -> String {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_an_address_that_can_be_reached() {
        for (addr, url) in [
            ("127.0.0.1:7070", "http://127.0.0.1:7070"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:1", "http://[::1]:1"),
            ("192.0.2.1:9", "http://192.0.2.1:9"),
        ] {
            assert_eq!(url_of(addr.parse().unwrap()), url);
        }
    }
}
