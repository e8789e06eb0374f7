//! What the engine's errors mean.

use std::{error::Error as _, io};

use bollard::errors::Error;

use towline_tunnel::message::RegistryAuth;

use crate::runtime::{PullError, RuntimeError};

/// The most of the engine's words that is repeated, in characters.
const QUOTE_LIMIT: usize = 600;

/// An error of an operation on containers.
pub(super) fn runtime_error(error: &Error, address: &str) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { status_code: 404, .. } => RuntimeError::Gone,
        Error::DockerResponseServerError { status_code, message } => {
            let message = quoted(message);
            // A 500 at the start of a container is how the engine says that the program cannot be run.
            if *status_code < 500 || is_about_the_definition(&message) {
                RuntimeError::Rejected(message)
            } else {
                RuntimeError::Failed(message)
            }
        }
        Error::DockerStreamError { error } => RuntimeError::Failed(quoted(error)),
        Error::JsonDataError { message, .. } => {
            RuntimeError::Failed(format!("its answer is not understood: {message}"))
        }
        other => RuntimeError::Unavailable(unavailable(other, address)),
    }
}

/// Whether a failure to start would be the same at any other time.
fn is_about_the_definition(message: &str) -> bool {
    [
        "OCI runtime",
        "oci runtime",
        "runc create failed",
        "crun:",
        "executable file not found",
        "no such file or directory",
        "could not select device driver",
        "bind source path does not exist",
        "invalid mount config",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

/// An error of a pull, with a login or without. Nothing of the login is in it, whatever the engine repeats.
pub(super) fn pull_error(image: &str, error: &Error, login: Option<&RegistryAuth>, address: &str) -> PullError {
    let said = match error {
        Error::DockerResponseServerError { message, .. } => quoted(message),
        Error::DockerStreamError { error } => quoted(error),
        other => return PullError::Engine(runtime_error(other, address)),
    };
    let said = login.map_or(said.clone(), |login| said.replace(login.password.expose().as_str(), "…"));
    let image = image.to_owned();
    let lower = said.to_lowercase();
    let says = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
    // To those without a login, Docker Hub answers the same for what does not exist and for what they may not have.
    if says(&["denied", "unauthorized", "authentication required", "no basic auth", "forbidden"]) {
        match login {
            Some(_) => PullError::LoginRefused { image, said },
            None => PullError::Denied { image, said },
        }
    } else if says(&["manifest unknown", "name unknown", "no matching manifest"])
        || (lower.contains("not found") && !says(&["no such host", "lookup "]))
    {
        PullError::NotFound { image, said }
    } else {
        PullError::Unreachable { image, said }
    }
}

/// Why no engine answers, and what to do.
pub(super) fn unavailable(error: &Error, address: &str) -> String {
    match error {
        Error::SocketNotFoundError(path) => format!(
            "no container engine has its socket at {path}: install Docker (Debian and Ubuntu: `apt-get install docker.io`; \
             elsewhere: https://docs.docker.com/engine/install/) or Podman, and start it; the agent picks it up when it is there"
        ),
        Error::RequestTimeoutError => {
            format!("the container engine at {address} does not answer; look at its logs and restart it")
        }
        other => match io_kind(other) {
            Some(io::ErrorKind::PermissionDenied) => format!(
                "this user may not use the container engine at {address}: run the agent as root, or add its user to the \
                 group `docker` (`sudo usermod -aG docker $USER`) and sign in again"
            ),
            Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => format!(
                "the container engine at {address} is not running; start it (`sudo systemctl start docker`); the agent picks it \
                 up when it is there"
            ),
            _ => format!("the container engine at {address} cannot be used: {}", quoted(&chain(other))),
        },
    }
}

/// Whether there is no such container, image or network.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// Whether making a container failed because its image is not there.
pub(super) fn is_missing_image(error: &Error) -> bool {
    let Error::DockerResponseServerError { status_code: 404 | 500, message } = error else { return false };
    let message = message.to_lowercase();
    message.contains("no such image") || message.contains("image not known")
}

/// Whether the name is taken, or something else goes on with the container.
pub(super) fn is_conflict(error: &Error) -> bool {
    match error {
        Error::DockerResponseServerError { status_code: 409, .. } => true,
        // Podman.
        Error::DockerResponseServerError { status_code: 500, message } => message.contains("already in use"),
        _ => false,
    }
}

fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    // A transparent error answers source() with the source of what is inside it, which would skip the inside.
    if let Error::IOError { err } = error {
        return Some(err.kind());
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = source.source();
    }
    text
}

fn quoted(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(QUOTE_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::login;

    fn response(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn pulls_fail_for_one_of_three_reasons() {
        let kind = |error: &Error| match pull_error("a", error, None, "x") {
            PullError::NotFound { .. } => "not found",
            PullError::Denied { .. } => "denied",
            PullError::LoginRefused { .. } => "login refused",
            PullError::Unreachable { .. } => "unreachable",
            PullError::Engine(_) => "engine",
        };
        let stream = |text: &str| Error::DockerStreamError { error: text.to_owned() };
        for (error, expected) in [
            (response(404, "manifest for alpine:nope not found: manifest unknown: manifest unknown"), "not found"),
            (
                response(
                    404,
                    "pull access denied for nope, repository does not exist or may require 'docker login': denied: \
                     requested access to the resource is denied",
                ),
                "denied",
            ),
            (stream("no matching manifest for linux/arm64/v8 in the manifest list entries"), "not found"),
            (response(500, "Get https://ghcr.io/v2/x/manifests/1: denied"), "denied"),
            (response(500, "unauthorized: authentication required"), "denied"),
            (
                response(
                    500,
                    "Get https://registry-1.docker.io/v2/: dial tcp: lookup registry-1.docker.io: no such host",
                ),
                "unreachable",
            ),
            (
                response(
                    500,
                    "Get https://registry-1.docker.io/v2/: dial tcp: lookup registry-1.docker.io: server not found",
                ),
                "unreachable",
            ),
            (response(500, "net/http: request canceled while waiting for connection"), "unreachable"),
            (stream("toomanyrequests: You have reached your pull rate limit"), "unreachable"),
            (Error::RequestTimeoutError, "engine"),
        ] {
            assert_eq!(kind(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_refused_login_is_told_as_one_and_not_repeated() {
        let error = response(500, "unauthorized: incorrect password hunter2");
        let error = pull_error("a", &error, Some(&login("me", "hunter2")), "x");
        assert!(matches!(error, PullError::LoginRefused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("registry_auth_secret_id") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_engines_errors_are_told_apart() {
        let of = |error: &Error| runtime_error(error, "/var/run/docker.sock");
        assert_eq!(of(&response(404, "No such container: x")), RuntimeError::Gone);
        assert!(matches!(of(&response(400, "invalid")), RuntimeError::Rejected(_)));
        let start = "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH: unknown";
        assert!(matches!(of(&response(500, start)), RuntimeError::Rejected(_)));
        assert!(matches!(of(&response(500, "devmapper: out of space")), RuntimeError::Failed(_)));
        assert!(is_missing_image(&response(404, "No such image: a:latest")));
        assert!(!is_missing_image(&response(404, "No such container: a")));
        assert!(is_conflict(&response(409, "The container name is already in use")));
    }

    #[test]
    fn an_engine_that_cannot_be_reached_is_explained() {
        let check = |kind: io::ErrorKind, expected: &str| {
            let text = unavailable(&Error::IOError { err: kind.into() }, "/var/run/docker.sock");
            assert!(text.contains(expected), "{text}");
        };
        check(io::ErrorKind::PermissionDenied, "usermod -aG docker");
        check(io::ErrorKind::ConnectionRefused, "systemctl start docker");
        check(io::ErrorKind::BrokenPipe, "cannot be used");
    }
}
