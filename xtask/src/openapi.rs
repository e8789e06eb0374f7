//! `cargo xtask openapi`: rewrites `openapi.json` from the code.
//!
//! The document is written by the test that otherwise compares it, so that this task need not be built with the server.

use anyhow::{Context, Result};

use crate::tools;

/// Rewrites the document.
///
/// # Errors
/// When the control plane does not build, or its description is not complete.
pub fn run() -> Result<()> {
    let mut command = tools::cargo();
    command.args(["test", "--package", "towline-control", "--test", "it", "openapi::"]).env("UPDATE_OPENAPI", "1");
    tools::run(&mut command).context("the description of the API cannot be made")
}
