//! Finding the engine, and saying how to get one when there is none.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bollard::{API_DEFAULT_VERSION, Docker, models::SystemVersion};

use super::{DockerConfig, failure::unavailable};

/// How long the engine may take for the head of an answer, in seconds. The callers have deadlines of their own.
const CLIENT_TIMEOUT_SECONDS: u64 = 120;

/// One place where an engine may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A Unix socket.
    Socket(PathBuf),
    /// TCP on this machine: `127.0.0.1:2375`.
    Loopback(String),
}

impl Address {
    /// Reads what `DOCKER_HOST` may hold.
    fn parse(host: &str) -> Result<Self, String> {
        if let Some(path) = host.strip_prefix("unix://") {
            return Ok(Self::Socket(path.into()));
        }
        let authority = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"));
        let Some(authority) = authority.map(|authority| authority.trim_end_matches('/')) else {
            return Err(format!(
                "the engine's address {host:?} is not understood; use unix:///path or tcp://127.0.0.1:port"
            ));
        };
        let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
        if matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
            return Ok(Self::Loopback(authority.to_owned()));
        }
        // Containers are reached on their machine's loopback, which the agent only sees from there.
        Err(format!("the engine at {host} is on another machine; run an agent there instead"))
    }

    /// The path of the socket, if it is one.
    pub(super) fn into_socket(self) -> Option<PathBuf> {
        match self {
            Self::Socket(path) => Some(path),
            Self::Loopback(_) => None,
        }
    }

    /// Where to look, in this order.
    pub(super) fn candidates(config: &DockerConfig) -> Result<Vec<Self>, String> {
        if let Some(host) = &config.host {
            return Ok(vec![Self::parse(host)?]);
        }
        let runtime_dir = config.runtime_dir.clone().or_else(|| {
            let user = fs::metadata("/proc/self").ok()?.uid();
            Some(PathBuf::from(format!("/run/user/{user}")))
        });
        let mut sockets = vec![PathBuf::from("/var/run/docker.sock"), PathBuf::from("/run/podman/podman.sock")];
        if let Some(directory) = runtime_dir {
            sockets.push(directory.join("docker.sock"));
            sockets.push(directory.join("podman/podman.sock"));
        }
        Ok(sockets.into_iter().map(Self::Socket).collect())
    }

    /// Where the engine is looked for, for words.
    pub(super) fn described(config: &DockerConfig) -> String {
        config.host.clone().unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
    }

    fn open(&self) -> Result<Docker, bollard::errors::Error> {
        match self {
            Self::Socket(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), CLIENT_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
            }
            Self::Loopback(authority) => {
                Docker::connect_with_http(&format!("tcp://{authority}"), CLIENT_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
            }
        }
    }
}

/// Connects to the first engine that answers, and agrees on a version of the API with it.
pub(super) async fn connect(config: &DockerConfig) -> Result<Docker, String> {
    let mut first_failure = None;
    for address in Address::candidates(config)? {
        if let Address::Socket(path) = &address
            && config.host.is_none()
            && !exists(path)
        {
            continue;
        }
        let answered = match address.open() {
            Ok(client) => client.negotiate_version().await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(client) => return Ok(client),
            Err(error) => first_failure = first_failure.or_else(|| Some(unavailable(&error, &described(&address)))),
        }
    }
    Err(first_failure.unwrap_or_else(absent))
}

fn exists(path: &Path) -> bool {
    // A socket that may not be looked at is there, and its refusal is to be told.
    !matches!(fs::metadata(path), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}

fn described(address: &Address) -> String {
    match address {
        Address::Socket(path) => path.display().to_string(),
        Address::Loopback(authority) => authority.clone(),
    }
}

fn absent() -> String {
    "there is no container engine on this machine: install Docker (Debian and Ubuntu: `apt-get install docker.io`; \
     elsewhere: https://docs.docker.com/engine/install/) or Podman with its API socket (`systemctl enable --now podman.socket`); \
     the agent picks it up when it is there"
        .to_owned()
}

/// The engine's name and version.
pub(super) fn version_text(version: &SystemVersion) -> String {
    let components = version.components.as_deref().unwrap_or_default();
    let podman = components.iter().find(|component| component.name.contains("Podman"));
    match podman {
        Some(podman) => format!("Podman {}", podman.version),
        None => format!("Docker {}", version.version.as_deref().unwrap_or("of an unknown version")),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::SystemVersionComponents;

    use super::*;

    #[test]
    fn addresses_are_read_and_other_machines_refused() {
        assert_eq!(Address::parse("unix:///run/x.sock"), Ok(Address::Socket("/run/x.sock".into())));
        assert_eq!(Address::parse("tcp://127.0.0.1:2375"), Ok(Address::Loopback("127.0.0.1:2375".to_owned())));
        assert_eq!(Address::parse("http://localhost:2375/"), Ok(Address::Loopback("localhost:2375".to_owned())));
        assert!(Address::parse("tcp://10.0.0.5:2375").unwrap_err().contains("another machine"));
        assert!(Address::parse("ssh://host").unwrap_err().contains("unix://"));
    }

    #[test]
    fn docker_comes_before_podman() {
        let config = DockerConfig { runtime_dir: Some("/run/user/7".into()), ..DockerConfig::default() };
        let sockets: Vec<_> = Address::candidates(&config).unwrap().iter().map(described).collect();
        assert_eq!(
            sockets,
            [
                "/var/run/docker.sock",
                "/run/podman/podman.sock",
                "/run/user/7/docker.sock",
                "/run/user/7/podman/podman.sock"
            ]
        );
    }

    #[test]
    fn engines_are_named() {
        let component =
            |name: &str| SystemVersionComponents { name: name.to_owned(), version: "5.1".to_owned(), details: None };
        let docker = SystemVersion { version: Some("28.2.2".to_owned()), ..SystemVersion::default() };
        assert_eq!(version_text(&docker), "Docker 28.2.2");
        let podman = SystemVersion { components: Some(vec![component("Podman Engine")]), ..docker };
        assert_eq!(version_text(&podman), "Podman 5.1");
    }

    #[tokio::test]
    async fn without_an_engine_it_says_how_to_get_one() {
        let config = DockerConfig { host: Some("unix:///does/not/exist.sock".to_owned()), ..DockerConfig::default() };
        let text = connect(&config).await.unwrap_err();
        assert!(text.contains("/does/not/exist.sock") && text.contains("apt-get install docker.io"), "{text}");
    }
}
