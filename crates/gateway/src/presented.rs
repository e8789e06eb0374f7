//! Which of a request's headers carries its credential (contract §6). The first in this order that counts opens the door:
//!
//! 1. `X-Towline-Key`: a key or an access token. Whoever sends it says that everything else is for the container, so
//!    nothing else is looked at.
//! 2. `Authorization: Bearer`: a key or an access token.
//! 3. `X-Api-Key`, `api-key`, `x-goog-api-key`: a key.
//! 4. `Authorization: Basic`: a key as the password, whatever the user's name. Only for calls of services: a browser
//!    sends such a password by itself, also when another site's page makes it ask.
//!
//! Vendors' keys start with `sk-`, too, and may be meant for the container. So behind the first place a value counts when
//! it is a key with the right checksum, or a token that was signed here. What counts and is refused is not passed over.
//! Keys in URLs are not looked for: they end in logs and histories.
//!
//! The header that opens the door is removed, and no other is. A second one that holds a key of this server would reach
//! the container; such a request is refused.

use std::{fmt, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, header};
use towline_model::{KeyHash, KeyKind, RawKey, Secret, key::KeyError};

use crate::{
    access_token::TokenError,
    authenticate::{AuthError, Authority},
    fields::{Headers, Names, Value},
};

/// The header that is for Towline alone.
pub(crate) const X_TOWLINE_KEY: HeaderName = HeaderName::from_static("x-towline-key");
/// Where vendors' SDKs put a key.
static VENDORS: LazyLock<Names<3>> = LazyLock::new(|| Names::new(["x-api-key", "api-key", "x-goog-api-key"]));

/// Which ways in there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doors {
    /// To a service: all of them.
    Calls,
    /// To the API: all but a password.
    Api,
}

/// A credential as it was sent, and where.
pub(crate) struct Presented<'a> {
    text: Text<'a>,
    pub(crate) header: HeaderName,
}

enum Text<'a> {
    Sent(&'a str),
    Decoded(Secret<String>),
}

impl Presented<'_> {
    pub(crate) fn text(&self) -> &str {
        match &self.text {
            Text::Sent(text) => text,
            Text::Decoded(text) => text.expose(),
        }
    }

    fn is_key(&self) -> bool {
        RawKey::parse(self.text()).is_ok()
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Finds the credential that the request is to be judged by.
pub(crate) fn find<'a>(
    headers: &'a impl Headers,
    doors: Doors,
    authority: Authority<'_>,
) -> Result<Presented<'a>, AuthError> {
    if headers.contains_key(X_TOWLINE_KEY) {
        return own_header(headers);
    }
    let bearer = bearer(headers);
    if let Ok(word) = bearer
        && !headers.has_any(&VENDORS)
    {
        // The only Authorization is no password, and there is no other place for a key.
        return Ok(sent(word, header::AUTHORIZATION));
    }
    let elsewhere = keys_elsewhere(headers, doors);
    match bearer {
        Ok(word) if elsewhere.is_empty() || counts(word, authority) => {
            if !elsewhere.is_empty() {
                refuse_another(headers, Some(&header::AUTHORIZATION), authority)?;
            }
            Ok(sent(word, header::AUTHORIZATION))
        }
        Err(error) if elsewhere.is_empty() => Err(explain(error, headers, doors)),
        _ => the_first(elsewhere, headers, authority),
    }
}

fn own_header(headers: &impl Headers) -> Result<Presented<'_>, AuthError> {
    let text = headers.only(X_TOWLINE_KEY).and_then(word).ok_or(AuthError::MalformedKeyHeader)?;
    Ok(sent(text, X_TOWLINE_KEY))
}

/// Of keys in vendors' headers and passwords, the first; it must be the only line of its header, because all go with it.
fn the_first<'a>(
    keys: Vec<Presented<'a>>,
    headers: &impl Headers,
    authority: Authority<'_>,
) -> Result<Presented<'a>, AuthError> {
    let Some(header) = keys.first().map(|first| first.header.clone()) else { return Err(AuthError::Missing) };
    if headers.get_all(&header).count() > 1 {
        return Err(AuthError::Repeated { header });
    }
    refuse_another(headers, Some(&header), authority)?;
    keys.into_iter().next().ok_or(AuthError::Missing)
}

