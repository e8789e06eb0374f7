//! The probes that run: one task for each container that runs and is wished, and what they have said.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use towline_model::InstanceId;
use towline_tunnel::message::InstanceSpec;

use crate::{
    probe::{self, Health, HealthChange, ProbeRun},
    runtime::{Container, ContainerId, ContainerState, Runtime},
    task::spawn_owned,
};

/// Running probes and the health that they report.
pub(super) struct Probes<R> {
    runtime: Arc<R>,
    changes: mpsc::Sender<HealthChange>,
    /// Numbers the probed runs of containers, over the life of the process.
    runs: u64,
    running: HashMap<ContainerId, RunningProbe>,
    health: HashMap<ContainerId, Health>,
}

struct RunningProbe {
    run: ProbeRun,
    /// Ends the probing when it is dropped.
    _task: AbortOnDropHandle<()>,
}

impl<R: Runtime> Probes<R> {
    /// No probes. Changes are sent to `changes` and come back by [`Probes::take`].
    pub(super) fn new(runtime: Arc<R>, changes: mpsc::Sender<HealthChange>) -> Self {
        Self { runtime, changes, runs: 0, running: HashMap::new(), health: HashMap::new() }
    }

    /// What the probes say, by container.
    pub(super) const fn health(&self) -> &HashMap<ContainerId, Health> {
        &self.health
    }

    /// Whether every probed container was asked at least once.
    pub(super) fn have_asked_all(&self) -> bool {
        self.running.keys().all(|container| self.health.contains_key(container))
    }

    /// Ends all probes.
    pub(super) fn clear(&mut self) {
        self.running.clear();
        self.health.clear();
    }

    /// Takes a change in. `false` when it is a late word about an earlier run of the container.
    pub(super) fn take(&mut self, change: &HealthChange) -> bool {
        let is_current = self.running.get(&change.container).is_some_and(|probe| probe.run.run == change.run);
        if is_current {
            self.health.insert(change.container.clone(), change.health.clone());
        }
        is_current
    }

    /// Probes exactly the containers that run and are kept for a wished instance.
    pub(super) fn sync(
        &mut self,
        containers: &[Container],
        desired: &BTreeMap<InstanceId, InstanceSpec>,
        kept: &BTreeMap<InstanceId, ContainerId>,
    ) {
        let mut wanted = HashMap::new();
        for container in containers {
            let ContainerState::Running { endpoint: Some(endpoint) } = container.state else { continue };
            let Some(spec) = desired.get(&container.instance_id) else { continue };
            if kept.get(&container.instance_id) == Some(&container.id) {
                wanted.insert(container.id.clone(), (probe::target_of(spec, endpoint), spec.probe));
            }
        }
        self.running.retain(|id, probe| wanted.get(id) == Some(&(probe.run.target.clone(), probe.run.spec)));
        self.health.retain(|id, _| self.running.contains_key(id));
        for (container, (target, spec)) in wanted {
            if self.running.contains_key(&container) {
                continue;
            }
            self.runs += 1;
            let run = ProbeRun { container: container.clone(), run: self.runs, target, spec };
            let (runtime, changes, probing) = (Arc::clone(&self.runtime), self.changes.clone(), run.clone());
            let task = spawn_owned(async move { probe::watch_health(&*runtime, probing, changes).await });
            self.running.insert(container, RunningProbe { run, _task: task });
        }
    }
}
