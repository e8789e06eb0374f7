//! How single texts of a definition are written: labels, slugs, paths, names. What they mean is not known here.

use super::MAX_TEXT_BYTES;

/// The beginning of the label that every agent has by itself: `towline.agent=` and its id. No agent can be given it.
pub const OWN_LABEL_PREFIX: &str = "towline.agent=";

/// The label that this agent has, and no other: a service that requires it goes to this agent only.
#[must_use]
pub fn own_label(agent: crate::AgentId) -> String {
    format!("{OWN_LABEL_PREFIX}{agent}")
}

/// What a label looks like, in words.
pub const LABEL_RULE: &str =
    "must be 1 to 63 letters, digits, and any of . _ / = -, with a letter or digit at both ends";

/// Whether a text can be a label of an agent.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._/=-".contains(byte))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// Whether a text can be a service's slug.
#[must_use]
pub fn is_slug(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=100).contains(&bytes.len())
        && bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-')
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
}

/// Whether a text is a path (and query) of an HTTP request in origin form (RFC 9112 §3.2.1) that cannot be mistaken for
/// another host: it starts with exactly one `/` and has no control character, space, backslash or fragment.
#[must_use]
pub fn is_http_path(text: &str) -> bool {
    text.len() <= 8192
        && text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#')
}

pub(super) fn is_storable(text: &str) -> bool {
    text.len() <= MAX_TEXT_BYTES && !text.contains('\0')
}

pub(super) fn is_env_name(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// The colon is the engine's own separator in volume definitions.
pub(super) fn is_absolute_path(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= 4096
        && !path.contains(':')
        && !path.contains(char::is_control)
        && path.split('/').all(|part| part != "..")
}
