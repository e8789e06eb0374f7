//! Instances: the copies of a service that should run, where each is placed, and what its agent last said of it.

use towline_model::{AgentId, InstanceId, InstancePhase, ServiceId, TeamId, Timestamp};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, oldest_first},
    query::query,
    value::{FromRow, Row},
};

/// One running copy of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// Its id.
    pub id: InstanceId,
    /// Its service.
    pub service_id: ServiceId,
    /// The service's team.
    pub team_id: TeamId,
    /// The deploy or restart that it belongs to.
    pub generation: i64,
    /// The agent that it is placed on; `None` until then. Never changes afterwards: who moves, is a new instance.
    pub agent_id: Option<AgentId>,
    /// Since when it is wished to be gone.
    pub stop_requested_at: Option<Timestamp>,
    /// How far it is, as its agent last said.
    pub phase: InstancePhase,
    /// Which kind of failure keeps it from being ready, as its agent named it.
    pub reason_kind: Option<String>,
    /// Why it is not ready, in words that a user can act on.
    pub reason: Option<String>,
    /// How often its container ended by itself and was started again.
    pub restart_count: i64,
    /// The container engine's id of its container.
    pub container_id: Option<String>,
    /// When its container was first said to have started; what it may take to become ready counts from then.
    pub started_at: Option<Timestamp>,
    /// Since when it is ready; `None` while it is not.
    pub ready_since: Option<Timestamp>,
    /// When its agent last said something of it.
    pub reported_at: Option<Timestamp>,
    /// When it was placed.
    pub placed_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

macro_rules! columns {
    () => {
        "id, service_id, team_id, generation, agent_id, stop_requested_at, phase, reason_kind, reason, restart_count, \
         container_id, started_at, ready_since, reported_at, placed_at, created_at"
    };
}

impl FromRow for InstanceRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            service_id: row.take("service_id")?,
            team_id: row.take("team_id")?,
            generation: row.take("generation")?,
            agent_id: row.take("agent_id")?,
            stop_requested_at: row.take("stop_requested_at")?,
            phase: row.take("phase")?,
            reason_kind: row.take("reason_kind")?,
            reason: row.take("reason")?,
            restart_count: row.take("restart_count")?,
            container_id: row.take("container_id")?,
            started_at: row.take("started_at")?,
            ready_since: row.take("ready_since")?,
            reported_at: row.take("reported_at")?,
            placed_at: row.take("placed_at")?,
            created_at: row.take("created_at")?,
        })
    }
}

impl Listed for InstanceRow {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.as_uuid() }
    }
}

/// What an agent says of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceObservation {
    /// The instance.
    pub instance_id: InstanceId,
    /// The deploy or restart that its container was made for.
    pub generation: i64,
    /// How far it is.
    pub phase: InstancePhase,
    /// Which kind of failure keeps it from being ready.
    pub reason_kind: Option<String>,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// How often its container ended by itself and was started again.
    pub restart_count: i64,
    /// The container engine's id of its container.
    pub container_id: Option<String>,
    /// When it was said.
    pub reported_at: Timestamp,
}

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    /// It said something new.
    Changed,
    /// It said what was known.
    Unchanged,
    /// It was about an instance that is not placed on this agent, is of another generation, or is gone. Nothing of it
    /// was kept.
    Fenced,
}

impl Tx {
    /// Adds an instance. Moves the revision on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the team has no such service or no such agent.
    pub async fn insert_instance(&mut self, instance: &InstanceRow) -> Result<(), StoreError> {
        let insert = query(concat!(
            "INSERT INTO instances (",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
        ))
        .bind(instance.id)
        .bind(instance.service_id)
        .bind(instance.team_id)
        .bind(instance.generation)
        .bind(instance.agent_id)
        .bind(instance.stop_requested_at)
        .bind(instance.phase)
        .bind(instance.reason_kind.as_ref())
        .bind(instance.reason.as_ref())
        .bind(instance.restart_count)
        .bind(instance.container_id.as_ref())
        .bind(instance.started_at)
        .bind(instance.ready_since)
        .bind(instance.reported_at)
        .bind(instance.placed_at)
        .bind(instance.created_at);
        self.execute(insert).await?;
        self.mark_changed();
        Ok(())
    }

