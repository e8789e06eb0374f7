//! `towline secret rotate-key`: a new key for everything that is sealed. Works on the database itself, not over the API.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde_json::json;
use towline_control::secrets::rotate::{Rotated, rotate};
use towline_model::Secret;
use towline_store::{Store, StoreOptions};

use crate::{
    client::connect::read_secret_file,
    cmd::{
        Context,
        serve::{SecretsKeyArgs, lock},
    },
    failure::Failure,
};

const EXAMPLE: &str = "\
Example:
  systemctl stop towline
  towline secret rotate-key --data-dir /var/lib/towline
  systemctl start towline

The server must be stopped. The new key is put in front of those in the file before anything is sealed under it, so the \
command can be interrupted and run again. The old keys stay in the file, to read older backups of the database with; with \
--drop-old they are removed when nothing is sealed under them any more. Copy the file to your backup afterwards. Where the \
keys come from TOWLINE_SECRETS_KEY, put a new key in front there, run this, and start the server with it.";

/// Arguments of `towline secret rotate-key`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct RotateArgs {
    /// Where the server keeps its state [default: ~/.local/share/towline].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
    /// The database: sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME [default: SQLite in the data directory].
    #[arg(long, value_name = "URL", conflicts_with = "database_url_file")]
    database_url: Option<Secret<String>>,
    /// A file that holds only the database's URL.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    database_url_file: Option<PathBuf>,
    #[command(flatten)]
    secrets_key: SecretsKeyArgs,
    /// Remove the old keys from the file when nothing is sealed under them any more.
    #[arg(long)]
    drop_old: bool,
}

/// Rotates the key.
///
/// # Errors
/// When a server uses the data directory, a key is lacking, or the database cannot be used.
pub async fn run(args: RotateArgs, context: &Context) -> Result<(), Failure> {
    let data_dir = args.data_dir.unwrap_or_else(|| context.environment.data_dir());
    let _lock = lock(&data_dir)?;
    let url = match (args.database_url, &args.database_url_file) {
        (Some(url), _) => url,
        (None, Some(path)) => read_secret_file(path)?,
        (None, None) => Secret::new(format!("sqlite://{}", data_dir.join("towline.db").display())),
    };
    let cannot = |error: &dyn std::fmt::Display| Failure::new(format!("cannot rotate the key: {error}"));
    let store = Store::connect(&url, StoreOptions::default()).await.map_err(|error| cannot(&error))?;
    let source = args.secrets_key.source(&data_dir);
    let rotated = rotate(&store, &source, args.drop_old).await;
    store.close().await;
    let Rotated { key_id, resealed, kept } = rotated.map_err(|error| cannot(&error))?;
    let shown = json!({"key_id": key_id, "resealed": resealed, "kept_key_ids": kept});
    context.output.show(&shown, || {
        let old =
            if kept.is_empty() { String::new() } else { format!("; older keys that are kept: {}", kept.join(", ")) };
        format!("sealed {resealed} secrets anew under the key {key_id}{old}")
    })
}
