//! A directory for one test.

use tempfile::TempDir;

/// Makes an empty directory with a path short enough for Unix sockets below it (108 bytes at most); removed when dropped.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn test_dir() -> TempDir {
    tempfile::Builder::new().prefix("twe").tempdir().expect("the temporary directory takes another one")
}
