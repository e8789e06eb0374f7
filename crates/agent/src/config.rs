//! What an agent is told when it is started. Reading it from flags, files and the environment is the binary's business.

use std::{path::PathBuf, time::Duration};

use towline_model::{
    KeyKind, RawKey, Secret,
    key::KeyError,
    service::{LABEL_RULE, OWN_LABEL_PREFIX, is_label},
};
use towline_tunnel::Workers;
use url::Url;

use crate::{
    connect::{ProxyConfig, SHORTEST_LIFETIME},
    identity,
    reach::policy::ReachPolicy,
};

/// The most carriers that one session may have.
pub const MAX_CARRIERS: usize = 64;
/// The most labels of an agent.
pub const MAX_LABELS: usize = 64;

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The server's base URL, `http` or `https`. A path in it is kept in front of the API's paths.
    pub server: Url,
    /// The agent key, `ak-…`.
    pub key: Secret<String>,
    /// The name, unique in the team: 1 to 100 characters.
    pub name: String,
    /// Labels that services can require, at most 64.
    pub labels: Vec<String>,
    /// Something that stays the same for this machine.
    pub machine_id: String,
    /// The most carriers of a session, 1 to 64.
    pub max_carriers: usize,
    /// The most streams at a time, over all carriers. Each holds one connection to a container.
    pub max_streams: usize,
    /// What the agent connects to when a service is a place rather than a container.
    pub reach: ReachPolicy,
    /// Certificates (PEM) that the server's is checked against, instead of the machine's trusted roots.
    pub ca_file: Option<PathBuf>,
    /// Through which proxy the server is reached.
    pub proxy: ProxyConfig,
    /// The age at which connections are cut on the way to the server: they are replaced before. What is observed counts
    /// too.
    pub connection_lifetime: Option<Duration>,
    /// How long streams that run may go on after the agent was told to stop.
    pub leave_deadline: Duration,
    /// The threads that carriers are dealt out to. Default none: they run where the agent does.
    pub workers: Workers,
}

