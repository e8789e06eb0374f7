//! The plan: from what is desired and what is there to the next steps. Pure; it asks nobody and waits for nothing.
//!
//! Planning twice from the same view gives the same steps, and a view in which all is well gives none. Steps of one
//! instance are planned one at a time: what is done in between is seen in the next view.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::Instant;
use towline_model::InstanceId;
use towline_tunnel::message::InstanceSpec;

use super::memory::{ImageState, InstanceMemory, Retry};
use crate::{
    fingerprint,
    runtime::{Container, ContainerId, ContainerState},
};

/// What a step works on. Of two steps with one key only one runs at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StepKey {
    /// An image, by its reference.
    Image(String),
    /// An instance: its container is made or started.
    Instance(InstanceId),
    /// A container that goes.
    Container(ContainerId),
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// See whether the image is here, and pull it if not.
    FetchImage(String),
    /// Make the instance's container and start it.
    Create(InstanceId),
    /// Start a container that was made or has ended.
    Start(InstanceId, ContainerId),
    /// Find out how a container has ended.
    LookIntoEnd(InstanceId, ContainerId),
    /// Stop a container and remove it.
    Remove(Container),
}

impl Step {
    /// What it works on.
    #[must_use]
    pub fn key(&self) -> StepKey {
        match self {
            Self::FetchImage(image) => StepKey::Image(image.clone()),
            Self::Create(instance) | Self::Start(instance, _) | Self::LookIntoEnd(instance, _) => {
                StepKey::Instance(*instance)
            }
            Self::Remove(container) => StepKey::Container(container.id.clone()),
        }
    }
}

/// Everything that a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What should run.
    pub desired: &'a BTreeMap<InstanceId, InstanceSpec>,
    /// What the engine has of this agent.
    pub containers: &'a [Container],
    /// What is remembered of instances.
    pub memory: &'a HashMap<InstanceId, InstanceMemory>,
    /// What is known of images.
    pub images: &'a HashMap<String, ImageState>,
    /// Containers that could not be removed.
    pub removals: &'a HashMap<ContainerId, Retry>,
    /// What is being worked on.
    pub busy: &'a HashSet<StepKey>,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The next steps, all of them at once.
    pub steps: Vec<Step>,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<Instant>,
    /// The container of each desired instance that has one of the right making.
    pub kept: BTreeMap<InstanceId, ContainerId>,
    /// The images that somebody waits for.
    pub needed_images: HashSet<String>,
}

/// Plans the next steps.
#[must_use]
pub fn plan_converge(view: &View<'_>, now: Instant) -> Plan {
    let mut planner = Planner { view, now, plan: Plan::default() };
    planner.choose_kept();
    planner.remove_others();
    for (instance, spec) in view.desired {
        planner.plan_instance(*instance, spec);
    }
    planner.plan
}

/// Whether a container was made for exactly this.
#[must_use]
pub fn is_right(container: &Container, spec: &InstanceSpec) -> bool {
    container.generation == spec.generation
        && container.fingerprint.as_deref().is_none_or(|print| print == fingerprint::of(spec))
}

struct Planner<'a> {
    view: &'a View<'a>,
    now: Instant,
    plan: Plan,
}

impl Planner<'_> {
    /// One container of the right making for each instance: one that runs rather than one that does not, then the oldest.
    fn choose_kept(&mut self) {
        let mut best: BTreeMap<InstanceId, &Container> = BTreeMap::new();
        for container in self.view.containers {
            let Some(spec) = self.view.desired.get(&container.instance_id) else { continue };
            let is_usable = !matches!(container.state, ContainerState::Removing | ContainerState::Dead);
            if !is_usable || !is_right(container, spec) {
                continue;
            }
            let rank = |c: &Container| (rank(c.state), c.created_at, c.id.clone());
            let current = best.entry(container.instance_id).or_insert(container);
            if rank(container) < rank(current) {
                *current = container;
            }
        }
        self.plan.kept = best.into_iter().map(|(instance, container)| (instance, container.id.clone())).collect();
    }

    fn remove_others(&mut self) {
        for container in self.view.containers {
            let is_kept = self.plan.kept.get(&container.instance_id) == Some(&container.id);
            // While it is being started, stopping it would race with the start.
            let is_in_use = self.is_busy(&StepKey::Instance(container.instance_id));
            if is_kept || container.state == ContainerState::Removing || is_in_use {
                continue;
            }
            match self.view.removals.get(&container.id) {
                Some(retry) if self.now < retry.not_before => self.wake_at(retry.not_before),
                _ => self.push(Step::Remove(container.clone())),
            }
        }
    }

    fn plan_instance(&mut self, instance: InstanceId, spec: &InstanceSpec) {
        if self.is_busy(&StepKey::Instance(instance)) {
            return;
        }
        let kept = self.plan.kept.get(&instance);
        match self.view.containers.iter().find(|container| Some(&container.id) == kept) {
            Some(container) => self.plan_container(instance, container),
            // An instance has one container at a time: what it has of an earlier making goes first.
            None if self.view.containers.iter().any(|container| container.instance_id == instance) => {}
            None => self.plan_new(instance, spec),
        }
    }

    fn plan_container(&mut self, instance: InstanceId, container: &Container) {
        let memory = self.view.memory.get(&instance);
        match container.state {
            ContainerState::Running { .. } | ContainerState::Removing | ContainerState::Dead => {}
            ContainerState::Exited if memory.is_none_or(|memory| memory.ended.as_ref() != Some(&container.id)) => {
                self.push(Step::LookIntoEnd(instance, container.id.clone()));
            }
            ContainerState::Exited | ContainerState::Created => {
                if self.is_due(memory) {
                    self.push(Step::Start(instance, container.id.clone()));
                }
            }
        }
    }

    fn plan_new(&mut self, instance: InstanceId, spec: &InstanceSpec) {
        if spec.withheld.is_some() {
            // Refused without asking the engine, so that people are told why.
            if self.is_due(self.view.memory.get(&instance)) {
                self.push(Step::Create(instance));
            }
            return;
        }
        self.plan.needed_images.insert(spec.image.clone());
        let key = StepKey::Image(spec.image.clone());
        match self.view.images.get(&spec.image) {
            _ if self.is_busy(&key) => {}
            Some(ImageState::Present) => {
                if self.is_due(self.view.memory.get(&instance)) {
                    self.push(Step::Create(instance));
                }
            }
            Some(ImageState::Missing { not_before, .. }) if self.now < *not_before => self.wake_at(*not_before),
            Some(ImageState::Missing { .. }) | None => {
                let step = Step::FetchImage(spec.image.clone());
                if !self.plan.steps.contains(&step) {
                    self.push(step);
                }
            }
        }
    }

    fn is_due(&mut self, memory: Option<&InstanceMemory>) -> bool {
        let is_due = memory.is_none_or(|memory| memory.is_due(self.now));
        if !is_due && let Some(at) = memory.and_then(|memory| memory.not_before) {
            self.wake_at(at);
        }
        is_due
    }

    fn is_busy(&self, key: &StepKey) -> bool {
        self.view.busy.contains(key)
    }

    fn push(&mut self, step: Step) {
        if !self.is_busy(&step.key()) {
            self.plan.steps.push(step);
        }
    }

    fn wake_at(&mut self, at: Instant) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

const fn rank(state: ContainerState) -> u8 {
    match state {
        ContainerState::Running { .. } => 0,
        ContainerState::Created | ContainerState::Exited => 1,
        ContainerState::Removing | ContainerState::Dead => 2,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
