//! The planner, without a database: a scene that can be changed like the real state is.

mod cases;
mod closed_secrets;
mod properties;
mod resting;
mod simulation;

use std::time::Duration;

use serde_json::{Map, Value, json};
use towline_gateway::AgentSession;
use towline_model::{
    AgentId, InstanceId, InstancePhase, ServiceId, ServiceSpec, ServiceStatus, SessionId, TeamId, Timestamp,
};
use towline_store::{AgentRow, InstanceRow};
use towline_tunnel::message::ReasonKind;

use super::{
    apply::{change_row, new_instance},
    change::{Change, ServicePlan},
    limits::Limits,
    plan::plan,
    rest::Rest,
    verdict::reason_name,
    world::{ServiceState, World},
};
use crate::{
    app::service::{begin_deploy, new_service},
    rollout::{Deploys, Rollout, RolloutState},
    routes::{is_ready, reachable_generation},
};

const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// The state, and ways to change it that the rest of the program has.
struct Scene {
    team: TeamId,
    world: World,
    now: Timestamp,
    limits: Limits,
}

impl Scene {
    fn new() -> Self {
        let world = World {
            services: Vec::new(),
            agents: Vec::new(),
            secret_bytes: std::collections::HashMap::new(),
            closed_secrets: std::collections::HashMap::new(),
            up_since: START,
        };
        Self { team: TeamId::generate(), world, now: START, limits: Limits::default() }
    }

    /// An agent that is online and has a working engine.
    fn agent(&mut self, name: &str) -> AgentId {
        let row = AgentRow {
            id: AgentId::generate(),
            team_id: self.team,
            name: name.to_owned(),
            machine_id: name.to_owned(),
            agent_version: "1".to_owned(),
            labels: Vec::new(),
            capabilities: ["attached".to_owned(), "external".to_owned()].into(),
            gpu_count: 0,
            engine_ready: true,
            engine_message: Some("Docker 28".to_owned()),
            transport: None,
            via_proxy: false,
            session_id: Some(SessionId::generate()),
            last_seen_at: Some(self.now),
            created_at: self.now,
        };
        let id = row.id;
        self.world.agents.push(row);
        id
    }

    fn agent_mut(&mut self, id: AgentId) -> &mut AgentRow {
        self.world.agents.iter_mut().find(|agent| agent.id == id).unwrap()
    }

    fn set_online(&mut self, id: AgentId, online: bool) {
        let now = self.now;
        let agent = self.agent_mut(id);
        if agent.session_id.is_some() != online {
            agent.session_id = online.then(SessionId::generate);
            agent.last_seen_at = Some(now);
        }
    }

    /// A service that was only defined; `more` are further fields of its definition.
    fn service(&mut self, slug: &str, more: Value) -> ServiceId {
        let mut definition = json!({"service_slug": slug, "display_name": slug, "docker_image": "demo:1"});
        definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.add(ServiceSpec::from_json(definition.as_object().unwrap().clone()).unwrap())
    }

    fn add(&mut self, spec: ServiceSpec) -> ServiceId {
        let row = new_service(self.team, spec, self.now);
        let id = row.id;
        self.world.services.push(ServiceState { row, rollout: None, instances: Vec::new(), in_flight: 0 });
        id
    }

    fn state(&self, id: ServiceId) -> &ServiceState {
        self.world.services.iter().find(|service| service.row.id == id).unwrap()
    }

    fn state_mut(&mut self, id: ServiceId) -> &mut ServiceState {
        self.world.services.iter_mut().find(|service| service.row.id == id).unwrap()
    }

    fn status(&self, id: ServiceId) -> ServiceStatus {
        self.state(id).row.status
    }

    fn reason(&self, id: ServiceId) -> &str {
        self.state(id).row.status_reason.as_deref().unwrap_or_default()
    }

    fn rollout(&self, id: ServiceId) -> &Rollout {
        self.state(id).rollout.as_ref().unwrap()
    }

    fn update(&mut self, id: ServiceId, changes: Value) {
        let row = &mut self.state_mut(id).row;
        let Value::Object(changes) = changes else { panic!("an object") };
        row.spec = row.spec.merge(changes).unwrap();
    }

    fn deploy(&mut self, id: ServiceId) {
        let now = self.now;
        let service = self.state_mut(id);
        let spec = service.row.spec.clone();
        begin_deploy(&mut service.row, spec, now);
        service.rollout = Rollout::of(&service.row);
    }

    fn undeploy(&mut self, id: ServiceId) {
        let until = self.now + self.limits.drain;
        let row = &mut self.state_mut(id).row;
        row.status = ServiceStatus::Stopping;
        row.status_reason = None;
        row.drain_until = Some(until);
    }

    /// One pass of the reconciler. What it leaves is always something that it has nothing to add to.
    fn pass(&mut self) -> Vec<ServicePlan> {
        let plans = plan(&self.world, self.now, &self.limits);
        assert_eq!(plans, plan(&self.world, self.now, &self.limits), "planning is a function");
        for plan in &plans {
            self.carry_out(plan);
        }
        let again = plan(&self.world, self.now, &self.limits);
        assert!(again.is_empty(), "a second pass has more to do: {again:#?}\nafter {plans:#?}\nin {:#?}", self.world);
        self.check();
        plans
    }

