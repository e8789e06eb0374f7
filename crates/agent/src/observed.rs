//! What the agent knows of its instances, shared: [`crate::converge`] writes, sessions report it, streams look instances up.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use towline_model::{AgentId, InstanceId, InstancePhase};
use towline_tunnel::message::{EngineStatus, Report};

use crate::runtime::ContainerId;

/// What a stream needs to know of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceEntry {
    /// How far it is.
    pub phase: InstancePhase,
    /// Its container.
    pub container: Option<ContainerId>,
    /// Where its container's port is reached; only while connections to it are wanted.
    pub endpoint: Option<SocketAddr>,
}

/// Every instance of the agent, swapped whole.
pub type InstanceTable = HashMap<InstanceId, InstanceEntry>;

/// A report, and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The agent as whom the containers were looked at.
    pub agent_id: AgentId,
    /// The report.
    pub report: Arc<Report>,
}

/// The shared observation. One writer, many readers.
#[derive(Debug)]
pub struct Observed {
    instances: ArcSwap<InstanceTable>,
    report: watch::Sender<Option<AgentReport>>,
    engine: watch::Sender<Option<EngineStatus>>,
}

impl Default for Observed {
    fn default() -> Self {
        Self { instances: ArcSwap::default(), report: watch::Sender::new(None), engine: watch::Sender::new(None) }
    }
}

impl Observed {
    /// What is known of an instance. Takes no lock.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<InstanceEntry> {
        self.instances.load().get(&id).cloned()
    }

    /// The newest report. `None` until the containers were looked at for the first time.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Option<AgentReport>> {
        self.report.subscribe()
    }

    /// The container engine's status. `None` until it was asked for the first time.
    #[must_use]
    pub fn engine(&self) -> watch::Receiver<Option<EngineStatus>> {
        self.engine.subscribe()
    }

    pub(crate) fn set_instances(&self, table: InstanceTable) {
        if **self.instances.load() != table {
            self.instances.store(Arc::new(table));
        }
    }

    pub(crate) fn set_report(&self, next: Option<AgentReport>) {
        self.report.send_if_modified(|current| {
            let is_news = *current != next;
            *current = next;
            is_news
        });
    }

    pub(crate) fn set_engine(&self, next: EngineStatus) {
        self.engine.send_if_modified(|current| {
            let is_news = current.as_ref() != Some(&next);
            *current = Some(next);
            is_news
        });
    }
}
