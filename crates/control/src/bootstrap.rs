//! The first start: an owner, a team and the first keys, and the file that tells them.
//!
//! The file is complete on disk before the database commits, and gets its name after that. So either the database is
//! still empty and everything is done anew, or the file is there, under one name or the other.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::json;
use towline_model::{AuditAction, Clock, KeyKind, Role, Secret, TeamId, Timestamp, UserId};
use towline_store::{MembershipRow, Store, StoreError, TeamRow, Tx, UserRow};

use crate::{
    app::{
        audit::{Deed, record_first_start},
        credential::NewCredential,
        password::{Busy, Passwords},
    },
    private_file::{self, Staged},
};

const FILE_NAME: &str = "bootstrap.json";
const EMAIL_ADDRESS: &str = "owner@towline.local";
const TEAM_NAME: &str = "default";

/// What the first start made.
#[derive(Debug, Clone, Deserialize)]
pub struct Bootstrap {
    /// Where the server is reached.
    pub url: String,
    /// The first team.
    pub team_id: TeamId,
    /// Its owner's e-mail address.
    pub email_address: String,
    /// Its owner's password.
    pub user_password: Secret<String>,
    /// An integration key of the team.
    pub api_key: Secret<String>,
    /// An agent key of the team.
    pub agent_key: Secret<String>,
}

/// Why the first start failed.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file cannot be read or written.
    #[error("cannot write {}: {source}; check that this user may write there", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The password cannot be hashed at the moment.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the first start works with.
pub(crate) struct FirstStart<'a> {
    pub(crate) store: &'a Store,
    pub(crate) passwords: &'a Passwords,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) data_dir: &'a Path,
    pub(crate) url: &'a str,
}

impl Bootstrap {
    fn to_json(&self) -> Vec<u8> {
        let document = json!({
            "url": self.url,
            "team_id": self.team_id,
            "email_address": self.email_address,
            "user_password": self.user_password.expose(),
            "api_key": self.api_key.expose(),
            "agent_key": self.agent_key.expose(),
        });
        let mut text = serde_json::to_vec_pretty(&document).expect("a value is JSON");
        text.push(b'\n');
        text
    }
}

impl FirstStart<'_> {
    /// Fills an empty database and writes the file. Of a database that is not empty it gives what the file says, with its
    /// URL brought up to date; `None` when there is no file (any more).
    pub(crate) async fn run(&self) -> Result<Option<Bootstrap>, BootstrapError> {
        let now = self.clock.now();
        let mut tx = self.store.write().await?;
        if !tx.claim_bootstrap(now).await? {
            drop(tx);
            return self.existing().await;
        }
        let password = Secret::new(format!("{:032x}", rand::random::<u128>()));
        let password_hash = self.passwords.hash(password.clone()).await?;
        let bootstrap = self.fill(&mut tx, password, password_hash, now).await?;
        let staged = Staged::write(&self.path(), &bootstrap.to_json()).map_err(|error| self.io(error))?;
        tx.commit().await?;
        staged.publish().map_err(|error| self.io(error))?;
        Ok(Some(bootstrap))
    }

    async fn fill(
        &self,
        tx: &mut Tx,
        user_password: Secret<String>,
        password_hash: Secret<String>,
        now: Timestamp,
    ) -> Result<Bootstrap, StoreError> {
        let (team_id, user_id) = (TeamId::generate(), UserId::generate());
        tx.insert_team(&TeamRow { id: team_id, name: TEAM_NAME.to_owned(), created_at: now }).await?;
        let team_made = Deed::new(AuditAction::TeamCreate, team_id, TEAM_NAME);
        record_first_start(tx, Some(team_id), team_made, now).await?;
        let email_address = EMAIL_ADDRESS.to_owned();
        let user = UserRow {
            id: user_id,
            email_address: email_address.clone(),
            password_hash,
            display_name: None,
            created_at: now,
        };
        tx.insert_user(&user).await?;
        let user_made = Deed::new(AuditAction::UserCreate, user_id, EMAIL_ADDRESS);
        record_first_start(tx, None, user_made, now).await?;
        tx.insert_membership(&MembershipRow { team_id, user_id, role: Role::Owner }).await?;
        let api_key = insert_key(tx, KeyKind::Integration, team_id, user_id, now).await?;
        let agent_key = insert_key(tx, KeyKind::Agent, team_id, user_id, now).await?;
        Ok(Bootstrap { url: self.url.to_owned(), team_id, email_address, user_password, api_key, agent_key })
    }

    async fn existing(&self) -> Result<Option<Bootstrap>, BootstrapError> {
        let path = self.path();
        if let Some(bootstrap) = read(&path).map_err(|error| self.io(error))? {
            return self.with_current_url(bootstrap).map(Some);
        }
        // The last start may have ended between the commit and the file's last step.
        let staged = Staged::path_for(&path);
        let Some(bootstrap) = read(&staged).map_err(|error| self.io(error))? else { return Ok(None) };
        if self.store.read().await?.find_team(bootstrap.team_id).await?.is_none() {
            return Ok(None);
        }
        private_file::write(&path, &bootstrap.to_json()).map_err(|error| self.io(error))?;
        self.with_current_url(bootstrap).map(Some)
    }

    /// A server that takes any free port has another one each time.
    fn with_current_url(&self, bootstrap: Bootstrap) -> Result<Bootstrap, BootstrapError> {
        if bootstrap.url == self.url {
            return Ok(bootstrap);
        }
        let bootstrap = Bootstrap { url: self.url.to_owned(), ..bootstrap };
        private_file::write(&self.path(), &bootstrap.to_json()).map_err(|error| self.io(error))?;
        Ok(bootstrap)
    }

    fn path(&self) -> PathBuf {
        self.data_dir.join(FILE_NAME)
    }

    fn io(&self, source: io::Error) -> BootstrapError {
        BootstrapError::Io { path: self.path(), source }
    }
}

/// The file's content; `None` when there is no file, or something else in its place.
fn read(path: &Path) -> io::Result<Option<Bootstrap>> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn insert_key(
    tx: &mut Tx,
    kind: KeyKind,
    team_id: TeamId,
    created_by: UserId,
    now: Timestamp,
) -> Result<Secret<String>, StoreError> {
    let display_name = "first start".to_owned();
    let wished = NewCredential { kind, display_name, expires_in_days: None, scopes: None, services: None };
    let made = wished.make(team_id, created_by, now);
    tx.insert_credential(&made.row).await?;
    record_first_start(tx, Some(team_id), made.deed(), now).await?;
    Ok(Secret::new(made.key.expose().clone()))
}
