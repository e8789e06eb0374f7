//! Services as they are looked at: the definition together with what is observed.

use std::collections::HashMap;

use towline_gateway::line::LineStatus;
use towline_model::{AgentId, Principal, ServiceId, service::is_slug};
use towline_store::{AgentRow, EventRow, InstanceRow, Page, Paged, ServiceRow, StoreError, Tx};

use super::{App, find_service, service::ServiceError};
use crate::{
    rollout::{Deploys, Rollout},
    routes::{is_ready, reachable_generation},
};

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
    /// The line before it at this server, if there is a limit.
    pub line: Option<LineStatus>,
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
    /// The service of that id.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn service(&self, principal: &Principal, id: ServiceId) -> Result<ServiceDetails, ServiceError> {
        let mut tx = self.read().await?;
        let row = find_service(&mut tx, principal, id).await?.ok_or(ServiceError::NotFound)?;
        let details = Observer::default().details(&mut tx, row).await?;
        drop(tx);
        self.catch_up().await?;
        Ok(self.with_line(details))
    }

    /// The service of that slug.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn service_by_slug(&self, principal: &Principal, slug: &str) -> Result<ServiceDetails, ServiceError> {
        // Only what can be a slug is looked up: PostgreSQL refuses texts with NUL.
        if !is_slug(slug) {
            return Err(ServiceError::NotFound);
        }
        let mut tx = self.read().await?;
        let row = tx.find_service_by_slug(principal.team_id(), slug).await?;
        let row = row.filter(|row| principal.sees(row.id)).ok_or(ServiceError::NotFound)?;
        let details = Observer::default().details(&mut tx, row).await?;
        drop(tx);
        self.catch_up().await?;
        Ok(self.with_line(details))
    }

    /// A page of the services that there are for this principal, the oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_services(&self, principal: &Principal, page: Page) -> Result<Paged<ServiceDetails>, StoreError> {
        let mut tx = self.read().await?;
        let Paged { items: rows, total_count, next } =
            tx.list_services(principal.team_id(), principal.only_services(), page).await?;
        let mut observer = Observer::default();
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            items.push(observer.details(&mut tx, row).await?);
        }
        drop(tx);
        self.catch_up().await?;
        Ok(Paged { items, total_count, next }.map(|details| self.with_line(details)))
    }

    fn with_line(&self, details: ServiceDetails) -> ServiceDetails {
        ServiceDetails { line: self.gateway().line(details.row.id), ..details }
    }

    /// Lets the gateway know what has been read, before it is told: who sees that a service runs may call it at once.
    async fn catch_up(&self) -> Result<(), StoreError> {
        self.inner.publisher.catch_up().await
    }

    /// A page of the instances of a service, the oldest first.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn list_instances(
        &self,
        principal: &Principal,
        id: ServiceId,
        page: Page,
    ) -> Result<Paged<InstanceDetails>, ServiceError> {
        let mut tx = self.read().await?;
        find_service(&mut tx, principal, id).await?.ok_or(ServiceError::NotFound)?;
        let Paged { items: rows, total_count, next } = tx.list_instances(id, page).await?;
        let mut observer = Observer::default();
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            let agent = observer.agent(&mut tx, &row).await?;
            items.push(InstanceDetails { row, agent });
        }
        Ok(Paged { items, total_count, next })
    }

    /// A page of what happened to a service, the newest first.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], or the database.
    pub async fn list_events(
        &self,
        principal: &Principal,
        id: ServiceId,
        page: Page,
    ) -> Result<Paged<EventRow>, ServiceError> {
        let mut tx = self.read().await?;
        find_service(&mut tx, principal, id).await?.ok_or(ServiceError::NotFound)?;
        Ok(tx.list_events(principal.team_id(), id, page).await?)
    }
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
        Ok(ServiceDetails { instances_ready: ready, instances_total: wished, rollout, line: None, row })
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
