//! The login for a registry, from the value of a secret.

use towline_model::{Secret, secret_use::parse_login};
use towline_tunnel::message::RegistryAuth;

/// The login that a value holds; `None` when it holds none. That is checked when a definition refers to it, and when the
/// value changes.
#[must_use]
pub fn registry_login(value: &Secret<String>) -> Option<RegistryAuth> {
    let (username, password) = parse_login(value.expose())?;
    Some(RegistryAuth { username: username.to_owned(), password: Secret::new(password.to_owned()) })
}
