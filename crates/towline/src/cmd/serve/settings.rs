//! The settings of a server on the command line, and what they come to.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueHint};
use towline_control::{
    ServerConfig,
    mail::MailConfig,
    oidc::OidcConfig,
    rate_limit::{InvalidRate, Rate, RateLimitConfig},
    secrets::KeySource,
};
use towline_gateway::{GatewayConfig, forwarded::AddressRange};
use towline_model::Secret;
use url::Url;

use super::certificate::{AcmeArgs, TlsArgs, certificates};
use crate::{
    cli::parse_server_url,
    client::connect::read_secret_file,
    failure::Failure,
    units::{
        parse_api_body_limit, parse_busy_poll, parse_connection_lifetime, parse_duration, parse_head_limit, parse_size,
    },
};

/// Settings of a server, whether alone or in `towline up`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The address and port to listen on, for callers and agents; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// An address and port to serve metrics on, as OpenMetrics text below /metrics, to everybody who can connect there [default:
    /// none are served].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Where the server keeps its state [default: ~/.local/share/towline].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// The URL by which callers and agents reach this server [default: http:// and the address it listens on].
    #[arg(long, value_name = "URL", value_parser = parse_server_url)]
    pub public_url: Option<Url>,
    /// How long requests in flight may go on when the server is told to stop: a number with ms, s, m or h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub drain_timeout: Duration,
    /// The age at which a balancer before this server cuts every connection of agents, also busy ones, at least 5s: agents replace
    /// each at 70 to 80 % of it, so that streams shorter than the rest are not cut [default: as agents observe].
    #[arg(
        id = "agents.connection_lifetime",
        long = "agent-connection-lifetime",
        value_name = "DURATION",
        value_parser = parse_connection_lifetime
    )]
    agent_connection_lifetime: Option<Duration>,
    /// How long a worker thread whose work comes in quick succession, one request after another, looks for more before it sleeps,
    /// while nobody else wants its core: at most 1ms, 0 to sleep at once. Answers come sooner; such a thread counts as busy.
    #[arg(long, value_name = "DURATION", value_parser = parse_busy_poll, default_value = "100us")]
    pub busy_poll: Duration,
    /// A PEM file with certificates that those of external services are checked against, beside the machine's trusted
    /// ones.
    #[arg(id = "external.ca_file", long = "external-ca-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    external_ca_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    acme: AcmeArgs,
    #[command(flatten)]
    secrets_key: SecretsKeyArgs,
    #[command(flatten)]
    mail: MailArgs,
    #[command(flatten)]
    oidc: OidcArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

impl ServeArgs {
    /// A server with these settings.
    ///
    /// # Errors
    /// When settings do not go together, or a file that they name cannot be used.
    pub fn config(&self, data_dir: &Path, database_url: Option<Secret<String>>) -> Result<ServerConfig, Failure> {
        let mut config = ServerConfig::new(data_dir);
        config.public_url = self.public_url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
        config.database_url = database_url.unwrap_or(config.database_url);
        config.secrets_key = self.secrets_key.source(data_dir);
        config.mail = self.mail.config()?;
        config.oidc = self.oidc.config()?;
        self.limits.apply(&mut config);
        config.gateway.tls = self.tls.config(self.public_url.as_ref())?;
        config.acme = self.acme.config(self.public_url.as_ref())?;
        if config.gateway.tls.is_some() && config.acme.is_some() {
            return Err(Failure::usage("a certificate is given by files, and another one is to be ordered")
                .hint("say either --tls-cert and --tls-key, or --acme-domain"));
        }
        config.gateway.drain_timeout = self.drain_timeout;
        config.gateway.agent_connection_lifetime = self.agent_connection_lifetime;
        config.gateway.external_roots = self
            .external_ca_file
            .as_deref()
            .map_or_else(|| Ok(Vec::new()), |path| certificates("--external-ca-file", path))?;
        Ok(config)
    }
}

/// Where the keys are that secrets are sealed under.
#[derive(Debug, Clone, Args)]
pub struct SecretsKeyArgs {
    /// The file with the keys that secrets are sealed under; it is made when nothing is sealed yet [default: secrets.key
    /// in the data directory].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    secrets_key_file: Option<PathBuf>,
    /// The keys themselves, the newest first, separated by commas: base64 of 32 bytes each. Set the variable rather than
    /// the option, which everybody on the machine can see in the list of processes.
    #[arg(long, value_name = "KEYS", conflicts_with = "secrets_key_file")]
    secrets_key: Option<Secret<String>>,
}

impl SecretsKeyArgs {
    /// Where the keys are for a server with this data directory.
    pub fn source(&self, data_dir: &Path) -> KeySource {
        match (&self.secrets_key, &self.secrets_key_file) {
            (Some(keys), _) => KeySource::Given(keys.clone()),
            (None, Some(path)) => KeySource::File(path.clone()),
            (None, None) => KeySource::in_data_dir(data_dir),
        }
    }
}

