//! Any bytes against what reads a request's path and fields and changes them: the destination, credentials, tickets,
//! affinity, the way that the request came, upgrades of agents, and the description of an invoke.
//!
//! Each rule is held to a second statement of it that was made to be simple.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, AUTHORIZATION, COOKIE, FORWARDED, SEC_WEBSOCKET_PROTOCOL, VIA},
};
use rand::{SeedableRng as _, rngs::StdRng};
use towline_model::{CredentialId, KeyKind, RawKey, Scope, TeamId, Timestamp};
use towline_tunnel::upgrade::{CARRIER_PATH, SESSION_PATH, SESSION_SUBPROTOCOL};

use crate::{
    AccessTokens, Credential, CredentialTable, Doors, LastUse,
    affinity::Affinity,
    agents::accept::accept_websocket,
    authenticate::{Authority, authenticate},
    caller::Caller,
    fields::{Fields, Headers as _, Value},
    forwarded::{AddressRange, Hop, X_FORWARDED_PREFIX, client_address},
    h1::head::{HeadParser, RequestHead, written_request},
    invoke::describe,
    path::{Destination, INVOKE_PREFIX, PROXY_PREFIX, destination},
    presented::X_TOWLINE_KEY,
    proxy::CallHead,
    ticket_door,
};

/// The longest body of an invoke, in bytes.
const BODY_LIMIT: usize = 64;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Reads what is to be found in a request's path and fields. The first byte chooses where it came from.
///
/// # Panics
/// When something is found that is not there, or changed that is not ours.
pub fn request_fields(data: &[u8]) {
    let Some((&origin, text)) = data.split_first() else { return };
    let mut parser = HeadParser::request();
    let Ok(Some(length)) = parser.advance(text) else { return };
    let Ok(head) = parser.finish_request(text, length) else { return };
    let Ok(target) = std::str::from_utf8(&head.target) else { return };
    path(&head, target);
    cookies(&head.headers);
    way(&head.headers, origin);
    credentials(&head.headers);
    ticket(&head, target);
    upgrade(&head.headers.clone().into_map());
    // A rule that is broken shows in what was asked for, not in a panic.
    let _ = Affinity::of(&head.headers);
}

/// Reads the description of a request.
///
/// # Panics
/// When what is sent to the container is not exactly what was described.
pub fn invoke(data: &[u8]) {
    let Ok(described) = describe(data, BODY_LIMIT) else { return };
    let path = described.path.as_str();
    assert!(path.starts_with('/') && !path.starts_with("//"), "{path:?}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{path:?}");
    assert!(described.body.len() <= BODY_LIMIT);
    for name in [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::TRANSFER_ENCODING] {
        assert!(!described.headers.contains_key(&name), "{name} is for the gateway to set");
    }
    let text = written_request(&described.method, path.as_bytes(), &described.headers, 0);
    let mut parser = HeadParser::written();
    assert_eq!(parser.advance(&text), Ok(Some(text.len())), "{data:?}");
    let again = parser.finish_request(&text, text.len()).expect("what was written can be read");
    assert_eq!((&again.method, &again.target[..]), (&described.method, path.as_bytes()));
    let trimmed = |headers: &Fields| -> Vec<(Vec<u8>, Vec<u8>)> {
        headers.iter().map(|(name, value)| (name.to_vec(), value.trim_ascii().to_vec())).collect()
    };
    assert_eq!(trimmed(&again.headers), trimmed(&described.headers), "{data:?}");
}

fn path(head: &RequestHead, target: &str) {
    match destination(&head.method, target) {
        Destination::Proxy { slug, target: rest } => {
            assert_eq!(format!("{PROXY_PREFIX}{slug}{rest}"), target);
            assert!(!slug.contains(['/', '?']) && rest.starts_with('/'), "{target}");
        }
        Destination::Invoke { slug } => {
            let rest = target.strip_prefix(INVOKE_PREFIX).and_then(|rest| rest.strip_prefix(slug));
            assert!(!slug.is_empty() && !slug.contains(['/', '?']), "{target}");
            assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('?')), "{target}");
        }
        Destination::AgentSession => assert_eq!(target.split('?').next(), Some(SESSION_PATH)),
        Destination::AgentCarrier => assert_eq!(target.split('?').next(), Some(CARRIER_PATH)),
        Destination::Api => {}
    }
}

