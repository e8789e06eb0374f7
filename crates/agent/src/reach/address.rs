//! What kind of address an address is: the ranges that are not the public Internet, each with a name for people.
//!
//! IPv6 addresses that stand for an IPv4 address are judged as that one, so that none can be dressed up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kinds of addresses, from the most harmless to be connected to by somebody else's wish to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// The public Internet.
    Public,
    /// This machine.
    Loopback,
    /// Other machines near this one.
    Private(&'static str),
    /// Nothing that is ever meant: metadata services, link-local and multicast addresses, forms that hide another address.
    Special(&'static str),
}

impl AddressKind {
    /// What it is, for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Loopback => "an address of the agent's own machine",
            Self::Private(what) | Self::Special(what) => what,
        }
    }
}

/// The kind of an address.
pub fn kind_of(address: IpAddr) -> AddressKind {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => kind_of_v6(address),
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 §2.5.5.2) or translated by the network's NAT64
/// (RFC 6052 §2.1).
pub fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [a, b, c, d] = [segments[6] >> 8, segments[6] & 0xff, segments[7] >> 8, segments[7] & 0xff];
            IpAddr::V4(Ipv4Addr::from([a, b, c, d].map(|byte| u8::try_from(byte).unwrap_or(0))))
        }
        None => address,
    }
}

/// The special-purpose registry of IPv4 addresses (RFC 6890 and its successors).
fn kind_of_v4(address: Ipv4Addr) -> AddressKind {
    use AddressKind::{Loopback, Private, Public, Special};
    let octets = address.octets();
    match octets {
        [127, ..] => Loopback,
        [10, ..] | [192, 168, ..] => Private("a private address"),
        [172, b, ..] if b & 0xf0 == 16 => Private("a private address"),
        // Inside the range of providers' NAT, and a metadata service all the same.
        [100, 100, 100, 200] => Special("the address of a cloud's metadata service"),
        [100, b, ..] if b & 0xc0 == 64 => Private("a private address (carrier-grade NAT)"),
        [169, 254, 169, 254] => Special("the address of a cloud's metadata service"),
        [169, 254, ..] => Special("a link-local address"),
        [0, ..] => Special("an unspecified address"),
        [192, 0, 0, _] => Special("an address of protocols"),
        // A cloud's agent on its virtual machines.
        [168, 63, 129, 16] => Special("the address of a cloud's metadata service"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Special("an address of documentation"),
        [192, 88, 99, _] => Special("a 6to4 relay"),
        [198, b, ..] if b & 0xfe == 18 => Special("an address of benchmarks"),
        [224..=239, ..] => Special("a multicast address"),
        [240..=255, ..] => Special("a reserved address"),
        _ => Public,
    }
}

fn kind_of_v6(address: Ipv6Addr) -> AddressKind {
    use AddressKind::{Loopback, Private, Public, Special};
    if let IpAddr::V4(v4) = canonical(IpAddr::V6(address)) {
        return kind_of_v4(v4);
    }
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Loopback,
        [0, 0, 0, 0, 0, 0, ..] => Special("an unspecified address, or an IPv4 address in disguise"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Special("the address of a cloud's metadata service"),
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Special("the address of a cloud's metadata service"),
        [first, ..] if first & 0xfe00 == 0xfc00 => Private("a private address"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Special("a link-local address"),
        [first, ..] if first & 0xffc0 == 0xfec0 => Special("a site-local address"),
        [first, ..] if first & 0xff00 == 0xff00 => Special("a multicast address"),
        [0x64, 0xff9b, ..] => Special("a translated address (NAT64)"),
        [0x100, 0, 0, ..] => Special("an address that discards"),
        [0x2002, ..] => Special("a 6to4 address"),
        [0x2001, second, ..] if second < 0x200 => Special("an address of protocols (such as Teredo)"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Special("an address of documentation"),
        // Global unicast is 2000::/3; nothing else is given out (RFC 4291 §2.4).
        [first, ..] if first & 0xe000 == 0x2000 => Public,
        _ => Special("a reserved address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_addresses() {
        let public = [
            "8.8.8.8",
            "1.1.1.1",
            "172.15.255.255",
            "172.32.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "192.0.1.0",
            "198.17.0.1",
            "198.20.0.0",
            "223.255.255.255",
            "169.253.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ];
        let loopback = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"];
        let private = [
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "fc00::1",
            "fdff::1",
            "::ffff:10.0.0.1",
            "64:ff9b::192.168.1.1",
        ];
        let special = [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::7f00:1",
            "::10.0.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "198.18.0.1",
            "198.19.255.255",
            "192.88.99.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "64:ff9b:1::1",
            "4000::1",
            "1::1",
            "64:ff9b::e000:1",
        ];
        let check = |list: &[&str], holds: fn(AddressKind) -> bool| {
            for text in list {
                let kind = kind_of(text.parse().unwrap());
                assert!(holds(kind), "{text} is {kind:?}");
            }
        };
        check(&public, |kind| kind == AddressKind::Public);
        check(&loopback, |kind| kind == AddressKind::Loopback);
        check(&private, |kind| matches!(kind, AddressKind::Private(_)));
        check(&special, |kind| matches!(kind, AddressKind::Special(_)));
    }
}
