//! The container engine: found where it usually is, installed and started where that is possible, asked over its own API.

mod client;
mod start;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use client::Answer;
use client::Endpoint;

use crate::tools;

/// How long an engine that is up may take for a word.
const PING: Duration = Duration::from_secs(5);

/// How long it may take to load an image.
const LOAD: Duration = Duration::from_secs(300);

/// A container engine that has answered.
#[derive(Debug)]
pub struct Engine {
    endpoint: Endpoint,
    /// Its name and version, for people.
    pub version: String,
}

impl Engine {
    /// The engine at an address in the form of `DOCKER_HOST`.
    ///
    /// # Errors
    /// When none answers there.
    pub fn at(host: &str) -> Result<Self> {
        let endpoint = Endpoint::parse(host);
        let version = connect(&endpoint)?;
        Ok(Self { endpoint, version })
    }

    /// Where it is, in the form of `DOCKER_HOST`.
    pub fn docker_host(&self) -> String {
        self.endpoint.to_string()
    }

    /// One request of the Docker Engine API, such as `GET` `/images/json`.
    ///
    /// # Errors
    /// When there is no answer. A refusal is an answer.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        self.endpoint.request(method, path, body, LOAD).with_context(|| format!("the engine at {}", self.docker_host()))
    }

    /// Loads an image from an archive in Docker's format.
    ///
    /// # Errors
    /// When the engine does not take it; with the engine's reason.
    pub fn load_image(&self, archive: &[u8]) -> Result<()> {
        let answer = self.request("POST", "/images/load?quiet=1", archive)?;
        let text = String::from_utf8_lossy(&answer.body);
        // The engine answers 200 before it has looked at the archive: a refusal comes as a line of the body.
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let refusal = lines.find_map(|line| line["error"].as_str().map(str::to_owned));
        ensure!(
            answer.status == 200 && refusal.is_none(),
            "the engine refused the image: {}",
            refusal.as_deref().unwrap_or(&text)
        );
        Ok(())
    }

    /// What the engine knows about an image, or `None` when it has no such image.
    ///
    /// # Errors
    /// When the engine does not answer, or not in its own way.
    pub fn inspect_image(&self, name: &str) -> Result<Option<Value>> {
        let answer = self.request("GET", &format!("/images/{name}/json"), b"")?;
        match answer.status {
            200 => Ok(Some(serde_json::from_slice(&answer.body)?)),
            404 => Ok(None),
            status => bail!("the engine answered {status}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
}

/// Finds a container engine; installs and starts one when there is none and that is possible.
///
/// # Errors
/// When there is no engine in the end. The error says what to install, or to start, or to ask for.
pub fn ensure() -> Result<Engine> {
    let refusals = match find_engine() {
        Ok(engine) => return Ok(engine),
        Err(refusals) => refusals,
    };
    if let Some(host) = tools::variable("DOCKER_HOST") {
        let why = refusals.first().map_or_else(String::new, |refusal| refusal.why.clone());
        bail!("no container engine at DOCKER_HOST={host}: {why}. Start it, or unset DOCKER_HOST");
    }
    if let Some(refusal) = refusals.iter().find(|refusal| refusal.is_forbidden) {
        bail!(
            "{} may not be opened by this user. Run `sudo usermod -aG docker $USER` and log in again, or run this as root",
            refusal.endpoint
        );
    }
    start::start_engine()
}

/// Finds an engine that answers: at `DOCKER_HOST` when that is set, else at the usual places.
///
/// # Errors
/// With what was tried.
pub fn find_engine() -> Result<Engine, Vec<Refusal>> {
    let mut refusals = Vec::new();
    for endpoint in candidates() {
        match connect(&endpoint) {
            Ok(version) => return Ok(Engine { endpoint, version }),
            Err(error) => {
                let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                refusals.push(Refusal {
                    endpoint: endpoint.to_string(),
                    is_forbidden: kind == Some(std::io::ErrorKind::PermissionDenied),
                    why: format!("{error:#}"),
                });
            }
        }
    }
    Err(refusals)
}

/// A place without a usable engine.
#[derive(Debug)]
pub struct Refusal {
    endpoint: String,
    is_forbidden: bool,
    why: String,
}

fn connect(endpoint: &Endpoint) -> Result<String> {
    let answer = endpoint.request("GET", "/version", b"", PING)?;
    ensure!(answer.status == 200, "it answered {}", answer.status);
    let version: Value = serde_json::from_slice(&answer.body).context("what answers there is no container engine")?;
    let name = version["Components"][0]["Name"].as_str().unwrap_or("Engine");
    Ok(format!("{name} {}", version["Version"].as_str().unwrap_or("of unknown version")))
}

fn candidates() -> Vec<Endpoint> {
    if let Some(host) = tools::variable("DOCKER_HOST") {
        return vec![Endpoint::parse(&host)];
    }
    let runtime = tools::variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let home = tools::variable("HOME").map(PathBuf::from);
    let below = |root: &Option<PathBuf>, path: &str| root.as_ref().map(|root| root.join(path));
    let places = [
        Some(PathBuf::from("/var/run/docker.sock")),
        below(&runtime, "docker.sock"),
        below(&home, ".docker/run/docker.sock"),
        below(&home, ".colima/default/docker.sock"),
        below(&home, ".orbstack/run/docker.sock"),
        Some(PathBuf::from("/run/podman/podman.sock")),
        below(&runtime, "podman/podman.sock"),
    ];
    places.into_iter().flatten().filter(|path| Path::exists(path)).map(Endpoint::Unix).collect()
}
