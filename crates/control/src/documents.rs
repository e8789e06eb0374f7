//! The documents that are made from the code and checked in, so that they cannot say anything else.
//!
//! `cargo xtask openapi` writes them, and a test compares them.

use std::fmt::Write as _;

use towline_model::ErrorCode;

use crate::{http::permissions::permissions_markdown, openapi_json};

/// Every document: where it is in the repository, and what it says.
#[must_use]
pub fn documents() -> Vec<(&'static str, String)> {
    vec![
        ("openapi.json", openapi_json()),
        ("docs/errors.md", errors()),
        ("docs/permissions.md", permissions_markdown()),
    ]
}

/// The list of error codes.
fn errors() -> String {
    let mut text = String::from(
        "# Error codes\n\n\
         <!-- Made from crates/model/src/error_code.rs by `cargo xtask openapi`. -->\n\n\
         Every error answer has the media type `application/problem+json` (RFC 9457) and these members: `type`, `title` and \
         `status` are the same for every answer with that code; `detail` and `error_message` are one sentence that says what \
         is wrong this time and what to do; `error_code` is what a program matches on, never renamed; `request_id` is what to \
         quote to whoever runs the server; `errors`, when the input was refused, lists every field that is wrong.\n\n\
         | `error_code` | status | when |\n|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        let _ = writeln!(text, "| `{}` | {} | {} |", code.as_str(), code.status(), code.title());
    }
    text
}
