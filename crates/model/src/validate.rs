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