    /// Places an instance on an agent of its team. Moves the revision on.
    ///
    /// # Errors
    /// [`StoreError::Concurrent`] when it has been placed, asked to stop or deleted meanwhile;
    /// [`StoreError::NotFound`] when its team has no such agent.
    pub async fn place_instance(
        &mut self,
        id: InstanceId,
        agent_id: AgentId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let place = query(
            "UPDATE instances SET agent_id = $1, placed_at = $2 \
             WHERE id = $3 AND agent_id IS NULL AND stop_requested_at IS NULL",
        );
        if self.execute(place.bind(agent_id).bind(now).bind(id)).await? == 0 {
            return Err(StoreError::Concurrent);
        }
        self.mark_changed();
        Ok(())
    }

    /// Writes down what an agent says of an instance that is placed on it. Moves the revision on if it is news.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn record_report(
        &mut self,
        agent_id: AgentId,
        observation: &InstanceObservation,
    ) -> Result<ReportOutcome, StoreError> {
        let change = query(
            "UPDATE instances SET phase = $1, reason_kind = $2, reason = $3, restart_count = $4, container_id = $5, \
             started_at = CASE WHEN $1 IN ('starting', 'ready', 'unhealthy') THEN COALESCE(started_at, $6) \
             ELSE started_at END, \
             ready_since = CASE WHEN $1 = 'ready' THEN COALESCE(ready_since, $6) END, reported_at = $6 \
             WHERE id = $7 AND agent_id = $8 AND generation = $9 AND (phase <> $1 OR restart_count <> $4 \
             OR reason_kind IS DISTINCT FROM $2 OR reason IS DISTINCT FROM $3 OR container_id IS DISTINCT FROM $5)",
        )
        .bind(observation.phase)
        .bind(observation.reason_kind.as_ref())
        .bind(observation.reason.as_ref())
        .bind(observation.restart_count)
        .bind(observation.container_id.as_ref())
        .bind(observation.reported_at)
        .bind(observation.instance_id)
        .bind(agent_id)
        .bind(observation.generation);
        if self.execute(change).await? > 0 {
            self.mark_changed();
            return Ok(ReportOutcome::Changed);
        }
        let touch = query("UPDATE instances SET reported_at = $1 WHERE id = $2 AND agent_id = $3 AND generation = $4")
            .bind(observation.reported_at)
            .bind(observation.instance_id)
            .bind(agent_id)
            .bind(observation.generation);
        Ok(if self.execute(touch).await? > 0 { ReportOutcome::Unchanged } else { ReportOutcome::Fenced })
    }

    /// Asks for an instance to go away. `false` when that was asked before, or there is no such instance. Moves the
    /// revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn request_stop(&mut self, id: InstanceId, now: Timestamp) -> Result<bool, StoreError> {
        let request = query("UPDATE instances SET stop_requested_at = $1 WHERE id = $2 AND stop_requested_at IS NULL");
        let requested = self.execute(request.bind(now).bind(id)).await? > 0;
        self.mark_changed_if(requested);
        Ok(requested)
    }

    /// Deletes an instance. `false` when there is none. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete_instance(&mut self, id: InstanceId) -> Result<bool, StoreError> {
        let deleted = self.execute(query("DELETE FROM instances WHERE id = $1").bind(id)).await? > 0;
        self.mark_changed_if(deleted);
        Ok(deleted)
    }

    /// The instances of a service, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn instances_of_service(&mut self, service_id: ServiceId) -> Result<Vec<InstanceRow>, StoreError> {
        let select =
            query(concat!("SELECT ", columns!(), " FROM instances WHERE service_id = $1 ORDER BY created_at, id"));
        self.fetch_all(select.bind(service_id)).await
    }

    /// A page of the instances of a service, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_instances(
        &mut self,
        service_id: ServiceId,
        page: Page,
    ) -> Result<Paged<InstanceRow>, StoreError> {
        let count = query("SELECT COUNT(*) AS total FROM instances WHERE service_id = $1");
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM instances WHERE service_id = $1",
            oldest_first!("created_at", "id", [2, 3, 4, 5])
        ));
        self.fetch_page((count.bind(service_id), select.bind(service_id)), Order::OldestFirst, page).await
    }

    /// The instances that are placed on an agent, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn instances_of_agent(&mut self, agent_id: AgentId) -> Result<Vec<InstanceRow>, StoreError> {
        let select =
            query(concat!("SELECT ", columns!(), " FROM instances WHERE agent_id = $1 ORDER BY created_at, id"));
        self.fetch_all(select.bind(agent_id)).await
    }

    /// Every instance of every team, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn all_instances(&mut self) -> Result<Vec<InstanceRow>, StoreError> {
        self.fetch_all(query(concat!("SELECT ", columns!(), " FROM instances ORDER BY created_at, id"))).await
    }
}
