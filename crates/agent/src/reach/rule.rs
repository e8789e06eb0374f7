//! One entry of a list of what may be connected to, and what may not: a host, a pattern of hosts, an address or a range of
//! addresses, each with a port or for all ports.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use towline_model::service::place::HostPort;

use super::address::canonical;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// `*`
    EveryHost,
    /// `example.com`
    Host(String),
    /// `*.example.com`: what ends in `.example.com`.
    HostsBelow(String),
    /// `10.0.0.0/8`, or one address.
    Addresses(IpNet),
}

/// A text that is no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no host (api.example.com, *.example.com, *), address or range (10.0.0.0/8, [fd00::/8]), each with or without a :port"
)]
pub struct InvalidRule(String);

impl Rule {
    /// Whether it names this address by address.
    pub fn names_address(&self, address: IpAddr, port: u16) -> bool {
        let What::Addresses(range) = &self.what else { return false };
        self.fits_port(port) && range.contains(&canonical(address))
    }

    /// Whether it names this host by name.
    pub fn names_host(&self, at: &HostPort) -> bool {
        let host = at.host.trim_end_matches('.');
        let fits = match &self.what {
            What::EveryHost => true,
            What::Host(name) => host.eq_ignore_ascii_case(name),
            What::HostsBelow(suffix) => {
                host.len() > suffix.len() && host.to_ascii_lowercase().ends_with(suffix.as_str())
            }
            What::Addresses(_) => false,
        };
        fits && self.fits_port(at.port)
    }

    fn fits_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

impl FromStr for Rule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let invalid = || InvalidRule(text.to_owned());
        // An IPv6 address without brackets has no port: its last group could not be told from one.
        if let Some(range) = range(text) {
            return Ok(Self { what: What::Addresses(range), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => {
                let port: u16 = port.parse().map_err(|_| invalid())?;
                (host, Some(port).filter(|port| *port != 0).ok_or_else(invalid)?.into())
            }
            _ => (text, None),
        };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let what = match (inner, host) {
            (Some(inner), _) => What::Addresses(range(inner).ok_or_else(invalid)?),
            (None, "*") => What::EveryHost,
            (None, host) => match range(host) {
                Some(range) => What::Addresses(range),
                None => What::of_name(host).ok_or_else(invalid)?,
            },
        };
        Ok(Self { what, port })
    }
}

impl What {
    fn of_name(text: &str) -> Option<Self> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        // The rule for names is that of services' targets.
        let name = HostPort::parse(&format!("{name}:1"))?.host;
        // What looks like a mistyped address or range is no name.
        let is_name = name.bytes().any(|byte| byte.is_ascii_alphabetic());
        match text.starts_with("*.") {
            _ if !is_name => None,
            true => Some(Self::HostsBelow(format!(".{name}"))),
            false => Some(Self::Host(name)),
        }
    }
}

fn range(text: &str) -> Option<IpNet> {
    let range = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    // Addresses are compared as what they stand for.
    match (canonical(range.addr()), range) {
        (IpAddr::V4(v4), IpNet::V6(v6)) if v6.prefix_len() >= 96 => IpNet::new(v4.into(), v6.prefix_len() - 96).ok(),
        _ => Some(range.trunc()),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.what, self.port) {
            (What::EveryHost, _) => f.write_str("*")?,
            (What::Host(name), _) => f.write_str(name)?,
            (What::HostsBelow(suffix), _) => write!(f, "*{suffix}")?,
            (What::Addresses(IpNet::V6(range)), Some(_)) => write!(f, "[{range}]")?,
            (What::Addresses(range), _) => write!(f, "{range}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPort {
        HostPort::parse(text).unwrap()
    }

    #[test]
    fn hosts_are_named_by_name_pattern_and_port() {
        for (rule, at, named) in [
            ("*", "a.example:443", true),
            ("*:443", "a.example:443", true),
            ("*:443", "a.example:8443", false),
            ("API.example.com", "api.example.com:1", true),
            ("api.example.com:443", "api.example.com:80", false),
            ("*.example.com", "api.example.com:443", true),
            ("*.example.com", "a.b.example.com:443", true),
            ("*.example.com", "example.com:443", false),
            ("*.example.com", "evilexample.com:443", false),
            ("10.0.0.0/8", "10.0.0.1:443", false),
        ] {
            let parsed: Rule = rule.parse().unwrap();
            assert_eq!(parsed.names_host(&host(at)), named, "{rule} {at}");
        }
        // A URL's host may end with a dot.
        let rooted = HostPort { host: "api.example.com.".to_owned(), port: 443 };
        assert!("api.example.com".parse::<Rule>().unwrap().names_host(&rooted));
    }

    #[test]
    fn addresses_are_named_in_all_their_forms() {
        for (rule, address, named) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "64:ff9b::10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1:80", "127.0.0.1", true),
            ("127.0.0.1:81", "127.0.0.1", false),
            ("[::1]:80", "::1", true),
            ("::1", "::1", true),
            ("fd00::/8", "fd12::1", true),
            ("[fd00::/8]:80", "fd12::1", true),
            ("*", "10.1.2.3", false),
        ] {
            let parsed: Rule = rule.parse().unwrap();
            assert_eq!(parsed.names_address(address.parse().unwrap(), 80), named, "{rule} {address}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{rule}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            ":",
            "*.",
            "10.0.0.0/33",
            "10.0.0",
            "a b",
            "host:0",
            "host:x",
            "http://host",
            "[::1",
            "*:*",
            "a.*.b",
            "-a",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }
}
