//! What this agent connects to when a service is a place and no container. Whoever runs the agent decides it, not whoever
//! defines services.

use std::net::SocketAddr;

use towline_model::service::place::HostPort;

use super::{
    address::{AddressKind, kind_of},
    rule::Rule,
};

/// The lists that an agent is started with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReachPolicy {
    /// What `attached` services may be at. Empty: this machine's loopback addresses, whatever the port.
    pub attach_allow: Vec<Rule>,
    /// What `external` services may be at. Empty: every host at public addresses.
    pub external_allow: Vec<Rule>,
    /// What `external` services may never be at, whatever is allowed.
    pub external_deny: Vec<Rule>,
}

/// Why an address is not connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

impl ReachPolicy {
    /// Whether an `attached` service at that place may be reached at that address.
    ///
    /// # Errors
    /// Why not, and what would allow it.
    pub fn check_attached(&self, at: &HostPort, address: SocketAddr) -> Result<(), Denied> {
        let kind = kind_of(address.ip());
        if self.attach_allow.is_empty() {
            return match kind {
                AddressKind::Loopback => Ok(()),
                kind => Err(denied(address, kind, "and this agent attaches to its own machine only (--attach-allow)")),
            };
        }
        let by_name = self.attach_allow.iter().any(|rule| rule.names_host(at));
        let by_address = names_address(&self.attach_allow, address);
        match kind {
            _ if by_address => Ok(()),
            AddressKind::Special(_) => {
                Err(denied(address, kind, "which only a rule for the address allows (--attach-allow)"))
            }
            _ if by_name => Ok(()),
            _ => Err(Denied(format!(
                "{at} ({}) is not among what this agent attaches to (--attach-allow)",
                address.ip()
            ))),
        }
    }

    /// Whether an `external` service at that place may be reached at that address.
    ///
    /// # Errors
    /// Why not, and what would allow it.
    pub fn check_external(&self, at: &HostPort, address: SocketAddr) -> Result<(), Denied> {
        if let Some(rule) = self
            .external_deny
            .iter()
            .find(|rule| rule.names_host(at) || rule.names_address(address.ip(), address.port()))
        {
            return Err(Denied(format!("{at} ({}) is denied by this agent's --external-deny {rule}", address.ip())));
        }
        if names_address(&self.external_allow, address) {
            return Ok(());
        }
        let kind = kind_of(address.ip());
        if kind != AddressKind::Public {
            return Err(denied(address, kind, "which only a rule for the address allows (--external-allow)"));
        }
        if self.external_allow.is_empty() || self.external_allow.iter().any(|rule| rule.names_host(at)) {
            return Ok(());
        }
        Err(Denied(format!("{at} ({}) is not among what this agent connects to (--external-allow)", address.ip())))
    }
}

fn names_address(rules: &[Rule], address: SocketAddr) -> bool {
    rules.iter().any(|rule| rule.names_address(address.ip(), address.port()))
}

fn denied(address: SocketAddr, kind: AddressKind, advice: &str) -> Denied {
    Denied(format!("{} is {}, {advice}", address.ip(), kind.describe()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn attached_services_are_on_this_machine_unless_the_list_says_otherwise() {
        for (allow, at, resolved, allowed) in [
            (&[][..], "localhost:80", "127.0.0.1:80", true),
            (&[], "localhost:80", "[::1]:80", true),
            (&[], "nas.lan:80", "192.168.1.5:80", false),
            (&[], "example.com:80", "8.8.8.8:80", false),
            (&[], "metadata:80", "169.254.169.254:80", false),
            (&["nas.lan:80"], "nas.lan:80", "192.168.1.5:80", true),
            (&["nas.lan:80"], "nas.lan:81", "192.168.1.5:81", false),
            (&["nas.lan:80"], "nas.lan:80", "169.254.169.254:80", false),
            // A list takes the place of the default.
            (&["nas.lan:80"], "localhost:80", "127.0.0.1:80", false),
            (&["127.0.0.1:11434"], "localhost:11434", "127.0.0.1:11434", true),
            (&["127.0.0.1:11434"], "127.0.0.1:22", "127.0.0.1:22", false),
            (&["192.168.0.0/16"], "nas.lan:80", "192.168.1.5:80", true),
            (&["*"], "nas.lan:80", "192.168.1.5:80", true),
            (&["*"], "metadata:80", "169.254.169.254:80", false),
            (&["169.254.169.254"], "metadata:80", "169.254.169.254:80", true),
        ] {
            let policy = ReachPolicy { attach_allow: rules(allow), ..ReachPolicy::default() };
            let result = policy.check_attached(&HostPort::parse(at).unwrap(), address(resolved));
            assert_eq!(result.is_ok(), allowed, "{allow:?} {at} {resolved}: {result:?}");
        }
    }

    #[test]
    fn external_services_are_on_the_internet_unless_the_lists_say_otherwise() {
        for (allow, deny, at, resolved, allowed) in [
            (&[][..], &[][..], "api.example.com:443", "93.184.216.34:443", true),
            (&[], &[], "api.example.com:443", "127.0.0.1:443", false),
            (&[], &[], "api.example.com:443", "10.0.0.1:443", false),
            (&[], &[], "api.example.com:443", "[::ffff:10.0.0.1]:443", false),
            (&[], &[], "api.example.com:443", "[64:ff9b::a9fe:a9fe]:443", false),
            (&[], &[], "api.example.com:443", "169.254.169.254:443", false),
            (&[], &["*.example.com"], "api.example.com:443", "93.184.216.34:443", false),
            (&[], &["93.184.0.0/16"], "api.example.com:443", "93.184.216.34:443", false),
            (&["*.example.com"], &[], "api.example.com:443", "93.184.216.34:443", true),
            (&["*.example.com"], &[], "other.example:443", "93.184.216.34:443", false),
            // A name does not open what its owner lets it point to.
            (&["*.example.com", "*"], &[], "api.example.com:443", "10.0.0.1:443", false),
            (&["10.0.0.0/8"], &[], "api.example.com:443", "10.0.0.1:443", true),
            (&["10.0.0.0/8"], &[], "api.example.com:443", "93.184.216.34:443", false),
            (&["*", "10.0.0.0/8"], &[], "api.example.com:443", "93.184.216.34:443", true),
            (&["*", "10.0.0.0/8"], &["10.0.0.1"], "api.example.com:443", "10.0.0.1:443", false),
            (&["127.0.0.1:8443"], &[], "localhost:8443", "127.0.0.1:8443", true),
            (&["127.0.0.1:8443"], &[], "localhost:443", "127.0.0.1:443", false),
            (&["*"], &["*"], "api.example.com:443", "93.184.216.34:443", false),
        ] {
            let policy =
                ReachPolicy { external_allow: rules(allow), external_deny: rules(deny), ..ReachPolicy::default() };
            let result = policy.check_external(&HostPort::parse(at).unwrap(), address(resolved));
            assert_eq!(result.is_ok(), allowed, "{allow:?} {deny:?} {at} {resolved}: {result:?}");
        }
    }
}
