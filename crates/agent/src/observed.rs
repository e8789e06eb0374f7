//! What the agent knows of its instances, shared: [`crate::converge`] and [`crate::endpoints`] write, each its own;
//! sessions report it, streams look instances up.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use towline_model::{AgentId, InstanceId, InstancePhase};
use towline_tunnel::message::{EngineStatus, InstanceReport, Report};

use crate::{endpoints::Endpoint, runtime::ContainerId};

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

/// Every instance that is a place, swapped whole.
pub type EndpointTable = HashMap<InstanceId, Arc<Endpoint>>;

/// What is said of the instances that are places.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointsReport {
    /// The agent as whom they were probed.
    pub agent_id: AgentId,
    /// The revision of the wish that all of them were taken up from.
    pub revision: u64,
    /// The instances that were probed.
    pub instances: Vec<InstanceReport>,
}

/// A report, and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The agent as whom the containers were looked at.
    pub agent_id: AgentId,
    /// The report.
    pub report: Arc<Report>,
}

/// The shared observation. A writer for containers, one for places, many readers.
#[derive(Debug)]
pub struct Observed {
    instances: ArcSwap<InstanceTable>,
    endpoints: ArcSwap<EndpointTable>,
    parts: Mutex<Parts>,
    /// Whether containers and places were looked at since the process began.
    has_settled: AtomicBool,
    changed: Notify,
    report: watch::Sender<Option<AgentReport>>,
    engine: watch::Sender<Option<EngineStatus>>,
}

/// What a report is put together from.
#[derive(Debug, Default)]
struct Parts {
    containers: Option<AgentReport>,
    endpoints: Option<EndpointsReport>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            instances: ArcSwap::default(),
            endpoints: ArcSwap::default(),
            parts: Mutex::default(),
            has_settled: AtomicBool::new(false),
            changed: Notify::new(),
            report: watch::Sender::new(None),
            engine: watch::Sender::new(None),
        }
    }
}

impl Observed {
    /// What is known of an instance. Takes no lock.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<InstanceEntry> {
        self.instances.load().get(&id).cloned()
    }

    /// The instance of that id, if it is a place. Takes no lock.
    #[must_use]
    pub fn endpoint(&self, id: InstanceId) -> Option<Arc<Endpoint>> {
        self.endpoints.load().get(&id).cloned()
    }

    /// Whether what is not known here does not exist. A process that has just begun does not know yet what it has.
    #[must_use]
    pub fn has_settled(&self) -> bool {
        self.has_settled.load(Ordering::Acquire)
    }

    /// Waits until the instance can be connected to, or until it is clear that it cannot.
    pub async fn settled_for(&self, id: InstanceId) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let is_open = self.instance(id).is_some_and(|entry| entry.endpoint.is_some());
            if is_open || self.endpoint(id).is_some() || self.has_settled() {
                return;
            }
            changed.await;
        }
    }

    /// The newest report. `None` until there is something to say: the containers were looked at, or a place was probed.
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
            self.changed.notify_waiters();
        }
    }

    /// What is said of containers.
    pub(crate) fn set_report(&self, next: Option<AgentReport>) {
        self.compose(|parts| parts.containers = next);
    }

    /// What is known of places, and said of them.
    pub(crate) fn set_endpoints(&self, table: EndpointTable, report: EndpointsReport) {
        self.endpoints.store(Arc::new(table));
        self.compose(|parts| parts.endpoints = Some(report));
    }

    fn compose(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        if parts.containers.is_some() && parts.endpoints.is_some() {
            self.has_settled.store(true, Ordering::Release);
        }
        self.changed.notify_waiters();
        let engine = self.engine.borrow().clone();
        let next = parts.report(engine);
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

impl Parts {
    fn report(&self, engine: Option<EngineStatus>) -> Option<AgentReport> {
        let Some(endpoints) = &self.endpoints else { return self.containers.clone() };
        match &self.containers {
            Some(containers) if containers.agent_id == endpoints.agent_id => {
                let mut report = containers.report.as_ref().clone();
                report.endpoints_revision = endpoints.revision;
                report.instances.extend(endpoints.instances.iter().cloned());
                Some(AgentReport { agent_id: containers.agent_id, report: Arc::new(report) })
            }
            // One of the two is as another agent for a moment.
            Some(_) => None,
            // Places do not wait for an engine that does not answer. Without any there is nothing to say.
            None if endpoints.instances.is_empty() => None,
            None => {
                let unknown =
                    || EngineStatus::Unavailable { reason: "the container engine has not answered yet".to_owned() };
                let engine = engine.unwrap_or_else(unknown);
                let (endpoints_revision, instances) = (endpoints.revision, endpoints.instances.clone());
                let report = Report { revision: 0, endpoints_revision, engine, instances };
                Some(AgentReport { agent_id: endpoints.agent_id, report: Arc::new(report) })
            }
        }
    }
}
