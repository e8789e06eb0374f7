//! Places: where an instance is reached that is not a container of Towline's. An `attached` service is at a host and port
//! that its agent can reach, an `external` one at an `https://` URL.
//!
//! Not here: what an agent may connect to. The agent decides that, by addresses, when it connects.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use url::Url;

/// The longest `external_url`, in bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// What an `attached_target` looks like, in words.
pub const TARGET_RULE: &str =
    "must be a host and a port that the agent can reach, such as 127.0.0.1:11434, localhost:8000 or [::1]:8000";

/// A host and a port. The host is a name, an IPv4 address, or an IPv6 address without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The host, in lower case.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`; an IPv6 address stands in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        // `+80` is a number to Rust and to nobody else.
        let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string(),
            None if is_host_name(host) => host.to_ascii_lowercase(),
            None => return None,
        };
        (port != 0).then_some(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

/// An `external_url`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUrl {
    /// Where it is.
    pub at: HostPort,
    /// What stands before the path of every request: the URL's path without its last `/`; often empty.
    pub path_prefix: String,
}

impl ExternalUrl {
    /// Reads an absolute `https://` URL.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_URL_BYTES {
            return Err("must have at most 2048 characters");
        }
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let is_https = text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let url = if is_plain && is_https { Url::parse(text).ok() } else { None };
        let Some(url) = url else {
            return Err("must be an absolute URL that starts with https://, such as https://api.example.com/v1");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must hold no user name or password; what it needs to authenticate goes into a secret");
        }
        if text.contains(['?', '#']) {
            return Err("must have no query and no fragment; callers send their own query");
        }
        let host = url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']').to_owned());
        match (host, url.port_or_known_default()) {
            (Some(host), Some(port)) if port != 0 => {
                let path = url.path();
                let path_prefix = path.strip_suffix('/').unwrap_or(path).to_owned();
                Ok(Self { at: HostPort { host, port }, path_prefix })
            }
            _ => Err("must name a host, and a port from 1 to 65535 if it names one"),
        }
    }

    /// The host, with its port where that is not 443: what the host is told as `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.at.port == 443 { bracketed(&self.at.host) } else { self.at.to_string() }
    }
}

fn bracketed(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
                && !label.starts_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("127.0.0.1:11434", "127.0.0.1", 11434),
            ("LocalHost:1", "localhost", 1),
            ("[::1]:65535", "::1", 65535),
            ("my_nas.lan:80", "my_nas.lan", 80),
        ] {
            let target = HostPort::parse(text).unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port));
            assert_eq!(target.to_string(), text.to_ascii_lowercase());
        }
        for wrong in [
            "",
            ":",
            "80",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "localhost:+80",
            ":80",
            "::1:80",
            "[::1]",
            "[127.0.0.1]:80",
            "[::1%lo]:80",
            "a b:80",
            "a/b:80",
            "user@host:80",
            "http://host:80",
            "-a:80",
            "a..b:80",
        ] {
            assert_eq!(HostPort::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_external_url_is_taken_apart() {
        for (text, authority, prefix) in [
            ("https://api.example.com", "api.example.com", ""),
            ("https://api.example.com/", "api.example.com", ""),
            ("HTTPS://API.example.com:443/v1", "api.example.com", "/v1"),
            ("https://api.example.com:8443/v1/", "api.example.com:8443", "/v1"),
            ("https://h/a%2Fb//", "h", "/a%2Fb/"),
            ("https://[2001:db8::1]:8443/x", "[2001:db8::1]:8443", "/x"),
        ] {
            let url = ExternalUrl::parse(text).unwrap();
            assert_eq!((url.authority().as_str(), url.path_prefix.as_str()), (authority, prefix), "{text}");
        }
        let long = format!("https://h/{}", "x".repeat(MAX_URL_BYTES));
        for (text, words) in [
            ("http://api.example.com", "https://"),
            ("api.example.com", "https://"),
            ("https:api.example.com", "https://"),
            ("https:\\\\api.example.com", "https://"),
            ("https://", "https://"),
            ("https://a b/", "https://"),
            ("https://ü.example", "https://"),
            ("https://me@h/", "user name"),
            ("https://me:secret@h/", "user name"),
            ("https://h/?key=1", "no query"),
            ("https://h/?", "no query"),
            ("https://h/#part", "no query"),
            ("https://h:0/", "port"),
            (long.as_str(), "2048"),
        ] {
            let rule = ExternalUrl::parse(text).unwrap_err();
            assert!(rule.contains(words), "{text}: {rule}");
        }
    }
}
