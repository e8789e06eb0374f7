//! The one body of an error answer: `application/problem+json` (RFC 9457) with our members.

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, FieldError, ValidationError};

/// The media type of [`Problem`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error answer. `detail` and `error_message` are the same sentence: the standard's name and the contract's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A URI that names the kind of problem: `urn:towline:error:<error_code>`.
    #[serde(rename = "type")]
    #[schema(example = "urn:towline:error:not_found")]
    pub kind: String,
    /// The kind of problem in one sentence, the same every time.
    pub title: String,
    /// The HTTP status code.
    #[schema(example = 404)]
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// What is wrong this time, in a sentence that a person can act on.
    pub error_message: String,
    /// The stable code to match on.
    #[schema(value_type = String, example = "not_found")]
    pub error_code: ErrorCode,
    /// The id of the request, to be quoted to whoever runs the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Every field that is wrong, when the input was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The same error in the shape that vendors' SDKs print; only on the runtime routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<VendorError>,
}

/// An error in the shape of the OpenAI and Anthropic APIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VendorError {
    /// The same as `error_message`.
    pub message: String,
    /// Always `towline_error`, so that a caller can tell it from an error of the container.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same as `error_code`.
    #[schema(value_type = String)]
    pub code: ErrorCode,
}

impl Problem {
    /// A problem of this kind, in a sentence that says what to do next.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            kind: format!("urn:towline:error:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: message.clone(),
            error_message: message,
            error_code: code,
            request_id: None,
            errors: Vec::new(),
            error: None,
        }
    }

    /// Names the request that the problem answers.
    #[must_use]
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }

    /// Adds the shape that vendors' SDKs print.
    #[must_use]
    pub fn with_vendor_error(mut self) -> Self {
        self.error = Some(VendorError {
            message: self.error_message.clone(),
            kind: "towline_error".to_owned(),
            code: self.error_code,
        });
        self
    }
}

impl From<ValidationError> for Problem {
    fn from(error: ValidationError) -> Self {
        let mut problem = Self::new(ErrorCode::ValidationFailed, error.to_string());
        problem.errors = error.fields;
        problem
    }
}
