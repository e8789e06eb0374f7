//! What each agent is told to run: computed from the state, sent when it changes and to every new session.
//!
//! A definition never changes within a generation, so the set of instance ids says everything about what was told. What
//! was told last is remembered, because a report that quotes it tells which instances are really gone.
//!
//! Secrets are opened here, for the moment of telling. Their values may have changed since an instance was told for the
//! first time; that is no reason to tell it again, and none for the agent to replace its container. An instance of which a
//! secret does not open is told as one that no container may be made for: one that was made before goes on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use towline_gateway::Gateway;
use towline_model::{
    AgentId, InstanceId, Secret, SecretId, ServiceSpec, ServiceType, SessionId, TeamId, Timestamp, service::EnvVar,
};
use towline_store::{InstanceRow, Store, StoreError};
use towline_tunnel::message::{Desired, EndpointSpec, InstanceSpec, Place};

use super::world::{ServiceState, World};
use crate::{
    rollout::spec_of,
    secrets::{ClosedSecrets, Vault, obstacle, registry_login},
};

/// Seconds between SIGTERM and SIGKILL.
const STOP_GRACE_SECONDS: u32 = 10;

/// The most bytes of JSON that one agent's wish may have; what would exceed it is placed elsewhere or waits. The tunnel
/// takes messages of 4 MiB, so there is room for what was placed before a definition was counted as it is now.
pub(super) const MAX_WISH_BYTES: usize = 3 << 20;

/// About how many bytes an instance of this definition takes in its agent's wish, and not less than it does.
pub(super) fn wish_bytes(spec: &ServiceSpec, secret_bytes: &HashMap<SecretId, usize>) -> usize {
    // Names of fields, ids and numbers.
    const REST: usize = 1024;
    let texts = (&spec.service_slug, &spec.docker_image, &spec.health_path, &spec.command, &spec.args);
    let places = (&spec.attached_target, &spec.external_url);
    let all = (texts, places, &spec.env_config, &spec.volume_config);
    let bytes = serde_json::to_vec(&all).map_or(MAX_WISH_BYTES, |text| text.len());
    bytes + REST + secrets_of(spec).iter().map(|id| secret_bytes.get(id).copied().unwrap_or(0)).sum::<usize>()
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
    /// Those of them that no container may be made for.
    withheld: BTreeSet<InstanceId>,
    /// The agent was told to run nothing, and has reported that it runs nothing.
    is_idle: bool,
}

/// What a telling is made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub(crate) store: &'a Store,
    pub(crate) vault: &'a Vault,
    pub(crate) world: &'a World,
}

/// The values of secrets, while something is told.
type Opened = HashMap<SecretId, Secret<String>>;

/// An instance that should run, and what it should run.
struct Wanted<'a> {
    team_id: TeamId,
    spec: &'a ServiceSpec,
    instance: &'a InstanceRow,
}

impl DesiredSets {
    /// Tells every agent that has a session here what it should run, unless it was told the same before. `false` when one
    /// could not be told.
    ///
    /// # Errors
    /// When the database does not answer; the next pass tells what was not told.
    pub async fn sync(&self, gateway: &Gateway, sources: Sources<'_>, now: Timestamp) -> Result<bool, StoreError> {
        let mut wanted = wanted(sources.world);
        let sessions = gateway.sessions();
        self.lock().retain(|agent, _| sessions.iter().any(|session| session.agent_id == *agent));
        let mut news = Vec::new();
        for session in sessions {
            let instances = wanted.remove(&session.agent_id).unwrap_or_default();
            let told = Told {
                session_id: session.session_id,
                revision: u64::try_from(now.as_micros()).unwrap_or(0),
                instances: instances.iter().map(|wanted| wanted.instance.id).collect(),
                withheld: withheld(&instances, &sources.world.closed_secrets),
                is_idle: false,
            };
            news.extend(self.if_new(session.agent_id, told).map(|told| (session.agent_id, told, instances)));
        }
        let opened = open(sources, news.iter().flat_map(|(.., instances)| instances)).await?;
        let mut all_told = true;
        for (agent, told, instances) in news {
            let desired = wish(told.revision, &instances, (&opened, &sources.world.closed_secrets));
            // Remembered before it is sent, so that no report can quote what is not known here.
            self.lock().insert(agent, told);
            if !gateway.send_desired(agent, desired) {
                self.lock().remove(&agent);
                all_told = false;
            }
        }
        Ok(all_told)
    }

    /// What the agent was told in this revision of this session. `None` when it has been told something newer since.
    #[must_use]
    pub fn told(&self, agent: AgentId, session: SessionId, revision: u64) -> Option<BTreeSet<InstanceId>> {
        let told = self.lock();
        let told = told.get(&agent)?;
        (told.session_id == session && told.revision == revision).then(|| told.instances.clone())
    }

    /// Notes that an agent has reported, in answer to this revision, that it runs nothing. `true` when that is news.
    #[must_use]
    pub fn note_idle(&self, agent: AgentId, session: SessionId, revision: u64) -> bool {
        let mut told = self.lock();
        let Some(told) = told.get_mut(&agent) else { return false };
        let is_news = told.session_id == session && told.revision == revision && told.instances.is_empty();
        is_news && !std::mem::replace(&mut told.is_idle, true)
    }

    /// Whether the agent was told to run nothing and runs nothing.
    #[must_use]
    pub fn is_idle(&self, agent: AgentId) -> bool {
        self.lock().get(&agent).is_some_and(|told| told.is_idle)
    }

