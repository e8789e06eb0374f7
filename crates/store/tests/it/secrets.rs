//! Secrets: one name a team, no lost update, and no reference to what is deleted at the same moment.

use std::collections::BTreeSet;

use serde_json::json;
use towline_model::{SecretId, TeamId};
use towline_store::{Constraint, SecretRow, ServiceRow, Store, StoreError};

use crate::{
    fixtures::{add_secret, add_service, add_team, at, page, secret_row, service_row, spec},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    a_secret_is_read_back_as_it_was,
    a_name_is_taken_once_in_a_team,
    a_secret_that_changed_meanwhile_is_not_overwritten,
    another_teams_secret_is_not_there,
    references_are_found_in_every_document,
    of_a_deletion_and_a_new_reference_one_sees_the_other,
    what_is_under_another_key_is_found,
);

async fn a_secret_is_read_back_as_it_was(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let before = store.revision().await.unwrap();
    let mut secret = add_secret(&store, team.id, "one").await;
    add_secret(&store, team.id, "two").await;
    assert_eq!(store.revision().await.unwrap(), before + 2);
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.find_secret(team.id, secret.id).await.unwrap().as_ref(), Some(&secret));
    let list = tx.list_secrets(team.id, page(1, 1)).await.unwrap();
    assert_eq!((list.items, list.total_count), (vec![secret.clone()], 2));
    drop(tx);

    let mut tx = store.write().await.unwrap();
    secret = SecretRow {
        name: "three".to_owned(),
        description: String::new(),
        key_id: "deadbeef".to_owned(),
        sealed: "1.YW5ldw".to_owned(),
        told_bytes: 70_000,
        updated_at: at(9),
        ..secret
    };
    tx.update_secret(&mut secret).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(secret.version, 2);
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.find_secret(team.id, secret.id).await.unwrap().as_ref(), Some(&secret));
    assert!(tx.secret_sizes(Some(team.id)).await.unwrap().contains(&(secret.id, 70_000)));
    assert!(tx.delete_secret(team.id, secret.id).await.unwrap());
    assert!(!tx.delete_secret(team.id, secret.id).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(store.read().await.unwrap().find_secret(team.id, secret.id).await.unwrap(), None);
}

async fn a_name_is_taken_once_in_a_team(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    add_secret(&store, team.id, "key").await;
    add_secret(&store, other.id, "key").await;
    let mut second = add_secret(&store, team.id, "key2").await;
    let taken = |result: &Result<(), StoreError>| {
        matches!(result, Err(StoreError::Conflict { constraint: Constraint::SecretName }))
    };
    let refused = store.write().await.unwrap().insert_secret(&secret_row(team.id, "key")).await;
    assert!(taken(&refused), "{refused:?}");
    second.name = "key".to_owned();
    let refused = store.write().await.unwrap().update_secret(&mut second).await;
    assert!(taken(&refused), "{refused:?}");
    let refused = store.write().await.unwrap().insert_secret(&secret_row(TeamId::generate(), "key")).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
}

async fn a_secret_that_changed_meanwhile_is_not_overwritten(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut mine = add_secret(&store, team.id, "key").await;
    let mut theirs = mine.clone();
    theirs.sealed = "1.dGhlaXJz".to_owned();
    let mut tx = store.write().await.unwrap();
    tx.update_secret(&mut theirs).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.write().await.unwrap();
    assert!(matches!(tx.update_secret(&mut mine).await, Err(StoreError::Concurrent)));
    assert_eq!(tx.find_secret(team.id, mine.id).await.unwrap(), Some(theirs));
}

async fn another_teams_secret_is_not_there(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let secret = add_secret(&store, team.id, "key").await;
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.find_secret(other.id, secret.id).await.unwrap(), None);
    assert_eq!(tx.lock_secrets(other.id, &BTreeSet::from([secret.id])).await.unwrap(), []);
    assert!(!tx.delete_secret(other.id, secret.id).await.unwrap());
    let mut stolen = SecretRow { team_id: other.id, ..secret.clone() };
    assert!(matches!(tx.update_secret(&mut stolen).await, Err(StoreError::Concurrent)));
    assert_eq!(tx.list_secrets(other.id, page(1, 20)).await.unwrap().total_count, 0);
    assert_eq!(tx.secret_sizes(Some(other.id)).await.unwrap(), []);
    assert_eq!(tx.secret_sizes(None).await.unwrap(), [(secret.id, 9)]);
}

