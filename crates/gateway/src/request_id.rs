//! The id of a request: the caller's, when it is well-formed, or a new one.

use http::{HeaderMap, HeaderName, HeaderValue};
use towline_model::{Clock as _, SystemClock};
use uuid::{Builder, Uuid};

use crate::{
    fields::{Headers, Value},
    h1::spare,
};

/// The header that carries a request's id, from callers, to containers, and in answers of ours.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that carries the id in a container's answer.
pub const X_TOWLINE_REQUEST_ID: HeaderName = HeaderName::from_static("x-towline-request-id");

/// A request's id as text, 1 to 128 of `A–Z a–z 0–9 . _ -`. The listener puts it into every request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestIdText(HeaderValue);

impl RequestIdText {
    /// The caller's id, or a new one when there is none, more than one, or a malformed one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        Self::sent_in(headers)
    }

    /// The same for a head of any kind.
    pub(crate) fn sent_in(headers: &impl Headers) -> Self {
        match headers.only(X_REQUEST_ID) {
            Some(value) if is_well_formed(value) => Self(value.to_value()),
            _ => Self::generate(),
        }
    }

    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        // Made here and not by `RequestId::generate`, which asks the kernel for its random bits: that would be a system
        // call for every request.
        let millis = u64::try_from(SystemClock.now().as_micros() / 1000).unwrap_or_default();
        let id = Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
        let mut text = Uuid::encode_buffer();
        let text = id.as_hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_maybe_shared(spare::text(text.as_bytes())).expect("a UUID is visible ASCII"))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as a header's value.
    #[must_use]
    pub const fn value(&self) -> &HeaderValue {
        &self.0
    }
}

fn is_well_formed(value: Value<'_>) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len()) && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(values: &[&str]) -> RequestIdText {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_REQUEST_ID, HeaderValue::from_str(value).unwrap());
        }
        RequestIdText::of(&headers)
    }

    #[test]
    fn a_well_formed_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_of(&["abc-1.2_3"]).as_str(), "abc-1.2_3");
        let long = "x".repeat(129);
        for bad in [&[][..], &[""], &["a b"], &["a", "b"], &["a\"b"], &["ä"], &[long.as_str()]] {
            let id = id_of(bad);
            let uuid: uuid::Uuid = id.as_str().parse().unwrap();
            assert_eq!(uuid.get_version_num(), 7, "{bad:?} became {id:?}");
        }
    }
}
