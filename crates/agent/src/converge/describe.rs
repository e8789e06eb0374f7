//! From the agent's view of its containers to what it tells: the report for the server and the table for streams. Pure.

use std::collections::{BTreeMap, HashMap};

use towline_model::{InstanceId, InstancePhase};
use towline_tunnel::message::{EngineStatus, InstanceReport, InstanceSpec, Reason, ReasonKind};

use super::{
    memory::{ImageState, InstanceMemory},
    plan::{StepKey, View},
};
use crate::{
    observed::{InstanceEntry, InstanceTable},
    probe::{Health, ProbeFailure},
    runtime::{Container, ContainerId, ContainerState},
};

/// A reason is cut to so many bytes: a report has to stay small.
const MAX_REASON_BYTES: usize = 2048;

/// What is known beyond the plan's view.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// What the plan was made from.
    pub view: View<'a>,
    /// The container of each instance that has the right one.
    pub kept: &'a BTreeMap<InstanceId, ContainerId>,
    /// What probes say, by container.
    pub health: &'a HashMap<ContainerId, Health>,
    /// The engine.
    pub engine: &'a EngineStatus,
}

/// Describes every instance: desired ones, and others whose containers are still there.
#[must_use]
pub fn describe(scene: &Scene<'_>) -> (Vec<InstanceReport>, InstanceTable) {
    let mut reports = Vec::new();
    let mut table = InstanceTable::new();
    let mut add = |instance: InstanceId, generation: i64, told: Told<'_>| {
        let restart_count = scene.view.memory.get(&instance).map_or(0, |memory| memory.restart_count);
        let container_id = told.container.map(|container| container.id.as_str().to_owned());
        let (phase, reason) = (told.phase, told.reason.map(shortened));
        reports.push(InstanceReport { instance_id: instance, generation, phase, reason, restart_count, container_id });
        let endpoint = match (phase, told.container.map(|container| container.state)) {
            (InstancePhase::Ready | InstancePhase::Unhealthy, Some(ContainerState::Running { endpoint })) => endpoint,
            _ => None,
        };
        let container = told.container.map(|container| container.id.clone());
        table.insert(instance, InstanceEntry { phase, container, endpoint });
    };
    for (instance, spec) in scene.view.desired {
        let told = scene.tell(*instance, spec);
        let generation = told.container.map_or(spec.generation, |container| container.generation);
        add(*instance, generation, told);
    }
    let mut leaving: Vec<_> =
        scene.view.containers.iter().filter(|c| !scene.view.desired.contains_key(&c.instance_id)).collect();
    leaving.sort_by_key(|container| (container.instance_id, container.id.clone()));
    leaving.dedup_by_key(|container| container.instance_id);
    for container in leaving {
        add(container.instance_id, container.generation, Told::stopping(container));
    }
    (reports, table)
}

/// What is said of one instance.
struct Told<'a> {
    phase: InstancePhase,
    reason: Option<Reason>,
    container: Option<&'a Container>,
}

impl<'a> Told<'a> {
    const fn of(phase: InstancePhase, reason: Option<Reason>) -> Self {
        Self { phase, reason, container: None }
    }

    const fn stopping(container: &'a Container) -> Self {
        Self { phase: InstancePhase::Stopping, reason: None, container: Some(container) }
    }
}

impl<'a> Scene<'a> {
    fn tell(&self, instance: InstanceId, spec: &InstanceSpec) -> Told<'a> {
        let containers = self.view.containers.iter();
        let mut own = containers.filter(|container| container.instance_id == instance);
        let kept = self.kept.get(&instance);
        match own.clone().find(|container| Some(&container.id) == kept) {
            Some(container) => self.tell_container(instance, container),
            None => match own.next() {
                Some(container) => Told::stopping(container),
                None => self.tell_missing(instance, spec),
            },
        }
    }

    fn tell_container(&self, instance: InstanceId, container: &'a Container) -> Told<'a> {
        let memory = self.view.memory.get(&instance);
        let remembered = memory.and_then(|memory| memory.reason.clone());
        let (phase, reason) = match container.state {
            ContainerState::Running { endpoint: None } => {
                (InstancePhase::Starting, remembered.or_else(|| Some(no_port())))
            }
            ContainerState::Running { .. } => match self.health.get(&container.id).unwrap_or(&Health::Unknown) {
                Health::Unknown => (InstancePhase::Starting, remembered),
                // Why it ended the last time says more than that it does not answer yet.
                Health::Starting(why) => (InstancePhase::Starting, remembered.or_else(|| Some(unfit(why)))),
                Health::Passing => (InstancePhase::Ready, None),
                Health::Failing(why) => (InstancePhase::Unhealthy, Some(unfit(why))),
            },
            _ if self.is_busy(instance) && !self.looks_into_end(memory, container) => {
                (InstancePhase::Starting, remembered)
            }
            ContainerState::Created if remembered.is_none() => (InstancePhase::Starting, None),
            _ => (InstancePhase::BackingOff, remembered.or_else(|| Some(ended()))),
        };
        Told { phase, reason, container: Some(container) }
    }

    fn tell_missing(&self, instance: InstanceId, spec: &InstanceSpec) -> Told<'a> {
        if let EngineStatus::Unavailable { reason } = self.engine {
            let reason = Reason { kind: ReasonKind::EngineUnavailable, message: reason.clone() };
            return Told::of(InstancePhase::Pending, Some(reason));
        }
        if self.is_busy(instance) {
            return Told::of(InstancePhase::Starting, None);
        }
        let remembered = self.view.memory.get(&instance).and_then(|memory| memory.reason.clone());
        match (self.view.images.get(&spec.image), remembered) {
            (Some(ImageState::Missing { reason: Some(reason), .. }), _) => {
                Told::of(InstancePhase::BackingOff, Some(reason.clone()))
            }
            (_, Some(reason)) => Told::of(InstancePhase::BackingOff, Some(reason)),
            (Some(ImageState::Present), None) => Told::of(InstancePhase::Pending, None),
            (Some(ImageState::Missing { reason: None, .. }) | None, None) => Told::of(InstancePhase::Pulling, None),
        }
    }

    fn is_busy(&self, instance: InstanceId) -> bool {
        self.view.busy.contains(&StepKey::Instance(instance))
    }

    /// Whether the step in progress is about the container's end rather than its next start.
    fn looks_into_end(&self, memory: Option<&InstanceMemory>, container: &Container) -> bool {
        container.state == ContainerState::Exited
            && memory.is_none_or(|memory| memory.ended.as_ref() != Some(&container.id))
    }
}

fn unfit(why: &ProbeFailure) -> Reason {
    Reason { kind: ReasonKind::ProbeFailed, message: why.to_string() }
}

fn ended() -> Reason {
    Reason { kind: ReasonKind::Exited, message: "the program ended".to_owned() }
}

fn no_port() -> Reason {
    let message = "the container engine has not published the container's port on 127.0.0.1".to_owned();
    Reason { kind: ReasonKind::StartFailed, message }
}

fn shortened(mut reason: Reason) -> Reason {
    if reason.message.len() > MAX_REASON_BYTES {
        let end = reason.message.floor_char_boundary(MAX_REASON_BYTES);
        reason.message.truncate(end);
        reason.message.push('…');
    }
    reason
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;