fn referring(team_id: TeamId, slug: &str, secret: SecretId) -> ServiceRow {
    let mut row = service_row(team_id, slug);
    row.spec.registry_auth_secret_id = Some(secret);
    row
}

async fn references_are_found_in_every_document(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let id = SecretId::generate();
    add_service(&store, team.id, "none").await;
    let in_env = json!([{"env_name": "A", "secret_id": id}]);
    let mut rows = vec![
        referring(team.id, "registry", id),
        service_row(team.id, "env"),
        service_row(team.id, "deployed"),
        service_row(team.id, "previous"),
        referring(other.id, "theirs", id),
    ];
    rows[1].spec.env_config = serde_json::from_value(in_env.clone()).unwrap();
    rows[2].deployed_spec = Some(rows[1].spec.clone());
    let mut previous = serde_json::to_value(spec("previous")).unwrap();
    previous["external_auth_credential_id"] = json!(id);
    rows[3].rollout = Some(json!({"generation": 1, "previous": {"generation": 0, "spec": previous}}));
    let mut tx = store.write().await.unwrap();
    for row in &rows {
        tx.insert_service(row).await.unwrap();
    }
    let found = tx.services_with_secrets(team.id).await.unwrap();
    let slugs: BTreeSet<_> = found.iter().map(|row| row.spec.service_slug.as_str()).collect();
    assert_eq!(slugs, BTreeSet::from(["registry", "env", "deployed", "previous"]));
}

/// Refers to the secret from a new service. Tells whether it was there.
async fn refer(store: &Store, team: TeamId, secret: SecretId) -> bool {
    let mut tx = store.write().await.unwrap();
    if tx.lock_secrets(team, &BTreeSet::from([secret])).await.unwrap().is_empty() {
        return false;
    }
    // Somebody else gets the time to do the wrong thing.
    tokio::task::yield_now().await;
    tx.insert_service(&referring(team, &format!("s-{secret}"), secret)).await.unwrap();
    tx.commit().await.unwrap();
    true
}

/// Deletes the secret if nothing refers to it. Tells whether it did.
async fn delete(store: &Store, team: TeamId, secret: SecretId) -> bool {
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.lock_secrets(team, &BTreeSet::from([secret])).await.unwrap().len(), 1);
    let services = tx.services_with_secrets(team).await.unwrap();
    if services.iter().any(|row| row.spec.registry_auth_secret_id == Some(secret)) {
        return false;
    }
    tokio::task::yield_now().await;
    tx.delete_secret(team, secret).await.unwrap();
    tx.commit().await.unwrap();
    true
}

async fn of_a_deletion_and_a_new_reference_one_sees_the_other(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await.id;
    for round in 0..20 {
        let secret = add_secret(&store, team, &format!("key-{round}")).await.id;
        let done = at_once(2, |number| {
            let store = store.clone();
            async move {
                if number == round % 2 { refer(&store, team, secret).await } else { delete(&store, team, secret).await }
            }
        })
        .await;
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "round {round}: {done:?}");
        let exists = store.read().await.unwrap().find_secret(team, secret).await.unwrap().is_some();
        let services = store.read().await.unwrap().services_with_secrets(team).await.unwrap();
        let is_referred_to = services.iter().any(|row| row.spec.registry_auth_secret_id == Some(secret));
        assert_eq!(exists, is_referred_to, "round {round}");
    }
}

async fn what_is_under_another_key_is_found(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.sealing_keys_in_use().await.unwrap(), Vec::<String>::new());
    let mut old = Vec::new();
    for number in 0..3 {
        let mut row = secret_row(team.id, &format!("key-{number}"));
        row.key_id = if number == 1 { "deadbeef" } else { "0badcafe" }.to_owned();
        tx.insert_secret(&row).await.unwrap();
        old.extend((number != 1).then_some(row));
    }
    old.sort_by_key(|row| row.id);
    assert_eq!(tx.sealing_keys_in_use().await.unwrap(), ["0badcafe", "deadbeef"]);
    assert_eq!(tx.secrets_not_under("deadbeef", 1).await.unwrap(), old[..1]);
    assert_eq!(tx.secrets_not_under("deadbeef", 9).await.unwrap(), old);
}