/// How invitations are mailed. Without a mail server they are shown to whoever invites.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mail")]
struct MailArgs {
    /// The mail server: smtps://USER:PASSWORD@HOST, or smtp://HOST:PORT with ?tls=required for STARTTLS
    /// [default: no mail is sent].
    #[arg(id = "smtp.url", long = "smtp-url", value_name = "URL", conflicts_with = "smtp.url_file")]
    smtp_url: Option<Secret<String>>,
    /// A file that holds only the mail server's URL.
    #[arg(id = "smtp.url_file", long = "smtp-url-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    smtp_url_file: Option<PathBuf>,
    /// The sender of mails, such as "Towline <towline@example.com>".
    #[arg(id = "smtp.from", long = "smtp-from", value_name = "ADDRESS")]
    smtp_from: Option<String>,
}

/// Limits of a server. The defaults suit a production server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits of the server")]
struct LimitArgs {
    /// The most connections, callers' and agents' together.
    #[arg(id = "limits.max_connections", long = "max-connections", value_name = "N", default_value_t = 50_000)]
    max_connections: usize,
    /// The most agents of one team that may be connected.
    #[arg(id = "limits.max_agents_per_team", long = "max-agents-per-team", value_name = "N", default_value_t = 1000)]
    max_agents_per_team: usize,
    /// The most agents that may be connected from one address.
    #[arg(
        id = "limits.max_agents_per_address",
        long = "max-agents-per-address",
        value_name = "N",
        default_value_t = 1000
    )]
    max_agents_per_address: usize,
    /// The memory that data on its way to slow readers may take in all.
    #[arg(
        id = "limits.tunnel_memory",
        long = "tunnel-memory",
        value_name = "SIZE",
        value_parser = parse_size,
        default_value = "256MiB"
    )]
    tunnel_memory: u64,
    /// The longest head of a request, and of a container's answer: 8KiB to 1MiB. A longer one is answered with 431, or 502.
    #[arg(
        id = "limits.head_limit",
        long = "head-limit",
        value_name = "SIZE",
        value_parser = parse_head_limit,
        default_value = "64KiB"
    )]
    head_limit: u64,
    /// The longest request body of the management API: 64KiB to 16MiB. A longer one is answered with 413.
    #[arg(
        id = "limits.api_body_limit",
        long = "api-body-limit",
        value_name = "SIZE",
        value_parser = parse_api_body_limit,
        default_value = "1MiB"
    )]
    api_body_limit: u64,
    /// The longest request body of an invoke. The proxy has no such limit.
    #[arg(
        id = "limits.invoke_request_limit",
        long = "invoke-request-limit",
        value_name = "SIZE",
        value_parser = parse_size,
        default_value = "32MiB"
    )]
    invoke_request_limit: u64,
    /// The longest response body of an invoke. The proxy has no such limit.
    #[arg(
        id = "limits.invoke_response_limit",
        long = "invoke-response-limit",
        value_name = "SIZE",
        value_parser = parse_size,
        default_value = "32MiB"
    )]
    invoke_response_limit: u64,
    /// The memory that the bodies of all invokes may take at a time; what does not fit is answered with 503.
    #[arg(
        id = "limits.invoke_memory",
        long = "invoke-memory",
        value_name = "SIZE",
        value_parser = parse_size,
        default_value = "256MiB"
    )]
    invoke_memory: u64,
    /// An address or range such as 10.0.0.0/8 of proxies in front of this server, whose Forwarded and X-Forwarded-*
    /// headers are believed; repeat for several [default: none].
    #[arg(id = "limits.trusted_proxy", long = "trusted-proxy", value_name = "RANGE")]
    trusted_proxy: Vec<AddressRange>,
    /// Attempts to get in from one address (signing in, accepting an invitation, pairing): a number and a period such as
    /// 60/m or 20/10m, or off.
    #[arg(id = "limits.sign_in_rate", long = "sign-in-rate", value_name = "RATE", default_value = "60/m")]
    sign_in_rate: RateArg,
    /// Passwords tried for one account, from wherever.
    #[arg(id = "limits.account_rate", long = "account-rate", value_name = "RATE", default_value = "20/m")]
    account_rate: RateArg,
    /// Requests of the API with one credential or of one signed-in user. Calls of services are not limited.
    #[arg(id = "limits.api_rate", long = "api-rate", value_name = "RATE", default_value = "1200/m")]
    api_rate: RateArg,
    /// Requests of the API from one address without a valid credential.
    #[arg(id = "limits.anonymous_rate", long = "anonymous-rate", value_name = "RATE", default_value = "600/m")]
    anonymous_rate: RateArg,
    /// How long an instance may wait for an eligible agent before its deploy has failed.
    #[arg(
        id = "limits.placement_timeout",
        long = "placement-timeout",
        value_name = "DURATION",
        value_parser = parse_duration,
        default_value = "30s"
    )]
    placement_timeout: Duration,
    /// How long requests in flight may go on after an undeploy or an update.
    #[arg(
        id = "limits.undeploy_drain",
        long = "undeploy-drain",
        value_name = "DURATION",
        value_parser = parse_duration,
        default_value = "30s"
    )]
    undeploy_drain: Duration,
    /// How long an agent may be offline before its instances are replaced elsewhere.
    #[arg(
        id = "limits.agent_lost_after",
        long = "agent-lost-after",
        value_name = "DURATION",
        value_parser = parse_duration,
        default_value = "60s"
    )]
    agent_lost_after: Duration,
    /// How long an image may take to be pulled.
    #[arg(
        id = "limits.pull_timeout",
        long = "pull-timeout",
        value_name = "DURATION",
        value_parser = parse_duration,
        default_value = "1h"
    )]
    pull_timeout: Duration,
    /// How long entries of the audit log are kept.
    #[arg(
        id = "limits.audit_retention",
        long = "audit-retention",
        value_name = "DURATION",
        value_parser = parse_duration,
        default_value = "9600h"
    )]
    audit_retention: Duration,
}