/// Our cookies are gone, all others are there in their order, and no other field was touched.
fn cookies(headers: &Fields) {
    let is_ours = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        pair.contains(&b'=') && [&b"towline_affinity"[..], b"towline_instance"].contains(&name.trim_ascii())
    };
    let pairs = |headers: &Fields| -> Vec<Vec<u8>> {
        let lines = headers.get_all(COOKIE);
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let others = pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty() && !is_ours(pair));
        others.map(<[u8]>::to_vec).collect()
    };
    let mut left = headers.clone();
    let asked = Affinity::take_cookies(&mut left);
    assert_eq!(pairs(&left), pairs(headers));
    let lines = left.get_all(COOKIE);
    assert!(!lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).any(|pair| is_ours(&pair)));
    assert!(asked.is_none() || left.get_all(COOKIE).ne(headers.get_all(COOKIE)), "there was no cookie that asks");
    assert_eq!(without(&left, &[COOKIE]), without(headers, &[COOKIE]));
}

/// The container learns the address that the request came from, and reads the host as it was sent.
fn way(headers: &Fields, origin: u8) {
    let trusted = origin & 1 == 1;
    let peer = if origin & 2 == 0 { Ipv4Addr::new(10, 0, 0, 1).into() } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    let ranges: Vec<AddressRange> = if trusted { vec![range("10.0.0.0/8"), range("::1")] } else { Vec::new() };
    let client = client_address(peer, &ranges, headers);
    if client != peer {
        let lines = headers.get_all(X_FORWARDED_FOR).filter_map(Value::to_str);
        let mut named = lines.flat_map(|line| line.split(','));
        assert!(trusted && named.any(|hop| mentions(hop, client)), "{client} is said by nobody");
    }

    let (host, prefix) = (headers.get(header::HOST).map(Value::to_value), HeaderValue::from_static("/p"));
    let host = host.as_ref();
    let caller = Caller::new((peer, 1).into(), trusted, "http");
    let hop = Hop { caller: &caller, trusted, version: Version::HTTP_11, authority: None, prefix: &prefix };
    let (mut put, mut again) = (headers.clone(), headers.clone());
    hop.put(&mut put);
    // Of what was made for the first.
    hop.put(&mut again);
    assert!(put.iter().eq(again.iter()));
    let ours = [FORWARDED, VIA, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PREFIX];
    assert_eq!(without(&put, &ours), without(headers, &ours));
    let lines = |headers: &Fields, name: &HeaderName| headers.get_all(name).map(Value::to_value).collect::<Vec<_>>();
    for (name, kept) in [(&VIA, true), (&X_FORWARDED_FOR, trusted), (&FORWARDED, trusted)] {
        let before = if kept { lines(headers, name) } else { Vec::new() };
        assert!(lines(&put, name).strip_prefix(&before[..]).is_some_and(|added| added.len() <= 1), "{name}");
    }
    assert_eq!(lines(&put, &X_FORWARDED_FOR).last(), Some(&caller.address));
    if !trusted && let Some(element) = put.get(FORWARDED) {
        assert_eq!(forwarded_host(element.as_bytes()).as_deref(), host.map(HeaderValue::as_bytes));
    }
}

fn range(text: &str) -> AddressRange {
    text.parse().expect("it is a range")
}

fn mentions(hop: &str, address: IpAddr) -> bool {
    let hop = hop.trim().trim_start_matches('[');
    let same = |text: &str| text.parse().is_ok_and(|said: IpAddr| said.to_canonical() == address);
    let ends = hop.match_indices([']', ':']).map(|(end, _)| end).chain([hop.len()]);
    ends.into_iter().any(|end| same(&hop[..end]))
}

/// The host of one element of `Forwarded` (RFC 7239 §4) that ends with `;proto=http`.
fn forwarded_host(element: &[u8]) -> Option<Vec<u8>> {
    let element = element.strip_suffix(b";proto=http").expect("the scheme stands last");
    let start = element.windows(7).position(|part| part == b";host=\"")? + 7;
    let mut quoted = element[start..].iter();
    let mut host = Vec::new();
    loop {
        match quoted.next().expect("a quoted string has an end") {
            b'"' => break,
            b'\\' => host.extend(quoted.next()),
            byte => host.push(*byte),
        }
    }
    assert_eq!(quoted.next(), None, "the string ends before its end");
    Some(host)
}

struct Key {
    text: String,
    credentials: CredentialTable,
    tokens: AccessTokens,
}

