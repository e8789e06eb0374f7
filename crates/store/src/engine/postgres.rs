//! PostgreSQL: one pool of connections to a server. Between us and it there may be a pooler that keeps sessions (what is
//! set below is set once a session), not one that hands out connections by the transaction.

use std::{io, str::FromStr, time::Duration};

use sqlx::{
    Column as _, ConnectOptions as _, Connection as _, Decode, PgPool, Postgres, Row as _, TypeInfo as _,
    ValueRef as _,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgRow},
};

use super::{cause, collect_row};
use crate::{
    ConnectError, StoreError, StoreOptions,
    value::{Row, Value},
};

/// Limits that the server keeps for us, so that a lost transaction does not hold its locks for ever.
const SESSION_LIMITS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
     SET idle_in_transaction_session_timeout = '60s'";

/// The advisory lock under which the schema is changed. The number is arbitrary, but must never change: "towline" in
/// ASCII.
const SCHEMA_LOCK: &str = "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; \
     SELECT pg_advisory_xact_lock(32773656009076325)";

/// The longest that another server may take to change the schema before this one gives up.
const SCHEMA_LOCK_DEADLINE: Duration = Duration::from_secs(600);

pub(super) async fn open(url: &str, options: &StoreOptions) -> Result<PgPool, ConnectError> {
    let connect = connect_options(url)?;
    // The pool would try again until its time is over and then say only that; a connection of our own says why.
    let first = tokio::time::timeout(options.acquire_timeout, connect.connect()).await;
    let refused = |cause| Err(ConnectError::Server { database: name_of(&connect), cause });
    match first {
        Ok(Ok(connection)) => drop(connection.close().await),
        Ok(Err(error)) => return refused(cause(&error)),
        Err(_) => return refused(format!("no answer within {} s", options.acquire_timeout.as_secs())),
    }
    let pool = PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION_LIMITS).execute(connection).await.map(drop) })
        })
        .connect_lazy_with(connect);
    Ok(pool)
}

/// Waits until no other server changes the schema, and keeps others from it until the transaction ends.
pub(super) async fn lock_schema(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let lock = sqlx::raw_sql(SCHEMA_LOCK).execute(connection);
    let Ok(locked) = tokio::time::timeout(SCHEMA_LOCK_DEADLINE, lock).await else {
        let reason = "another server has been changing the schema for 10 minutes";
        return Err(io::Error::new(io::ErrorKind::TimedOut, reason).into());
    };
    locked.map(drop)
}

/// Reads the URL. What is wrong with it is told without showing it, because it may hold a password.
fn connect_options(url: &str) -> Result<PgConnectOptions, ConnectError> {
    let authority_and_rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = authority_and_rest.split_once(['/', '?', '#']).map_or("", |(_, rest)| rest);
    if rest.contains('@') {
        // Part of the password would be taken for the host or the database, and shown in an error.
        let rule = "user and password must not hold / ? # @ or : as they are; write them as %2F %3F %23 %40 %3A";
        return Err(ConnectError::InvalidUrl(rule.to_owned()));
    }
    let rule = "it must look like postgres://user:password@host:5432/database";
    let options = PgConnectOptions::from_str(url).map_err(|_| ConnectError::InvalidUrl(rule.to_owned()))?;
    Ok(options.application_name("towline").disable_statement_logging())
}

fn name_of(connect: &PgConnectOptions) -> String {
    let database = connect.get_database().unwrap_or_else(|| connect.get_username());
    match connect.get_socket() {
        Some(socket) => format!("{database} at {}", socket.display()),
        None => format!("{database} at {}:{}", connect.get_host(), connect.get_port()),
    }
}

pub(super) fn read_row(row: &PgRow) -> Result<Row, StoreError> {
    collect_row(row.columns().iter().map(|column| (column.name().to_owned(), read_value(row, column.ordinal()))))
}

fn read_value(row: &PgRow, ordinal: usize) -> Result<Value, StoreError> {
    let unreadable = |error: &dyn std::fmt::Display| StoreError::Corrupt(format!("column {ordinal}: {error}"));
    let value = row.try_get_raw(ordinal).map_err(|error| unreadable(&error))?;
    if value.is_null() {
        return Ok(Value::Null);
    }
    let value_type = value.type_info().into_owned();
    match value_type.name() {
        "INT8" => <i64 as Decode<'_, Postgres>>::decode(value).map(Value::Integer),
        "TEXT" => <String as Decode<'_, Postgres>>::decode(value).map(Value::Text),
        other => Err(format!("its type is {other}").into()),
    }
    .map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_not_shown() {
        for url in [
            "postgres://user:hun/ter2@host/db",
            "postgres://user:hun#ter2@host/db",
            "postgres://user:12/ter2@host:99999/db",
            "postgres://user:hunter2@host:99999/db",
            "postgres://user:hunter2@[::1/db",
            "postgres://user:hunter2@host/db?sslmode=hunter2",
        ] {
            let error = connect_options(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("ter2"), "{url}: {error}");
        }
    }

    #[test]
    fn a_database_is_named_without_user_and_password() {
        let connect = connect_options("postgres://user:hunter2@db.example:6000/towline").unwrap();
        assert_eq!(name_of(&connect), "towline at db.example:6000");
    }
}
