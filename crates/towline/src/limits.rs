//! The limit of open files. Every caller and every carrier is one, and the usual soft limit of 1024 is soon reached;
//! the hard limit is what the administrator really set.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one where the system lets us, and logs the result.
pub fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        Ok(()) => tracing::debug!(from = now.current, to = now.maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(
            limit = now.current, %error,
            "cannot raise the limit of open files; connections above it fail (see ulimit -n)"
        ),
    }
}
