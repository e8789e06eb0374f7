//! Services: define, change, deploy, undeploy, restart, forget.
//!
//! A verb changes the wish and returns; the reconciler does the rest. Looking at services is in
//! [`service_details`](super::service_details).

use serde_json::{Map, Value, json};
use towline_model::{
    AuditAction, Command, Principal, ServiceId, ServiceSpec, ServiceStatus, ServiceType, TeamId, Timestamp,
    ValidationError,
};
use towline_store::{Constraint, EventRow, ServiceRow, StoreError};

use super::{
    App, actor,
    audit::Deed,
    find_service,
    precondition::{AsRead, PreconditionFailed},
    secret::{check_opens, check_references},
};
use crate::{
    event::{EventKind, Subject},
    reconcile::placement::{Demand, check_eligible},
    rollout::{Deploys, Rollout},
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
    /// A secret that it needs does not open.
    #[error("{0}")]
    SecretClosed(String),
    /// What is stored of it cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// Nobody could take an instance of it.
    #[error("{0}")]
    NoEligibleAgent(String),
    /// The service is not as its caller has read it.
    #[error(transparent)]
    Changed(#[from] PreconditionFailed),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn wrong_status(command: Command, status: ServiceStatus) -> String {
    let (verb, status) = (command.as_str(), status.as_str());
    let allowed: Vec<_> =
        ServiceStatus::ALL.into_iter().filter(|status| status.accepts(command)).map(ServiceStatus::as_str).collect();
    let allowed = match allowed.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => allowed.concat(),
    };
    format!("the service is {status}, and {verb} is possible when it is {allowed}")
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
        check_references(&mut tx, &self.inner.vault, row.team_id, &row.spec).await?;
        tx.insert_service(&row).await.map_err(|error| match error {
            StoreError::Conflict { constraint: Constraint::ServiceSlug } => ServiceError::SlugTaken { slug },
            error => error.into(),
        })?;
        let message = format!("defined by {}", actor(&mut tx, principal).await?);
        tx.append_event(&event(&row, EventKind::Created, message, now)).await?;
        self.record(&mut tx, row.team_id, deed(AuditAction::ServiceCreate, &row)).await?;
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
        service: &AsRead<ServiceId>,
        changes: &Map<String, Value>,
    ) -> Result<(), ServiceError> {
        let change = |row: &mut ServiceRow, actor: &str, _: Timestamp| {
            allow(row, Command::Update)?;
            row.spec = row.spec.merge(changes.clone())?;
            Ok((EventKind::Updated, format!("the definition was changed by {actor}; the next deploy uses it")))
        };
        let fields = json!({ "fields": changes.keys().collect::<Vec<_>>() });
        self.change_service(principal, service, (AuditAction::ServiceUpdate, Some(fields)), change).await
    }

    /// Asks for the current definition to run.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn deploy_service(&self, principal: &Principal, service: &AsRead<ServiceId>) -> Result<(), ServiceError> {
        self.check_deployable(principal, service).await?;
        let change = |row: &mut ServiceRow, actor: &str, now: Timestamp| {
            allow(row, Command::Deploy)?;
            let spec = row.spec.clone();
            begin_deploy(row, spec, now);
            Ok((EventKind::DeployRequested, format!("deploy {} was asked for by {actor}", row.generation)))
        };
        self.change_service(principal, service, (AuditAction::ServiceDeploy, None), change).await
    }

    /// What is no container takes no time to come, so there is nobody to wait for: an agent must be there that takes it.
    async fn check_deployable(&self, principal: &Principal, service: &AsRead<ServiceId>) -> Result<(), ServiceError> {
        let mut tx = self.read().await?;
        let row = find_service(&mut tx, principal, service.id).await?.ok_or(ServiceError::NotFound)?;
        service.precondition.check(row.version)?;
        let team_id = row.team_id;
        allow(&row, Command::Deploy)?;
        if row.spec.service_type == ServiceType::Deployed {
            return Ok(());
        }
        let agents = tx.agents_of_team(team_id).await?;
        let demand = Demand { team_id, service_id: row.id, generation: row.generation + 1, spec: &row.spec };
        check_eligible(agents, demand, self.now()).map_err(ServiceError::NoEligibleAgent)
    }

    /// Asks for every instance to be replaced by a fresh one of the same definition.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn restart_service(
        &self,
        principal: &Principal,
        service: &AsRead<ServiceId>,
    ) -> Result<(), ServiceError> {
        let change = |row: &mut ServiceRow, actor: &str, now: Timestamp| {
            allow(row, Command::Restart)?;
            let rollout = Rollout::of(row);
            let serving = Deploys::of(row, rollout.as_ref()).serving.map(|deploy| deploy.spec.clone());
            let spec = serving.unwrap_or_else(|| row.spec.clone());
            begin_deploy(row, spec, now);
            Ok((EventKind::RestartRequested, format!("restart {} was asked for by {actor}", row.generation)))
        };
        self.change_service(principal, service, (AuditAction::ServiceRestart, None), change).await
    }

    /// Asks for a service to stop. When this returns, no new request reaches it.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn undeploy_service(
        &self,
        principal: &Principal,
        service: &AsRead<ServiceId>,
    ) -> Result<(), ServiceError> {
        let drain = self.inner.limits.drain;
        let change = |row: &mut ServiceRow, actor: &str, now: Timestamp| {
            allow(row, Command::Undeploy)?;
            row.status = ServiceStatus::Stopping;
            row.status_reason = None;
            row.drain_until = Some(now + drain);
            Ok((EventKind::UndeployRequested, format!("undeploy was asked for by {actor}")))
        };
        self.change_service(principal, service, (AuditAction::ServiceUndeploy, None), change).await
    }

    /// Forgets a service that does not run.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn delete_service(&self, principal: &Principal, service: &AsRead<ServiceId>) -> Result<(), ServiceError> {
        for _ in 1..ATTEMPTS {
            match self.try_delete_service(principal, service).await {
                Err(ServiceError::Store(StoreError::Concurrent)) => {}
                result => return result,
            }
        }
        self.try_delete_service(principal, service).await
    }

    async fn try_delete_service(&self, principal: &Principal, service: &AsRead<ServiceId>) -> Result<(), ServiceError> {
        let mut tx = self.write().await?;
        let row = find_service(&mut tx, principal, service.id).await?.ok_or(ServiceError::NotFound)?;
        service.precondition.check(row.version)?;
        allow(&row, Command::Delete)?;
        tx.delete_service(&row).await?;
        self.record(&mut tx, row.team_id, deed(AuditAction::ServiceDelete, &row)).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(())
    }

    /// Reads a service, changes it, and writes it back with an event, all in one transaction; again when somebody else
    /// changed it in between.
    async fn change_service(
        &self,
        principal: &Principal,
        service: &AsRead<ServiceId>,
        audited: (AuditAction, Option<Value>),
        change: impl Fn(&mut ServiceRow, &str, Timestamp) -> Result<(EventKind, String), ServiceError>,
    ) -> Result<(), ServiceError> {
        for _ in 1..ATTEMPTS {
            match self.try_change_service(principal, service, &audited, &change).await {
                Err(ServiceError::Store(StoreError::Concurrent)) => {}
                result => return result,
            }
        }
        self.try_change_service(principal, service, &audited, &change).await
    }

    async fn try_change_service(
        &self,
        principal: &Principal,
        service: &AsRead<ServiceId>,
        (action, details): &(AuditAction, Option<Value>),
        change: impl Fn(&mut ServiceRow, &str, Timestamp) -> Result<(EventKind, String), ServiceError>,
    ) -> Result<(), ServiceError> {
        let now = self.now();
        let mut tx = self.write().await?;
        let mut row = find_service(&mut tx, principal, service.id).await?.ok_or(ServiceError::NotFound)?;
        service.precondition.check(row.version)?;
        let actor = actor(&mut tx, principal).await?;
        let (before, generation) = (row.spec.clone(), row.generation);
        let (kind, message) = change(&mut row, &actor, now)?;
        if let Some(deployed) = row.deployed_spec.as_ref().filter(|_| row.generation != generation) {
            check_opens(&mut tx, &self.inner.vault, row.team_id, deployed).await?;
        }
        if row.spec != before {
            check_references(&mut tx, &self.inner.vault, row.team_id, &row.spec).await?;
        }
        row.updated_at = now;
        tx.update_service(&mut row).await?;
        tx.append_event(&event(&row, kind, message, now)).await?;
        self.record(&mut tx, row.team_id, Deed { details: details.clone(), ..deed(*action, &row) }).await?;
        tx.commit().await?;
        self.publish().await?;
        Ok(())
    }
}

fn allow(row: &ServiceRow, command: Command) -> Result<(), ServiceError> {
    // It can go, but nothing can be made of it.
    if let Some(unreadable) = row.unreadable.as_ref().filter(|_| command != Command::Delete) {
        return Err(ServiceError::Unreadable(unreadable.why.clone()));
    }
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
        unreadable: None,
    }
}

fn deed(action: AuditAction, row: &ServiceRow) -> Deed {
    Deed::new(action, row.id, &row.spec.service_slug)
}

fn event(row: &ServiceRow, kind: EventKind, message: String, now: Timestamp) -> EventRow {
    Subject { team_id: row.team_id, service_id: row.id }.event(kind, message, None, now)
}
