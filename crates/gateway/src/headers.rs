//! The hop-by-hop rules of RFC 9110 §7.6.1, for requests and responses: the one place that removes header fields
//! because of what they are. Everything that is not named here passes as it came, repeats in their order.
//!
//! * `Connection` and what it nominates, `Keep-Alive`, `Proxy-Connection`, `TE`, `Transfer-Encoding` and `Upgrade` speak
//!   of one connection and end here.
//! * Nominating works only for fields that may be hop-by-hop. `Connection: authorization` must not take a credential
//!   from a container that relies on it, nor `Connection: x-forwarded-for` what we have added ([`is_end_to_end`]).
//! * Of `TE` only `trailers` is passed on, because trailers are.
//! * An upgrade is passed on when the caller nominates `Upgrade` (RFC 9110 §7.8), except for `h2c`: that one would let
//!   further requests pass on the same connection that nobody has looked at (and RFC 9113 has retired it).
//! * `Proxy-Authenticate` and `Proxy-Authorization` are not touched: a gateway is not the proxy that they speak to.

use std::{collections::HashSet, sync::LazyLock};

use http::{HeaderName, HeaderValue, header};

use crate::fields::{Headers, Names, Value};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// The fields that are for one hop alone, beside those that `Connection` names.
static HOPS: LazyLock<Names<7>> = LazyLock::new(|| {
    Names::new(["connection", "http2-settings", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"])
});

/// What a request's hop-by-hop fields said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHops {
    /// The protocol that the caller wants to switch to.
    pub upgrade: Option<HeaderValue>,
    /// Whether the caller takes trailers.
    pub takes_trailers: bool,
}

/// What a response's hop-by-hop fields said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseHops {
    /// The protocol that the container switches to.
    pub upgrade: Option<HeaderValue>,
    /// Seconds that the container says it keeps an idle connection.
    pub keep_alive_seconds: Option<u64>,
}

/// Removes a request's hop-by-hop fields and says what they were.
pub(crate) fn take_request_hops(headers: &mut impl Headers) -> RequestHops {
    if !headers.has_any(&HOPS) {
        return RequestHops::default();
    }
    let takes_trailers = header_has_token(headers, &header::TE, "trailers");
    let wants_upgrade = header_has_token(headers, &header::CONNECTION, "upgrade");
    let upgrade = if wants_upgrade { single(headers, &header::UPGRADE) } else { None };
    let upgrade = upgrade.filter(|protocol| !names_h2c(protocol));
    remove_hops(headers);
    RequestHops { upgrade, takes_trailers }
}

/// Removes a response's hop-by-hop fields and says what they were.
pub(crate) fn take_response_hops(headers: &mut impl Headers) -> ResponseHops {
    if !headers.has_any(&HOPS) {
        return ResponseHops::default();
    }
    let hops = ResponseHops {
        upgrade: headers.get(header::UPGRADE).map(Value::to_value),
        keep_alive_seconds: headers.get(KEEP_ALIVE).and_then(keep_alive_timeout),
    };
    remove_hops(headers);
    hops
}