/// The one key that there is; always the same, so that the fuzzer's dictionary can have it.
static KEY: LazyLock<Key> = LazyLock::new(|| {
    let key = RawKey::generate(KeyKind::Integration, &mut StdRng::seed_from_u64(0));
    let credential = Credential {
        id: CredentialId::generate(),
        kind: KeyKind::Integration,
        team_id: TeamId::generate(),
        user_id: None,
        scopes: Scope::DEFAULT.into(),
        services: None,
        expires_at: None,
        last_use: LastUse::default(),
    };
    let signing = AccessTokens::generate_pkcs8();
    Key {
        text: key.expose().clone(),
        credentials: CredentialTable::new([(key.hash(), credential)], []),
        tokens: AccessTokens::from_pkcs8(signing.expose()).expect("a key that was just made"),
    }
});

/// The key that [`request_fields`] knows.
#[must_use]
pub fn key() -> &'static str {
    &KEY.text
}

/// Whoever is let in has sent the key, and what is passed on does not hold it.
fn credentials(headers: &Fields) {
    let authority =
        Authority { credentials: &KEY.credentials, tokens: &KEY.tokens, now: Timestamp::from_micros(1_000_000) };
    let Ok(authenticated) = authenticate(headers, Doors::Calls, authority) else { return };
    assert!(headers.get_all(&authenticated.consumed).any(holds_key), "{headers:?}");
    if authenticated.consumed == X_TOWLINE_KEY {
        // Whoever sends it says that everything else is for the container.
        return;
    }
    let mut left = headers.clone();
    left.remove(&authenticated.consumed);
    for name in [AUTHORIZATION, X_TOWLINE_KEY]
        .into_iter()
        .chain(["x-api-key", "api-key", "x-goog-api-key"].map(HeaderName::from_static))
    {
        assert!(!left.get_all(&name).any(holds_key), "{headers:?}");
    }
}

/// Whether a value is the key, alone, as `Bearer`, or as a password.
fn holds_key(value: Value<'_>) -> bool {
    let Some(text) = value.to_str() else { return false };
    let (scheme, rest) = text.split_once(' ').unwrap_or_default();
    let password = STANDARD.decode(rest.trim_matches(' ')).ok().and_then(|pair| String::from_utf8(pair).ok());
    let password = password.as_deref().and_then(|pair| pair.split_once(':')).map(|(_, password)| password);
    text == KEY.text
        || (scheme.eq_ignore_ascii_case("bearer") && rest.trim_matches(' ') == KEY.text)
        || (scheme.eq_ignore_ascii_case("basic") && password == Some(&KEY.text))
}

/// A ticket is taken out; the rest of the query and all other subprotocols stay.
fn ticket(head: &RequestHead, target: &str) {
    let (method, headers) = (head.method.clone(), head.headers.clone());
    let mut call = CallHead { method, version: head.version, authority: None, headers };
    let Ok(Some(door)) = ticket_door::find(&call, target) else { return };
    let (left, _) = door.take_from(&mut call.headers, target);
    let parameters = |target: &str| -> Vec<String> {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').filter(|part| !part.starts_with("towline_ticket=")).map(str::to_owned).collect()
    };
    let protocols = |headers: &Fields| -> Vec<Vec<u8>> {
        let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
        let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        names.filter(|name| !name.is_empty() && !name.starts_with(b"towline.ticket.")).map(<[u8]>::to_vec).collect()
    };
    assert!(!ticket_door::is_in_query(&left), "{target}");
    assert_eq!(left.split('?').next(), target.split('?').next());
    let (is, was) = (parameters(&left), parameters(target));
    assert!(is == was || (was.is_empty() && is == [""]), "{target} became {left}");
    assert_eq!(protocols(&call.headers), protocols(&head.headers));
    let ours = [SEC_WEBSOCKET_PROTOCOL];
    assert_eq!(without(&call.headers, &ours), without(&head.headers, &ours));
}

/// What answers an agent's WebSocket was asked for with a nonce (RFC 6455 §4.2.1).
fn upgrade(headers: &HeaderMap) {
    if let Some(accept) = accept_websocket(headers, SESSION_SUBPROTOCOL) {
        assert!(STANDARD.decode(accept.as_bytes()).is_ok_and(|digest| digest.len() == 20));
        let nonce = headers.get(header::SEC_WEBSOCKET_KEY).map(|nonce| STANDARD.decode(nonce).map(|nonce| nonce.len()));
        assert_eq!(nonce, Some(Ok(16)));
    }
}

fn without(headers: &Fields, names: &[HeaderName]) -> HeaderMap {
    let mut left = headers.clone().into_map();
    for name in names {
        left.remove(name);
    }
    left
}
