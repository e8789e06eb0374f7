//! Instances that are places rather than containers: kept as they are wished, probed, and reported.
//!
//! There is nothing to start or stop: an instance is there as long as it is wished. It needs no container engine, so this
//! is beside [`crate::converge`] and not in it. What may be connected to is decided in [`crate::reach`], for probes and for
//! streams alike.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use towline_model::{AgentId, InstanceId, InstancePhase};
use towline_tunnel::message::{EndpointSpec, InstanceReport, Place, Reason, ReasonKind};

use crate::{
    converge::Wish,
    observed::{EndpointsReport, Observed},
    probe::{self, Fault, Health, ProbeFailure, Prober},
    reach::{Reach, ReachError},
    task::spawn_owned,
};

/// A process that is gone is looked for this often, since it is near and may be back any moment.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// A server elsewhere that is there is connected to no more often than this: it belongs to others.
const EXTERNAL_INTERVAL: Duration = Duration::from_secs(30);
/// Probes that failing streams ask for are at least so far apart.
const SUSPICION_GAP: Duration = Duration::from_millis(200);

/// An instance that is a place.
#[derive(Debug)]
pub struct Endpoint {
    /// What is wished.
    pub spec: EndpointSpec,
    /// Told by whoever could not connect: it is probed soon.
    pub suspicion: Notify,
}

impl Endpoint {
    /// A place that nobody has connected to yet.
    pub fn new(spec: EndpointSpec) -> Self {
        Self { spec, suspicion: Notify::new() }
    }
}

/// The loop, from the process's start to its end.
pub async fn run(
    reach: Arc<Reach>,
    mut wishes: watch::Receiver<Option<Wish>>,
    observed: Arc<Observed>,
    cancel: CancellationToken,
) {
    let (sender, mut changes) = mpsc::channel(64);
    let mut endpoints = Endpoints {
        reach,
        observed,
        changes: sender,
        owner: None,
        wished: 0,
        settled: 0,
        runs: 0,
        running: HashMap::new(),
    };
    wishes.mark_changed();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Ok(()) = wishes.changed() => {
                let wish = wishes.borrow_and_update().clone();
                endpoints.take_wish(wish);
            }
            Some(change) = changes.recv() => endpoints.take_change(change),
            else => return,
        }
        endpoints.publish();
    }
}

struct Endpoints {
    reach: Arc<Reach>,
    observed: Arc<Observed>,
    changes: mpsc::Sender<Change>,
    owner: Option<AgentId>,
    /// The revision of the newest wish.
    wished: u64,
    /// The newest revision of which every place was probed at least once.
    settled: u64,
    /// Numbers the probed places, over the life of the process.
    runs: u64,
    running: HashMap<InstanceId, Running>,
}

struct Running {
    endpoint: Arc<Endpoint>,
    run: u64,
    health: Health,
    denied: bool,
    /// Ends the probing when it is dropped.
    _task: AbortOnDropHandle<()>,
}

/// A change of a place's health.
struct Change {
    instance: InstanceId,
    run: u64,
    health: Health,
    denied: bool,
}

impl Endpoints {
    fn take_wish(&mut self, wish: Option<Wish>) {
        let Some(Wish { owner, desired }) = wish else { return };
        if self.owner.replace(owner.agent_id) != Some(owner.agent_id) {
            self.running.clear();
            self.settled = 0;
        }
        self.wished = desired.revision;
        let wished: HashMap<_, _> = desired.endpoints.iter().map(|spec| (spec.instance_id, spec)).collect();
        self.running.retain(|id, running| wished.get(id).is_some_and(|spec| **spec == running.endpoint.spec));
        for (instance, spec) in wished {
            if !self.running.contains_key(&instance) {
                self.runs += 1;
                let running = self.start(spec.clone());
                self.running.insert(instance, running);
            }
        }
    }

    fn start(&self, spec: EndpointSpec) -> Running {
        let endpoint = Arc::new(Endpoint::new(spec));
        let watcher = Watcher {
            reach: Arc::clone(&self.reach),
            endpoint: Arc::clone(&endpoint),
            run: self.runs,
            changes: self.changes.clone(),
        };
        Running { endpoint, run: self.runs, health: Health::Unknown, denied: false, _task: spawn_owned(watcher.run()) }
    }

