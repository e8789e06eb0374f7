//! Services: define, look at, change, deploy, undeploy, restart, forget.
//!
//! A verb changes the wish and returns; the reconciler does the rest.

use std::collections::HashMap;

use serde_json::{Map, Value};
use towline_model::{
    AgentId, Command, Principal, ServiceId, ServiceSpec, ServiceStatus, TeamId, Timestamp, ValidationError,
};
use towline_store::{AgentRow, Constraint, EventRow, InstanceRow, Page, Paged, ServiceRow, StoreError, Tx};

use super::{App, actor};
use crate::{
    event::{EventKind, Subject},
    rollout::{Deploys, Rollout},
    routes::{is_ready, reachable_generation},
};

/// How often a change is tried when somebody else changes the same service at the same moment.
const ATTEMPTS: u32 = 5;

/// Why nothing was done with a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The definition is not allowed.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The team has a service of that slug.
    #[error("the team has a service with the slug {slug:?} already; choose another slug, or change that service")]
    SlugTaken {
        /// The slug.
        slug: String,
    },
    /// The team has no such service.
    #[error("there is no such service in this team; GET /api/v1/containers lists those that there are")]
    NotFound,
    /// The service's status does not allow it.
    #[error("{}", wrong_status(*command, *status))]
    WrongStatus {
        /// What was asked.
        command: Command,
        /// The status.
        status: ServiceStatus,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn wrong_status(command: Command, status: ServiceStatus) -> String {
    let (verb, status) = (command.as_str(), status.as_str());
    let allowed: Vec<_> =
        ServiceStatus::ALL.into_iter().filter(|status| status.accepts(command)).map(ServiceStatus::as_str).collect();
    format!("the service is {status}, and {verb} is possible when it is {}", allowed.join(", "))
}

/// A service with what is observed of it.
#[derive(Debug, Clone)]
pub struct ServiceDetails {
    /// The service.
    pub row: ServiceRow,
    /// Its newest deploy.
    pub rollout: Option<Rollout>,
    /// Instances that callers can be served by now.
    pub instances_ready: u32,
    /// Instances that are wished now.
    pub instances_total: u32,
}

/// An instance with the name of its agent.
#[derive(Debug, Clone)]
pub struct InstanceDetails {
    /// The instance.
    pub row: InstanceRow,
    /// Its agent, once it is placed.
    pub agent: Option<AgentRow>,
}

impl App {
    /// Defines a service.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn create_service(
        &self,
        principal: &Principal,
        definition: Map<String, Value>,
    ) -> Result<ServiceId, ServiceError> {
        let spec = ServiceSpec::from_json(definition)?;
        let slug = spec.service_slug.clone();
        let now = self.now();
        let row = new_service(principal.team_id(), spec, now);
        let mut tx = self.write().await?;
        tx.insert_service(&row).await.map_err(|error| match error {
            StoreError::Conflict { constraint: Constraint::ServiceSlug } => ServiceError::SlugTaken { slug },
            error => error.into(),
        })?;
        let message = format!("defined by {}", actor(&mut tx, principal).await?);
        tx.append_event(&event(&row, EventKind::Created, message, now)).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(row.id)
    }

    /// Changes some fields of a definition. It takes effect at the next deploy.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn update_service(
        &self,
        principal: &Principal,
        id: ServiceId,
        changes: &Map<String, Value>,
    ) -> Result<(), ServiceError> {
        let change = |row: &mut ServiceRow, actor: &str, _: Timestamp| {
            allow(row, Command::Update)?;
            row.spec = row.spec.merge(changes.clone())?;
            Ok((EventKind::Updated, format!("the definition was changed by {actor}; the next deploy uses it")))
        };
        self.change_service(principal, id, change).await
    }

    /// Asks for the current definition to run.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn deploy_service(&self, principal: &Principal, id: ServiceId) -> Result<(), ServiceError> {
        let change = |row: &mut ServiceRow, actor: &str, now: Timestamp| {
            allow(row, Command::Deploy)?;
            let spec = row.spec.clone();
            begin_deploy(row, spec, now);
            Ok((EventKind::DeployRequested, format!("deploy {} was asked for by {actor}", row.generation)))
        };
        self.change_service(principal, id, change).await
    }

    /// Asks for every instance to be replaced by a fresh one of the same definition.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn restart_service(&self, principal: &Principal, id: ServiceId) -> Result<(), ServiceError> {
        let change = |row: &mut ServiceRow, actor: &str, now: Timestamp| {
            allow(row, Command::Restart)?;
            let rollout = Rollout::of(row);
            let serving = Deploys::of(row, rollout.as_ref()).serving.map(|deploy| deploy.spec.clone());
            let spec = serving.unwrap_or_else(|| row.spec.clone());
            begin_deploy(row, spec, now);
            Ok((EventKind::RestartRequested, format!("restart {} was asked for by {actor}", row.generation)))
        };
        self.change_service(principal, id, change).await
    }

    /// Asks for a service to stop. When this returns, no new request reaches it.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn undeploy_service(&self, principal: &Principal, id: ServiceId) -> Result<(), ServiceError> {
        let drain = self.inner.limits.drain;
        let change = |row: &mut ServiceRow, actor: &str, now: Timestamp| {
            allow(row, Command::Undeploy)?;
            row.status = ServiceStatus::Stopping;
            row.status_reason = None;
            row.drain_until = Some(now + drain);
            Ok((EventKind::UndeployRequested, format!("undeploy was asked for by {actor}")))
        };
        self.change_service(principal, id, change).await
    }

    /// Forgets a service that does not run.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn delete_service(&self, team_id: TeamId, id: ServiceId) -> Result<(), ServiceError> {
        for _ in 1..ATTEMPTS {
            match self.try_delete_service(team_id, id).await {
                Err(ServiceError::Store(StoreError::Concurrent)) => {}
                result => return result,
            }
        }
        self.try_delete_service(team_id, id).await
    }

    async fn try_delete_service(&self, team_id: TeamId, id: ServiceId) -> Result<(), ServiceError> {
        let mut tx = self.write().await?;
        let row = tx.find_service(team_id, id).await?.ok_or(ServiceError::NotFound)?;
        allow(&row, Command::Delete)?;
        tx.delete_service(&row).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(())
    }

    /// The team's service of that id.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn service(&self, team_id: TeamId, id: ServiceId) -> Result<ServiceDetails, ServiceError> {
        let mut tx = self.read().await?;
        let row = tx.find_service(team_id, id).await?.ok_or(ServiceError::NotFound)?;
        Ok(Observer::default().details(&mut tx, row).await?)
    }

    /// The team's service of that slug.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn service_by_slug(&self, team_id: TeamId, slug: &str) -> Result<ServiceDetails, ServiceError> {
        let mut tx = self.read().await?;
        let row = tx.find_service_by_slug(team_id, slug).await?.ok_or(ServiceError::NotFound)?;
        Ok(Observer::default().details(&mut tx, row).await?)
    }

    /// A page of the team's services, the oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_services(&self, team_id: TeamId, page: Page) -> Result<Paged<ServiceDetails>, StoreError> {
        let mut tx = self.read().await?;
        let rows = tx.list_services(team_id, page).await?;
        let mut observer = Observer::default();
        let mut items = Vec::with_capacity(rows.items.len());
        for row in rows.items {
            items.push(observer.details(&mut tx, row).await?);
        }
        Ok(Paged { items, total_count: rows.total_count })
    }

    /// The instances of a service, the oldest first.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn list_instances(&self, team_id: TeamId, id: ServiceId) -> Result<Vec<InstanceDetails>, ServiceError> {
        let mut tx = self.read().await?;
        tx.find_service(team_id, id).await?.ok_or(ServiceError::NotFound)?;
        let mut observer = Observer::default();
        let mut instances = Vec::new();
        for row in tx.instances_of_service(id).await? {
            let agent = observer.agent(&mut tx, &row).await?;
            instances.push(InstanceDetails { row, agent });
        }
        Ok(instances)
    }

    /// A page of what happened to a service, the newest first.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn list_events(
        &self,
        team_id: TeamId,
        id: ServiceId,
        page: Page,
    ) -> Result<Paged<EventRow>, ServiceError> {
        let mut tx = self.read().await?;
        tx.find_service(team_id, id).await?.ok_or(ServiceError::NotFound)?;
        Ok(tx.list_events(team_id, id, page).await?)
    }

    /// Reads a service, changes it, and writes it back with an event, all in one transaction; again when somebody else
    /// changed it in between.
    async fn change_service(
        &self,
        principal: &Principal,
        id: ServiceId,
        change: impl Fn(&mut ServiceRow, &str, Timestamp) -> Result<(EventKind, String), ServiceError>,
    ) -> Result<(), ServiceError> {
        for _ in 1..ATTEMPTS {
            match self.try_change_service(principal, id, &change).await {
                Err(ServiceError::Store(StoreError::Concurrent)) => {}
                result => return result,
            }
        }
        self.try_change_service(principal, id, &change).await
    }

    async fn try_change_service(
        &self,
        principal: &Principal,
        id: ServiceId,
        change: impl Fn(&mut ServiceRow, &str, Timestamp) -> Result<(EventKind, String), ServiceError>,
    ) -> Result<(), ServiceError> {
        let now = self.now();
        let mut tx = self.write().await?;
        let mut row = tx.find_service(principal.team_id(), id).await?.ok_or(ServiceError::NotFound)?;
        let actor = actor(&mut tx, principal).await?;
        let (kind, message) = change(&mut row, &actor, now)?;
        row.updated_at = now;
        tx.update_service(&mut row).await?;
        tx.append_event(&event(&row, kind, message, now)).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(())
    }
}

