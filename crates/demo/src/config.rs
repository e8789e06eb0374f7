//! What the environment may change about the demo service. Chiefly faults, so that a test can ask for a container that is late, ill or short-lived.

use std::time::Duration;

use thiserror::Error;

/// The port that the contract gives the demo service.
const DEFAULT_PORT: u16 = 8080;

/// Settings of one run. [`Config::default`] is a healthy server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Port to listen on, 0 for one that the system chooses (`PORT`).
    pub port: u16,
    /// The port stays closed for this long after the start (`DEMO_LISTEN_DELAY_MS`).
    pub listen_delay: Duration,
    /// `/health` answers 503 for this long after the start (`DEMO_HEALTH_DELAY_MS`).
    pub health_delay: Duration,
    /// What `/health` answers after that (`DEMO_HEALTH_STATUS`), 200 to 999.
    pub health_status: u16,
    /// The process ends by itself, without a word to anybody, after this long (`DEMO_EXIT_AFTER_MS`).
    pub exit_after: Option<Duration>,
    /// The exit code of that (`DEMO_EXIT_CODE`), 1 by default.
    pub exit_code: u8,
    /// SIGTERM is ignored, as by a process that has to be killed (`DEMO_IGNORE_SIGTERM=1`).
    pub ignore_sigterm: bool,
    /// An HTTP/1 caller that closes its sending side still gets its answer (`DEMO_HALF_CLOSE=1`). By default that counts as having gone away.
    pub half_close: bool,
    /// How long requests in flight may take to end after the shutdown was asked for.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            listen_delay: Duration::ZERO,
            health_delay: Duration::ZERO,
            health_status: 200,
            exit_after: None,
            exit_code: 1,
            ignore_sigterm: false,
            half_close: false,
            drain: Duration::from_secs(10),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name}={value:?} is not usable: expected {expected}")]
pub struct ConfigError {
    name: &'static str,
    value: String,
    expected: &'static str,
}

impl Config {
    /// Reads the settings through `lookup`, which maps a variable's name to its value. An empty value counts as absent.
    ///
    /// # Errors
    /// When a value is present and not of the expected form.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let defaults = Self::default();
        let millis = |name| number(&lookup, name, "milliseconds").map(|ms| ms.map(Duration::from_millis));
        let flag = |name| lookup(name).is_some_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
        let health_status = number::<u16>(&lookup, "DEMO_HEALTH_STATUS", STATUS)?.unwrap_or(defaults.health_status);
        if !(200..=999).contains(&health_status) {
            return Err(ConfigError { name: "DEMO_HEALTH_STATUS", value: health_status.to_string(), expected: STATUS });
        }
        Ok(Self {
            port: number(&lookup, "PORT", "a port, 0 to 65535")?.unwrap_or(defaults.port),
            listen_delay: millis("DEMO_LISTEN_DELAY_MS")?.unwrap_or_default(),
            health_delay: millis("DEMO_HEALTH_DELAY_MS")?.unwrap_or_default(),
            health_status,
            exit_after: millis("DEMO_EXIT_AFTER_MS")?,
            exit_code: number(&lookup, "DEMO_EXIT_CODE", "an exit code, 0 to 255")?.unwrap_or(defaults.exit_code),
            ignore_sigterm: flag("DEMO_IGNORE_SIGTERM"),
            half_close: flag("DEMO_HALF_CLOSE"),
            drain: defaults.drain,
        })
    }
}

const STATUS: &str = "an HTTP status, 200 to 999";

fn number<N: std::str::FromStr>(
    lookup: impl Fn(&str) -> Option<String>,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<N>, ConfigError> {
    match lookup(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => value.parse().map(Some).map_err(|_| ConfigError { name, value, expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn nothing_set_is_a_healthy_server_on_8080() {
        assert_eq!(from(&[]).unwrap(), Config::default());
        assert_eq!(from(&[("PORT", ""), ("DEMO_HALF_CLOSE", "0")]).unwrap(), Config::default());
    }

    #[test]
    fn every_fault_can_be_set() {
        let config = from(&[
            ("PORT", "0"),
            ("DEMO_HEALTH_DELAY_MS", "1500"),
            ("DEMO_HEALTH_STATUS", "500"),
            ("DEMO_EXIT_AFTER_MS", "0"),
            ("DEMO_EXIT_CODE", "7"),
            ("DEMO_IGNORE_SIGTERM", "1"),
        ])
        .unwrap();
        assert_eq!(config.port, 0);
        assert_eq!(config.health_delay, Duration::from_millis(1500));
        assert_eq!(config.health_status, 500);
        assert_eq!(config.exit_after, Some(Duration::ZERO));
        assert_eq!(config.exit_code, 7);
        assert!(config.ignore_sigterm);
    }

    #[test]
    fn a_wrong_value_is_named() {
        let error = from(&[("DEMO_HEALTH_STATUS", "100")]).unwrap_err();
        assert_eq!(error.to_string(), "DEMO_HEALTH_STATUS=\"100\" is not usable: expected an HTTP status, 200 to 999");
        assert!(from(&[("PORT", "eighty")]).is_err());
        assert!(from(&[("DEMO_EXIT_CODE", "256")]).is_err());
    }
}
