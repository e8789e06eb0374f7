//! Where an instance can go: which agents are eligible, which of them has the least to do, and if none, why.

use std::collections::{BTreeMap, HashMap};

use towline_model::{
    AgentId, SecretId, ServiceId, ServiceSpec, ServiceType, TeamId, Timestamp,
    service::{OWN_LABEL_PREFIX, own_label},
};
use towline_store::AgentRow;
use towline_tunnel::message::{CAN_ATTACH, CAN_REACH_OUT};

use super::{
    desired::{MAX_WISH_BYTES, wish_bytes},
    limits::Limits,
    world::World,
};
use crate::rollout::spec_of;

/// How many agents an explanation names.
const AGENTS_NAMED: usize = 5;

/// The agents, with what each has to do. Placing something adds to that.
pub(super) struct Fleet<'a> {
    agents: BTreeMap<AgentId, Member<'a>>,
    secret_bytes: &'a HashMap<SecretId, usize>,
    up_since: Timestamp,
}

struct Member<'a> {
    row: &'a AgentRow,
    lost: bool,
    instances: usize,
    /// What it is told to run, in bytes.
    wish_bytes: usize,
    by_deploy: BTreeMap<(ServiceId, i64), usize>,
}

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand<'a> {
    pub(crate) team_id: TeamId,
    pub(crate) service_id: ServiceId,
    pub(crate) generation: i64,
    pub(crate) spec: &'a ServiceSpec,
}

/// Whether an agent of the team could take an instance of this definition now; if none, why.
pub(crate) fn check_eligible(agents: Vec<AgentRow>, demand: Demand<'_>, now: Timestamp) -> Result<(), String> {
    let (services, secret_bytes, closed_secrets) = (Vec::new(), HashMap::new(), HashMap::new());
    let world = World { services, agents, secret_bytes, closed_secrets, up_since: now };
    Fleet::of(&world, now, &Limits::default()).place(demand).map(drop)
}

impl<'a> Fleet<'a> {
    pub(super) fn of(world: &'a World, now: Timestamp, limits: &Limits) -> Self {
        let agents = world.agents.iter().map(|row| {
            // Nobody is lost merely because this server was not there to be talked to.
            let heard = row.last_seen_at.unwrap_or(row.created_at).max(world.up_since);
            let lost = row.session_id.is_none() && now.since(heard) >= limits.agent_lost;
            (row.id, Member { row, lost, instances: 0, wish_bytes: 0, by_deploy: BTreeMap::new() })
        });
        let mut fleet = Self { agents: agents.collect(), secret_bytes: &world.secret_bytes, up_since: world.up_since };
        for service in &world.services {
            let mut sizes = BTreeMap::new();
            for instance in service.instances.iter().filter(|instance| instance.stop_requested_at.is_none()) {
                if let Some(agent) = instance.agent_id {
                    let bytes = *sizes.entry(instance.generation).or_insert_with(|| {
                        let spec = spec_of(&service.row, service.rollout.as_ref(), instance.generation);
                        spec.map_or(0, |spec| wish_bytes(spec, &world.secret_bytes))
                    });
                    fleet.count(agent, (instance.service_id, instance.generation), bytes);
                }
            }
        }
        fleet
    }

    /// Chooses the agent for one more instance: of those that are eligible the one with the fewest instances of this
    /// deploy, then the fewest in all, then the oldest. If there is none, says why.
    pub(super) fn place(&mut self, demand: Demand<'_>) -> Result<AgentId, String> {
        let deploy = (demand.service_id, demand.generation);
        let bytes = wish_bytes(demand.spec, self.secret_bytes);
        let eligible = self.agents.values().filter(|agent| agent.obstacle(demand, bytes).is_none());
        let chosen = eligible
            .min_by_key(|agent| (agent.by_deploy.get(&deploy).copied().unwrap_or(0), agent.instances, agent.row.id));
        let Some(chosen) = chosen.map(|agent| agent.row.id) else { return Err(self.explain(demand, bytes)) };
        self.count(chosen, deploy, bytes);
        Ok(chosen)
    }

    /// From when a deadline runs that began at this moment: an agent cannot report to a server that is not there, so
    /// the time before this server's start does not count.
    pub(super) fn counted_from(&self, begin: Timestamp) -> Timestamp {
        begin.max(self.up_since)
    }

    /// The agent's name, for messages.
    pub(super) fn name(&self, agent: AgentId) -> &str {
        self.agents.get(&agent).map_or("an unknown agent", |agent| agent.row.name.as_str())
    }