fn allow(row: &ServiceRow, command: Command) -> Result<(), ServiceError> {
    if row.status.accepts(command) { Ok(()) } else { Err(ServiceError::WrongStatus { command, status: row.status }) }
}

/// A new generation. What callers are served by now goes on until the new one is ready.
pub(crate) fn begin_deploy(row: &mut ServiceRow, spec: ServiceSpec, now: Timestamp) {
    let rollout = Rollout::of(row);
    let previous = Deploys::of(row, rollout.as_ref()).serving.map(|deploy| deploy.to_owned());
    row.generation += 1;
    row.deployed_spec = Some(spec);
    row.rollout = Some(Rollout::begin(row.generation, previous, now).to_stored());
    row.deploy_started_at = Some(now);
    row.drain_until = None;
    row.status_reason = None;
    if row.status != ServiceStatus::Running {
        row.status = ServiceStatus::Deploying;
    }
}

pub(crate) fn new_service(team_id: TeamId, spec: ServiceSpec, now: Timestamp) -> ServiceRow {
    ServiceRow {
        id: ServiceId::generate(),
        team_id,
        spec,
        deployed_spec: None,
        generation: 0,
        status: ServiceStatus::Created,
        status_reason: None,
        deploy_started_at: None,
        drain_until: None,
        rollout: None,
        version: 1,
        created_at: now,
        updated_at: now,
    }
}

