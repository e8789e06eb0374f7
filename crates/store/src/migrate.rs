//! The schema, as a list of scripts that are run in order, each once.
//!
//! One list for both engines. A script that has been released is never edited: a change of the schema is a new script.
//! All that are missing are run in one transaction, under a lock that other servers wait for.

use crate::{
    ConnectError, StoreError,
    engine::{Engine, Transaction, cause},
    query::query,
    value::{FromRow, Row},
};

pub(crate) struct Migration {
    version: i64,
    name: &'static str,
    pub(crate) script: &'static str,
}

pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "initial", script: include_str!("../migrations/0001_initial.sql") },
    Migration {
        version: 2,
        name: "agent_capabilities",
        script: include_str!("../migrations/0002_agent_capabilities.sql"),
    },
    Migration { version: 3, name: "audit", script: include_str!("../migrations/0003_audit.sql") },
    Migration { version: 4, name: "secrets", script: include_str!("../migrations/0004_secrets.sql") },
    Migration { version: 5, name: "people", script: include_str!("../migrations/0005_people.sql") },
    Migration { version: 6, name: "idempotency", script: include_str!("../migrations/0006_idempotency.sql") },
    Migration { version: 7, name: "identities", script: include_str!("../migrations/0007_identities.sql") },
    Migration {
        version: 8,
        name: "credential_services",
        script: include_str!("../migrations/0008_credential_services.sql"),
    },
    Migration { version: 9, name: "revoked_sign_ins", script: include_str!("../migrations/0009_revoked_sign_ins.sql") },
    Migration { version: 10, name: "device_pairings", script: include_str!("../migrations/0010_device_pairings.sql") },
    Migration { version: 11, name: "agent_transport", script: include_str!("../migrations/0011_agent_transport.sql") },
    Migration { version: 12, name: "server_audit", script: include_str!("../migrations/0012_server_audit.sql") },
];

const LIST: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (\
     version BIGINT NOT NULL CONSTRAINT schema_migrations_pkey PRIMARY KEY, name TEXT NOT NULL)";

/// A script that has been run.
struct Applied {
    version: i64,
    name: String,
}

impl FromRow for Applied {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self { version: row.take("version")?, name: row.take("name")? })
    }
}

/// Brings the schema up to date. May be run by several servers at the same time.
pub(crate) async fn run(engine: &Engine) -> Result<(), ConnectError> {
    let failed_at = |version| move |error: StoreError| ConnectError::Migration { version, cause: cause(&error) };
    let mut transaction = engine.begin_migration().await.map_err(failed_at(0))?;
    let applied = applied(&mut transaction).await.map_err(failed_at(0))?;
    for migration in missing(&applied)? {
        apply(&mut transaction, migration).await.map_err(failed_at(migration.version))?;
        tracing::info!(version = migration.version, name = migration.name, "schema changed");
    }
    transaction.commit().await.map_err(failed_at(0))
}

async fn applied(transaction: &mut Transaction) -> Result<Vec<Applied>, StoreError> {
    transaction.execute_script(LIST).await?;
    let select = query("SELECT version, name FROM schema_migrations ORDER BY version");
    let mut rows = transaction.fetch_all(select).await?;
    rows.iter_mut().map(Applied::from_row).collect()
}

/// The scripts that are still to be run, if what has been run is the beginning of our list.
fn missing(applied: &[Applied]) -> Result<&'static [Migration], ConnectError> {
    let known = MIGRATIONS.last().map_or(0, |migration| migration.version);
    if let Some(newest) = applied.last().filter(|newest| newest.version > known) {
        return Err(ConnectError::NewerSchema { found: newest.version, known });
    }
    for (applied, migration) in applied.iter().zip(MIGRATIONS) {
        if applied.version != migration.version || applied.name != migration.name {
            let (version, found) = (applied.version, applied.name.clone());
            return Err(ConnectError::ForeignSchema { version, found, expected: migration.name });
        }
    }
    Ok(&MIGRATIONS[applied.len()..])
}

async fn apply(transaction: &mut Transaction, migration: &Migration) -> Result<(), StoreError> {
    transaction.execute_script(migration.script).await?;
    let insert = query("INSERT INTO schema_migrations (version, name) VALUES ($1, $2)");
    transaction.execute(insert.bind(migration.version).bind(migration.name)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_up_from_one_without_gaps() {
        assert!(MIGRATIONS.iter().map(|migration| migration.version).eq(1..=MIGRATIONS.len() as i64));
    }
}
