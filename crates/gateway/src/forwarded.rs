//! What a container is told of the way that its request came: `Via`, `Forwarded` (RFC 7239) and the `X-Forwarded-` forms.
//!
//! What a caller sends in these fields is replaced, because anybody can write anything there. Only what comes from a
//! trusted proxy in front of the gateway is kept and added to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{LazyLock, Mutex, PoisonError},
};

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Version, header};

use crate::{
    caller::Caller,
    fields::{Fields, Headers, Names, Value},
    h1::spare,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Where a container learns what part of the path it does not see.
pub(crate) const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Bytes of memory for lines that are kept for a caller's next request.
const KEPT: usize = 2 << 10;
/// Where what a caller says is replaced.
static CLAIMS: LazyLock<Names<5>> = LazyLock::new(|| {
    Names::new(["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix"])
});

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    network: IpAddr,
    prefix_len: u8,
}

/// A text that is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address or a range of addresses such as 10.0.0.0/8")]
pub struct InvalidRange(String);

impl AddressRange {
    /// Whether the address is in the range. IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for AddressRange {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let invalid = || InvalidRange(text.to_owned());
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let network: IpAddr = address.parse().map_err(|_| invalid())?;
        let widest = if network.is_ipv4() { 32 } else { 128 };
        let prefix_len = len.map_or(Ok(widest), |len| len.parse().map_err(|_| invalid()))?;
        if prefix_len > widest {
            return Err(invalid());
        }
        Ok(Self { network, prefix_len })
    }
}

/// The address of whoever sent a request that came from this one: read from the right, the first in `X-Forwarded-For` that is
/// no trusted proxy. `Forwarded` is not asked, because most proxies pass on what a client writes there.
pub(crate) fn client_address(peer: IpAddr, trusted: &[AddressRange], headers: &impl Headers) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|range| range.contains(address));
    let mut client = peer.to_canonical();
    let lists = headers.get_all(X_FORWARDED_FOR).rev();
    let mut way = lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(','));
    while is_trusted(client) {
        // What a proxy has not written properly says nothing about who stands behind it.
        let Some(before) = way.next().and_then(address_of_hop) else { break };
        client = before.to_canonical();
    }
    client
}

/// Reads one element of `X-Forwarded-For`: an address; some proxies put it into brackets or add the port.
fn address_of_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// One request's way from its caller to the gateway.
pub(crate) struct Hop<'a> {
    pub caller: &'a Caller,
    /// Whether what it says of its own way is believed.
    pub trusted: bool,
    /// The protocol that it came with.
    pub version: Version,
    /// The host that it asked for, where that is not for its `Host` field to say.
    pub authority: Option<&'a HeaderValue>,
    /// The part of its path that the container does not see.
    pub prefix: &'a HeaderValue,
}