    fn take_change(&mut self, change: Change) {
        let Change { instance, run, health, denied } = change;
        // A late word about an earlier making of the instance is no news.
        let Some(running) = self.running.get_mut(&instance).filter(|running| running.run == run) else { return };
        let service = &running.endpoint.spec.service_slug;
        match &health {
            Health::Unknown | Health::Starting(_) => tracing::debug!(%instance, service, %health, "not reached yet"),
            Health::Passing => tracing::info!(%instance, service, "reached"),
            Health::Failing(_) => tracing::warn!(%instance, service, %health, "not reached any more"),
        }
        running.health = health;
        running.denied = denied;
    }

    fn publish(&mut self) {
        let Some(agent_id) = self.owner else { return };
        if self.running.values().all(|running| running.health != Health::Unknown) {
            self.settled = self.wished;
        }
        // What was not asked yet is not spoken of: nobody is to think that what runs had stopped.
        let mut instances: Vec<_> = self.running.values().filter_map(report).collect();
        instances.sort_by_key(|report| report.instance_id);
        let table = self.running.iter().map(|(id, running)| (*id, Arc::clone(&running.endpoint))).collect();
        self.observed.set_endpoints(table, EndpointsReport { agent_id, revision: self.settled, instances });
    }
}

fn report(running: &Running) -> Option<InstanceReport> {
    let kind = if running.denied { ReasonKind::Denied } else { ReasonKind::ProbeFailed };
    let reason = |why: &ProbeFailure| Some(Reason { kind, message: why.to_string() });
    let (phase, reason) = match &running.health {
        Health::Unknown => return None,
        Health::Starting(why) => (InstancePhase::Starting, reason(why)),
        Health::Passing => (InstancePhase::Ready, None),
        Health::Failing(why) => (InstancePhase::Unhealthy, reason(why)),
    };
    let EndpointSpec { instance_id, generation, .. } = running.endpoint.spec;
    Some(InstanceReport { instance_id, generation, phase, reason, restart_count: 0, container_id: None })
}

/// Probes one place until it is dropped.
struct Watcher {
    reach: Arc<Reach>,
    endpoint: Arc<Endpoint>,
    run: u64,
    changes: mpsc::Sender<Change>,
}

/// Why a probe failed.
struct Failed {
    why: ProbeFailure,
    /// Whether asking again would only give the same answer.
    certain: bool,
    denied: bool,
}

impl Watcher {
    async fn run(self) {
        let spec = &self.endpoint.spec;
        let mut prober = Prober::new(spec.probe);
        let deadline = Duration::from_secs(u64::from(spec.probe.timeout_seconds));
        loop {
            tokio::select! {
                () = sleep(pause(&prober, &spec.place)) => {}
                () = self.endpoint.suspicion.notified() => sleep(SUSPICION_GAP).await,
            }
            let asked = timeout(deadline, self.ask()).await;
            let result = asked.unwrap_or_else(|_| {
                let why = format!("it did not answer within {} s", deadline.as_secs());
                Err(Failed { why: ProbeFailure(why), certain: false, denied: false })
            });
            let denied = result.as_ref().is_err_and(|failed| failed.denied);
            if result.as_ref().is_err_and(|failed| failed.certain) {
                prober.lose_patience();
            }
            if prober.judge(result.map_err(|failed| failed.why)) {
                let health = prober.health().clone();
                let change = Change { instance: spec.instance_id, run: self.run, health, denied };
                if self.changes.send(change).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn ask(&self) -> Result<(), Failed> {
        let spec = &self.endpoint.spec;
        let socket = self.reach.connect(&spec.place).await.map_err(|error| Failed {
            certain: matches!(error, ReachError::Denied(_) | ReachError::NothingListens(_)),
            denied: matches!(error, ReachError::Denied(_)),
            why: ProbeFailure(error.to_string()),
        })?;
        let (Some(path), Place::Attached(at)) = (&spec.health_path, &spec.place) else { return Ok(()) };
        let host = HeaderValue::try_from(at.to_string()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        let why = match probe::exchange(socket, spec.app_protocol, &host, path).await {
            Ok(()) => return Ok(()),
            Err(Fault::Unhealthy(why)) => why,
            Err(Fault::SpeaksNot(protocol)) => format!("what answers on {at} does not speak {protocol}"),
            Err(Fault::Closed) => format!("{at} closed the connection without an answer to the probe of {path}"),
        };
        Err(Failed { why: ProbeFailure(why), certain: false, denied: false })
    }
}

/// The wait before the next probe.
fn pause(prober: &Prober, place: &Place) -> Duration {
    let wait = prober.wait();
    match (prober.health(), place) {
        (Health::Passing, Place::External(_)) => wait.max(EXTERNAL_INTERVAL),
        (Health::Failing(_), Place::Attached(_)) => wait.min(SEARCH_INTERVAL),
        _ => wait,
    }
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