    /// What is to be told; `None` when the same was told before. Revisions are times, so that they grow from one process to
    /// the next, too, and always more than the one before.
    fn if_new(&self, agent: AgentId, mut next: Told) -> Option<Told> {
        if let Some(told) = self.lock().get(&agent) {
            let is_same_session = told.session_id == next.session_id;
            if is_same_session && told.instances == next.instances && told.withheld == next.withheld {
                return None;
            }
            next.revision = next.revision.max(told.revision + 1);
        }
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every instance that should run, by its agent.
fn wanted(world: &World) -> HashMap<AgentId, Vec<Wanted<'_>>> {
    let mut wanted: HashMap<AgentId, Vec<Wanted<'_>>> = HashMap::new();
    for ServiceState { row, rollout, instances, .. } in &world.services {
        for instance in instances.iter().filter(|instance| instance.stop_requested_at.is_none()) {
            let spec = spec_of(row, rollout.as_ref(), instance.generation);
            if let (Some(agent), Some(spec)) = (instance.agent_id, spec) {
                wanted.entry(agent).or_default().push(Wanted { team_id: row.team_id, spec, instance });
            }
        }
    }
    wanted
}

/// The instances that no container may be made for.
fn withheld(instances: &[Wanted<'_>], closed: &ClosedSecrets) -> BTreeSet<InstanceId> {
    let withheld = instances.iter().filter(|wanted| obstacle(wanted.spec, closed).is_some());
    withheld.map(|wanted| wanted.instance.id).collect()
}

/// What one agent is told: containers and places apart.
fn wish(revision: u64, instances: &[Wanted<'_>], (opened, closed): (&Opened, &ClosedSecrets)) -> Desired {
    let mut desired = Desired { revision, instances: Vec::new(), withheld: Vec::new(), endpoints: Vec::new() };
    for Wanted { spec, instance, .. } in instances {
        match place_of(spec) {
            None => {
                let told = instance_spec(spec, instance, opened);
                match obstacle(spec, closed).or(told.withheld) {
                    None => desired.instances.push(InstanceSpec { withheld: None, ..told }),
                    withheld => desired.withheld.push(InstanceSpec { withheld, ..told }),
                }
            }
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
        app_protocol: spec.app_protocol,
        health_path: spec.health_path.clone(),
        probe: spec.probe,
    }
}

/// Opens every secret that these instances need.
async fn open<'a>(sources: Sources<'_>, instances: impl Iterator<Item = &'a Wanted<'a>>) -> Result<Opened, StoreError> {
    let mut needed: BTreeMap<TeamId, BTreeSet<SecretId>> = BTreeMap::new();
    for wanted in instances {
        let ids = secrets_of(wanted.spec);
        if !ids.is_empty() {
            needed.entry(wanted.team_id).or_default().extend(ids);
        }
    }
    let mut opened = Opened::new();
    if needed.is_empty() {
        return Ok(opened);
    }
    let mut tx = sources.store.read().await?;
    for (team_id, ids) in needed {
        opened.extend(sources.vault.open_all(&mut tx, team_id, &ids).await?);
    }
    Ok(opened)
}

/// The secrets that an agent needs to run this.
fn secrets_of(spec: &ServiceSpec) -> Vec<SecretId> {
    let variables = spec.env_config.iter().filter_map(|variable| variable.secret_id);
    variables.chain(spec.registry_auth_secret_id).collect()
}

/// What is told of a container. Without the values of secrets that are not open none may be made from it.
fn instance_spec(spec: &ServiceSpec, instance: &InstanceRow, opened: &Opened) -> InstanceSpec {
    let variables = spec.env_config.iter().map(|variable| {
        let value = match variable.secret_id {
            Some(secret) => opened.get(&secret).map(Secret::expose),
            None => variable.env_value.as_ref(),
        };
        EnvVar { env_name: variable.env_name.clone(), env_value: value.cloned().unwrap_or_default() }
    });
    let secret_env = spec.env_config.iter().filter(|variable| variable.secret_id.is_some());
    let registry_auth = spec.registry_auth_secret_id.and_then(|secret| registry_login(opened.get(&secret)?));
    let is_open = secrets_of(spec).iter().all(|id| opened.contains_key(id));
    let is_whole = is_open && registry_auth.is_some() == spec.registry_auth_secret_id.is_some();
    let incomplete = || "a secret of its definition cannot be opened, or is no login for a registry".to_owned();
    InstanceSpec {
        instance_id: instance.id,
        service_id: instance.service_id,
        service_slug: spec.service_slug.clone(),
        generation: instance.generation,
        image: spec.docker_image.clone().unwrap_or_default(),
        registry_auth,
        exposed_port: spec.container_port(),
        app_protocol: spec.app_protocol,
        health_path: spec.health_path.clone().unwrap_or_else(|| "/".to_owned()),
        probe: spec.probe,
        env: variables.collect(),
        secret_env: secret_env.map(|variable| variable.env_name.clone()).collect(),
        volumes: spec.volume_config.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        cpu_limit: spec.cpu_limit,
        memory_limit_bytes: spec.memory_limit_bytes,
        gpu_count: spec.gpu_count,
        stop_grace_seconds: STOP_GRACE_SECONDS,
        withheld: (!is_whole).then(incomplete),
    }
}
