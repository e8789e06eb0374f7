//! Services: the definition that a user edits, the one that was deployed, and where the service is in its life.
//!
//! A row of which a document cannot be read (a newer version has written it, or it is damaged) is read all the same, so that
//! it stands in nobody's way: as one that has failed, with a stand-in for the definition, and marked as
//! [`Unreadable`]. What is stored of it is never written over, not even its status: when it can be read again, it is what it
//! was.

mod unreadable;

use serde_json::json;
use towline_model::{SecretId, ServiceId, ServiceSpec, ServiceStatus, TeamId, Timestamp};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, oldest_first},
    query::{Query, query},
    value::{FromRow, Json, Row},
};

use self::unreadable::Documents;
pub use self::unreadable::Unreadable;

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRow {
    /// Its id.
    pub id: ServiceId,
    /// Its team.
    pub team_id: TeamId,
    /// The definition as its users last wrote it. Its slug is unique in the team and never changes.
    pub spec: ServiceSpec,
    /// The definition of the last deploy; `None` before the first.
    pub deployed_spec: Option<ServiceSpec>,
    /// Which deploy or restart it is at; 0 before the first.
    pub generation: i64,
    /// Where it is in its life.
    pub status: ServiceStatus,
    /// Why it is there, in words that a user can act on.
    pub status_reason: Option<String>,
    /// When the deploy or restart that is under way began.
    pub deploy_started_at: Option<Timestamp>,
    /// Until when requests in flight may finish before the instances are stopped.
    pub drain_until: Option<Timestamp>,
    /// How far a rolling update is, or how it ended.
    pub rollout: Option<serde_json::Value>,
    /// Goes up by one with every update: see [`Tx::update_service`].
    pub version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// What of it cannot be read. Then `spec` is a stand-in, and `status` is failed.
    pub unreadable: Option<Unreadable>,
}

macro_rules! columns {
    () => {
        "id, team_id, spec, deployed_spec, generation, status, status_reason, deploy_started_at, drain_until, rollout, \
         version, created_at, updated_at, slug"
    };
}

impl FromRow for ServiceRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        let mut documents = Documents::default();
        let spec = documents.read("definition", row.take("spec")?);
        let deployed_spec = documents.read("deployed definition", row.take("deployed_spec")?);
        let rollout = documents.read("rollout", row.take("rollout")?);
        let unreadable = documents.unreadable();
        let (status, reason) = (row.take("status")?, row.take("status_reason")?);
        let slug: String = row.take("slug")?;
        Ok(Self {
            id: row.take("id")?,
            team_id: row.take("team_id")?,
            spec: spec.unwrap_or_else(|| stand_in(&slug)),
            deployed_spec,
            generation: row.take("generation")?,
            status: if unreadable.is_some() { ServiceStatus::Failed } else { status },
            status_reason: unreadable.as_ref().map(|unreadable| unreadable.why.clone()).or(reason),
            deploy_started_at: row.take("deploy_started_at")?,
            drain_until: row.take("drain_until")?,
            rollout,
            version: row.take("version")?,
            created_at: row.take("created_at")?,
            updated_at: row.take("updated_at")?,
            unreadable,
        })
    }
}

/// A definition that says of a service what is known of it in any case.
fn stand_in(slug: &str) -> ServiceSpec {
    let known = json!({ "service_slug": slug, "display_name": slug });
    serde_json::from_value(known).expect("no other field has to be there")
}

impl Listed for ServiceRow {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.as_uuid() }
    }
}

struct SlugRow {
    id: ServiceId,
    slug: String,
}

impl FromRow for SlugRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self { id: row.take("id")?, slug: row.take("slug")? })
    }
}

fn write_back(service: &ServiceRow) -> Query {
    query(
        "UPDATE services SET spec = $1, deployed_spec = $2, generation = $3, status = $4, status_reason = $5, \
         deploy_started_at = $6, drain_until = $7, rollout = $8, updated_at = $9, version = version + 1 \
         WHERE id = $10 AND team_id = $11 AND version = $12",
    )
    .bind(Json(&service.spec))
    .bind(service.deployed_spec.as_ref().map(Json))
    .bind(service.generation)
    .bind(service.status)
    .bind(service.status_reason.as_ref())
    .bind(service.deploy_started_at)
    .bind(service.drain_until)
    .bind(service.rollout.as_ref().map(Json))
    .bind(service.updated_at)
    .bind(service.id)
    .bind(service.team_id)
    .bind(service.version)
}

fn keep_unreadable(service: &ServiceRow) -> Query {
    query("UPDATE services SET version = version + 1 WHERE id = $1 AND team_id = $2 AND version = $3")
        .bind(service.id)
        .bind(service.team_id)
        .bind(service.version)
}

impl Tx {
    /// Adds a service. Moves the revision on.
    ///
    /// # Errors
    /// [`Constraint::ServiceSlug`](crate::Constraint::ServiceSlug) when the team has a service with this slug,
    /// [`StoreError::NotFound`] when there is no such team.
    pub async fn insert_service(&mut self, service: &ServiceRow) -> Result<(), StoreError> {
        let insert = query(concat!(
            "INSERT INTO services (",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
        ))
        .bind(service.id)
        .bind(service.team_id)
        .bind(Json(&service.spec))
        .bind(service.deployed_spec.as_ref().map(Json))
        .bind(service.generation)
        .bind(service.status)
        .bind(service.status_reason.as_ref())
        .bind(service.deploy_started_at)
        .bind(service.drain_until)
        .bind(service.rollout.as_ref().map(Json))
        .bind(service.version)
        .bind(service.created_at)
        .bind(service.updated_at)
        .bind(&service.spec.service_slug);
        self.execute(insert).await?;
        self.mark_changed();
        Ok(())
    }