/// Adds the hop-by-hop fields of a request to a container.
pub(crate) fn put_request_hops(headers: &mut impl Headers, hops: &RequestHops) {
    let connection = match (&hops.upgrade, hops.takes_trailers) {
        (None, false) => return,
        (Some(_), false) => "Upgrade",
        (None, true) => "TE",
        (Some(_), true) => "Upgrade, TE",
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
    if let Some(protocol) = &hops.upgrade {
        headers.insert(header::UPGRADE, protocol);
    }
    if hops.takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Adds the hop-by-hop fields of a `101 Switching Protocols` to a caller.
pub(crate) fn put_switching_hops(headers: &mut impl Headers, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Joins the crumbs that an HTTP/2 caller may split its `Cookie` into (RFC 9113 §8.2.3).
pub(crate) fn join_cookie_crumbs(headers: &mut impl Headers) {
    if headers.get_all(header::COOKIE).nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(header::COOKIE).map(Value::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a `Transfer-Encoding` is exactly `chunked`. Any other coding cannot be passed on as it is.
pub(crate) fn is_plain_chunked(headers: &impl Headers) -> bool {
    let value = headers.only(header::TRANSFER_ENCODING);
    value.is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Whether the field of that name has the token in its comma-separated list, in any of its lines, in any case.
pub(crate) fn header_has_token(headers: &impl Headers, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).any(|value| tokens(value).any(|t| t.eq_ignore_ascii_case(token.as_bytes())))
}

/// Whether a field by its nature reaches the container or the caller, so that `Connection` cannot take it away.
pub(crate) fn is_end_to_end(name: &HeaderName) -> bool {
    const FIELDS: [HeaderName; 22] = [
        header::ACCEPT,
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::DATE,
        header::ETAG,
        header::EXPECT,
        header::FORWARDED,
        header::HOST,
        header::LOCATION,
        header::ORIGIN,
        header::RANGE,
        header::SET_COOKIE,
        header::TRAILER,
        header::USER_AGENT,
        header::VARY,
        header::VIA,
        header::WWW_AUTHENTICATE,
    ];
    let text = name.as_str();
    FIELDS.contains(name)
        || matches!(text, "x-request-id" | "x-api-key" | "api-key" | "x-goog-api-key")
        || ["x-forwarded-", "x-towline-", "sec-", "access-control-", "if-"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
}

fn remove_hops(headers: &mut impl Headers) {
    let nominated = nominated(headers);
    if !nominated.is_empty() {
        headers.retain(|name| !nominated.contains(name));
    }
    headers.remove_any(&HOPS);
}

/// The fields that `Connection` takes away. It may name thousands, of which each line is looked for.
fn nominated(headers: &impl Headers) -> HashSet<HeaderName> {
    let is_usual =
        |text: &[u8]| [&b"close"[..], b"keep-alive", b"upgrade"].iter().any(|t| t.eq_ignore_ascii_case(text));
    headers
        .get_all(header::CONNECTION)
        // Most have nothing else in them.
        .filter(|value| !is_usual(value.as_bytes()))
        .flat_map(tokens)
        .filter(|token| !is_usual(token))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !is_end_to_end(name))
        .collect()
}

fn tokens(value: Value<'_>) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn single(headers: &impl Headers, name: &HeaderName) -> Option<HeaderValue> {
    if let Some(only) = headers.only(name) {
        return Some(only.to_value());
    }
    headers.get(name)?;
    let lines: Vec<&[u8]> = headers.get_all(name).map(Value::as_bytes).collect();
    HeaderValue::from_bytes(&lines.join(&b", "[..])).ok()
}

fn names_h2c(protocol: &HeaderValue) -> bool {
    tokens(protocol.into()).any(|token| token.eq_ignore_ascii_case(b"h2c"))
}

fn keep_alive_timeout(value: Value<'_>) -> Option<u64> {
    tokens(value).find_map(|token| {
        let text = std::str::from_utf8(token).ok()?;
        let (name, seconds) = text.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("timeout") { seconds.trim().trim_matches('"').parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_table_of_requests() {
        type Lines = &'static [(&'static str, &'static str)];
        // RFC 9110 §7.6.1 unless said otherwise: what comes in, the names that stay.
        let rows: &[(Lines, &[&str])] = &[
            (&[("accept", "*/*"), ("x-a", "1"), ("x-a", "2")], &["accept", "x-a", "x-a"]),
            (&[("connection", "close"), ("x-a", "1")], &["x-a"]),
            (&[("connection", "keep-alive, X-A"), ("x-a", "1"), ("x-b", "1")], &["x-b"]),
            (&[("connection", "x-a"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "1"), ("x-c", "1")], &["x-c"]),
            (&[("keep-alive", "timeout=5"), ("proxy-connection", "keep-alive"), ("x-a", "1")], &["x-a"]),
            (&[("te", "trailers, deflate"), ("transfer-encoding", "chunked"), ("trailer", "x-sum")], &["trailer"]),
            // §7.8: without nomination there is no upgrade.
            (&[("upgrade", "websocket"), ("sec-websocket-key", "x")], &["sec-websocket-key"]),
            // What we rely on, or add, cannot be nominated away.
            (
                &[
                    ("connection", "authorization, host, content-length, cookie, x-forwarded-for, x-request-id, close"),
                    ("authorization", "a"),
                    ("host", "h"),
                    ("content-length", "1"),
                    ("cookie", "c"),
                    ("x-forwarded-for", "f"),
                    ("x-request-id", "r"),
                ],
                &["authorization", "content-length", "cookie", "host", "x-forwarded-for", "x-request-id"],
            ),
            (&[("connection", ",, ,\"bad\", x y, "), ("x-a", "1")], &["x-a"]),
            (
                &[("proxy-authorization", "Basic eDp5"), ("proxy-authenticate", "Basic")],
                &["proxy-authenticate", "proxy-authorization"],
            ),
        ];
        for (lines, left) in rows {
            let mut headers = map(lines);
            take_request_hops(&mut headers);
            assert_eq!(names(&headers), *left, "{lines:?}");
        }
    }

    #[test]
    fn upgrades_are_taken_when_nominated_and_put_back() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("te", "trailers")]);
        let hops = take_request_hops(&mut headers);
        assert_eq!(hops.upgrade.as_ref().unwrap(), "websocket");
        assert!(hops.takes_trailers && headers.is_empty());
        put_request_hops(&mut headers, &hops);
        assert_eq!(headers, map(&[("connection", "Upgrade, TE"), ("upgrade", "websocket"), ("te", "trailers")]));
    }

    #[test]
    fn h2c_is_never_passed_on() {
        let mut headers = map(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ]);
        assert_eq!(take_request_hops(&mut headers), RequestHops::default());
        assert!(headers.is_empty());
    }

    #[test]
    fn responses_tell_how_long_they_keep_connections() {
        for (value, seconds) in
            [("timeout=5, max=100", Some(5)), ("max=1", None), ("timeout=\"7\"", Some(7)), ("timeout=x", None)]
        {
            let mut headers =
                map(&[("connection", "keep-alive"), ("keep-alive", value), ("set-cookie", "a"), ("set-cookie", "b")]);
            assert_eq!(take_response_hops(&mut headers).keep_alive_seconds, seconds, "{value}");
            assert_eq!(names(&headers), ["set-cookie", "set-cookie"]);
        }
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        let mut headers = map(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2; c=3")]);
        join_cookie_crumbs(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn only_chunked_alone_can_be_passed_on() {
        for (value, plain) in [("chunked", true), ("Chunked ", true), ("gzip, chunked", false), ("identity", false)] {
            assert_eq!(is_plain_chunked(&map(&[("transfer-encoding", value)])), plain, "{value}");
        }
        assert!(!is_plain_chunked(&map(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")])));
    }

    proptest! {
        #[test]
        fn nothing_hop_by_hop_stays_and_nothing_else_goes(
            connection in "[a-z, -]{0,30}",
            fields in proptest::collection::vec(("[a-z][a-z-]{0,15}", "[ -~]{0,10}"), 0..12),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.append(HeaderName::try_from(name.as_str()).unwrap(), HeaderValue::from_str(value.trim()).unwrap());
            }
            headers.append(header::CONNECTION, HeaderValue::from_str(connection.trim()).unwrap());
            let before = headers.clone();
            take_request_hops(&mut headers);
            let fixed = ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"];
            for name in before.keys() {
                let nominated = before.get_all(header::CONNECTION).iter()
                    .any(|v| v.to_str().unwrap().split(',').any(|t| t.trim() == name.as_str()));
                let gone = fixed.contains(&name.as_str()) || (nominated && !is_end_to_end(name)
                    && !["close", "keep-alive", "upgrade"].contains(&name.as_str()));
                if gone {
                    prop_assert!(!headers.contains_key(name), "{name} stayed");
                } else {
                    let (was, is): (Vec<_>, Vec<_>) = (before.get_all(name).iter().collect(), headers.get_all(name).iter().collect());
                    prop_assert_eq!(was, is);
                }
            }
            let again = headers.clone();
            take_request_hops(&mut headers);
            prop_assert_eq!(again, headers);
        }
    }
}
