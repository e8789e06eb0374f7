//! The server's own log: what concerns no team. Read from the database itself, since it is for whoever runs the server and
//! no call of the API gives it to anybody.

use serde_json::Value;
use towline_control::http::audit::AuditEntry;
use towline_model::Secret;
use towline_store::{AuditFilter, AuditRow, Page, Position, Store, StoreError, StoreOptions};

use super::AuditArgs;
use crate::{client::connect::read_secret_file, cmd::Context, failure::Failure};

/// How many entries are read at a time when all are.
const PIECE: u32 = 500;

/// Opens the database of the server on this machine, or the one that is named. Its server may run meanwhile.
///
/// # Errors
/// When there is none, or it cannot be used.
pub async fn open(args: &AuditArgs, context: &Context) -> Result<Store, Failure> {
    let url = match (&args.database_url, &args.database_url_file) {
        (Some(url), _) => url.clone(),
        (None, Some(path)) => read_secret_file(path)?,
        (None, None) => {
            let data_dir = args.client.data_dir.clone().unwrap_or_else(|| context.environment.data_dir());
            let path = data_dir.join("towline.db");
            // It would be made.
            if !path.exists() {
                return Err(Failure::new(format!("there is no database of a server at {}", path.display()))
                    .hint("name the server's with --data-dir or --database-url-file"));
            }
            Secret::new(format!("sqlite://{}", path.display()))
        }
    };
    let opened = Store::connect(&url, StoreOptions::default()).await;
    opened.map_err(|error| Failure::new(format!("cannot open the server's database: {error}")))
}

/// The newest entries, the newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn newest(store: &Store, args: &AuditArgs) -> Result<Vec<Value>, Failure> {
    let page = Page { per_page: args.count, ..Page::default() };
    let read = async { store.read().await?.list_audit_entries(None, &filter(args), page).await };
    read.await.map_err(|error| cannot_read(&error))?.items.into_iter().map(shown).collect()
}

/// Writes every entry as a line of JSON, the oldest first.
///
/// # Errors
/// When the database does not answer, or nobody reads what is written.
pub async fn export(store: &Store, args: &AuditArgs, context: &Context) -> Result<(), Failure> {
    let (filter, mut position) = (filter(args), None);
    loop {
        let read = async { store.read().await?.audit_entries_after(None, &filter, position, PIECE).await };
        let piece = read.await.map_err(|error| cannot_read(&error))?;
        let Some(last) = piece.last() else { return Ok(()) };
        position = Some(Position { at: last.at, id: last.id });
        for row in piece {
            context.output.bytes(format!("{}\n", shown(row)?).as_bytes())?;
        }
    }
}

fn filter(args: &AuditArgs) -> AuditFilter {
    AuditFilter {
        action: args.action.clone(),
        target_id: args.target.clone(),
        user_id: args.user,
        credential_id: args.credential,
        since: args.since,
        until: args.until,
    }
}

fn shown(row: AuditRow) -> Result<Value, Failure> {
    serde_json::to_value(AuditEntry::from(row)).map_err(|error| Failure::new(format!("cannot show an entry: {error}")))
}

fn cannot_read(error: &StoreError) -> Failure {
    Failure::new(format!("cannot read the server's log: {error}"))
}
