//! Teams: the tenants.

use towline_model::{TeamId, Timestamp};

use crate::{
    StoreError, Tx,
    query::query,
    value::{FromRow, Row},
};

/// A team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamRow {
    /// Its id.
    pub id: TeamId,
    /// Its name, for people.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
}

impl FromRow for TeamRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self { id: row.take("id")?, name: row.take("name")?, created_at: row.take("created_at")? })
    }
}

impl Tx {
    /// Adds a team.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn insert_team(&mut self, team: &TeamRow) -> Result<(), StoreError> {
        let insert = query("INSERT INTO teams (id, name, created_at) VALUES ($1, $2, $3)");
        self.execute(insert.bind(team.id).bind(&team.name).bind(team.created_at)).await.map(drop)
    }

    /// The team of that id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_team(&mut self, id: TeamId) -> Result<Option<TeamRow>, StoreError> {
        self.fetch_optional(query("SELECT id, name, created_at FROM teams WHERE id = $1").bind(id)).await
    }
}
