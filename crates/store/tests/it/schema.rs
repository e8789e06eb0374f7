//! One list of migrations makes the same schema on both engines.

use std::collections::BTreeSet;

use sqlx::{Connection as _, Row as _};

use crate::harness::{Database, run};

/// A table, one of its columns, its type, whether it may be NULL.
type Columns = BTreeSet<(String, String, String, bool)>;

async fn sqlite_columns(database: &Database) -> Columns {
    let mut connection = sqlx::SqliteConnection::connect(database.url.expose()).await.unwrap();
    let rows = sqlx::query(
        "SELECT t.name AS \"table\", c.name AS \"column\", c.type AS type, c.\"notnull\" AS required \
         FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let columns = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get::<i64, _>(3) == 0));
    columns.collect()
}

async fn postgres_columns(database: &Database) -> Columns {
    let mut connection = sqlx::PgConnection::connect(database.url.expose()).await.unwrap();
    let rows = sqlx::query(
        "SELECT table_name::text, column_name::text, upper(data_type), is_nullable = 'YES' \
         FROM information_schema.columns WHERE table_schema = 'public'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

/// The indexes that were made by name, with their tables. Those that constraints make have names of the engines' own.
async fn sqlite_indexes(database: &Database) -> BTreeSet<(String, String)> {
    let mut connection = sqlx::SqliteConnection::connect(database.url.expose()).await.unwrap();
    let sql = "SELECT tbl_name, name FROM sqlite_schema WHERE type = 'index' AND name NOT LIKE 'sqlite_autoindex%'";
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn postgres_indexes(database: &Database) -> BTreeSet<(String, String)> {
    let mut connection = sqlx::PgConnection::connect(database.url.expose()).await.unwrap();
    let sql = "SELECT tablename::text, indexname::text FROM pg_indexes WHERE schemaname = 'public' \
               AND indexname NOT IN (SELECT conname FROM pg_constraint)";
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn both_engines_have_the_same_tables_columns_and_indexes() {
    run(Database::postgres().await, async |postgres| {
        run(Database::sqlite(), async |sqlite| {
            sqlite.connect().await.close().await;
            postgres.connect().await.close().await;
            let columns = sqlite_columns(sqlite).await;
            assert!(columns.len() > 80, "{columns:?}");
            assert_eq!(columns, postgres_columns(postgres).await);
            let types: BTreeSet<_> = columns.iter().map(|column| column.2.as_str()).collect();
            assert_eq!(types, BTreeSet::from(["BIGINT", "TEXT"]), "the types that both engines mean the same by");
            let indexes = sqlite_indexes(sqlite).await;
            assert!(indexes.len() > 8, "{indexes:?}");
            assert_eq!(indexes, postgres_indexes(postgres).await);
        })
        .await;
    })
    .await;
}