impl AgentConfig {
    /// The defaults for this machine: its name, no labels, 64 carriers.
    #[must_use]
    pub fn new(server: Url, key: Secret<String>) -> Self {
        Self {
            server,
            key,
            name: identity::default_name(),
            labels: Vec::new(),
            machine_id: identity::machine_id(),
            max_carriers: MAX_CARRIERS,
            max_streams: 8192,
            reach: ReachPolicy::default(),
            ca_file: None,
            proxy: ProxyConfig::None,
            connection_lifetime: None,
            leave_deadline: Duration::from_secs(10),
            workers: Workers::default(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is wrong, and what it has to be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !matches!(self.server.scheme(), "http" | "https") || self.server.host_str().is_none_or(str::is_empty) {
            return Err(ConfigError::Server(self.server.scheme().to_owned()));
        }
        let server = &self.server;
        if !server.username().is_empty() || server.password().is_some() || server.query().is_some() {
            return Err(ConfigError::ServerExtras);
        }
        match RawKey::parse(self.key.expose()) {
            Ok(key) if key.kind() == KeyKind::Agent => {}
            Ok(key) => return Err(ConfigError::KeyKind(key.kind().prefix())),
            Err(error) => return Err(ConfigError::Key(error)),
        }
        let length = self.name.chars().count();
        if !(1..=100).contains(&length) || self.name.contains(char::is_control) {
            return Err(ConfigError::Name);
        }
        if self.labels.len() > MAX_LABELS {
            return Err(ConfigError::TooManyLabels(self.labels.len()));
        }
        if let Some(label) = self.labels.iter().find(|label| !is_label(label)) {
            return Err(ConfigError::Label(label.clone()));
        }
        if let Some(label) = self.labels.iter().find(|label| label.starts_with(OWN_LABEL_PREFIX)) {
            return Err(ConfigError::OwnLabel(label.clone()));
        }
        if !(1..=MAX_CARRIERS).contains(&self.max_carriers) {
            return Err(ConfigError::MaxCarriers(self.max_carriers));
        }
        if self.max_streams == 0 {
            return Err(ConfigError::MaxStreams);
        }
        if self.connection_lifetime.is_some_and(|limit| limit < SHORTEST_LIFETIME) {
            return Err(ConfigError::ConnectionLifetime);
        }
        Ok(())
    }
}

/// A setting that the agent cannot run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not an HTTP URL.
    #[error("the server's URL must start with http:// or https:// and name a host (it starts with {0}:)")]
    Server(String),
    /// A URL with a user, a password or a query. It is written on containers, where everybody could read them.
    #[error("the server's URL must not hold a user name, a password or a query; the agent's key goes elsewhere")]
    ServerExtras,
    /// Not a key at all.
    #[error("the agent key is not usable: {0}")]
    Key(KeyError),
    /// A key, and not an agent's.
    #[error(
        "the agent needs an agent key (ak-…) and was given one that starts with {0}; make one with `towline key create --kind agent`"
    )]
    KeyKind(&'static str),
    /// The name is too long, empty, or not printable.
    #[error("the agent's name must have 1 to 100 characters and no control characters")]
    Name,
    /// More labels than the server takes.
    #[error("an agent can have at most 64 labels, not {0}")]
    TooManyLabels(usize),
    /// A label that no service could require.
    #[error("the label {0:?} {LABEL_RULE}")]
    Label(String),
    /// A label that every agent has by itself.
    #[error("the label {0:?} cannot be given: every agent has its own towline.agent= label by itself")]
    OwnLabel(String),
    /// A number of carriers out of range.
    #[error("the most carriers must be from 1 to 64, not {0}")]
    MaxCarriers(usize),
    /// No stream would be allowed.
    #[error("the most streams must be at least 1")]
    MaxStreams,
    /// A proxy that cannot be one. Its URL may hold a password and is not repeated.
    #[error(
        "the proxy must be http://host:port or https://host:port, with user:password@ before the host if it wants them"
    )]
    Proxy,
    /// Credentials for the proxy that are no pair.
    #[error("the proxy's credentials must be user:password")]
    ProxyCredentials,
    /// Connections would be replaced all the time.
    #[error("the connections' lifetime must be at least 5 seconds")]
    ConnectionLifetime,
    /// The file with the certificates cannot be used.
    #[error("the CA file {path} cannot be used: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine's trusted roots cannot be used.
    #[error(
        "the machine's trusted certificates cannot be used: {0}; install them (package ca-certificates) or name a CA file"
    )]
    TrustedRoots(String),
    /// The server's host is no name that a certificate could be for.
    #[error("{0:?} is not a host name that TLS can check")]
    ServerName(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key with a right checksum that no server knows.
    fn key(kind: KeyKind) -> Secret<String> {
        Secret::new(RawKey::generate(kind, &mut rand::rng()).expose().clone())
    }

    fn config() -> AgentConfig {
        AgentConfig::new("http://127.0.0.1:7070".parse().unwrap(), key(KeyKind::Agent))
    }

    #[test]
    fn the_defaults_of_this_machine_are_valid() {
        config().validate().unwrap();
    }

    #[test]
    fn every_wrong_setting_says_what_it_has_to_be() {
        let check = |change: &dyn Fn(&mut AgentConfig), expected: &str| {
            let mut config = config();
            change(&mut config);
            let text = config.validate().unwrap_err().to_string();
            assert!(text.contains(expected), "{text:?} does not say {expected:?}");
        };
        check(&|c| c.server = "ftp://example.com".parse().unwrap(), "http://");
        check(&|c| c.server = "http://me:secret@example.com".parse().unwrap(), "user name");
        check(&|c| c.key = key(KeyKind::Integration), "ak-");
        check(&|c| c.key = Secret::new("ak-short".to_owned()), "mistyped");
        check(&|c| c.name = String::new(), "1 to 100");
        check(&|c| c.name = "two\nlines".to_owned(), "control");
        check(&|c| c.labels = vec!["a".to_owned(); 65], "64");
        check(&|c| c.labels = vec!["no spaces".to_owned()], "letters");
        check(&|c| c.labels = vec!["towline.agent=me".to_owned()], "by itself");
        check(&|c| c.max_carriers = 65, "1 to 64");
        check(&|c| c.max_streams = 0, "at least 1");
        check(&|c| c.connection_lifetime = Some(Duration::from_secs(4)), "5 seconds");
    }

    #[test]
    fn a_configuration_never_shows_its_key() {
        let config = config();
        assert!(!format!("{config:?}").contains(&config.key.expose()[3..]));
    }
}
