//! Everything that the loop knows about one owner's containers. It is empty again when the owner is another.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::Instant;
use towline_model::InstanceId;
use towline_tunnel::message::{Desired, InstanceSpec, RegistryAuth};

use super::{
    memory::{ImageState, InstanceMemory, Retry},
    plan::{StepKey, View},
};
use crate::runtime::{Container, ContainerId, ContainerState};

/// What is wished, what was seen, what is worked on.
#[derive(Debug, Default)]
pub(super) struct State {
    pub revision: u64,
    pub desired: BTreeMap<InstanceId, InstanceSpec>,
    pub containers: Vec<Container>,
    /// Whether the containers were looked at at all.
    pub has_seen: bool,
    pub memory: HashMap<InstanceId, InstanceMemory>,
    pub images: HashMap<String, ImageState>,
    pub removals: HashMap<ContainerId, Retry>,
    /// What is worked on, or was, and no look that began after its end has come back yet: what is seen may miss it.
    pub busy: HashSet<StepKey>,
    /// The part of `busy` whose work has ended since the last look began.
    unseen: HashSet<StepKey>,
    /// The part of `busy` whose work had ended when the look in progress began.
    being_seen: HashSet<StepKey>,
    pub kept: BTreeMap<InstanceId, ContainerId>,
    pub wake_at: Option<Instant>,
    /// Until when the first report waits; `None` once it was made.
    pub settles_at: Option<Instant>,
    pub has_reported: bool,
}

impl State {
    /// What the plan is made from.
    pub(super) fn view(&self) -> View<'_> {
        View {
            desired: &self.desired,
            containers: &self.containers,
            memory: &self.memory,
            images: &self.images,
            removals: &self.removals,
            busy: &self.busy,
        }
    }

    /// Takes another wish.
    pub(super) fn wish(&mut self, desired: &Desired) {
        self.revision = desired.revision;
        let before = std::mem::take(&mut self.desired);
        let specs = || desired.instances.iter().chain(&desired.withheld);
        self.desired = specs().map(|spec| (spec.instance_id, spec.clone())).collect();
        for spec in specs() {
            let memory = self.memory.entry(spec.instance_id).or_default();
            if memory.generation != spec.generation {
                *memory = InstanceMemory::of(spec.generation);
            }
        }
        // What could not be had with the logins of before is tried at once with others.
        let desired = &self.desired;
        self.images.retain(|image, state| {
            matches!(state, ImageState::Present) || logins(&before, image) == logins(desired, image)
        });
    }

    /// The logins that an image may be pulled with; without one comes last.
    pub(super) fn logins(&self, image: &str) -> Vec<Option<RegistryAuth>> {
        logins(&self.desired, image)
    }

    /// A step has ended. What is known of the thing is old until a look that begins after this has come back.
    pub(super) fn end_step(&mut self, key: StepKey) {
        if matches!(key, StepKey::Image(_)) {
            // Images are not looked at: what the step says of one is all there is to know.
            self.busy.remove(&key);
        } else {
            self.unseen.insert(key);
        }
    }

    /// A look begins.
    pub(super) fn begin_look(&mut self) {
        self.being_seen.extend(self.unseen.drain());
    }

    /// A look has come back; without containers when the engine did not answer.
    pub(super) fn end_look(&mut self, containers: Option<Vec<Container>>) {
        let Some(containers) = containers else {
            self.unseen.extend(self.being_seen.drain());
            return;
        };
        for key in self.being_seen.drain() {
            self.busy.remove(&key);
        }
        self.containers = containers;
        self.has_seen = true;
    }

    /// Notes something of an instance that is wished.
    pub(super) fn remember(&mut self, instance: InstanceId, note: impl FnOnce(&mut InstanceMemory)) {
        if let Some(memory) = self.memory.get_mut(&instance) {
            note(memory);
        }
    }

    /// Lets go of what is about nothing that is there or wished.
    pub(super) fn forget(&mut self, needed_images: &HashSet<String>) {
        let present: HashSet<_> = self.containers.iter().map(|container| &container.id).collect();
        self.removals.retain(|container, _| present.contains(container));
        self.images.retain(|image, _| needed_images.contains(image));
        self.memory.retain(|instance, _| self.desired.contains_key(instance));
        for container in &self.containers {
            // Somebody else started it again; its next end is news.
            if let (ContainerState::Running { .. }, Some(memory)) =
                (container.state, self.memory.get_mut(&container.instance_id))
                && memory.ended.as_ref() == Some(&container.id)
            {
                memory.ended = None;
            }
        }
    }
}

fn logins(desired: &BTreeMap<InstanceId, InstanceSpec>, image: &str) -> Vec<Option<RegistryAuth>> {
    let mut found: Vec<Option<RegistryAuth>> = Vec::new();
    for spec in desired.values().filter(|spec| spec.image == image) {
        if !found.contains(&spec.registry_auth) {
            found.push(spec.registry_auth.clone());
        }
    }
    found.sort_by_key(Option::is_none);
    found
}