/// A rate on the command line; `off` is without limit.
#[derive(Debug, Clone, Copy)]
struct RateArg(Option<Rate>);

impl FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            text => text.parse().map(|rate| Self(Some(rate))).map_err(|error: InvalidRate| format!("{error}, or off")),
        }
    }
}

/// Sign-in with an identity provider, beside passwords.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sign-in with OpenID Connect")]
struct OidcArgs {
    /// The identity provider's URL, exactly as it names itself, such as https://id.example.com. People are sent back to
    /// /api/v1/auth/oidc/callback below --public-url [default: no such sign-in].
    #[arg(id = "oidc.issuer", long = "oidc-issuer", value_name = "URL")]
    issuer: Option<String>,
    /// This server's client id at the identity provider.
    #[arg(id = "oidc.client_id", long = "oidc-client-id", value_name = "ID")]
    client_id: Option<String>,
    /// This server's client secret at the identity provider [default: a public client].
    #[arg(
        id = "oidc.client_secret",
        long = "oidc-client-secret",
        value_name = "SECRET",
        conflicts_with = "oidc.client_secret_file"
    )]
    client_secret: Option<Secret<String>>,
    /// A file that holds only the client secret.
    #[arg(id = "oidc.client_secret_file", long = "oidc-client-secret-file", value_name = "FILE",
          value_hint = ValueHint::FilePath)]
    client_secret_file: Option<PathBuf>,
    /// A domain, such as example.com, whose people get an account without an invitation when the identity provider has
    /// verified their address; repeat for several [default: none].
    #[arg(id = "oidc.allowed_domain", long = "oidc-allowed-domain", value_name = "DOMAIN")]
    allowed_domain: Vec<String>,
}

impl OidcArgs {
    fn config(&self) -> Result<Option<OidcConfig>, Failure> {
        let Some(issuer) = self.issuer.clone() else { return Ok(None) };
        let Some(client_id) = self.client_id.clone() else {
            return Err(Failure::usage("an identity provider is given, but not what this server is there")
                .hint("say --oidc-client-id"));
        };
        let client_secret = match (&self.client_secret, &self.client_secret_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(read_secret_file(path)?),
            (None, None) => None,
        };
        Ok(Some(OidcConfig { issuer, client_id, client_secret, allowed_domains: self.allowed_domain.clone() }))
    }
}

impl MailArgs {
    fn config(&self) -> Result<Option<MailConfig>, Failure> {
        let smtp_url = match (&self.smtp_url, &self.smtp_url_file) {
            (Some(url), _) => url.clone(),
            (None, Some(path)) => read_secret_file(path)?,
            (None, None) => return Ok(None),
        };
        let Some(from) = self.smtp_from.clone() else {
            return Err(Failure::usage("a mail server is given, but no sender")
                .hint("say --smtp-from, such as \"Towline <towline@example.com>\""));
        };
        Ok(Some(MailConfig { smtp_url, from }))
    }
}

impl LimitArgs {
    fn apply(&self, config: &mut ServerConfig) {
        let bytes = |size| usize::try_from(size).unwrap_or(usize::MAX);
        config.gateway = GatewayConfig {
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            max_connections: self.max_connections,
            max_agents_per_team: self.max_agents_per_team,
            max_agents_per_address: self.max_agents_per_address,
            tunnel_budget_bytes: bytes(self.tunnel_memory),
            head_limit: bytes(self.head_limit),
            invoke_request_limit: bytes(self.invoke_request_limit),
            invoke_response_limit: bytes(self.invoke_response_limit),
            invoke_memory_bytes: bytes(self.invoke_memory),
            trusted_proxies: self.trusted_proxy.clone(),
            ..GatewayConfig::default()
        };
        config.rate_limits = RateLimitConfig {
            sign_in_per_address: self.sign_in_rate.0,
            sign_in_per_account: self.account_rate.0,
            api_per_credential: self.api_rate.0,
            api_per_address: self.anonymous_rate.0,
        };
        config.limits.placement = self.placement_timeout;
        config.limits.drain = self.undeploy_drain;
        config.limits.agent_lost = self.agent_lost_after;
        config.limits.pull = self.pull_timeout;
        config.body_limit = bytes(self.api_body_limit);
        config.audit_retention = self.audit_retention;
    }
}
