//! Where the things are that a test needs and that cargo does not build for it. What is missing fails the test.

use std::path::{Path, PathBuf};

/// The directory with this profile's programs, such as `target/debug`.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/it-0123456789abcdef
    test.parent().and_then(Path::parent).expect("a test is two directories below the profile").to_owned()
}

fn required(path: PathBuf, what: &str) -> PathBuf {
    assert!(path.exists(), "{what} is missing ({}): run `cargo xtask test`, which provides it", path.display());
    path
}

/// The program `towline`, as `cargo build` left it.
#[must_use]
pub fn towline() -> PathBuf {
    match std::env::var_os("TOWLINE_TEST_BIN") {
        Some(path) => required(path.into(), "the program that TOWLINE_TEST_BIN names"),
        None => required(profile_directory().join("towline"), "the program `towline`"),
    }
}

/// The demo service as a program of this machine.
#[must_use]
pub fn demo() -> PathBuf {
    required(profile_directory().join("towline-demo"), "the program `towline-demo`")
}

/// Chromium, or Chrome.
#[must_use]
pub fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&path)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|it| it.exists());
    required(found.unwrap_or_else(|| "/usr/bin/chromium".into()), "the browser Chromium")
}

/// Python with the `openai`, `anthropic` and `aiosmtpd` packages of PyPI.
#[must_use]
pub fn python() -> PathBuf {
    required(sdk().join("python/bin/python"), "Python with the tests' packages")
}

/// The API tester schemathesis, of PyPI.
#[must_use]
pub fn schemathesis() -> PathBuf {
    required(sdk().join("python/bin/schemathesis"), "the API tester schemathesis")
}

/// A directory whose `node_modules` has the vendors' SDKs, `oidc-provider`, and what makes and compiles a typed client, all of
/// npm.
#[must_use]
pub fn node_directory() -> PathBuf {
    required(sdk().join("node"), "Node.js with the vendors' packages")
}

fn sdk() -> PathBuf {
    profile_directory().join("../sdk")
}

/// `postgres://…` of a server on which the tests may create databases.
#[must_use]
pub fn postgres_url() -> String {
    let url = std::env::var_os("TOWLINE_TEST_POSTGRES_URL").and_then(|url| url.into_string().ok());
    url.expect(
        "TOWLINE_TEST_POSTGRES_URL is not set: run `cargo xtask test`, which starts a PostgreSQL server and sets it",
    )
}
