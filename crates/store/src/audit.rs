//! The audit logs: who did what in a team, and, in the server's own, what concerns no team. Entries are added in the
//! transaction of what they tell, and never changed.
//!
//! The server's log is a table of its own, so that no question about a team can be answered with it.

use towline_model::{CredentialId, TeamId, Timestamp, UserId};
use uuid::Uuid;

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, newest_first},
    query::{Query, query},
    value::{FromRow, Json, Row},
};

/// One thing that somebody did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its id: a UUIDv7, which orders entries of the same time.
    pub id: Uuid,
    /// The team; `None` for what concerns no team.
    pub team_id: Option<TeamId>,
    /// When it was done.
    pub at: Timestamp,
    /// What was done: a name of [`towline_model::AuditAction`].
    pub action: String,
    /// With what it was done: `user`, `device`, `integration` or `system`.
    pub actor_kind: String,
    /// The user's e-mail address or the key's name at that time.
    pub actor_name: String,
    /// The user.
    pub user_id: Option<UserId>,
    /// The key.
    pub credential_id: Option<CredentialId>,
    /// The id of what it was done to.
    pub target_id: Option<String>,
    /// The name of what it was done to, at that time.
    pub target_name: String,
    /// The address that the request came from.
    pub address: Option<String>,
    /// The request.
    pub request_id: Option<String>,
    /// More about it; never a secret.
    pub details: Option<serde_json::Value>,
}

/// Which entries are wanted; what is absent does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only this action.
    pub action: Option<String>,
    /// Only what was done to the thing with this id.
    pub target_id: Option<String>,
    /// Only what this user did.
    pub user_id: Option<UserId>,
    /// Only what was done with this key.
    pub credential_id: Option<CredentialId>,
    /// Only what was done at or after this moment.
    pub since: Option<Timestamp>,
    /// Only what was done before this moment.
    pub until: Option<Timestamp>,
}

impl FromRow for AuditRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            team_id: row.take("team_id")?,
            at: row.take("at")?,
            action: row.take("action")?,
            actor_kind: row.take("actor_kind")?,
            actor_name: row.take("actor_name")?,
            user_id: row.take("user_id")?,
            credential_id: row.take("credential_id")?,
            target_id: row.take("target_id")?,
            target_name: row.take("target_name")?,
            address: row.take("address")?,
            request_id: row.take("request_id")?,
            details: row.take::<Option<Json<_>>>("details")?.map(|details| details.0),
        })
    }
}

impl Listed for AuditRow {
    fn position(&self) -> Position {
        Position { at: self.at, id: self.id }
    }
}

/// Every column but the team's.
macro_rules! columns {
    () => {
        "id, at, action, actor_kind, actor_name, user_id, credential_id, target_id, target_name, address, request_id, \
         details"
    };
}

/// The tables of both logs, with the conditions of an [`AuditFilter`] as `$1` to `$7`.
macro_rules! matches {
    (team) => {
        concat!(" FROM audit_entries WHERE team_id = $1", matches!())
    };
    (server) => {
        concat!(" FROM server_audit_entries WHERE CAST($1 AS TEXT) IS NULL", matches!())
    };
    () => {
        " AND ($2 IS NULL OR action = $2) AND ($3 IS NULL OR target_id = $3) AND ($4 IS NULL OR user_id = $4) \
         AND ($5 IS NULL OR credential_id = $5) AND ($6 IS NULL OR at >= $6) AND ($7 IS NULL OR at < $7)"
    };
}

macro_rules! select {
    (team, $end:expr) => {
        concat!("SELECT team_id, ", columns!(), matches!(team), $end)
    };
    (server, $end:expr) => {
        concat!("SELECT CAST(NULL AS TEXT) AS team_id, ", columns!(), matches!(server), $end)
    };
}

fn bind_filter(statement: Query, team_id: Option<TeamId>, filter: &AuditFilter) -> Query {
    statement
        .bind(team_id)
        .bind(filter.action.as_ref())
        .bind(filter.target_id.as_ref())
        .bind(filter.user_id)
        .bind(filter.credential_id)
        .bind(filter.since)
        .bind(filter.until)
}

impl Tx {
    /// Adds an entry, and forgets those of the same log that are older than `keep_since`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such team.
    pub async fn insert_audit_entry(&mut self, entry: &AuditRow, keep_since: Timestamp) -> Result<(), StoreError> {
        let insert = match entry.team_id {
            Some(team_id) => query(concat!(
                "INSERT INTO audit_entries (team_id, ",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
            ))
            .bind(team_id),
            None => query(concat!(
                "INSERT INTO server_audit_entries (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
            )),
        };
        let insert = insert
            .bind(entry.id)
            .bind(entry.at)
            .bind(&entry.action)
            .bind(&entry.actor_kind)
            .bind(&entry.actor_name)
            .bind(entry.user_id)
            .bind(entry.credential_id)
            .bind(entry.target_id.as_ref())
            .bind(&entry.target_name)
            .bind(entry.address.as_ref())
            .bind(entry.request_id.as_ref())
            .bind(entry.details.as_ref().map(Json));
        self.execute(insert).await?;
        let prune = match entry.team_id {
            Some(team_id) => query("DELETE FROM audit_entries WHERE team_id = $1 AND at < $2").bind(team_id),
            None => query("DELETE FROM server_audit_entries WHERE at < $1"),
        };
        self.execute(prune.bind(keep_since)).await.map(drop)
    }

    /// A page of what was done in the team, or of the server's log, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_audit_entries(
        &mut self,
        team_id: impl Into<Option<TeamId>>,
        filter: &AuditFilter,
        page: Page,
    ) -> Result<Paged<AuditRow>, StoreError> {
        const OF_TEAM: &str = select!(team, newest_first!("at", "id", [8, 9, 10, 11]));
        const OF_SERVER: &str = select!(server, newest_first!("at", "id", [8, 9, 10, 11]));
        let team_id = team_id.into();
        let (count, select) = match team_id {
            Some(_) => (concat!("SELECT COUNT(*) AS total", matches!(team)), OF_TEAM),
            None => (concat!("SELECT COUNT(*) AS total", matches!(server)), OF_SERVER),
        };
        let both = (bind_filter(query(count), team_id, filter), bind_filter(query(select), team_id, filter));
        self.fetch_page(both, Order::NewestFirst, page).await
    }

    /// The next entries of the team, or of the server's log, behind a place in it, the oldest first, at most `limit`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn audit_entries_after(
        &mut self,
        team_id: impl Into<Option<TeamId>>,
        filter: &AuditFilter,
        position: Option<Position>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        const OF_TEAM: &str = select!(team, " AND ($8 IS NULL OR (at, id) > ($8, $9)) ORDER BY at, id LIMIT $10");
        const OF_SERVER: &str = select!(server, " AND ($8 IS NULL OR (at, id) > ($8, $9)) ORDER BY at, id LIMIT $10");
        let team_id = team_id.into();
        let select = query(if team_id.is_some() { OF_TEAM } else { OF_SERVER });
        let (at, id) = position.map(|position| (position.at, position.id)).unzip();
        self.fetch_all(bind_filter(select, team_id, filter).bind(at).bind(id).bind(i64::from(limit))).await
    }
}