    /// Writes a service back, if nobody else has since it was read, and raises `service.version`. Id, team, slug and
    /// time of creation stay as they are, and of a service that cannot be read everything does but its version. Moves the
    /// revision on.
    ///
    /// # Errors
    /// [`StoreError::Concurrent`] when somebody else has changed or deleted it meanwhile.
    pub async fn update_service(&mut self, service: &mut ServiceRow) -> Result<(), StoreError> {
        let update = if service.unreadable.is_some() { keep_unreadable(service) } else { write_back(service) };
        if self.execute(update).await? == 0 {
            return Err(StoreError::Concurrent);
        }
        service.version += 1;
        self.mark_changed();
        Ok(())
    }

    /// Deletes a service with its instances and events, if nobody else has changed it since it was read. Moves the
    /// revision on.
    ///
    /// # Errors
    /// [`StoreError::Concurrent`] when somebody else has changed or deleted it meanwhile.
    pub async fn delete_service(&mut self, service: &ServiceRow) -> Result<(), StoreError> {
        let delete = query("DELETE FROM services WHERE id = $1 AND team_id = $2 AND version = $3");
        if self.execute(delete.bind(service.id).bind(service.team_id).bind(service.version)).await? == 0 {
            return Err(StoreError::Concurrent);
        }
        self.mark_changed();
        Ok(())
    }

    /// The team's service of that id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_service(&mut self, team_id: TeamId, id: ServiceId) -> Result<Option<ServiceRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM services WHERE team_id = $1 AND id = $2"));
        self.fetch_optional(select.bind(team_id).bind(id)).await
    }

    /// The team's service with that slug.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_service_by_slug(
        &mut self,
        team_id: TeamId,
        slug: &str,
    ) -> Result<Option<ServiceRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM services WHERE team_id = $1 AND slug = $2"));
        self.fetch_optional(select.bind(team_id).bind(slug)).await
    }

    /// A page of the team's services, the oldest first; with a list, only of those that are on it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_services(
        &mut self,
        team_id: TeamId,
        only: Option<&[ServiceId]>,
        page: Page,
    ) -> Result<Paged<ServiceRow>, StoreError> {
        // Both engines know how to look for an id in a text, but not in a list. No id is a part of another.
        let only = only.map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let count = query(
            "SELECT COUNT(*) AS total FROM services WHERE team_id = $1 AND ($2 IS NULL OR $2 LIKE '%' || id || '%')",
        );
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM services WHERE team_id = $1 AND ($2 IS NULL OR $2 LIKE '%' || id || '%')",
            oldest_first!("created_at", "id", [3, 4, 5, 6])
        ));
        let both = (count.bind(team_id).bind(only.as_ref()), select.bind(team_id).bind(only.as_ref()));
        self.fetch_page(both, Order::OldestFirst, page).await
    }

    /// The slugs of all services of the team.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn service_slugs(&mut self, team_id: TeamId) -> Result<Vec<(ServiceId, String)>, StoreError> {
        let select = query("SELECT id, slug FROM services WHERE team_id = $1 ORDER BY slug");
        let rows: Vec<SlugRow> = self.fetch_all(select.bind(team_id)).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.slug)).collect())
    }

    /// Every service of every team, the oldest first: for the gateway's snapshot.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn all_services(&mut self) -> Result<Vec<ServiceRow>, StoreError> {
        self.fetch_all(query(concat!("SELECT ", columns!(), " FROM services ORDER BY created_at, id"))).await
    }

    /// The team's services that refer to a secret, the oldest first: in their definition, in what was deployed, or in
    /// what is being replaced. It may hold some that do not: where exactly is for the caller to see.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn services_with_secrets(&mut self, team_id: TeamId) -> Result<Vec<ServiceRow>, StoreError> {
        // The names of the fields, as documents are written: `secret_id`, `…_secret_id`, `…_credential_id`, with a value.
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM services WHERE team_id = $1 AND (spec LIKE $2 OR spec LIKE $3 OR deployed_spec LIKE $2 \
             OR deployed_spec LIKE $3 OR rollout LIKE $2 OR rollout LIKE $3) ORDER BY created_at, id"
        ));
        let select = select.bind(team_id).bind(r#"%secret_id":"%"#).bind(r#"%credential_id":"%"#);
        self.fetch_all(select).await
    }

    /// The team's services that have an id anywhere in what is stored of them, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn services_mentioning(
        &mut self,
        team_id: TeamId,
        secret_id: SecretId,
    ) -> Result<Vec<ServiceRow>, StoreError> {
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM services WHERE team_id = $1 AND (spec LIKE $2 OR deployed_spec LIKE $2 OR rollout LIKE $2) \
             ORDER BY created_at, id"
        ));
        self.fetch_all(select.bind(team_id).bind(format!("%{secret_id}%"))).await
    }

    /// Every service that the reconciler must look at, the oldest first: those that are on their way, those that are
    /// wished to run, and those that still have instances.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn services_to_reconcile(&mut self) -> Result<Vec<ServiceRow>, StoreError> {
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM services WHERE status IN ('deploying', 'running', 'stopping') \
             OR EXISTS (SELECT 1 FROM instances i WHERE i.service_id = services.id) ORDER BY created_at, id"
        ));
        self.fetch_all(select).await
    }
}
