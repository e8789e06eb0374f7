//! The planner: from the state of things to the next changes. Pure; it asks nobody and waits for nothing.
//!
//! Planning twice from the same state gives the same plan, and a plan that was carried out leaves nothing to plan until
//! something new is observed or a deadline passes. Every instance that is wished belongs to one generation and, once it
//! is placed, stays where it is: who has to move is a new instance, and the old one is fenced by its id.
//!
//! Callers of a running service are served by one generation. A newer one is brought up beside it and takes over when all
//! of its instances are ready; the older one then finishes its requests and goes. If the newer one cannot become ready,
//! it goes and the older one stays.

use towline_model::{AgentId, InstancePhase, ServiceStatus, ServiceType, Timestamp};
use towline_store::InstanceRow;

use super::{
    change::{Change, ServicePlan},
    limits::Limits,
    placement::{Demand, Fleet},
    verdict::{Verdict, judge},
    world::{ServiceState, World},
};
use crate::{
    rollout::{Deploy, DeployRef, Deploys, Rollout, RolloutState},
    routes::is_ready,
    secrets::{ClosedSecrets, obstacle},
};

/// Plans the next changes. Services without any are left out.
#[must_use]
pub fn plan(world: &World, now: Timestamp, limits: &Limits) -> Vec<ServicePlan> {
    let mut fleet = Fleet::of(world, now, limits);
    let mut plans = Vec::new();
    for service in &world.services {
        let closed = &world.closed_secrets;
        let planner = Planner { service, closed, fleet: &mut fleet, now, limits, changes: Vec::new() };
        let changes = planner.run();
        if !changes.is_empty() {
            plans.push(ServicePlan { service_id: service.row.id, changes });
        }
    }
    plans
}

struct Planner<'p, 'w> {
    service: &'w ServiceState,
    closed: &'w ClosedSecrets,
    fleet: &'p mut Fleet<'w>,
    now: Timestamp,
    limits: &'p Limits,
    changes: Vec<Change>,
}

/// How far one deploy is, and what to do for it.
#[derive(Default)]
struct Progress {
    total: usize,
    ready: usize,
    waiting: Vec<String>,
    doomed: Vec<String>,
    changes: Vec<Change>,
}

impl Progress {
    /// What is missing, in one sentence. `None` when nothing is.
    fn summary(&self) -> Option<String> {
        // The least in the alphabet, not the first: the order of instances changes when one is replaced.
        let missing = self.doomed.iter().min().or_else(|| self.waiting.iter().min())?;
        Some(format!("{} of {} instances ready: {missing}", self.ready, self.total))
    }

    /// Why it failed: every different reason, at most three.
    fn failure(&self) -> String {
        let mut reasons: Vec<&str> = Vec::new();
        for reason in &self.doomed {
            if reasons.len() < 3 && !reasons.contains(&reason.as_str()) {
                reasons.push(reason);
            }
        }
        reasons.join("; ")
    }
}