impl Hop<'_> {
    /// Writes the way into the headers of the request to the container.
    pub(crate) fn put(&self, headers: &mut Fields) {
        let host = self.authority.map(Value::from).or_else(|| headers.get(header::HOST));
        if self.trusted {
            let host = host.map(Value::to_value);
            return self.add_to(headers, host.as_ref());
        }
        let mut last = self.caller.last_way.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match last.take() {
            Some(told) if told.is_of(self, host) => told,
            _ => Box::new(Told::new(self, host)),
        };
        headers.remove_any(&CLAIMS);
        headers.append_all(&told.lines);
        *last = (told.lines.capacity().0 <= KEPT).then_some(told);
    }

    /// Adds the way to what they say of it already.
    fn add_to(&self, headers: &mut Fields, host: Option<&HeaderValue>) {
        headers.append(header::VIA, via(self.version));
        if let Some(forwarded) = self.forwarded(host) {
            headers.append(header::FORWARDED, forwarded);
        }
        headers.append(X_FORWARDED_FOR, &self.caller.address);
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.caller.scheme));
        }
        if let Some(host) = host
            && !headers.contains_key(X_FORWARDED_HOST)
        {
            headers.insert(X_FORWARDED_HOST, host);
        }
        let prefix = headers.get(X_FORWARDED_PREFIX).and_then(|outer| join(outer, self.prefix));
        headers.insert(X_FORWARDED_PREFIX, prefix.as_ref().unwrap_or(self.prefix));
    }

    /// This hop as an element of `Forwarded`. `None` when the host has bytes that a quoted string cannot hold.
    fn forwarded(&self, host: Option<&HeaderValue>) -> Option<HeaderValue> {
        let length = self.caller.address.len() + host.map_or(0, HeaderValue::len) + 40;
        let text = spare::write(length, |text| self.write_forwarded(text, host));
        HeaderValue::from_maybe_shared(text).ok()
    }

    fn write_forwarded(&self, text: &mut BytesMut, host: Option<&HeaderValue>) {
        let address = self.caller.address.as_bytes();
        text.extend_from_slice(b"for=");
        // RFC 7239 §6: an IPv6 address stands in brackets and therefore in quotes.
        if address.contains(&b':') {
            text.extend_from_slice(b"\"[");
            text.extend_from_slice(address);
            text.extend_from_slice(b"]\"");
        } else {
            text.extend_from_slice(address);
        }
        if let Some(host) = host {
            text.extend_from_slice(b";host=\"");
            for &byte in host.as_bytes() {
                if matches!(byte, b'"' | b'\\') {
                    text.put_u8(b'\\');
                }
                text.put_u8(byte);
            }
            text.put_u8(b'"');
        }
        text.extend_from_slice(b";proto=");
        text.extend_from_slice(self.caller.scheme.as_bytes());
    }
}

/// What a container was told of the way of a caller's last request, if it is not believed what it says itself. Most of its
/// requests come the same way, and then the lines are there already.
#[derive(Debug, Default)]
pub(crate) struct LastWay(Mutex<Option<Box<Told>>>);

#[derive(Debug)]
struct Told {
    version: Version,
    host: Option<HeaderValue>,
    prefix: HeaderValue,
    lines: Fields,
}

impl Told {
    fn new(hop: &Hop<'_>, host: Option<Value<'_>>) -> Self {
        // In memory of its own, because it is kept.
        let copy =
            |host: Value<'_>| HeaderValue::from_bytes(host.as_bytes()).expect("it is the value of a field already");
        let host = host.map(copy);
        let mut lines = Fields::new();
        hop.add_to(&mut lines, host.as_ref());
        Self { version: hop.version, host, prefix: hop.prefix.clone(), lines }
    }

    fn is_of(&self, hop: &Hop<'_>, host: Option<Value<'_>>) -> bool {
        self.version == hop.version && self.host.as_ref().map(Value::from) == host && self.prefix == hop.prefix
    }
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 towline",
        Version::HTTP_2 => "2 towline",
        _ => "1.1 towline",
    })
}

