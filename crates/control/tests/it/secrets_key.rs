//! The keys of secrets: made once, needed for ever, rotated.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use serde_json::json;
use tokio::net::TcpListener;
use towline_control::{
    Server, ServerConfig, StartError,
    secrets::{KeyRing, KeySource, Vault, rotate::rotate},
};
use towline_model::{Secret, SecretId, SystemClock};
use towline_store::{SecretRow, Store};

use crate::support::{TestServer, start};

async fn refused(config: &ServerConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    match Server::start(config.clone(), listener, Arc::new(SystemClock)).await {
        Err(error @ StartError::SecretsKey(_)) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it started"),
    }
}

async fn store_secret(server: &TestServer, name: &str) {
    let body = json!({"name": name, "value": format!("value of {name}")});
    server.post(&server.owner(), "/api/v1/secrets", &body).await.json(201);
}

async fn rows(store: &Store) -> Vec<SecretRow> {
    let mut rows = store.read().await.unwrap().secrets_not_under("", 1000).await.unwrap();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

fn vault(source: &KeySource) -> Vault {
    Vault::new(KeyRing::load(source, &[]).unwrap())
}

#[tokio::test]
async fn a_server_without_the_key_of_what_is_sealed_refuses_to_start() {
    let server = TestServer::start().await;
    let path = server.config.data_dir.join("secrets.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    store_secret(&server, "one").await;
    let config = server.config.clone();
    let kept = server.stop().await;
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let error = refused(&config).await;
    assert!(error.contains("secrets.key") && error.contains("backup"), "{error}");
    assert!(!path.exists(), "no new key is made");
    // Somebody else's key does not help, and says which is missing.
    let other = tempfile::tempdir().unwrap();
    KeyRing::load(&KeySource::in_data_dir(other.path()), &[]).unwrap();
    fs::copy(other.path().join("secrets.key"), &path).unwrap();
    let id = text.lines().last().unwrap().split(':').next().unwrap();
    let error = refused(&config).await;
    assert!(error.contains(&format!("lacks the key {id}")), "{error}");
    // Given from outside, the file is not needed.
    let given = ServerConfig { secrets_key: KeySource::Given(Secret::new(text.clone())), ..config.clone() };
    start(&given).await.shutdown().await;
    fs::write(&path, text).unwrap();
    start(&config).await.shutdown().await;
    drop(kept);
}

#[tokio::test]
async fn a_row_that_was_moved_does_not_open() {
    let server = TestServer::start().await;
    store_secret(&server, "one").await;
    let row = rows(server.server.store()).await.remove(0);
    let vault = vault(&server.config.secrets_key);
    assert_eq!(vault.open(&row).unwrap().expose(), "value of one");
    for moved in
        [SecretRow { team_id: server.theirs.id, ..row.clone() }, SecretRow { id: SecretId::generate(), ..row.clone() }]
    {
        assert!(vault.open(&moved).unwrap_err().to_string().contains("moved"));
    }
    let stranger = tempfile::tempdir().unwrap();
    let other = self::vault(&KeySource::in_data_dir(stranger.path()));
    let error = other.open(&row).unwrap_err().to_string();
    assert!(error.contains(&row.key_id) && !error.contains("value of"), "{error}");
}

#[tokio::test]
async fn rotating_seals_everything_anew_and_can_be_read_meanwhile() {
    let server = TestServer::start().await;
    for number in 0..250 {
        let name = format!("secret-{number:03}");
        let (id, team_id) = (SecretId::generate(), server.ours.id);
        let sealed = vault(&server.config.secrets_key).seal(team_id, id, &Secret::new(format!("value of {name}")));
        let (key_id, sealed, description) = (sealed.key_id, sealed.text, String::new());
        let at = towline_model::Timestamp::from_micros(1);
        let row = SecretRow {
            id,
            team_id,
            name,
            description,
            key_id,
            sealed,
            told_bytes: 1,
            version: 1,
            created_at: at,
            updated_at: at,
        };
        let mut tx = server.server.store().write().await.unwrap();
        tx.insert_secret(&row).await.unwrap();
        tx.commit().await.unwrap();
    }
    let (config, store) = (server.config.clone(), server.server.store().clone());
    let before = rows(&store).await;
    let mut rotating = Box::pin(rotate(&store, &config.secrets_key, false));
    let rotated = loop {
        tokio::select! {
            biased;
            rotated = &mut rotating => break rotated.unwrap(),
            rows = rows(&store) => {
                // The keys are in the file before anything is sealed under them.
                let vault = vault(&config.secrets_key);
                for row in rows {
                    assert_eq!(vault.open(&row).unwrap().expose(), &format!("value of {}", row.name));
                }
            }
        }
    };
    let after = rows(&store).await;
    assert_eq!((rotated.resealed, after.len()), (250, 250));
    assert_eq!(rotated.kept, [before[0].key_id.clone()]);
    let vault = vault(&config.secrets_key);
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((&old.id, &old.updated_at), (&new.id, &new.updated_at), "to its users nothing has changed");
        assert!(new.key_id == rotated.key_id && new.sealed != old.sealed);
        assert_eq!(vault.open(new).unwrap().expose(), &format!("value of {}", new.name));
        assert!(vault.open(old).is_ok(), "a restored backup can still be read");
    }
    let again = rotate(&store, &config.secrets_key, true).await.unwrap();
    assert_eq!((again.resealed, again.kept), (250, Vec::new()));
    assert!(self::vault(&config.secrets_key).open(&before[0]).is_err(), "the old keys are gone");
    let kept = server.stop().await;
    start(&config).await.shutdown().await;
    drop(kept);
}

#[tokio::test]
async fn of_given_keys_the_first_takes_over() {
    let server = TestServer::start().await;
    store_secret(&server, "one").await;
    let line = |directory: &std::path::Path| {
        let text = fs::read_to_string(directory.join("secrets.key")).unwrap();
        text.lines().last().unwrap().to_owned()
    };
    let other = tempfile::tempdir().unwrap();
    KeyRing::load(&KeySource::in_data_dir(other.path()), &[]).unwrap();
    let (old, new) = (line(&server.config.data_dir), line(other.path()));
    let store = server.server.store();
    let error = rotate(store, &KeySource::Given(Secret::new(new.clone())), false).await.unwrap_err().to_string();
    assert!(error.contains("lacks the key"), "{error}");
    let rotated = rotate(store, &KeySource::Given(Secret::new(format!("{new},{old}"))), false).await.unwrap();
    assert_eq!((rotated.resealed, rotated.key_id.as_str()), (1, new.split(':').next().unwrap()));
    let row = rows(store).await.remove(0);
    assert_eq!(vault(&KeySource::Given(Secret::new(new))).open(&row).unwrap().expose(), "value of one");
}