/// Everything with the form of a key that is not in the place of a Bearer's.
fn keys_elsewhere(headers: &impl Headers, doors: Doors) -> Vec<Presented<'_>> {
    let mut found = Vec::new();
    for name in &VENDORS.names {
        let keys = headers.get_all(name).filter_map(word).map(|text| sent(text, name.clone()));
        found.extend(keys.filter(Presented::is_key));
    }
    if doors == Doors::Calls {
        let passwords = headers.get_all(header::AUTHORIZATION).filter_map(password);
        found.extend(passwords.filter(Presented::is_key));
    }
    found
}

/// Refuses a request that carries a key of this server in a header that is passed on. `opened` is the one that is not.
pub(crate) fn refuse_another(
    headers: &impl Headers,
    opened: Option<&HeaderName>,
    authority: Authority<'_>,
) -> Result<(), AuthError> {
    let bearers = headers.get_all(header::AUTHORIZATION).filter_map(|value| bearer_word(value.to_str()?));
    let bearers = bearers.map(|text| sent(text, header::AUTHORIZATION));
    // A key alone is no `Authorization`, and opens nothing there, but the container would see it all the same.
    let bare = [header::AUTHORIZATION, X_TOWLINE_KEY]
        .into_iter()
        .flat_map(|name| headers.get_all(name.clone()).filter_map(word).map(move |text| sent(text, name.clone())));
    let words = bearers.chain(bare);
    let is_live = |key: &Presented<'_>| authority.credentials.key(&KeyHash::of(key.text())).is_some();
    let mut keys = keys_elsewhere(headers, Doors::Calls).into_iter().chain(words);
    match keys.find(|key| opened != Some(&key.header) && is_live(key)) {
        Some(key) => Err(AuthError::Ambiguous { header: key.header }),
        None => Ok(()),
    }
}

/// Whether what a Bearer says is for this server.
fn counts(word: &str, authority: Authority<'_>) -> bool {
    RawKey::parse(word).is_ok() || authority.tokens.verify(word, authority.now) != Err(TokenError::Invalid)
}

/// A mistyped key is worth more words than that no key is there.
fn explain(error: AuthError, headers: &impl Headers, doors: Doors) -> AuthError {
    let looks_like_a_key = |text: &str| KeyKind::of(text).is_some();
    let vendor = VENDORS.names.iter().flat_map(|name| headers.get_all(name)).filter_map(word).any(looks_like_a_key);
    let basic = headers.get_all(header::AUTHORIZATION).filter_map(password);
    let basic = doors == Doors::Calls && basic.into_iter().any(|password| looks_like_a_key(password.text()));
    if vendor || basic { AuthError::Mistyped(KeyError::Mistyped) } else { error }
}

/// The word after `Bearer` in the only `Authorization` header (RFC 6750 §2.1).
///
/// # Errors
/// When there is none, more than one, or one of another form.
pub(crate) fn bearer(headers: &impl Headers) -> Result<&str, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION);
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::Malformed);
    }
    value.to_str().and_then(bearer_word).ok_or(AuthError::Malformed)
}

fn bearer_word(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once(' ')?;
    let word = rest.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && is_one_word(word)).then_some(word)
}

/// The password of `Basic` (RFC 7617 §2): everything behind the first colon.
fn password(value: Value<'_>) -> Option<Presented<'_>> {
    let (scheme, rest) = value.to_str()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = Secret::new(String::from_utf8(STANDARD.decode(rest.trim_matches(' ')).ok()?).ok()?);
    let (_, password) = pair.expose().split_once(':')?;
    Some(Presented { text: Text::Decoded(Secret::new(password.to_owned())), header: header::AUTHORIZATION })
}

/// A value that is one word of visible ASCII.
fn word(value: Value<'_>) -> Option<&str> {
    value.to_str().filter(|text| is_one_word(text))
}

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|byte| matches!(byte, b' ' | b'\t' | b','))
}

const fn sent(text: &str, header: HeaderName) -> Presented<'_> {
    Presented { text: Text::Sent(text), header }
}

/// What a header is called in messages.
pub(crate) fn shown(header: &HeaderName) -> &str {
    match header.as_str() {
        "authorization" => "Authorization",
        "x-api-key" => "X-Api-Key",
        "x-towline-key" => "X-Towline-Key",
        other => other,
    }
}
