//! The one place that knows that there are two engines.
//!
//! Both get the same text of every statement: `$1`, `$2` are arguments in both, and the columns are TEXT and BIGINT only.
//! What differs is here: how a database is opened, how a transaction begins, how errors are told.
//!
//! sqlx's own `Any` driver is not used, because it takes neither engine's connect options (WAL, read-only connections,
//! statement timeouts would be strings run after connecting), needs a process-wide list of drivers, and has gaps between
//! what it can encode and what it hands to SQLite. What is needed of it are the few lines below.

mod failure;
mod postgres;
mod sqlite;

use std::{future::Future, time::Duration};

use sqlx::{PgPool, Postgres, Sqlite};
use towline_model::Secret;

pub(crate) use self::failure::cause;
use self::{failure::store_error, sqlite::SqlitePools};
use crate::{
    ConnectError, StoreError, StoreOptions,
    query::Query,
    value::{Argument, Row, Value},
};

/// The longest that a PostgreSQL server may take for one statement, so that one that is gone is noticed. The server
/// itself gives up sooner (see `postgres.rs`), so that it can say why.
const SERVER_DEADLINE: Duration = Duration::from_secs(40);

/// An open database.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Sqlite(SqlitePools),
    Postgres(PgPool),
}

/// A transaction on either engine. Dropping it rolls it back.
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Engine {
    /// Opens the database that the URL names. It may be empty or old: see [`crate::migrate`].
    pub(crate) async fn open(url: &Secret<String>, options: &StoreOptions) -> Result<Self, ConnectError> {
        let url = url.expose();
        if url.starts_with("sqlite:") {
            sqlite::open(url, options).await.map(Self::Sqlite)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            postgres::open(url, options).await.map(Self::Postgres)
        } else {
            // The URL is not shown: it may hold a password.
            let rule = "it must start with sqlite:// or postgres://, such as sqlite:///var/lib/towline/towline.db";
            Err(ConnectError::InvalidUrl(rule.to_owned()))
        }
    }

    /// Begins a transaction that sees one snapshot and changes nothing.
    ///
    /// With PostgreSQL both kinds name all their modes: when a caller goes away while its transaction begins, sqlx puts
    /// the connection back with that transaction open, and the next BEGIN there changes only the modes that it names.
    pub(crate) async fn begin_read(&self) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(pools) => pools.read.begin_with("BEGIN").await.map(Transaction::Sqlite),
            Self::Postgres(pool) => {
                let begin = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
                answered(begin).await.map(Transaction::Postgres)
            }
        }
        .map_err(store_error)
    }

    /// Begins a transaction that changes something. In SQLite it is the only one until it ends.
    pub(crate) async fn begin_write(&self) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(pools) => pools.write.begin_with("BEGIN IMMEDIATE").await.map(Transaction::Sqlite),
            Self::Postgres(pool) => {
                let begin = pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE");
                answered(begin).await.map(Transaction::Postgres)
            }
        }
        .map_err(store_error)
    }

    /// Begins a transaction in which the schema may be changed: other servers that would do the same wait for its end.
    pub(crate) async fn begin_migration(&self) -> Result<Transaction, StoreError> {
        let mut transaction = self.begin_write().await?;
        if let Transaction::Postgres(transaction) = &mut transaction {
            postgres::lock_schema(transaction).await.map_err(store_error)?;
        }
        Ok(transaction)
    }

    /// Closes every connection, after the transactions that are under way.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pools) => pools.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Transaction {
    /// Runs a statement. Tells how many rows it has changed.
    pub(crate) async fn execute(&mut self, query: Query) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(transaction) => {
                let statement = with_arguments!(query);
                statement.execute(&mut **transaction).await.map(|done| done.rows_affected())
            }
            Self::Postgres(transaction) => {
                let statement = with_arguments!(query);
                answered(statement.execute(&mut **transaction)).await.map(|done| done.rows_affected())
            }
        }
        .map_err(store_error)
    }

    /// Runs a statement to its end and gives all its rows. Never stops after the first row: SQLite checks foreign keys
    /// when a statement ends.
    pub(crate) async fn fetch_all(&mut self, query: Query) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(transaction) => {
                let statement = with_arguments!(query);
                let rows = statement.fetch_all(&mut **transaction).await.map_err(store_error)?;
                rows.iter().map(sqlite::read_row).collect()
            }
            Self::Postgres(transaction) => {
                let statement = with_arguments!(query);
                let rows = answered(statement.fetch_all(&mut **transaction)).await.map_err(store_error)?;
                rows.iter().map(postgres::read_row).collect()
            }
        }
    }

    /// Runs several statements without arguments, such as a migration, however long they take.
    pub(crate) async fn execute_script(&mut self, script: &'static str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => sqlx::raw_sql(script).execute(&mut **transaction).await.map(drop),
            Self::Postgres(transaction) => sqlx::raw_sql(script).execute(&mut **transaction).await.map(drop),
        }
        .map_err(store_error)
    }

    /// Ends the transaction and keeps what it did.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => answered(transaction.commit()).await,
        }
        .map_err(store_error)
    }
}

/// Makes sqlx's statement of ours; which engine's is decided by what executes it.
macro_rules! with_arguments {
    ($query:expr) => {{
        let mut statement = sqlx::query($query.sql);
        for argument in $query.arguments {
            statement = match argument {
                Argument::Integer(number) => statement.bind(number),
                Argument::Text(text) => statement.bind(text),
            };
        }
        statement
    }};
}
use with_arguments;

/// Waits for an answer of a server, but not for ever.
async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(SERVER_DEADLINE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Reads the columns of a row, each with its name.
fn collect_row(columns: impl Iterator<Item = (String, Result<Value, StoreError>)>) -> Result<Row, StoreError> {
    columns.map(|(name, value)| Ok((name, value?))).collect::<Result<_, _>>().map(Row)
}