impl<'w> Planner<'_, 'w> {
    fn run(mut self) -> Vec<Change> {
        self.forget_what_is_gone();
        match self.service.row.status {
            ServiceStatus::Deploying => self.plan_deploying(),
            ServiceStatus::Running => self.plan_running(),
            ServiceStatus::Stopping => self.plan_stopping(),
            ServiceStatus::Created | ServiceStatus::Stopped | ServiceStatus::Failed => {
                self.stop_all_but(&[], "the service is not wished to run");
            }
        }
        self.changes
    }

    fn plan_deploying(&mut self) {
        let deploys = Deploys::of(&self.service.row, self.service.rollout.as_ref());
        let Some(coming) = deploys.coming else { return };
        self.stop_all_but(&[coming.generation], "it belongs to an earlier deploy");
        let progress = self.bring_up(coming);
        if progress.ready > 0 {
            self.set_status(ServiceStatus::Running, progress.summary());
            self.end_rollout(RolloutState::Succeeded, None);
            self.changes.extend(progress.changes);
        } else if progress.doomed.len() == progress.total {
            let failure = progress.failure();
            self.set_status(ServiceStatus::Failed, Some(failure.clone()));
            self.end_rollout(RolloutState::Failed, Some(failure));
            self.stop_all_of(coming.generation, "its deploy has failed");
        } else {
            self.set_reason(progress.summary());
            self.changes.extend(progress.changes);
        }
    }

    fn plan_running(&mut self) {
        let deploys = Deploys::of(&self.service.row, self.service.rollout.as_ref());
        let known = [deploys.serving, deploys.coming, deploys.retiring];
        let known: Vec<_> = known.into_iter().flatten().map(|deploy| deploy.generation).collect();
        self.stop_all_but(&known, "it belongs to an earlier deploy");
        self.retire(deploys.retiring);
        match (deploys.serving, deploys.coming) {
            (Some(serving), Some(coming)) => self.plan_update(serving, coming),
            (Some(serving), None) => self.keep_up(serving),
            (None, _) => {}
        }
    }

    /// A newer deploy is brought up beside the one that serves callers.
    fn plan_update(&mut self, serving: DeployRef<'w>, coming: DeployRef<'w>) {
        let progress = self.bring_up(coming);
        // What of it is ready is not taken away while callers have nothing else.
        let serves_alone = progress.ready > 0 && !self.has_ready(serving.generation);
        if progress.ready == progress.total {
            self.set_reason(None);
            self.changes.extend(progress.changes);
            // What is retired is no more than it was wished to be.
            self.changes.extend(self.wished_and_surplus(serving).1);
            self.end_rollout(RolloutState::Succeeded, None);
        } else if progress.doomed.is_empty() || serves_alone {
            self.changes.extend(progress.changes);
            self.keep_up(serving);
        } else {
            self.end_rollout(RolloutState::Failed, Some(progress.failure()));
            self.stop_all_of(coming.generation, "its deploy has failed");
            self.keep_up(serving);
        }
    }

    fn has_ready(&self, generation: i64) -> bool {
        self.service.instances.iter().any(|instance| is_ready(instance, generation))
    }

    fn keep_up(&mut self, serving: DeployRef<'w>) {
        let progress = self.bring_up(serving);
        self.set_reason(progress.summary());
        self.changes.extend(progress.changes);
    }

    fn plan_stopping(&mut self) {
        let drain_until = self.service.row.drain_until.unwrap_or(self.now);
        if self.is_drained(drain_until) {
            self.stop_all_but(&[], "the service is undeployed");
        }
        if self.remaining().next().is_none() {
            self.set_status(ServiceStatus::Stopped, None);
            return;
        }
        let draining = self.wished(None).next().is_some() && !self.is_drained(drain_until);
        let text = match self.service.row.spec.service_type {
            _ if draining => "finishing the requests in flight",
            ServiceType::Deployed => "waiting for the agents to stop the containers",
            ServiceType::External | ServiceType::Attached => "waiting for the agents to let go of it",
        };
        self.set_reason(Some(text.to_owned()));
    }

    /// Once the last request to an earlier deploy is finished, its instances go; once they are gone, so is its
    /// definition.
    fn retire(&mut self, retiring: Option<DeployRef<'w>>) {
        let (Some(retiring), Some(rollout)) = (retiring, self.service.rollout.as_ref()) else { return };
        if self.is_drained(rollout.drain_until.unwrap_or(self.now)) {
            self.stop_all_of(retiring.generation, "a newer deploy has taken over");
        }
        if !self.remaining().any(|instance| instance.generation == retiring.generation) {
            self.changes.push(Change::Rollout(Box::new(Rollout {
                previous: None,
                drain_until: None,
                ..rollout.clone()
            })));
        }
    }

    /// The instances of a deploy that are to stay, at most `replica_count`, and the end of those beyond.
    fn wished_and_surplus(&self, deploy: DeployRef<'w>) -> (Vec<&'w InstanceRow>, Vec<Change>) {
        let mut wished: Vec<_> = self.wished(Some(deploy.generation)).collect();
        // The ones that have come furthest are kept.
        wished
            .sort_by_key(|instance| (instance.phase != InstancePhase::Ready, instance.agent_id.is_none(), instance.id));
        let beyond = wished.split_off(wished.len().min(deploy.spec.replica_count as usize));
        let surplus = beyond.into_iter().map(|instance| stop(instance, "there are more than are wished"));
        (wished, surplus.collect())
    }

    /// Works towards `replica_count` instances of a deploy and tells how far they are.
    fn bring_up(&mut self, deploy: DeployRef<'w>) -> Progress {
        let wanted = deploy.spec.replica_count as usize;
        let (wished, surplus) = self.wished_and_surplus(deploy);
        let mut progress = Progress { total: wanted, changes: surplus, ..Progress::default() };
        if let Some(why) = obstacle(deploy.spec, self.closed) {
            progress.ready = wished.iter().filter(|instance| self.goes_on(instance, deploy)).count();
            progress.doomed = vec![why; wanted.saturating_sub(progress.ready)];
            return progress;
        }
        for instance in &wished {
            self.advance(instance, deploy, &mut progress);
        }
        for _ in wished.len()..wanted {
            let agent = self.place(deploy);
            progress.waiting.push(self.waiting_text(&agent));
            progress.changes.push(Change::Create { generation: deploy.generation, agent: agent.ok() });
        }
        progress
    }

    /// Whether an instance serves callers although a secret of its definition does not open any more: its container was
    /// made when it did. An external service is called with its secret each time.
    fn goes_on(&self, instance: &InstanceRow, deploy: DeployRef<'_>) -> bool {
        deploy.spec.service_type == ServiceType::Deployed
            && judge(instance, deploy.spec, self.fleet, self.now, self.limits) == Verdict::Ready
    }

    fn advance(&mut self, instance: &InstanceRow, deploy: DeployRef<'w>, progress: &mut Progress) {
        let Some(agent) = instance.agent_id else {
            match self.place(deploy) {
                Ok(agent) => {
                    progress.waiting.push(self.waiting_text(&Ok(agent)));
                    progress.changes.push(Change::Place { instance: instance.id, agent });
                }
                Err(why) if self.now >= self.fleet.counted_from(instance.created_at) + self.limits.placement => {
                    progress.doomed.push(why)
                }
                Err(why) => progress.waiting.push(why),
            }
            return;
        };
        let is_unable = self.fleet.inability(agent, deploy.spec.service_type).is_some();
        if (self.fleet.is_lost(agent) || is_unable)
            && let Ok(other) = self.place(deploy)
        {
            progress.waiting.push(self.waiting_text(&Ok(other)));
            let why = if is_unable { "its agent cannot take it any more" } else { "its agent is offline for too long" };
            progress.changes.push(stop(instance, why));
            progress.changes.push(Change::Create { generation: deploy.generation, agent: Some(other) });
            return;
        }
        match judge(instance, deploy.spec, self.fleet, self.now, self.limits) {
            Verdict::Ready => progress.ready += 1,
            Verdict::Waiting(text) => progress.waiting.push(text),
            Verdict::Doomed(text) => progress.doomed.push(text),
        }
    }

    fn place(&mut self, deploy: DeployRef<'_>) -> Result<AgentId, String> {
        self.fleet.place(Demand {
            team_id: self.service.row.team_id,
            service_id: self.service.row.id,
            generation: deploy.generation,
            spec: deploy.spec,
        })
    }

    /// The same words before and after the placement is written down, so that nothing changes twice.
    fn waiting_text(&self, placed: &Result<AgentId, String>) -> String {
        match placed {
            Ok(agent) => format!("{} has not taken it up yet", self.fleet.name(*agent)),
            Err(why) => why.clone(),
        }
    }

    /// An instance that should stop is forgotten when there is nobody to wait for. (When its agent says that it is
    /// gone, the report forgets it.)
    fn forget_what_is_gone(&mut self) {
        for instance in &self.service.instances {
            let Some(since) = instance.stop_requested_at else { continue };
            let patience = match instance.agent_id {
                None => None,
                Some(agent) if self.fleet.is_online(agent) => Some(self.limits.stop),
                Some(_) => Some(self.limits.offline_stop),
            };
            if patience.is_none_or(|patience| self.now >= since + patience) {
                self.changes.push(Change::Forget { instance: instance.id });
            }
        }
    }

    /// The instances that this plan does not forget.
    fn remaining(&self) -> impl Iterator<Item = &InstanceRow> {
        let is_forgotten = |id| self.changes.contains(&Change::Forget { instance: id });
        self.service.instances.iter().filter(move |instance| !is_forgotten(instance.id))
    }

    fn wished(&self, generation: Option<i64>) -> impl Iterator<Item = &'w InstanceRow> + use<'w> {
        let instances = self.service.instances.iter();
        instances.filter(move |instance| {
            instance.stop_requested_at.is_none() && generation.is_none_or(|wanted| wanted == instance.generation)
        })
    }

    fn stop_all_of(&mut self, generation: i64, why: &'static str) {
        self.stop_each(self.wished(Some(generation)), why);
    }

    fn stop_all_but(&mut self, generations: &[i64], why: &'static str) {
        self.stop_each(self.wished(None).filter(|instance| !generations.contains(&instance.generation)), why);
    }

    fn stop_each<'i>(&mut self, instances: impl Iterator<Item = &'i InstanceRow>, why: &'static str) {
        self.changes.extend(instances.map(|instance| stop(instance, why)));
    }

    /// Whether a drain is over: nothing is in flight, or its time is up.
    fn is_drained(&self, drain_until: Timestamp) -> bool {
        let left = drain_until.since(self.now);
        left.is_zero() || (self.service.in_flight == 0 && left + self.limits.drain_settle <= self.limits.drain)
    }

    fn set_status(&mut self, status: ServiceStatus, reason: Option<String>) {
        self.changes.push(Change::Status(status));
        self.set_reason(reason);
    }

    fn set_reason(&mut self, reason: Option<String>) {
        if self.service.row.status_reason != reason {
            self.changes.push(Change::Reason(reason));
        }
    }

    fn end_rollout(&mut self, state: RolloutState, message: Option<String>) {
        let Some(rollout) = &self.service.rollout else { return };
        let mut ended = Rollout { state, message, ended_at: Some(self.now), drain_until: None, ..rollout.clone() };
        if state == RolloutState::Succeeded {
            // What has no instance any more has nothing to finish.
            let has_instances = |deploy: &Deploy| self.remaining().any(|row| row.generation == deploy.generation);
            ended.previous = ended.previous.filter(has_instances);
            ended.drain_until = ended.previous.is_some().then(|| self.now + self.limits.drain);
        }
        self.changes.push(Change::Rollout(Box::new(ended)));
    }
}

fn stop(instance: &InstanceRow, why: &'static str) -> Change {
    let instance_id = instance.id;
    // What no agent has heard of is simply gone.
    if instance.agent_id.is_none() {
        Change::Forget { instance: instance_id }
    } else {
        Change::Stop { instance: instance_id, why }
    }
}
