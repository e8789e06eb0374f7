//! A database of its own for every test, on either engine.

use std::{fmt::Write as _, future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use towline_model::Secret;
use towline_store::{Store, StoreOptions};
use uuid::Uuid;

const VARIABLE: &str = "TOWLINE_TEST_POSTGRES_URL";

/// Makes two tests of every named function: one for SQLite, one for PostgreSQL. The function takes a `&Database`.
macro_rules! for_each_engine {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let database = $crate::harness::Database::sqlite();
                $crate::harness::run(database, async |database| super::$test(database).await).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let database = $crate::harness::Database::postgres().await;
                $crate::harness::run(database, async |database| super::$test(database).await).await;
            })*
        }
    };
}
pub(crate) use for_each_engine;

/// An empty database that goes away with the test.
pub(crate) struct Database {
    /// What [`Store::connect`] takes.
    pub(crate) url: Secret<String>,
    place: Place,
}

enum Place {
    File(TempDir),
    Server { admin_url: String, name: String },
}

/// Runs a test and removes its database, also when it panics.
pub(crate) async fn run(database: Database, test: impl AsyncFnOnce(&Database)) {
    let outcome = AssertUnwindSafe(test(&database)).catch_unwind().await;
    database.remove().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("towline.db").display());
        Self { url: Secret::new(url), place: Place::File(directory) }
    }

    pub(crate) async fn postgres() -> Self {
        let admin_url = admin_url();
        let name = format!("towline_test_{}", Uuid::now_v7().simple());
        // template0 has no connections, ever, so that many tests can copy it at the same time.
        administer(&admin_url, format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")).await;
        let url = with_database(&admin_url, &name);
        Self { url: Secret::new(url), place: Place::Server { admin_url, name } }
    }

    pub(crate) const fn is_sqlite(&self) -> bool {
        matches!(self.place, Place::File(_))
    }

    /// Connects as a server does. Every call is another server.
    pub(crate) async fn connect(&self) -> Store {
        Store::connect(&self.url, StoreOptions::default()).await.unwrap()
    }

    /// Runs a statement past the store.
    pub(crate) async fn execute_raw(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        if self.is_sqlite() {
            let mut connection = sqlx::SqliteConnection::connect(self.url.expose()).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        } else {
            let mut connection = PgConnection::connect(self.url.expose()).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }

    async fn remove(self) {
        match self.place {
            Place::File(directory) => directory.close().unwrap(),
            Place::Server { admin_url, name } => {
                administer(&admin_url, format!("DROP DATABASE {name} WITH (FORCE)")).await;
            }
        }
    }
}

async fn administer(admin_url: &str, sql: String) {
    let mut connection = PgConnection::connect(admin_url).await.unwrap_or_else(|error| {
        panic!("the PostgreSQL server that {VARIABLE} names does not answer ({error}); run `cargo xtask test`")
    });
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the one place where the tests are configured")]
fn admin_url() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!(
            "{VARIABLE} is not set, and this test needs a PostgreSQL server; run `cargo xtask test`, which starts one, \
             or set it to the URL of a superuser, such as postgres://postgres:password@127.0.0.1:5432/postgres"
        )
    })
}

/// The same server, user and parameters, another database.
fn with_database(url: &str, name: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL has a scheme");
    let (address, parameters) = rest.split_once('?').map_or((rest, None), |(address, rest)| (address, Some(rest)));
    let authority = address.split_once('/').map_or(address, |(authority, _)| authority);
    let mut other = format!("{scheme}://{authority}/{name}");
    if let Some(parameters) = parameters {
        write!(other, "?{parameters}").expect("writing to a String cannot fail");
    }
    other
}

/// Runs `count` copies of a task at the same time and gives what each came to.
pub(crate) async fn at_once<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        tasks.spawn(task(number));
    }
    tasks.join_all().await
}
