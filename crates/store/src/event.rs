//! Events: what happened to a service, for its users to read. Old ones are forgotten.

use towline_model::{InstanceId, ServiceId, TeamId, Timestamp};
use uuid::Uuid;

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, newest_first},
    query::query,
    value::{FromRow, Row},
};

/// How many events of a service are kept.
pub const EVENTS_KEPT_PER_SERVICE: i64 = 200;

/// Something that happened to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its id: a UUIDv7, which orders events of the same time.
    pub id: Uuid,
    /// The service's team.
    pub team_id: TeamId,
    /// The service.
    pub service_id: ServiceId,
    /// When it happened.
    pub at: Timestamp,
    /// What kind of event it is.
    pub kind: String,
    /// What happened, in words.
    pub message: String,
    /// The instance that it happened to.
    pub instance_id: Option<InstanceId>,
}

impl FromRow for EventRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            team_id: row.take("team_id")?,
            service_id: row.take("service_id")?,
            at: row.take("at")?,
            kind: row.take("kind")?,
            message: row.take("message")?,
            instance_id: row.take("instance_id")?,
        })
    }
}

impl Listed for EventRow {
    fn position(&self) -> Position {
        Position { at: self.at, id: self.id }
    }
}

impl Tx {
    /// Adds an event and forgets all but the newest [`EVENTS_KEPT_PER_SERVICE`] of its service.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the team has no such service.
    pub async fn append_event(&mut self, event: &EventRow) -> Result<(), StoreError> {
        let insert = query(
            "INSERT INTO service_events (id, team_id, service_id, at, kind, message, instance_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(event.id)
        .bind(event.team_id)
        .bind(event.service_id)
        .bind(event.at)
        .bind(&event.kind)
        .bind(&event.message)
        .bind(event.instance_id);
        self.execute(insert).await?;
        let prune = query(
            "DELETE FROM service_events WHERE service_id = $1 AND (at, id) < (SELECT at, id FROM service_events \
             WHERE service_id = $1 ORDER BY at DESC, id DESC LIMIT 1 OFFSET $2)",
        );
        self.execute(prune.bind(event.service_id).bind(EVENTS_KEPT_PER_SERVICE - 1)).await.map(drop)
    }

    /// A page of what happened to the team's service, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_events(
        &mut self,
        team_id: TeamId,
        service_id: ServiceId,
        page: Page,
    ) -> Result<Paged<EventRow>, StoreError> {
        let count = query("SELECT COUNT(*) AS total FROM service_events WHERE team_id = $1 AND service_id = $2");
        let select = query(concat!(
            "SELECT id, team_id, service_id, at, kind, message, instance_id FROM service_events \
             WHERE team_id = $1 AND service_id = $2",
            newest_first!("at", "id", [3, 4, 5, 6])
        ));
        let both = (count.bind(team_id).bind(service_id), select.bind(team_id).bind(service_id));
        self.fetch_page(both, Order::NewestFirst, page).await
    }
}
