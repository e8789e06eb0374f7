//! Secrets, sealed: what is stored here opens nothing without a key that is kept elsewhere.
//!
//! Who refers to a secret, and who deletes one, locks its row first ([`Tx::lock_secrets`]). So of a new reference and a
//! deletion at the same time one sees the other. Secrets are locked in the order of their ids, and before a service is
//! written.

use std::collections::BTreeSet;

use towline_model::{SecretId, TeamId, Timestamp};

use crate::{
    Page, Paged, Position, StoreError, Tx,
    page::{Listed, Order, oldest_first},
    query::query,
    value::{FromRow, Row},
};

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Its id.
    pub id: SecretId,
    /// Its team.
    pub team_id: TeamId,
    /// Its name, unique in the team.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The id of the key that it is sealed under.
    pub key_id: String,
    /// The sealed value.
    pub sealed: String,
    /// How many bytes the value takes in a message.
    pub told_bytes: i64,
    /// Goes up by one with every change: see [`Tx::update_secret`].
    pub version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its name, description or value last changed.
    pub updated_at: Timestamp,
}

macro_rules! columns {
    () => {
        "id, team_id, name, description, key_id, sealed, told_bytes, version, created_at, updated_at"
    };
}

impl FromRow for SecretRow {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.take("id")?,
            team_id: row.take("team_id")?,
            name: row.take("name")?,
            description: row.take("description")?,
            key_id: row.take("key_id")?,
            sealed: row.take("sealed")?,
            told_bytes: row.take("told_bytes")?,
            version: row.take("version")?,
            created_at: row.take("created_at")?,
            updated_at: row.take("updated_at")?,
        })
    }
}

/// One column of a row.
struct KeyId(String);

impl FromRow for KeyId {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        row.take("key_id").map(Self)
    }
}

/// Which change of a secret is the last.
struct Version(SecretId, i64);

impl FromRow for Version {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self(row.take("id")?, row.take("version")?))
    }
}

/// How long a secret's value is.
struct Size(SecretId, i64);

impl FromRow for Size {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self(row.take("id")?, row.take("told_bytes")?))
    }
}

impl Listed for SecretRow {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.as_uuid() }
    }
}

