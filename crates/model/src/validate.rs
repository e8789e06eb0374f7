//! What is wrong with an input, field by field.

use serde::Serialize;

/// One field that is wrong, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The path of the field in the request body, such as `env_config[2].env_name`.
    pub field: String,
    /// What it must be.
    pub message: String,
}

/// An input that was refused; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct ValidationError {
    /// Every field that is wrong, never empty.
    pub fields: Vec<FieldError>,
}

impl ValidationError {
    /// An error about one field.
    #[must_use]
    pub fn one(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { fields: vec![FieldError { field: field.into(), message: message.into() }] }
    }

    fn summary(&self) -> String {
        let parts: Vec<_> = self
            .fields
            .iter()
            .map(|error| {
                if error.field.is_empty() || error.field == "." {
                    error.message.clone()
                } else {
                    format!("{}: {}", error.field, error.message)
                }
            })
            .collect();
        parts.join("; ")
    }
}

/// What a parser says about a text that does not fit, without the value that it stumbled over: that may be a secret, and
/// answers are logged by others. Names of fields and what was expected stay.
#[must_use]
pub fn without_value(said: &str) -> String {
    let kinds = ["invalid type: ", "invalid value: ", "unknown variant "];
    let Some(kind) = kinds.into_iter().find(|kind| said.starts_with(kind)) else {
        // The parser of ids shows the character that it did not expect.
        let is_of_id = said.starts_with("UUID parsing failed");
        return if is_of_id { "must be an id, which is a UUID".to_owned() } else { said.to_owned() };
    };
    // What was expected is last; a value that says the same comes before it.
    let expected = said.rfind(", expected ").map_or("", |at| &said[at..]);
    let what = said[kind.len()..].split(['"', '`', ',']).next().unwrap_or_default();
    format!("{}{}", format!("{kind}{what}").trim_end().trim_end_matches(':'), expected)
}

/// Collects the errors of an input, so that all of them are told at once.
#[derive(Debug, Default)]
pub struct Checks(Vec<FieldError>);

impl Checks {
    /// Notes an error unless `holds`.
    pub fn require(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.0.push(FieldError { field: field.to_owned(), message: message.to_owned() });
        }
    }

    /// Notes an error unless `holds`, with a field name and message that are only made then.
    pub fn require_with(&mut self, holds: bool, error: impl FnOnce() -> (String, String)) {
        if !holds {
            let (field, message) = error();
            self.0.push(FieldError { field, message });
        }
    }

    /// Notes an error unless `name` can be a name for people.
    pub fn require_name(&mut self, field: &str, name: &str) {
        self.require((1..=100).contains(&name.chars().count()), field, "must have 1 to 100 characters");
        self.require(!name.contains(char::is_control), field, "must not contain control characters");
    }

    /// Ends the checks.
    ///
    /// # Errors
    /// When at least one did not hold.
    pub fn finish(self) -> Result<(), ValidationError> {
        if self.0.is_empty() { Ok(()) } else { Err(ValidationError { fields: self.0 }) }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::without_value;
    use crate::{SecretId, ServiceType};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parser is of interest")]
    struct Wished {
        number: Option<u16>,
        switch: Option<bool>,
        list: Option<Vec<String>>,
        text: Option<String>,
        kind: Option<ServiceType>,
        secret: Option<SecretId>,
    }

    #[test]
    fn a_value_is_not_repeated() {
        let tricks = "hunter2, expected `hunter2`, \"hunter2\" at line 1";
        for field in ["number", "switch", "list", "text", "kind", "secret"] {
            for value in
                [json!("hunter2"), json!(tricks), json!(["hunter2"]), json!({"hunter2": "hunter2"}), json!(424_242)]
            {
                let text = json!({ field: value }).to_string();
                let Err(error) = serde_json::from_str::<Wished>(&text) else { continue };
                let told = without_value(&error.to_string());
                assert!(!told.contains("unter") && !told.contains("424242"), "{text}: {told}");
                let Err(error) = serde_json::from_value::<Wished>(serde_json::from_str(&text).unwrap()) else {
                    panic!()
                };
                let told = without_value(&error.to_string());
                assert!(!told.contains("unter") && !told.contains("424242"), "{text}: {told}");
            }
        }
    }

    #[test]
    fn what_was_expected_stays() {
        let told = |text: &str| without_value(&serde_json::from_str::<Wished>(text).unwrap_err().to_string());
        assert_eq!(told(r#"{"number": "x"}"#), "invalid type: string, expected u16 at line 1 column 14");
        assert_eq!(told(r#"{"switch": 12}"#), "invalid type: integer, expected a boolean at line 1 column 13");
        assert_eq!(
            told(r#"{"kind": "x"}"#),
            "unknown variant, expected one of `deployed`, `external`, `attached` at line 1 column 12"
        );
        assert!(told(r#"{"colour": 1}"#).starts_with("unknown field `colour`, expected one of `number`"));
        assert!(
            serde_json::from_str::<Value>("{")
                .is_err_and(|error| without_value(&error.to_string()) == error.to_string())
        );
    }
}
