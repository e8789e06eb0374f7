//! SQLite: one connection that writes, several that read, a file in WAL mode.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Column as _, ConnectOptions as _, Decode, Row as _, Sqlite, SqlitePool, TypeInfo as _, ValueRef as _,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use tempfile::TempDir;

use super::{cause, collect_row, failure::is_contention};
use crate::{
    ConnectError, StoreError, StoreOptions,
    value::{Row, Value},
};

/// How many connections read at once. They never wait for the writer, so a few are enough.
const READERS: u32 = 4;

/// What the WAL file is cut back to after a checkpoint, in bytes.
const WAL_LIMIT: &str = "67108864";

/// How long to wait before a file is asked for again that another process holds.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The connections to one SQLite file.
#[derive(Debug, Clone)]
pub(crate) struct SqlitePools {
    /// One connection: writers queue here, fairly, instead of meeting in the file's lock.
    pub(super) write: SqlitePool,
    /// Connections that cannot write.
    pub(super) read: SqlitePool,
    /// Where the file is, when it is to go with the last handle.
    _directory: Option<Arc<TempDir>>,
}

impl SqlitePools {
    pub(super) async fn close(&self) {
        self.read.close().await;
        // Last, so that its close is the one that folds the WAL into the file.
        self.write.close().await;
    }
}

/// Opens a file, or creates it; `sqlite::memory:` is a file that is gone with the process. (SQLite's own in-memory
/// databases have no WAL, so that readers and the writer would wait for each other there, and nowhere else.)
pub(super) async fn open(url: &str, options: &StoreOptions) -> Result<SqlitePools, ConnectError> {
    if url == "sqlite::memory:" {
        let unusable = |error: io::Error| ConnectError::File { path: std::env::temp_dir(), cause: error.to_string() };
        let directory = tempfile::Builder::new().prefix("towline-").tempdir().map_err(unusable)?;
        let path = directory.path().join("towline.db");
        create_file(&path)?;
        // There is nothing to keep, so nothing needs to reach the disk.
        let connect = connect_options(&path, options).synchronous(SqliteSynchronous::Off);
        return open_pools(&path, connect, options, Some(Arc::new(directory))).await;
    }
    let path = path_of(url)?;
    create_file(&path)?;
    // FULL: what was answered with "done", such as a revocation, holds after a power failure.
    let connect = connect_options(&path, options).synchronous(SqliteSynchronous::Full);
    open_pools(&path, connect, options, None).await
}

/// The path in a URL. It is taken as it is, without percent-decoding, so that any path can be put after `sqlite://`.
fn path_of(url: &str) -> Result<PathBuf, ConnectError> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or_default();
    if path.is_empty() || path.starts_with(':') {
        let rule = "it must name a file, such as sqlite:///var/lib/towline/towline.db";
        return Err(ConnectError::InvalidUrl(rule.to_owned()));
    }
    if path.contains('?') {
        return Err(ConnectError::InvalidUrl("sqlite:// takes a path only, without ? and parameters".to_owned()));
    }
    Ok(PathBuf::from(path))
}

/// Creates the file and its directories for this user only. One that exists keeps its permissions.
fn create_file(path: &Path) -> Result<(), ConnectError> {
    let unusable = |error: io::Error| ConnectError::File { path: path.to_owned(), cause: error.to_string() };
    let mut directories = DirBuilder::new();
    let mut file = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        directories.mode(0o700);
        // SQLite gives the files beside it (WAL, shared memory) the same permissions.
        file.mode(0o600);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        directories.recursive(true).create(parent).map_err(unusable)?;
    }
    file.read(true).append(true).create(true).open(path).map(drop).map_err(unusable)
}

fn connect_options(path: &Path, options: &StoreOptions) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(options.acquire_timeout)
        .pragma("journal_size_limit", WAL_LIMIT)
        .disable_statement_logging()
}

async fn open_pools(
    path: &Path,
    connect: SqliteConnectOptions,
    options: &StoreOptions,
    directory: Option<Arc<TempDir>>,
) -> Result<SqlitePools, ConnectError> {
    let unusable = |error: sqlx::Error| ConnectError::File { path: path.to_owned(), cause: cause(&error) };
    let pool = |connections| {
        SqlitePoolOptions::new()
            .min_connections(connections)
            .max_connections(connections)
            .acquire_timeout(options.acquire_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
    };
    // The writer comes first: it turns WAL on, which stays on.
    let writer = connect.clone().journal_mode(SqliteJournalMode::Wal);
    let write = connected(|| pool(1).connect_with(writer.clone()), options).await.map_err(unusable)?;
    let reader = connect.pragma("query_only", "ON");
    let read = connected(|| pool(READERS).connect_with(reader.clone()), options).await.map_err(unusable)?;
    Ok(SqlitePools { write, read, _directory: directory })
}

/// Connects, and tries again while another process is in the way. The change to WAL needs the file for itself, and SQLite
/// answers BUSY at once there instead of waiting as long as it is told to.
async fn connected<F>(connect: impl Fn() -> F, options: &StoreOptions) -> Result<SqlitePool, sqlx::Error>
where
    F: Future<Output = Result<SqlitePool, sqlx::Error>>,
{
    let deadline = Instant::now() + options.acquire_timeout;
    loop {
        match connect().await {
            Err(sqlx::Error::Database(error)) if is_contention(&*error) && Instant::now() < deadline => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            result => return result,
        }
    }
}

pub(super) fn read_row(row: &SqliteRow) -> Result<Row, StoreError> {
    collect_row(row.columns().iter().map(|column| (column.name().to_owned(), read_value(row, column.ordinal()))))
}

fn read_value(row: &SqliteRow, ordinal: usize) -> Result<Value, StoreError> {
    let unreadable = |error: &dyn std::fmt::Display| StoreError::Corrupt(format!("column {ordinal}: {error}"));
    let value = row.try_get_raw(ordinal).map_err(|error| unreadable(&error))?;
    if value.is_null() {
        return Ok(Value::Null);
    }
    let value_type = value.type_info().into_owned();
    match value_type.name() {
        "INTEGER" => <i64 as Decode<'_, Sqlite>>::decode(value).map(Value::Integer),
        "TEXT" => <String as Decode<'_, Sqlite>>::decode(value).map(Value::Text),
        other => Err(format!("its type is {other}").into()),
    }
    .map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_path_as_it_is() {
        assert_eq!(path_of("sqlite:///var/lib/a%20b.db").unwrap(), Path::new("/var/lib/a%20b.db"));
        assert_eq!(path_of("sqlite://here/towline.db").unwrap(), Path::new("here/towline.db"));
        assert_eq!(path_of("sqlite:towline.db").unwrap(), Path::new("towline.db"));
        for wrong in ["sqlite:", "sqlite://", "sqlite://:memory:", "sqlite://towline.db?mode=rwc"] {
            assert!(matches!(path_of(wrong), Err(ConnectError::InvalidUrl(_))), "{wrong}");
        }
    }
}