impl Tx {
    /// Adds a secret. Moves the revision on.
    ///
    /// # Errors
    /// [`Constraint::SecretName`](crate::Constraint::SecretName) when the team has a secret of this name,
    /// [`StoreError::NotFound`] when there is no such team.
    pub async fn insert_secret(&mut self, secret: &SecretRow) -> Result<(), StoreError> {
        let insert =
            query(concat!("INSERT INTO secrets (", columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"))
                .bind(secret.id)
                .bind(secret.team_id)
                .bind(&secret.name)
                .bind(&secret.description)
                .bind(&secret.key_id)
                .bind(&secret.sealed)
                .bind(secret.told_bytes)
                .bind(secret.version)
                .bind(secret.created_at)
                .bind(secret.updated_at);
        self.execute(insert).await?;
        self.mark_changed();
        Ok(())
    }

    /// Writes a secret back, if nobody else has since it was read, and raises `secret.version`. Moves the revision on.
    ///
    /// # Errors
    /// [`StoreError::Concurrent`] when somebody else has changed or deleted it meanwhile,
    /// [`Constraint::SecretName`](crate::Constraint::SecretName) when the team has another secret of this name.
    pub async fn update_secret(&mut self, secret: &mut SecretRow) -> Result<(), StoreError> {
        let update = query(
            "UPDATE secrets SET name = $1, description = $2, key_id = $3, sealed = $4, told_bytes = $5, updated_at = $6, \
             version = version + 1 WHERE id = $7 AND team_id = $8 AND version = $9",
        )
        .bind(&secret.name)
        .bind(&secret.description)
        .bind(&secret.key_id)
        .bind(&secret.sealed)
        .bind(secret.told_bytes)
        .bind(secret.updated_at)
        .bind(secret.id)
        .bind(secret.team_id)
        .bind(secret.version);
        if self.execute(update).await? == 0 {
            return Err(StoreError::Concurrent);
        }
        secret.version += 1;
        self.mark_changed();
        Ok(())
    }

    /// Deletes a secret. `false` when the team has no such secret. Moves the revision on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete_secret(&mut self, team_id: TeamId, id: SecretId) -> Result<bool, StoreError> {
        let delete = query("DELETE FROM secrets WHERE team_id = $1 AND id = $2");
        let deleted = self.execute(delete.bind(team_id).bind(id)).await? > 0;
        self.mark_changed_if(deleted);
        Ok(deleted)
    }

    /// Reads those of the team's secrets that there are, and keeps everybody else from changing and deleting them until
    /// the transaction ends. In the order of their ids.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn lock_secrets(
        &mut self,
        team_id: TeamId,
        ids: &BTreeSet<SecretId>,
    ) -> Result<Vec<SecretRow>, StoreError> {
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            // An update that changes nothing is the lock that both engines have.
            let lock = query(concat!(
                "UPDATE secrets SET version = version WHERE team_id = $1 AND id = $2 RETURNING ",
                columns!()
            ));
            rows.extend(self.fetch_optional(lock.bind(team_id).bind(*id)).await?);
        }
        Ok(rows)
    }

    /// The team's secret of that id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_secret(&mut self, team_id: TeamId, id: SecretId) -> Result<Option<SecretRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM secrets WHERE team_id = $1 AND id = $2"));
        self.fetch_optional(select.bind(team_id).bind(id)).await
    }

    /// A page of the team's secrets, the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list_secrets(&mut self, team_id: TeamId, page: Page) -> Result<Paged<SecretRow>, StoreError> {
        let count = query("SELECT COUNT(*) AS total FROM secrets WHERE team_id = $1");
        let select = query(concat!(
            "SELECT ",
            columns!(),
            " FROM secrets WHERE team_id = $1",
            oldest_first!("created_at", "id", [2, 3, 4, 5])
        ));
        self.fetch_page((count.bind(team_id), select.bind(team_id)), Order::OldestFirst, page).await
    }

    /// How many bytes the value of each secret takes in a message, of one team or of all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn secret_sizes(&mut self, team_id: Option<TeamId>) -> Result<Vec<(SecretId, i64)>, StoreError> {
        let select = query("SELECT id, told_bytes FROM secrets WHERE $1 IS NULL OR team_id = $1");
        let sizes: Vec<Size> = self.fetch_all(select.bind(team_id)).await?;
        Ok(sizes.into_iter().map(|Size(id, bytes)| (id, bytes)).collect())
    }

    /// The version of every secret of every team.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn secret_versions(&mut self) -> Result<Vec<(SecretId, i64)>, StoreError> {
        let versions: Vec<Version> = self.fetch_all(query("SELECT id, version FROM secrets")).await?;
        Ok(versions.into_iter().map(|Version(id, version)| (id, version)).collect())
    }

    /// The ids of all keys that secrets are sealed under.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn sealing_keys_in_use(&mut self) -> Result<Vec<String>, StoreError> {
        let keys: Vec<KeyId> = self.fetch_all(query("SELECT DISTINCT key_id FROM secrets ORDER BY key_id")).await?;
        Ok(keys.into_iter().map(|key| key.0).collect())
    }

    /// Some of the secrets of every team that are not sealed under this key, at most `most`, in the order of their ids.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn secrets_not_under(&mut self, key_id: &str, most: u32) -> Result<Vec<SecretRow>, StoreError> {
        let select = query(concat!("SELECT ", columns!(), " FROM secrets WHERE key_id <> $1 ORDER BY id LIMIT $2"));
        self.fetch_all(select.bind(key_id).bind(i64::from(most))).await
    }
}
