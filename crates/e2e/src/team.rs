//! People and teams that the API of today cannot make: they are written into the database while the server is down.

use std::path::PathBuf;

use towline_model::{
    Clock, CredentialId, KeyKind, RawKey, Role, Scope, Secret, SystemClock, TeamId, Timestamp, UserId,
};
use towline_store::{CredentialRow, MembershipRow, Store, StoreOptions, TeamRow, Tx, UserRow};

use crate::{system::Server, wait::SOON};

/// A second team on a server. Its owner has the password of the first team's owner.
#[derive(Debug, Clone)]
pub struct Team {
    /// Its id.
    pub team_id: String,
    /// Its owner's name at sign-in.
    pub email_address: String,
    /// An integration key.
    pub api_key: String,
    /// An agent key.
    pub agent_key: String,
}

/// Adds a team to a server with SQLite, which is stopped and started again for that.
///
/// # Panics
/// When the database does not take it.
pub async fn add_team(server: &mut Server) -> Team {
    let store = open_while_stopped(server).await;
    let mut tx = store.write().await.expect("the database takes changes");
    let now = SystemClock.now();
    let team_id = TeamId::generate();
    let team = TeamRow { id: team_id, name: "Other".to_owned(), created_at: now };
    tx.insert_team(&team).await.expect("a new team");
    let (user_id, email_address) = add_user(&mut tx, server, now).await;
    tx.insert_membership(&MembershipRow { team_id, user_id, role: Role::Owner }).await.expect("a new member");
    let api_key = add_key(&mut tx, team_id, user_id, KeyKind::Integration, now).await;
    let agent_key = add_key(&mut tx, team_id, user_id, KeyKind::Agent, now).await;
    tx.commit().await.expect("the database keeps changes");
    store.close().await;
    server.start_again().await;
    Team { team_id: team_id.to_string(), email_address, api_key, agent_key }
}

/// Adds a member to the first team and gives its name at sign-in; otherwise as [`add_team`].
///
/// # Panics
/// When the database does not take it.
pub async fn add_member(server: &mut Server, role: Role) -> String {
    let store = open_while_stopped(server).await;
    let mut tx = store.write().await.expect("the database takes changes");
    let (user_id, email_address) = add_user(&mut tx, server, SystemClock.now()).await;
    let team_id = server.bootstrap.team_id.parse().expect("the first team's id");
    tx.insert_membership(&MembershipRow { team_id, user_id, role }).await.expect("a new member");
    tx.commit().await.expect("the database keeps changes");
    store.close().await;
    server.start_again().await;
    email_address
}

async fn open_while_stopped(server: &mut Server) -> Store {
    server.process.terminate(SOON).await;
    let files = std::fs::read_dir(server.directory().join("data")).expect("the data directory");
    let mut paths = files.flatten().map(|file| file.path());
    let path: PathBuf =
        paths.find(|path| path.extension().is_some_and(|name| name == "db")).expect("a database in the data directory");
    let url = Secret::new(format!("sqlite://{}", path.display()));
    Store::connect(&url, StoreOptions::default()).await.expect("the database of the stopped server")
}

async fn add_user(tx: &mut Tx, server: &Server, now: Timestamp) -> (UserId, String) {
    let first = tx.find_user_by_email_address(&server.bootstrap.email_address).await.expect("the database answers");
    let id = UserId::generate();
    let email_address = format!("user-{id}@example.com");
    let password_hash = first.expect("the first owner").password_hash;
    let user = UserRow { id, email_address: email_address.clone(), password_hash, display_name: None, created_at: now };
    tx.insert_user(&user).await.expect("a new user");
    (id, email_address)
}

async fn add_key(tx: &mut Tx, team_id: TeamId, created_by: UserId, kind: KeyKind, now: Timestamp) -> String {
    let key = RawKey::generate(kind, &mut rand::rng());
    let row = CredentialRow {
        id: CredentialId::generate(),
        team_id,
        user_id: None,
        created_by,
        kind,
        display_name: "test".to_owned(),
        key_prefix: key.visible_prefix().to_owned(),
        key_hash: key.hash(),
        scopes: if kind == KeyKind::Integration { Scope::DEFAULT.to_vec() } else { Vec::new() },
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        services: None,
        companion_id: None,
    };
    tx.insert_credential(&row).await.expect("a new key");
    key.expose().clone()
}
