//! The container engine as the agent sees it.
//!
//! [`Runtime`] is a narrow, stateless view: list what is there, get an image, make, start, stop, remove, read logs. What
//! should run and when to try again is not decided here but in `converge`. Implementations answer with what the
//! engine says at that moment and never retry.

pub mod docker;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod none;

use std::{fmt, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use towline_model::{AgentId, InstanceId, Timestamp};
use towline_tunnel::message::{EngineStatus, InstanceSpec, RegistryAuth};

use crate::probe::{self, ProbeFailure, ProbeTarget};

/// Whose containers these are. A container belongs to exactly one agent, by its id, which no two agents of any two
/// servers share. So several agents can use one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The agent.
    pub agent_id: AgentId,
    /// The server's URL, written on containers for people to see. It may change; the agent's id does not.
    pub server: String,
}

/// The engine's id of a container.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// Wraps an id that the engine gave.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as the engine gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    /// The first twelve characters, as engines print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A container of this agent, as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The engine's id.
    pub id: ContainerId,
    /// The instance that it was made for.
    pub instance_id: InstanceId,
    /// The deploy that it was made for.
    pub generation: i64,
    /// The fingerprint of the definition that it was made from, when it bears one that this build can compare.
    pub fingerprint: Option<String>,
    /// Between SIGTERM and SIGKILL when it is stopped.
    pub stop_grace: Duration,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// What it does.
    pub state: ContainerState,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made and never started.
    Created,
    /// Its program runs.
    Running {
        /// Where its port is reached from this machine; `None` when the engine gave it none.
        endpoint: Option<SocketAddr>,
    },
    /// Its program has ended.
    Exited,
    /// The engine is removing it.
    Removing,
    /// The engine could not remove it and can do nothing else with it.
    Dead,
}

/// How a container's program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; `None` when the engine does not know.
    pub code: Option<i64>,
    /// Whether the kernel killed it for its memory.
    pub out_of_memory: bool,
    /// What the engine said, when it could not run the program.
    pub error: String,
    /// The last lines that it wrote.
    pub last_lines: Vec<String>,
}

/// How far a pull is. `bytes` grows as long as the registry sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes received so far, over all layers.
    pub bytes: u64,
    /// Bytes of all layers that are known so far.
    pub total_bytes: u64,
    /// Grows with every message of the engine.
    pub messages: u64,
}

/// Why an engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// There is no engine, or it does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// There is no such container.
    #[error("the container is gone")]
    Gone,
    /// The image is not there.
    #[error("the image is not on this machine")]
    ImageMissing,
    /// The definition cannot be run on this machine, whatever the time of day.
    #[error("{0}")]
    Rejected(String),
    /// The engine failed in another way.
    #[error("the container engine failed: {0}")]
    Failed(String),
}

/// Why an image could not be pulled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// There is no such image, tag or platform.
    #[error("there is no image {image}: {said}")]
    NotFound {
        /// The reference.
        image: String,
        /// What the registry or the engine said.
        said: String,
    },
    /// The registry wants a login. Most do not say whether the image exists to those who have none.
    #[error("the image {image} does not exist, or its registry gives it only to a login that may read it: {said}")]
    Denied {
        /// The reference.
        image: String,
        /// What the registry or the engine said.
        said: String,
    },
    /// The registry refuses the login that the definition refers to.
    #[error(
        "the registry of {image} refuses the login of this service's registry_auth_secret_id, or gives that login no such \
         image; correct the secret and deploy again: {said}"
    )]
    LoginRefused {
        /// The reference.
        image: String,
        /// What the registry or the engine said.
        said: String,
    },
    /// The registry cannot be reached, is too busy, or failed.
    #[error("the registry of {image} cannot be reached: {said}")]
    Unreachable {
        /// The reference.
        image: String,
        /// What the registry or the engine said.
        said: String,
    },
    /// The engine failed, not the registry.
    #[error(transparent)]
    Engine(#[from] RuntimeError),
}

/// Which log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many lines of those that are there.
    pub tail: Option<u32>,
    /// Only lines written at or after this moment, to the second.
    pub since: Option<Timestamp>,
    /// Whether to go on with new lines until the container ends.
    pub follow: bool,
}

/// Log lines as they come, in pieces of any size.
pub type LogStream = BoxStream<'static, Result<Bytes, RuntimeError>>;

/// One item each time something happened to a container of the agent. A hint: some may be missing.
pub type ChangeStream = BoxStream<'static, ()>;

/// A container engine.
///
/// Everything may fail and anything may be repeated: stopping what is stopped and removing what is gone succeed.
pub trait Runtime: Send + Sync + 'static {
    /// Whether the engine answers, and which one it is.
    fn status(&self) -> impl Future<Output = EngineStatus> + Send;

    /// Every container of this agent, whatever it does. Never one of anybody else.
    fn list(&self, agent: AgentId) -> impl Future<Output = Result<Vec<Container>, RuntimeError>> + Send;

    /// Hints that something happened to the agent's containers.
    fn changes(&self, agent: AgentId) -> impl Future<Output = Result<ChangeStream, RuntimeError>> + Send;

    /// Whether the image is on this machine.
    fn has_image(&self, image: &str) -> impl Future<Output = Result<bool, RuntimeError>> + Send;

    /// Pulls an image, with a login for its registry or without. The login is kept nowhere.
    fn pull(
        &self,
        image: &str,
        login: Option<&RegistryAuth>,
        progress: &watch::Sender<PullProgress>,
    ) -> impl Future<Output = Result<(), PullError>> + Send;

    /// Makes a container for the instance, without starting it. Gives the one that is there when it was made before.
    fn create(
        &self,
        owner: &Owner,
        spec: &InstanceSpec,
    ) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send;

    /// Starts a container that was made or has ended.
    fn start(&self, container: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// How a container that does not run has ended.
    fn exit(&self, container: &ContainerId) -> impl Future<Output = Result<Exit, RuntimeError>> + Send;

    /// Asks the program to end, and ends it after `grace`.
    fn stop(&self, container: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes a container, running or not, and its anonymous volumes.
    fn remove(&self, container: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// What a container wrote to stdout and stderr.
    fn logs(
        &self,
        container: &ContainerId,
        query: LogQuery,
    ) -> impl Future<Output = Result<LogStream, RuntimeError>> + Send;

    /// Asks an instance for its health, from outside its container.
    fn probe(&self, target: &ProbeTarget) -> impl Future<Output = Result<(), ProbeFailure>> + Send {
        probe::get(target)
    }
}