    pub(super) fn is_online(&self, agent: AgentId) -> bool {
        self.agents.get(&agent).is_some_and(|agent| agent.row.session_id.is_some())
    }

    /// Whether the agent has been offline for so long that its instances are replaced.
    pub(super) fn is_lost(&self, agent: AgentId) -> bool {
        self.agents.get(&agent).is_none_or(|agent| agent.lost)
    }

    /// Why instances of this type are nothing for the agent, whatever else it has.
    pub(super) fn inability(&self, agent: AgentId, service_type: ServiceType) -> Option<String> {
        self.agents.get(&agent).and_then(|agent| agent.inability(service_type))
    }

    /// Why the agent's engine runs nothing at the moment.
    pub(super) fn engine_problem(&self, agent: AgentId) -> Option<String> {
        self.agents.get(&agent).and_then(|agent| agent.engine_problem())
    }

    fn count(&mut self, agent: AgentId, deploy: (ServiceId, i64), bytes: usize) {
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.instances += 1;
            agent.wish_bytes += bytes;
            *agent.by_deploy.entry(deploy).or_default() += 1;
        }
    }

    fn explain(&self, demand: Demand<'_>, bytes: usize) -> String {
        let team: Vec<_> = self.agents.values().filter(|agent| agent.row.team_id == demand.team_id).collect();
        if team.is_empty() {
            return "no agent has joined this team yet; run `towline agent` with an ak- key on a machine".to_owned();
        }
        let named = team.iter().take(AGENTS_NAMED).map(|agent| {
            let obstacle = agent.obstacle(demand, bytes).unwrap_or_else(|| "is eligible".to_owned());
            format!("{} {obstacle}", agent.row.name)
        });
        let mut text = format!("no agent can run it: {}", named.collect::<Vec<_>>().join("; "));
        if team.len() > AGENTS_NAMED {
            text.push_str(&format!("; and {} more", team.len() - AGENTS_NAMED));
        }
        text
    }
}

impl Member<'_> {
    /// Why this agent is not eligible for an instance that takes so many bytes in its wish.
    fn obstacle(&self, demand: Demand<'_>, bytes: usize) -> Option<String> {
        if self.row.team_id != demand.team_id {
            return Some("belongs to another team".to_owned());
        }
        if self.row.session_id.is_none() {
            return Some("is offline".to_owned());
        }
        if let Some(inability) = self.inability(demand.spec.service_type) {
            return Some(inability);
        }
        let missing: Vec<_> =
            demand.spec.required_labels.iter().filter(|label| !self.has_label(label)).map(String::as_str).collect();
        match missing.as_slice() {
            [] => {}
            [label] if label.starts_with(OWN_LABEL_PREFIX) => return Some("is not the one that it is for".to_owned()),
            [label] => return Some(format!("lacks the label {label}")),
            labels => return Some(format!("lacks the labels {}", labels.join(", "))),
        }
        let gpus = if demand.spec.gpu_count < 0 { 1 } else { demand.spec.gpu_count };
        if self.row.gpu_count < gpus {
            return Some(match gpus {
                1 => "has no GPU".to_owned(),
                _ => format!("has {} of the {gpus} GPUs that it needs", self.row.gpu_count),
            });
        }
        if self.wish_bytes + bytes > MAX_WISH_BYTES {
            let most = MAX_WISH_BYTES >> 20;
            return Some(format!("has as much to run as one agent can be told ({most} MiB of definitions)"));
        }
        if demand.spec.service_type != ServiceType::Deployed {
            return None;
        }
        self.engine_problem().map(|problem| format!("has no working container engine ({problem})"))
    }

    fn has_label(&self, label: &str) -> bool {
        if label.starts_with(OWN_LABEL_PREFIX) {
            // Not among the labels that an agent may claim.
            return label == own_label(self.row.id);
        }
        self.row.labels.iter().any(|own| own == label)
    }

    fn inability(&self, service_type: ServiceType) -> Option<String> {
        let needed = match service_type {
            ServiceType::Deployed => return None,
            ServiceType::Attached => CAN_ATTACH,
            ServiceType::External => CAN_REACH_OUT,
        };
        let is_able = self.row.capabilities.iter().any(|word| word == needed);
        let version = &self.row.agent_version;
        (!is_able)
            .then(|| format!("runs version {version}, which has no {needed} services; install the server's version"))
    }

    fn engine_problem(&self) -> Option<String> {
        let unknown = || "no reason was given".to_owned();
        (!self.row.engine_ready).then(|| self.row.engine_message.clone().unwrap_or_else(unknown))
    }
}
