//! What an engine's error means.

use sqlx::error::{DatabaseError, ErrorKind};

use crate::{Constraint, StoreError};

/// SQLSTATEs of PostgreSQL that mean "another transaction was in the way": serialization failure, deadlock, lock not
/// available.
const POSTGRES_CONTENTION: [&str; 3] = ["40001", "40P01", "55P03"];

/// Primary result codes of SQLite that mean the same: BUSY, LOCKED.
const SQLITE_CONTENTION: [i32; 2] = [5, 6];

/// What an error means to a caller who does not know the engine.
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    if let sqlx::Error::Database(database) = &error {
        match database.kind() {
            ErrorKind::UniqueViolation => return StoreError::Conflict { constraint: violated(&**database) },
            ErrorKind::ForeignKeyViolation => return StoreError::NotFound,
            _ if is_contention(&**database) => return StoreError::Concurrent,
            _ => {}
        }
    }
    StoreError::Unavailable(Box::new(error))
}

/// PostgreSQL names the constraint, SQLite the columns.
fn violated(error: &dyn DatabaseError) -> Constraint {
    error.constraint().map_or_else(
        || Constraint::of_columns(error.message().trim_start_matches("UNIQUE constraint failed: ")),
        Constraint::of_name,
    )
}

/// Whether another transaction, or another process, was in the way.
pub(super) fn is_contention(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // The low byte of an extended result code is the primary one.
        return code.parse::<i32>().is_ok_and(|code| SQLITE_CONTENTION.contains(&(code & 0xff)));
    }
    POSTGRES_CONTENTION.contains(&&*code)
}

/// The whole story of an error in one line, for errors that are shown to an operator.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        // sqlx repeats the source in its own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}