    fn carry_out(&mut self, plan: &ServicePlan) {
        let now = self.now;
        let service = self.state_mut(plan.service_id);
        for change in &plan.changes {
            change_row(&mut service.row, change, now);
            let find = |id: InstanceId| service.instances.iter().position(|row| row.id == id).expect("it is there");
            match *change {
                Change::Create { generation, agent } => {
                    let instance = new_instance(&service.row, generation, agent, now);
                    service.instances.push(instance);
                }
                Change::Place { instance, agent } => {
                    let at = find(instance);
                    let row = &mut service.instances[at];
                    assert_eq!((row.agent_id, row.stop_requested_at), (None, None), "placed twice or when stopped");
                    (row.agent_id, row.placed_at) = (Some(agent), Some(now));
                }
                Change::Stop { instance, .. } => {
                    let at = find(instance);
                    let row = &mut service.instances[at];
                    assert_eq!(row.stop_requested_at, None, "stopped twice");
                    row.stop_requested_at = Some(now);
                }
                Change::Forget { instance } => {
                    let at = find(instance);
                    service.instances.remove(at);
                }
                Change::Status(_) | Change::Reason(_) | Change::Rollout(_) => {}
            }
        }
        service.rollout = Rollout::of(&service.row);
    }

    /// What holds after every pass.
    fn check(&self) {
        for service in &self.world.services {
            let deploys = Deploys::of(&service.row, service.rollout.as_ref());
            let known: Vec<_> = [deploys.serving, deploys.coming, deploys.retiring].into_iter().flatten().collect();
            let is_stopping = service.row.status == ServiceStatus::Stopping;
            for instance in service.instances.iter().filter(|row| row.stop_requested_at.is_none()) {
                let is_known = known.iter().any(|deploy| deploy.generation == instance.generation);
                assert!(is_known || is_stopping, "an instance of nothing is wished: {instance:?}");
            }
            for deploy in known {
                let count = self.wished(service.row.id, deploy.generation).len();
                assert!(count <= deploy.spec.replica_count as usize, "{count} instances of one deploy are wished");
            }
        }
    }

    /// For how many seconds the state need not be read again. All sessions are as they are written down.
    fn rest(&self) -> u64 {
        let sessions: Vec<_> = self.world.agents.iter().filter_map(session).collect();
        let rest = Rest::of(&self.world, (0, &sessions), |_| true, self.now, &self.limits);
        rest.map_or(0, |rest| rest.until.since(self.now).as_secs())
    }

    fn wished(&self, id: ServiceId, generation: i64) -> Vec<&InstanceRow> {
        let instances = self.state(id).instances.iter();
        instances.filter(|row| row.generation == generation && row.stop_requested_at.is_none()).collect()
    }

    fn instances(&self, id: ServiceId) -> Vec<InstanceId> {
        self.state(id).instances.iter().map(|row| row.id).collect()
    }

    fn instance_mut(&mut self, id: InstanceId) -> &mut InstanceRow {
        self.world.services.iter_mut().flat_map(|service| &mut service.instances).find(|row| row.id == id).unwrap()
    }

    /// An agent's report of one instance, as the store keeps it.
    fn report(&mut self, id: InstanceId, phase: InstancePhase, reason: Option<(ReasonKind, &str)>) {
        let now = self.now;
        let row = self.instance_mut(id);
        row.phase = phase;
        row.reason_kind = reason.map(|(kind, _)| reason_name(kind).to_owned());
        row.reason = reason.map(|(_, message)| message.to_owned());
        if matches!(phase, InstancePhase::Starting | InstancePhase::Ready | InstancePhase::Unhealthy) {
            row.started_at.get_or_insert(now);
        }
        row.ready_since = (phase == InstancePhase::Ready).then_some(row.ready_since.unwrap_or(now));
        row.reported_at = Some(now);
    }

    fn report_all(&mut self, id: ServiceId, phase: InstancePhase) {
        for instance in self.instances(id) {
            self.report(instance, phase, None);
        }
    }

    /// Its agent says that everything that should be gone is gone.
    fn report_gone(&mut self, id: ServiceId) {
        self.state_mut(id).instances.retain(|row| row.stop_requested_at.is_none());
    }

    fn advance(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    /// A service that runs with all its instances ready.
    fn running(&mut self, slug: &str, more: Value) -> ServiceId {
        let id = self.service(slug, more);
        self.deploy(id);
        self.pass();
        self.report_all(id, InstancePhase::Ready);
        self.pass();
        assert_eq!(self.status(id), ServiceStatus::Running);
        id
    }

    /// The generation that callers reach.
    fn reached(&self, id: ServiceId) -> Option<i64> {
        let service = self.state(id);
        let generation = reachable_generation(&service.row, service.rollout.as_ref(), &service.instances)?;
        service.instances.iter().any(|row| is_ready(row, generation)).then_some(generation)
    }
}

fn session(agent: &AgentRow) -> Option<AgentSession> {
    let session_id = agent.session_id?;
    Some(AgentSession { agent_id: agent.id, session_id, since: agent.created_at, carriers: 4 })
}

fn no_more() -> Value {
    Value::Object(Map::new())
}
