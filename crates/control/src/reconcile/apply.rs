//! Writes a plan down: the changes of one service in one transaction, if nobody else has changed the service since the
//! plan was made. If somebody has, nothing happens, and the next pass plans anew.

use towline_model::{AgentId, InstanceId, InstancePhase, ServiceStatus, Timestamp};
use towline_store::{EventRow, InstanceRow, ServiceRow, Store, StoreError, Tx};

use super::{
    change::{Change, ServicePlan},
    world::{ServiceState, World},
};
use crate::{
    event::{EventKind, Subject},
    rollout::{Rollout, RolloutState},
};

/// Carries out the plan of one service. `false` when it was overtaken by somebody else's change.
///
/// # Errors
/// When the database does not answer.
pub async fn apply(store: &Store, world: &World, plan: &ServicePlan, now: Timestamp) -> Result<bool, StoreError> {
    let Some(service) = world.services.iter().find(|service| service.row.id == plan.service_id) else {
        return Ok(false);
    };
    match write(store, world, service, &plan.changes, now).await {
        Ok(()) => Ok(true),
        // NotFound: what the plan refers to was deleted meanwhile.
        Err(StoreError::Concurrent | StoreError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn write(
    store: &Store,
    world: &World,
    service: &ServiceState,
    changes: &[Change],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut row = service.row.clone();
    for change in changes {
        change_row(&mut row, change, now);
    }
    let mut tx = store.write().await?;
    // Also when only instances change: the service's version is what keeps two planners from doing the same thing twice.
    tx.update_service(&mut row).await?;
    let scribe = Scribe { world, service, row: &row, now };
    for change in changes {
        let instance = change_instance(&mut tx, &row, change, now).await?;
        if let Some(event) = scribe.event(change, instance) {
            tx.append_event(&event).await?;
        }
    }
    tx.commit().await
}

pub(super) fn change_row(row: &mut ServiceRow, change: &Change, now: Timestamp) {
    match change {
        Change::Status(status) => {
            row.status = *status;
            row.updated_at = now;
        }
        Change::Reason(reason) => row.status_reason.clone_from(reason),
        Change::Rollout(rollout) => row.rollout = Some(rollout.to_stored()),
        Change::Create { .. } | Change::Place { .. } | Change::Stop { .. } | Change::Forget { .. } => {}
    }
}

/// Changes an instance and tells which one.
async fn change_instance(
    tx: &mut Tx,
    row: &ServiceRow,
    change: &Change,
    now: Timestamp,
) -> Result<Option<InstanceId>, StoreError> {
    match *change {
        Change::Create { generation, agent } => {
            let instance = new_instance(row, generation, agent, now);
            tx.insert_instance(&instance).await?;
            Ok(Some(instance.id))
        }
        Change::Place { instance, agent } => {
            tx.place_instance(instance, agent, now).await?;
            Ok(Some(instance))
        }
        Change::Stop { instance, .. } => {
            tx.request_stop(instance, now).await?;
            Ok(Some(instance))
        }
        Change::Forget { instance } => {
            tx.delete_instance(instance).await?;
            Ok(Some(instance))
        }
        Change::Status(_) | Change::Reason(_) | Change::Rollout(_) => Ok(None),
    }
}

/// An instance of which nothing has been heard yet.
pub(super) fn new_instance(
    row: &ServiceRow,
    generation: i64,
    agent_id: Option<AgentId>,
    now: Timestamp,
) -> InstanceRow {
    InstanceRow {
        id: InstanceId::generate(),
        service_id: row.id,
        team_id: row.team_id,
        generation,
        agent_id,
        stop_requested_at: None,
        phase: InstancePhase::Pending,
        reason_kind: None,
        reason: None,
        restart_count: 0,
        container_id: None,
        started_at: None,
        ready_since: None,
        reported_at: None,
        placed_at: agent_id.map(|_| now),
        created_at: now,
    }
}

/// Puts changes into words.
struct Scribe<'a> {
    world: &'a World,
    service: &'a ServiceState,
    row: &'a ServiceRow,
    now: Timestamp,
}

impl Scribe<'_> {
    fn event(&self, change: &Change, instance: Option<InstanceId>) -> Option<EventRow> {
        let (kind, message) = match change {
            Change::Create { generation, agent: Some(agent) } => {
                (EventKind::Placed, format!("an instance of deploy {generation} goes to {}", self.agent_name(*agent)))
            }
            Change::Place { agent, .. } => {
                (EventKind::Placed, format!("an instance that waited goes to {}", self.agent_name(*agent)))
            }
            Change::Stop { instance, why } => {
                (EventKind::Stopping, format!("an instance on {} is to stop: {why}", self.agent_of(*instance)))
            }
            Change::Forget { instance } if self.is_left_behind(*instance) => {
                let agent = self.agent_of(*instance);
                (
                    EventKind::Gone,
                    format!("{agent} is not waited for any longer; what it still has is removed when it answers"),
                )
            }
            Change::Status(ServiceStatus::Running) => {
                (EventKind::Running, format!("deploy {} is running", self.row.generation))
            }
            Change::Status(ServiceStatus::Failed) => {
                let reason = self.row.status_reason.as_deref().unwrap_or_default();
                (EventKind::Failed, format!("deploy {} has failed: {reason}", self.row.generation))
            }
            Change::Status(ServiceStatus::Stopped) => (EventKind::Stopped, "the service has stopped".to_owned()),
            Change::Rollout(rollout) => self.rollout(rollout)?,
            _ => return None,
        };
        let subject = Subject { team_id: self.row.team_id, service_id: self.row.id };
        Some(subject.event(kind, message, instance, self.now))
    }

    /// How an update of a running service ended; a first deploy is told by the status.
    fn rollout(&self, rollout: &Rollout) -> Option<(EventKind, String)> {
        let before = self.service.rollout.as_ref()?;
        let previous = rollout.previous.as_ref()?.generation;
        let generation = rollout.generation;
        match rollout.state {
            _ if before.state == rollout.state => None,
            RolloutState::Progressing => None,
            RolloutState::Succeeded => {
                Some((EventKind::Running, format!("deploy {generation} has taken over from deploy {previous}")))
            }
            RolloutState::Failed => {
                let why = rollout.message.as_deref().unwrap_or_default();
                Some((EventKind::Failed, format!("deploy {generation} has failed, deploy {previous} stays: {why}")))
            }
        }
    }

    fn is_left_behind(&self, instance: InstanceId) -> bool {
        self.find(instance).is_some_and(|instance| instance.agent_id.is_some())
    }

    fn agent_of(&self, instance: InstanceId) -> &str {
        self.find(instance).and_then(|instance| instance.agent_id).map_or("no agent", |agent| self.agent_name(agent))
    }

    fn agent_name(&self, agent: AgentId) -> &str {
        self.world.agents.iter().find(|row| row.id == agent).map_or("an unknown agent", |row| row.name.as_str())
    }

    fn find(&self, instance: InstanceId) -> Option<&InstanceRow> {
        self.service.instances.iter().find(|row| row.id == instance)
    }
}