fn join(first: Value<'_>, second: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(&[first.as_bytes(), second.as_bytes()].concat()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn put(address: &str, trusted: bool, sent: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let lines = sent.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers: Fields = lines.collect();
        let hop = Hop {
            caller: &Caller::new((address.parse::<IpAddr>().unwrap(), 4711).into(), trusted, "http"),
            trusted,
            version: Version::HTTP_11,
            authority: Some(&HeaderValue::from_static("a.example:7070")),
            prefix: &HeaderValue::from_static("/api/v1/r/containers/hello"),
        };
        hop.put(&mut headers);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        headers.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_caller_claims_is_replaced() {
        let sent = [
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("x-forwarded-proto", "https"),
            ("via", "1.1 other"),
        ];
        let expected = pairs(&[
            ("via", "1.1 other"),
            ("via", "1.1 towline"),
            ("forwarded", "for=192.0.2.1;host=\"a.example:7070\";proto=http"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.example:7070"),
            ("x-forwarded-prefix", "/api/v1/r/containers/hello"),
        ]);
        assert_eq!(put("192.0.2.1", false, &sent), expected);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_added_to() {
        let sent = [
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-prefix", "/towline"),
        ];
        let expected = pairs(&[
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-prefix", "/towline/api/v1/r/containers/hello"),
            ("via", "1.1 towline"),
            ("forwarded", "for=\"[2001:db8::1]\";host=\"a.example:7070\";proto=http"),
            ("x-forwarded-for", "2001:db8::1"),
        ]);
        assert_eq!(put("2001:db8::1", true, &sent), expected);
    }

    #[test]
    fn each_request_is_told_of_as_it_came_itself() {
        let caller = Caller::new("192.0.2.1:4711".parse().unwrap(), false, "http");
        let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
        for (version, host, prefix) in [
            (http1, "a", "/p"),
            (http1, "a", "/p"),
            (http1, "b", "/p"),
            (http1, "b", "/q"),
            (http2, "b", "/q"),
            (http2, "b", "/q"),
            (http1, "a", "/p"),
        ] {
            for in_target in [false, true] {
                let (authority, other) = (HeaderValue::from_static(host), HeaderValue::from_static("claim"));
                let claims =
                    [header::FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PREFIX];
                let mut headers: Fields =
                    claims.map(|name| (name, HeaderValue::from_static("claim"))).into_iter().collect();
                headers.insert(header::HOST, if in_target { &other } else { &authority });
                let authority = in_target.then_some(&authority);
                let prefix_value = HeaderValue::from_static(prefix);
                Hop { caller: &caller, trusted: false, version, authority, prefix: &prefix_value }.put(&mut headers);
                let expected = [
                    (header::FORWARDED, format!("for=192.0.2.1;host=\"{host}\";proto=http")),
                    (X_FORWARDED_FOR, "192.0.2.1".to_owned()),
                    (X_FORWARDED_PROTO, "http".to_owned()),
                    (X_FORWARDED_HOST, host.to_owned()),
                    (X_FORWARDED_PREFIX, prefix.to_owned()),
                    (header::VIA, if version == http2 { "2 towline" } else { "1.1 towline" }.to_owned()),
                ];
                for (name, value) in expected {
                    let told = headers.only(&name).and_then(Value::to_str);
                    assert_eq!(told, Some(&value[..]), "{name} of {version:?} {host} {prefix}");
                }
            }
        }
    }

    #[test]
    fn what_is_kept_for_the_next_request_is_not_much() {
        let caller = Caller::new("192.0.2.1:4711".parse().unwrap(), false, "http");
        let prefix = HeaderValue::from_static("/p");
        for (length, kept) in [(20, true), (KEPT, false), (20, true)] {
            let host = HeaderValue::try_from("a".repeat(length)).unwrap();
            let mut headers = Fields::new();
            Hop { caller: &caller, trusted: false, version: Version::HTTP_11, authority: Some(&host), prefix: &prefix }
                .put(&mut headers);
            assert_eq!(headers.only(X_FORWARDED_HOST), Some(Value::from(&host)));
            assert_eq!(caller.last_way.0.lock().unwrap().is_some(), kept, "{length}");
        }
    }

    #[test]
    fn the_client_is_whom_the_last_trusted_proxy_saw() {
        let trusted: Vec<AddressRange> = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()];
        for (peer, lists, expected) in [
            ("192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6", "2001:db8::7, 2001:db8:1::2"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6,"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            let mut headers = HeaderMap::new();
            for list in lists {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(list));
            }
            let client = client_address(peer.parse().unwrap(), &trusted, &headers);
            assert_eq!(client.to_string(), expected, "{peer} {lists:?}");
        }
    }

    #[test]
    fn ranges_hold_what_they_say() {
        for (range, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("::/0", "::1", true),
        ] {
            let parsed: AddressRange = range.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), inside, "{range} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "localhost", "10.0.0.0/-1"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }
}
