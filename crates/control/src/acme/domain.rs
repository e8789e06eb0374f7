//! A name that an ACME authority can be asked for, as settings give it.

use std::{fmt, str::FromStr};

use url::Host;

/// A DNS name in lower case and ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(String);

/// Why a text is no name that a certificate can be ordered for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDomain {
    /// A wildcard.
    #[error(
        "certificates for wildcards cannot be ordered, because their proof is a DNS record, which is not written here: \
         name each domain, or have certbot or lego write files for --tls-cert and --tls-key"
    )]
    Wildcard,
    /// An address.
    #[error(
        "it is an address; name a domain that leads to this server, or give a certificate by --tls-cert and --tls-key"
    )]
    Address,
    /// Anything else.
    #[error("it is not a domain, such as towline.example.com")]
    Malformed,
}

impl Domain {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        if text.contains('*') {
            return Err(InvalidDomain::Wildcard);
        }
        let name = match Host::parse(text) {
            Ok(Host::Domain(name)) => name,
            Ok(Host::Ipv4(_) | Host::Ipv6(_)) => return Err(InvalidDomain::Address),
            Err(_) if text.parse::<std::net::IpAddr>().is_ok() => return Err(InvalidDomain::Address),
            Err(_) => return Err(InvalidDomain::Malformed),
        };
        let is_label = |label: &str| {
            let is_inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(is_inside)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() <= 253 && name.split('.').all(is_label) { Ok(Self(name)) } else { Err(InvalidDomain::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_lower_case_and_ascii_and_nothing_else_is() {
        for (text, name) in [
            ("towline.example.com", "towline.example.com"),
            ("Towline.EXAMPLE.com", "towline.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("a-b.c1", "a-b.c1"),
        ] {
            assert_eq!(text.parse::<Domain>().as_ref().map(Domain::as_str), Ok(name));
        }
        for (text, error) in [
            ("*.example.com", InvalidDomain::Wildcard),
            ("192.0.2.1", InvalidDomain::Address),
            ("2001:db8::1", InvalidDomain::Address),
            ("[2001:db8::1]", InvalidDomain::Address),
            ("", InvalidDomain::Malformed),
            ("example.com.", InvalidDomain::Malformed),
            ("a..b", InvalidDomain::Malformed),
            ("-a.example", InvalidDomain::Malformed),
            ("under_score.example", InvalidDomain::Malformed),
            ("example.com:443", InvalidDomain::Malformed),
            ("https://example.com", InvalidDomain::Malformed),
            ("a b.example", InvalidDomain::Malformed),
            (&"a.".repeat(130), InvalidDomain::Malformed),
        ] {
            assert_eq!(text.parse::<Domain>(), Err(error), "{text}");
        }
    }
}
