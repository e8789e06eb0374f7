//! Where definitions refer to secrets, and what the value of a secret must be like to be used there.
//!
//! References are found in the JSON of a definition, by the names of the fields. So a definition that is stored is
//! understood whatever else is in it, and a field is covered as soon as definitions have it.

use serde_json::Value;

use crate::{Secret, SecretId, service::MAX_TEXT_BYTES};

/// What a secret is used for. Decides what its value must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretPurpose {
    /// The value of an environment variable: any text without NUL.
    Environment,
    /// The login for an image's registry: `username:password`.
    RegistryLogin,
    /// The `Authorization` header of requests to an external service.
    Authorization,
}

/// One place in a definition that refers to a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse {
    /// The secret.
    pub secret_id: SecretId,
    /// The path of the field, such as `env_config[2].secret_id`.
    pub field: String,
    /// What for.
    pub purpose: SecretPurpose,
}

/// Fields at the top of a definition that hold a secret's id.
const FIELDS: [(&str, SecretPurpose); 2] = [
    ("registry_auth_secret_id", SecretPurpose::RegistryLogin),
    ("external_auth_credential_id", SecretPurpose::Authorization),
];

/// Every place in a definition, given as JSON, that refers to a secret.
#[must_use]
pub fn secret_uses(definition: &Value) -> Vec<SecretUse> {
    let id = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let entries = definition["env_config"].as_array().map(Vec::as_slice).unwrap_or_default();
    let variables = entries.iter().enumerate().filter_map(|(index, entry)| {
        let field = format!("env_config[{index}].secret_id");
        Some(SecretUse { secret_id: id(&entry["secret_id"])?, field, purpose: SecretPurpose::Environment })
    });
    let fields = FIELDS.into_iter().filter_map(|(field, purpose)| {
        Some(SecretUse { secret_id: id(&definition[field])?, field: field.to_owned(), purpose })
    });
    variables.chain(fields).collect()
}

impl SecretPurpose {
    /// What is wrong with a value for this purpose; `None` when it fits. The value is not in the text.
    #[must_use]
    pub fn objection(self, value: &Secret<String>) -> Option<&'static str> {
        let text = value.expose();
        match self {
            Self::Environment => None,
            Self::RegistryLogin => parse_login(text).is_none().then_some(
                "must be username:password for the registry, with a user name, a colon and no control characters",
            ),
            Self::Authorization => (!is_header_value(text)).then_some(
                "must be what an Authorization header can hold, such as Bearer abc: printable ASCII without a line break, \
                 not empty, without spaces at its ends",
            ),
        }
    }
}

/// What is wrong with a text as the value of any secret; `None` when it fits. The text is not in the answer.
#[must_use]
pub fn value_objection(value: &Secret<String>) -> Option<&'static str> {
    let text = value.expose();
    if text.is_empty() {
        return Some("must not be empty");
    }
    (text.len() > MAX_TEXT_BYTES || text.contains('\0')).then_some("must have at most 64 KiB and no NUL")
}

/// Splits `username:password` at the first colon (RFC 7617 §2 allows none in a user name).
#[must_use]
pub fn parse_login(text: &str) -> Option<(&str, &str)> {
    // A file that was made with an editor ends in a line break, which no password does.
    let (username, password) = text.trim_end_matches(['\r', '\n']).split_once(':')?;
    let is_plain = |part: &str| !part.is_empty() && !part.contains(char::is_control);
    (is_plain(username) && is_plain(password)).then_some((username, password))
}

/// RFC 9110 §5.5, without obs-text.
fn is_header_value(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_that_refers_to_a_secret_is_found() {
        let ids: Vec<_> = (0..3).map(|_| SecretId::generate()).collect();
        let definition = json!({
            "env_config": [{"env_name": "A", "env_value": ids[0]}, {"env_name": "B", "secret_id": ids[0]}],
            "registry_auth_secret_id": ids[1], "external_auth_credential_id": ids[2], "usage_prompt": ids[0],
        });
        let uses = secret_uses(&definition);
        let found: Vec<_> = uses.iter().map(|used| (used.secret_id, used.field.as_str())).collect();
        let expected = [
            (ids[0], "env_config[1].secret_id"),
            (ids[1], "registry_auth_secret_id"),
            (ids[2], "external_auth_credential_id"),
        ];
        assert_eq!(found, expected);
        assert!(secret_uses(&json!({"env_config": "x", "registry_auth_secret_id": 1})).is_empty());
    }

    #[test]
    fn each_purpose_has_its_form() {
        let fits = |purpose: SecretPurpose, text: &str| purpose.objection(&Secret::new(text.to_owned())).is_none();
        for (text, registry, header) in [
            ("robot$ci:p:w", true, true),
            ("user:password\n", true, false),
            ("nocolon", false, true),
            (":password", false, true),
            ("user:", false, true),
            ("user:a\tb", false, false),
            ("Bearer abc", false, true),
            ("Bearer ümlaut", false, false),
            (" Bearer", false, false),
        ] {
            assert_eq!(fits(SecretPurpose::RegistryLogin, text), registry, "{text:?}");
            assert_eq!(fits(SecretPurpose::Authorization, text), header, "{text:?}");
            assert!(fits(SecretPurpose::Environment, text));
        }
        assert_eq!(parse_login("a:b:c"), Some(("a", "b:c")));
    }

    #[test]
    fn a_value_has_a_size_and_no_nul() {
        let fits = |text: String| value_objection(&Secret::new(text)).is_none();
        assert!(fits("x".repeat(MAX_TEXT_BYTES)) && !fits("x".repeat(MAX_TEXT_BYTES + 1)));
        assert!(!fits(String::new()) && !fits("a\0b".to_owned()));
    }

    proptest! {
        #[test]
        fn no_objection_repeats_the_value(text in "[a-z0-9\0\n:]{12,40}") {
            let value = Secret::new(text.clone());
            for purpose in [SecretPurpose::RegistryLogin, SecretPurpose::Authorization] {
                prop_assert!(purpose.objection(&value).is_none_or(|objection| !objection.contains(&text)));
            }
        }
    }
}
