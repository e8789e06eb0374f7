//! What each agent is told to run: computed from the state, sent when it changes and to every new session.
//!
//! A definition never changes within a generation, so the set of instance ids says everything about what was told. What
//! was told last is remembered, because a report that quotes it tells which instances are really gone.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use towline_gateway::Gateway;
use towline_model::{AgentId, InstanceId, ServiceSpec, ServiceType, SessionId, Timestamp};
use towline_store::InstanceRow;
use towline_tunnel::message::{Desired, EndpointSpec, InstanceSpec, Place};

use super::world::{ServiceState, World};
use crate::rollout::spec_of;

/// Seconds between SIGTERM and SIGKILL.
const STOP_GRACE_SECONDS: u32 = 10;

/// The most bytes of JSON that one agent's wish may have; what would exceed it is placed elsewhere or waits. The tunnel
/// takes messages of 4 MiB, so there is room for what was placed before a definition was counted as it is now.
pub(super) const MAX_WISH_BYTES: usize = 3 << 20;

/// About how many bytes an instance of this definition takes in its agent's wish, and not less than it does.
pub(super) fn wish_bytes(spec: &ServiceSpec) -> usize {
    // Names of fields, ids and numbers.
    const REST: usize = 1024;
    let texts = (&spec.service_slug, &spec.docker_image, &spec.health_path, &spec.command, &spec.args);
    let places = (&spec.attached_target, &spec.external_url);
    let all = (texts, places, &spec.env_config, &spec.volume_config);
    let bytes = serde_json::to_vec(&all).map_or(MAX_WISH_BYTES, |text| text.len());
    bytes + REST
}

/// What the agents were told last.
#[derive(Debug, Default)]
pub struct DesiredSets {
    told: Mutex<HashMap<AgentId, Told>>,
}

#[derive(Debug, Clone)]
struct Told {
    session_id: SessionId,
    revision: u64,
    instances: BTreeSet<InstanceId>,
}

impl DesiredSets {
    /// Tells every agent that has a session here what it should run, unless it was told the same before.
    pub fn sync(&self, gateway: &Gateway, world: &World, now: Timestamp) {
        let wanted = wanted(world);
        let sessions = gateway.sessions();
        self.lock().retain(|agent, _| sessions.iter().any(|session| session.agent_id == *agent));
        for session in sessions {
            let instances = wanted.get(&session.agent_id).map_or(&[][..], Vec::as_slice);
            let ids: BTreeSet<_> = instances.iter().map(|(_, instance)| instance.id).collect();
            let Some(revision) = self.next_revision(session.agent_id, session.session_id, &ids, now) else { continue };
            let desired = wish(revision, instances);
            // Remembered before it is sent, so that no report can quote what is not known here.
            let told = Told { session_id: session.session_id, revision, instances: ids };
            self.lock().insert(session.agent_id, told);
            if !gateway.send_desired(session.agent_id, desired) {
                self.lock().remove(&session.agent_id);
            }
        }
    }

    /// What the agent was told in this revision of this session. `None` when it has been told something newer since.
    #[must_use]
    pub fn told(&self, agent: AgentId, session: SessionId, revision: u64) -> Option<BTreeSet<InstanceId>> {
        let told = self.lock();
        let told = told.get(&agent)?;
        (told.session_id == session && told.revision == revision).then(|| told.instances.clone())
    }

    /// The revision of the next message; `None` when there is nothing new to tell. Revisions grow, also from one process
    /// to the next.
    fn next_revision(
        &self,
        agent: AgentId,
        session: SessionId,
        ids: &BTreeSet<InstanceId>,
        now: Timestamp,
    ) -> Option<u64> {
        let time = u64::try_from(now.as_micros()).unwrap_or(0);
        match self.lock().get(&agent) {
            Some(told) if told.session_id == session && told.instances == *ids => None,
            Some(told) => Some(time.max(told.revision + 1)),
            None => Some(time),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every instance that should run, by its agent.
fn wanted(world: &World) -> HashMap<AgentId, Vec<(&ServiceState, &InstanceRow)>> {
    let mut wanted: HashMap<AgentId, Vec<_>> = HashMap::new();
    for service in &world.services {
        for instance in service.instances.iter().filter(|instance| instance.stop_requested_at.is_none()) {
            let has_spec = spec_of(&service.row, service.rollout.as_ref(), instance.generation).is_some();
            if let Some(agent) = instance.agent_id.filter(|_| has_spec) {
                wanted.entry(agent).or_default().push((service, instance));
            }
        }
    }
    wanted
}

/// What one agent is told: containers and places apart.
fn wish(revision: u64, instances: &[(&ServiceState, &InstanceRow)]) -> Desired {
    let mut desired = Desired { revision, instances: Vec::new(), endpoints: Vec::new() };
    for (service, instance) in instances {
        let Some(spec) = spec_of(&service.row, service.rollout.as_ref(), instance.generation) else { continue };
        match place_of(spec) {
            None => desired.instances.push(instance_spec(spec, instance)),
            Some(place) => desired.endpoints.push(endpoint_spec(spec, instance, place)),
        }
    }
    desired
}

/// Where an instance of this definition is, if it is no container.
fn place_of(spec: &ServiceSpec) -> Option<Place> {
    match spec.service_type {
        ServiceType::Deployed => None,
        ServiceType::Attached => Some(spec.attached().map_or(Place::Unknown, Place::Attached)),
        ServiceType::External => Some(spec.external().map_or(Place::Unknown, |url| Place::External(url.at))),
    }
}

fn endpoint_spec(spec: &ServiceSpec, instance: &InstanceRow, place: Place) -> EndpointSpec {
    EndpointSpec {
        instance_id: instance.id,
        service_id: instance.service_id,
        service_slug: spec.service_slug.clone(),
        generation: instance.generation,
        place,
        health_path: spec.health_path.clone(),
        probe: spec.probe,
    }
}

fn instance_spec(spec: &ServiceSpec, instance: &InstanceRow) -> InstanceSpec {
    InstanceSpec {
        instance_id: instance.id,
        service_id: instance.service_id,
        service_slug: spec.service_slug.clone(),
        generation: instance.generation,
        image: spec.docker_image.clone().unwrap_or_default(),
        exposed_port: spec.container_port(),
        health_path: spec.health_path.clone().unwrap_or_else(|| "/".to_owned()),
        probe: spec.probe,
        env: spec.env_config.clone(),
        volumes: spec.volume_config.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        cpu_limit: spec.cpu_limit,
        memory_limit_bytes: spec.memory_limit_bytes,
        gpu_count: spec.gpu_count,
        stop_grace_seconds: STOP_GRACE_SECONDS,
    }
}