fn event(row: &ServiceRow, kind: EventKind, message: String, now: Timestamp) -> EventRow {
    Subject { team_id: row.team_id, service_id: row.id }.event(kind, message, None, now)
}

/// Adds to services what is observed of them; asks for each agent once.
#[derive(Default)]
struct Observer {
    agents: HashMap<AgentId, Option<AgentRow>>,
}

impl Observer {
    async fn details(&mut self, tx: &mut Tx, row: ServiceRow) -> Result<ServiceDetails, StoreError> {
        let instances = tx.instances_of_service(row.id).await?;
        let rollout = Rollout::of(&row);
        let reachable = reachable_generation(&row, rollout.as_ref(), &instances);
        let mut ready = 0;
        for instance in instances.iter().filter(|instance| reachable.is_some_and(|wanted| is_ready(instance, wanted))) {
            let agent = self.agent(tx, instance).await?;
            ready += u32::from(agent.is_some_and(|agent| agent.session_id.is_some()));
        }
        let deploys = Deploys::of(&row, rollout.as_ref());
        let wished = deploys.serving.or(deploys.coming).map_or(0, |deploy| deploy.spec.replica_count);
        Ok(ServiceDetails { instances_ready: ready, instances_total: wished, rollout, row })
    }

    async fn agent(&mut self, tx: &mut Tx, instance: &InstanceRow) -> Result<Option<AgentRow>, StoreError> {
        let Some(id) = instance.agent_id else { return Ok(None) };
        if let Some(known) = self.agents.get(&id) {
            return Ok(known.clone());
        }
        let agent = tx.find_agent(instance.team_id, id).await?;
        self.agents.insert(id, agent.clone());
        Ok(agent)
    }
}
