//! The way in: a store, and the transactions that it begins. The queries themselves are in the files of the nouns.

use std::{fmt, time::Duration};

use towline_model::Secret;

use crate::{
    ConnectError, StoreError,
    engine::{Engine, Transaction},
    migrate,
    query::Query,
    value::{FromRow, FromValue, Row},
};

/// The longest that [`Store::close`] waits for transactions that are under way.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// How a database is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoreOptions {
    /// How many connections to a PostgreSQL server there may be, at least 1. SQLite always has one that writes and a
    /// few that read.
    pub max_connections: u32,
    /// The longest to wait for a connection, to a server as well as from the pool, and for another process that writes
    /// to the same SQLite file.
    pub acquire_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { max_connections: 16, acquire_timeout: Duration::from_secs(30) }
    }
}

/// An open database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    engine: Engine,
}

impl Store {
    /// Opens a database and brings its schema up to date.
    ///
    /// `sqlite://PATH` is a file, created with its directories if it is missing, readable by this user only;
    /// `sqlite::memory:` is a database that is gone with the last handle; `postgres://…` is a server's.
    ///
    /// # Errors
    /// Says what to check. The URL's password is in none of the texts.
    pub async fn connect(url: &Secret<String>, options: StoreOptions) -> Result<Self, ConnectError> {
        let engine = Engine::open(url, &options).await?;
        migrate::run(&engine).await?;
        Ok(Self { engine })
    }

    /// Begins a transaction that sees one consistent snapshot and can change nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        self.engine.begin_read().await.map(Tx::new)
    }

    /// Begins a transaction that can change something. With SQLite there is one at a time; others wait here.
    ///
    /// With PostgreSQL each statement sees what was committed before it began, so nothing that was read may be taken
    /// for still true when something else is written: see the crate's documentation.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer, [`StoreError::Concurrent`] when another process
    /// keeps a SQLite file locked.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        self.engine.begin_write().await.map(Tx::new)
    }

    /// How often something has changed that gateways hold in memory, or that the reconciler decides by. Cheap enough to be
    /// asked several times a second.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        self.read().await?.revision().await
    }

    /// Closes the database for all clones, after the transactions that are under way, but within 10 seconds.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_DEADLINE, self.engine.close()).await.is_err() {
            tracing::warn!("the database was closed while it was still in use");
        }
    }
}

/// A transaction. Dropping it rolls it back.
///
/// After a statement that the engine refused, every further call answers [`StoreError::Aborted`].
#[must_use = "a transaction that is not committed is rolled back"]
pub struct Tx {
    transaction: Transaction,
    /// Something has changed that gateways hold in memory, or that the reconciler decides by.
    changed: bool,
    /// A statement was refused or did not finish. PostgreSQL would refuse all that follow, and take a commit for a
    /// rollback without saying so.
    failed: bool,
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("changed", &self.changed).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Tx {
    const fn new(transaction: Transaction) -> Self {
        Self { transaction, changed: false, failed: false }
    }

    /// Keeps what the transaction did.
    ///
    /// # Errors
    /// [`StoreError::Aborted`] when a statement failed before, [`StoreError::Concurrent`] when another transaction was
    /// in the way; then nothing was kept. After [`StoreError::Unavailable`] it is not known whether it was.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Aborted);
        }
        if self.changed {
            self.bump_revision().await?;
        }
        self.transaction.commit().await
    }

    /// Runs a statement. Tells how many rows it has changed.
    pub(crate) async fn execute(&mut self, query: Query) -> Result<u64, StoreError> {
        self.begin_statement()?;
        let changed = self.transaction.execute(query).await?;
        self.failed = false;
        Ok(changed)
    }

    pub(crate) async fn fetch_all<T: FromRow>(&mut self, query: Query) -> Result<Vec<T>, StoreError> {
        self.fetch_rows(query).await?.iter_mut().map(T::from_row).collect()
    }

    pub(crate) async fn fetch_optional<T: FromRow>(&mut self, query: Query) -> Result<Option<T>, StoreError> {
        self.fetch_rows(query).await?.first_mut().map(T::from_row).transpose()
    }

    /// Runs a statement that always has a row.
    pub(crate) async fn fetch_one<T: FromRow>(&mut self, query: Query) -> Result<T, StoreError> {
        let row = self.fetch_optional(query).await?;
        row.ok_or_else(|| StoreError::Corrupt("a statement that has a row had none".to_owned()))
    }

    /// Runs a statement that has one row with one number, named `total`.
    pub(crate) async fn fetch_count(&mut self, query: Query) -> Result<i64, StoreError> {
        Ok(self.fetch_one::<Total<i64>>(query).await?.0)
    }

    /// As [`Tx::fetch_count`], for `COUNT(*)`.
    pub(crate) async fn fetch_total(&mut self, query: Query) -> Result<u64, StoreError> {
        let total = self.fetch_count(query).await?;
        u64::try_from(total).map_err(|_| StoreError::Corrupt("a count is negative".to_owned()))
    }

    /// Notes that something has changed that gateways hold in memory, or that the reconciler decides by.
    pub(crate) const fn mark_changed(&mut self) {
        self.changed = true;
    }

    pub(crate) const fn mark_changed_if(&mut self, changed: bool) {
        self.changed |= changed;
    }

    async fn fetch_rows(&mut self, query: Query) -> Result<Vec<Row>, StoreError> {
        self.begin_statement()?;
        let rows = self.transaction.fetch_all(query).await?;
        self.failed = false;
        Ok(rows)
    }

    /// Takes the transaction for failed until the statement has succeeded, so that one whose future is dropped in
    /// between counts as failed too.
    const fn begin_statement(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Aborted);
        }
        self.failed = true;
        Ok(())
    }
}

struct Total<T>(T);

impl<T: FromValue> FromRow for Total<T> {
    fn from_row(row: &mut Row) -> Result<Self, StoreError> {
        row.take("total").map(Self)
    }
}
