//! Opening a database: what is created, what is refused, and how that is told.

use std::time::Duration;

use towline_model::Secret;
use towline_store::{ConnectError, Store, StoreError, StoreOptions};

use crate::{
    fixtures::{add_team, team_row},
    harness::{Database, at_once, for_each_engine, run},
};

for_each_engine!(
    a_database_is_migrated_once,
    two_servers_may_start_at_the_same_time,
    the_schema_of_a_newer_program_is_refused,
    the_schema_of_another_program_is_refused,
);

async fn refusal(url: &str) -> ConnectError {
    let mut options = StoreOptions::default();
    options.acquire_timeout = Duration::from_secs(5);
    Store::connect(&Secret::new(url.to_owned()), options).await.unwrap_err()
}

async fn a_database_is_migrated_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let revision = store.revision().await.unwrap();
    store.close().await;
    let again = database.connect().await;
    assert!(again.read().await.unwrap().find_team(team.id).await.unwrap().is_some());
    assert_eq!(again.revision().await.unwrap(), revision);
}

async fn two_servers_may_start_at_the_same_time(database: &Database) {
    let stores = at_once(4, |_| {
        let url = database.url.clone();
        async move { Store::connect(&url, StoreOptions::default()).await }
    })
    .await;
    for store in stores {
        assert_eq!(store.unwrap().revision().await.unwrap(), 0);
    }
}

async fn the_schema_of_a_newer_program_is_refused(database: &Database) {
    database.connect().await.close().await;
    database.execute_raw("INSERT INTO schema_migrations (version, name) VALUES (999, 'from next year')").await;
    let error = refusal(database.url.expose()).await;
    assert!(matches!(error, ConnectError::NewerSchema { found: 999, .. }), "{error:?}");
    assert!(error.to_string().contains("run the newer version"), "{error}");
}

async fn the_schema_of_another_program_is_refused(database: &Database) {
    database.connect().await.close().await;
    database.execute_raw("UPDATE schema_migrations SET name = 'invoices' WHERE version = 1").await;
    let error = refusal(database.url.expose()).await;
    assert!(matches!(error, ConnectError::ForeignSchema { version: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn a_url_that_names_no_database_is_refused_without_being_shown() {
    for url in ["", "mysql://root:hunter2@host/db", "hunter2", "sqlite:", "postgres://user:hunter2@host:port/db"] {
        let error = refusal(url).await;
        assert!(matches!(error, ConnectError::InvalidUrl(_)), "{url}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}: {error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_sqlite_file_is_created_for_this_user_only() {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/to%20w line.db");
    let url = Secret::new(format!("sqlite://{}", path.display()));
    let store = Store::connect(&url, StoreOptions::default()).await.unwrap();
    add_team(&store).await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let files: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.contains(&path), "{files:?}");
    assert!(files.len() > 1, "WAL is on: {files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    store.close().await;
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "the WAL is folded in");
}

#[tokio::test]
async fn a_file_that_cannot_be_a_database_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    std::fs::write(&text, "these are not the rows that you are looking for. ".repeat(100)).unwrap();
    for path in [directory.path().to_owned(), text.clone(), text.join("below")] {
        let error = refusal(&format!("sqlite://{}", path.display())).await;
        assert!(matches!(error, ConnectError::File { .. }), "{error:?}");
        let told = error.to_string();
        assert!(told.contains(&path.display().to_string()) && told.contains("check that"), "{told}");
    }
    assert!(std::fs::read_to_string(text).unwrap().starts_with("these are not"), "and left alone");
}

#[tokio::test]
async fn a_database_in_memory_is_private_and_gone_afterwards() {
    let url = Secret::new("sqlite::memory:".to_owned());
    let one = Store::connect(&url, StoreOptions::default()).await.unwrap();
    let two = Store::connect(&url, StoreOptions::default()).await.unwrap();
    let team = team_row("here");
    let mut tx = one.write().await.unwrap();
    tx.insert_team(&team).await.unwrap();
    tx.commit().await.unwrap();
    assert!(one.read().await.unwrap().find_team(team.id).await.unwrap().is_some());
    assert!(two.read().await.unwrap().find_team(team.id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_sqlite_file_that_another_process_keeps_locked_is_told() {
    run(Database::sqlite(), async |database| {
        let mut options = StoreOptions::default();
        options.acquire_timeout = Duration::from_millis(100);
        let other_process = database.connect().await;
        let store = Store::connect(&database.url, options).await.unwrap();
        let lock = other_process.write().await.unwrap();
        assert!(matches!(store.write().await, Err(StoreError::Concurrent)));
        drop(lock);
        // The lock is gone when the other connection is back in its pool.
        drop(other_process.write().await.unwrap());
        other_process.close().await;
        add_team(&store).await;
    })
    .await;
}

mod postgres_only {
    use super::*;

    #[tokio::test]
    async fn connections_that_the_server_ended_are_replaced() {
        run(Database::postgres().await, async |database| {
            let store = database.connect().await;
            let team = add_team(&store).await;
            let mut cut_off = store.read().await.unwrap();
            drop(store.read().await.unwrap());
            let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE datname = current_database() AND pid <> pg_backend_pid()";
            database.execute_raw(end_all).await;
            assert!(matches!(cut_off.find_team(team.id).await, Err(StoreError::Unavailable(_))));
            assert!(matches!(cut_off.commit().await, Err(StoreError::Aborted)));
            for _ in 0..4 {
                assert!(store.read().await.unwrap().find_team(team.id).await.unwrap().is_some());
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_wrong_password_or_database_is_told_without_the_password() {
        run(Database::postgres().await, async |database| {
            let url = database.url.expose();
            let (head, tail) = url.rsplit_once('@').unwrap();
            let (user, password) = head.rsplit_once(':').unwrap();
            let wrong = [
                (format!("{user}:hunter2@{tail}"), "password"),
                (format!("{url}_missing"), "does not exist"),
                (format!("{user}:{password}@127.0.0.1:1/db"), "refused"),
            ];
            for (url, expected) in wrong {
                let error = refusal(&url).await;
                assert!(matches!(error, ConnectError::Server { .. }), "{error:?}");
                let told = error.to_string();
                assert!(told.contains(expected) && told.contains("check that"), "{told}");
                assert!(!told.contains("hunter2") && !told.contains(password), "{told}");
            }
        })
        .await;
    }
}
