//! The agent: it dials the server, converges the container engine to what is wished, and pipes bytes between streams and
//! containers.
//!
//! * `session`: one control connection after the other; `connect`: how connections to the server are opened.
//! * `converge`: from the containers that are there to those that are wished; `runtime`: the container engine;
//!   `probe`: health; `observed`: what is known, shared with the other two.
//! * `endpoints`: instances that are places rather than containers; `reach`: connecting to them, within this agent's lists.
//! * `carriers`, `streams`, `pipe`, `logs`: from a stream to a connection of a container.
//!
//! The agent listens on no port, knows nothing of HTTP but upgrades and probes, and keeps no state: it finds its containers
//! by their labels. Its end does not stop them.

mod backoff;
mod carriers;
pub mod config;
mod connect;
mod converge;
mod endpoints;
mod fingerprint;
mod gpu;
pub mod identity;
mod logs;
mod observed;
mod pipe;
pub mod probe;
pub mod reach;
pub mod runtime;
mod session;
mod streams;
mod task;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_model::{AgentId, SystemClock};

#[cfg(any(test, feature = "testing"))]
pub use self::connect::fuzz;
use self::{
    carriers::{Carriers, CloseOnDrop},
    connect::Dialler,
    observed::Observed,
    reach::Reach,
    session::Sessions,
    streams::Streams,
};
pub use self::{
    config::{AgentConfig, ConfigError},
    connect::ProxyConfig,
    reach::{
        policy::ReachPolicy,
        rule::{InvalidRule, Rule},
    },
    runtime::{
        Runtime,
        docker::{DockerConfig, DockerRuntime, VolumeRules},
        none::NoRuntime,
    },
};

/// How the agent stands with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentStatus {
    /// It has not been connected yet.
    Connecting,
    /// It has a session.
    Connected {
        /// The agent's id at the server.
        agent_id: AgentId,
    },
    /// It has none and tries again.
    Disconnected {
        /// Why, and what to do.
        reason: String,
    },
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Runs the agent until `shutdown`; then says goodbye, lets streams finish, and leaves the containers running.
///
/// A server that is away, refuses the agent or revokes its key does not end it: it says so and goes on trying.
///
/// # Errors
/// Only when a setting is wrong, at once.
pub async fn run<R: Runtime>(config: AgentConfig, runtime: R, shutdown: CancellationToken) -> Result<(), AgentError> {
    run_with_status(config, runtime, shutdown, watch::Sender::new(AgentStatus::Connecting)).await
}

/// The same as [`run`], and tells how the agent stands with the server.
///
/// # Errors
/// As [`run`].
pub async fn run_with_status<R: Runtime>(
    config: AgentConfig,
    runtime: R,
    shutdown: CancellationToken,
    status: watch::Sender<AgentStatus>,
) -> Result<(), AgentError> {
    config.validate()?;
    let dialler = Arc::new(Dialler::new(&config)?);
    if dialler.is_exposed() {
        tracing::warn!(server = %config.server, "the connection to the server is not encrypted: whoever is on the way reads \
            the agent key; use https:// or a private network");
    }
    let runtime = Arc::new(runtime);
    let observed = Arc::new(Observed::default());
    let wishes = watch::Sender::new(None);
    let converging = converge::run(Arc::clone(&runtime), wishes.subscribe(), Arc::clone(&observed), shutdown.clone());
    let converging = task::spawn_owned(converging);
    let reach = Reach::new(config.reach.clone());
    let attending = endpoints::run(Arc::clone(&reach), wishes.subscribe(), Arc::clone(&observed), shutdown.clone());
    let _attending = task::spawn_owned(attending);
    let streams = Arc::new(Streams::new(runtime, Arc::clone(&observed), reach, config.max_streams));
    let carriers = Arc::new(Carriers::new(Arc::clone(&dialler), streams, config.max_carriers, config.workers.clone()));
    let _closing = CloseOnDrop(Arc::clone(&carriers));
    let config = Arc::new(config);
    let (retested, key) = (Arc::clone(&dialler), config.key.clone());
    let _retesting = task::spawn_owned(async move { retested.retest(key.expose()).await });
    let sessions = Sessions {
        config,
        dialler,
        carriers: Arc::clone(&carriers),
        observed,
        wishes,
        status,
        clock: Arc::new(SystemClock),
        gpu_count: gpu::count().await,
    };
    tracing::info!(name = %sessions.config.name, server = %sessions.config.server, "agent started");
    sessions.run(&shutdown).await;
    // Without a session there was nobody to say goodbye to, and nothing to wait for.
    carriers.drain(Duration::ZERO).await;
    carriers.close().await;
    let _ = converging.await;
    Ok(())
}
