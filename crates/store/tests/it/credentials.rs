//! Keys: listed, revoked, and handed to the gateway's snapshot.

use std::collections::BTreeSet;

use towline_model::{CredentialId, KeyKind, Scope, ServiceId, TeamId, UserId};
use towline_store::{Constraint, CredentialRow, Store, StoreError};

use crate::{
    fixtures::{add_team, at, credential_row, page},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    a_key_is_read_back_as_it_was,
    a_key_exists_once,
    pages_are_stable_and_the_newest_come_first,
    a_key_is_revoked_once_and_only_by_its_team,
    the_snapshot_holds_what_opens_something,
    the_time_of_use_only_moves_forward,
    a_companion_ends_with_its_device,
);

async fn add(store: &Store, credential: &CredentialRow) {
    let mut tx = store.write().await.unwrap();
    tx.insert_credential(credential).await.unwrap();
    tx.commit().await.unwrap();
}

async fn a_key_is_read_back_as_it_was(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    for kind in KeyKind::ALL {
        let credential = CredentialRow {
            scopes: if kind == KeyKind::Agent { vec![] } else { Scope::ALL.to_vec() },
            expires_at: Some(at(9)),
            last_used_at: Some(at(3)),
            services: (kind == KeyKind::Integration).then(|| vec![ServiceId::generate(), ServiceId::generate()]),
            ..credential_row(team, kind)
        };
        let before = store.revision().await.unwrap();
        add(&store, &credential).await;
        assert_eq!(store.revision().await.unwrap(), before + 1);
        let mut tx = store.read().await.unwrap();
        assert_eq!(tx.find_credential(team.id, credential.id).await.unwrap().as_ref(), Some(&credential));
        assert_eq!(tx.find_credential(TeamId::generate(), credential.id).await.unwrap(), None);
    }
}

async fn a_key_exists_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let first = credential_row(team, KeyKind::Integration);
    add(&store, &first).await;
    let same_key = CredentialRow { id: CredentialId::generate(), ..first.clone() };
    let refused = store.write().await.unwrap().insert_credential(&same_key).await;
    assert!(matches!(refused, Err(StoreError::Conflict { constraint: Constraint::CredentialHash })), "{refused:?}");
    let same_id = CredentialRow { id: first.id, ..credential_row(team, KeyKind::Integration) };
    let refused = store.write().await.unwrap().insert_credential(&same_id).await;
    assert!(matches!(refused, Err(StoreError::Conflict { constraint: Constraint::Id })), "{refused:?}");
    let nobodys = CredentialRow { created_by: UserId::generate(), ..credential_row(team, KeyKind::Integration) };
    let refused = store.write().await.unwrap().insert_credential(&nobodys).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
}

async fn pages_are_stable_and_the_newest_come_first(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    add(&store, &credential_row(other_team, KeyKind::Integration)).await;
    let mut expected = Vec::new();
    for number in 0..12 {
        let kind = if number % 3 == 0 { KeyKind::Agent } else { KeyKind::Integration };
        // Three at a time have the same age: then the id decides.
        let credential = CredentialRow { created_at: at(number / 3), ..credential_row(team, kind) };
        add(&store, &credential).await;
        expected.push(credential);
    }
    expected.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));

    let mut tx = store.read().await.unwrap();
    let mut seen = Vec::new();
    for number in 1..=3 {
        let listed = tx.list_credentials(team.id, None, page(number, 5)).await.unwrap();
        assert_eq!(listed.total_count, 12);
        seen.extend(listed.items);
    }
    assert_eq!(seen, expected);
    let behind = tx.list_credentials(team.id, None, page(4, 5)).await.unwrap();
    assert_eq!((behind.items.len(), behind.total_count), (0, 12));
    let far_behind = tx.list_credentials(team.id, None, page(u32::MAX, u32::MAX)).await.unwrap();
    assert_eq!(far_behind.items.len(), 0);
    let agents = tx.list_credentials(team.id, Some(KeyKind::Agent), page(1, 100)).await.unwrap();
    assert_eq!(agents.total_count, 4);
    assert!(agents.items.iter().all(|row| row.kind == KeyKind::Agent));
    assert_eq!(tx.count_credentials(team.id, Some(KeyKind::Device)).await.unwrap(), 0);
}

async fn a_key_is_revoked_once_and_only_by_its_team(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    let credential = credential_row(team, KeyKind::Integration);
    add(&store, &credential).await;
    let before = store.revision().await.unwrap();
    let revoke = |store: Store, team_id: TeamId| async move {
        let mut tx = store.write().await.unwrap();
        let revoked = tx.revoke_credential(team_id, credential.id, at(5)).await.unwrap();
        tx.commit().await.unwrap();
        revoked
    };
    assert!(!revoke(store.clone(), other_team.id).await);
    let outcomes = at_once(20, |_| revoke(store.clone(), team.id)).await;
    assert_eq!(outcomes.into_iter().filter(|&revoked| revoked).count(), 1);
    assert_eq!(store.revision().await.unwrap(), before + 1);
    let mut tx = store.read().await.unwrap();
    let found = tx.find_credential(team.id, credential.id).await.unwrap().unwrap();
    assert_eq!(found.revoked_at, Some(at(5)));
    assert_eq!(tx.list_credentials(team.id, None, page(1, 20)).await.unwrap().items, []);
}

async fn the_snapshot_holds_what_opens_something(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let lasting = credential_row(team, KeyKind::Integration);
    let expiring = CredentialRow { expires_at: Some(at(10)), ..credential_row(team, KeyKind::Device) };
    let expired = CredentialRow { expires_at: Some(at(5)), ..credential_row(team, KeyKind::Integration) };
    let revoked = CredentialRow { revoked_at: Some(at(1)), ..credential_row(team, KeyKind::Agent) };
    for credential in [&lasting, &expiring, &expired, &revoked] {
        add(&store, credential).await;
    }
    let mut active = store.read().await.unwrap().active_credentials(at(5)).await.unwrap();
    active.sort_by_key(|row| row.id);
    assert_eq!(active, [lasting, expiring]);
}

async fn the_time_of_use_only_moves_forward(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let credential = credential_row(team, KeyKind::Integration);
    add(&store, &credential).await;
    let before = store.revision().await.unwrap();
    for (batch, expected) in [
        (vec![(credential.id, at(5)), (CredentialId::generate(), at(5)), (credential.id, at(7))], at(7)),
        (vec![(credential.id, at(6))], at(7)),
        (vec![], at(7)),
    ] {
        let mut tx = store.write().await.unwrap();
        tx.touch_last_used(&batch).await.unwrap();
        tx.commit().await.unwrap();
        let found = store.read().await.unwrap().find_credential(team.id, credential.id).await.unwrap();
        assert_eq!(found.unwrap().last_used_at, Some(expected));
    }
    assert_eq!(store.revision().await.unwrap(), before, "no gateway needs to know");
}

async fn a_companion_ends_with_its_device(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    let pair = async |team| {
        let agent = credential_row(team, KeyKind::Agent);
        let device = CredentialRow { companion_id: Some(agent.id), ..credential_row(team, KeyKind::Device) };
        add(&store, &agent).await;
        add(&store, &device).await;
        (device.id, agent.id)
    };
    let (first, second, foreign) = (pair(team).await, pair(team).await, pair(other_team).await);
    let lone = credential_row(team, KeyKind::Agent);
    add(&store, &lone).await;
    let active = async || {
        let rows = store.read().await.unwrap().active_credentials(at(1)).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<BTreeSet<_>>()
    };
    let mut tx = store.write().await.unwrap();
    assert!(tx.revoke_credential(team.id, first.0, at(1)).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(active().await, BTreeSet::from([second.0, second.1, foreign.0, foreign.1, lone.id]));
    let before = store.revision().await.unwrap();
    let mut tx = store.write().await.unwrap();
    tx.revoke_companions_of(team.id, team.owner, at(1)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(active().await, BTreeSet::from([second.0, foreign.0, foreign.1, lone.id]));
    assert_eq!(store.revision().await.unwrap(), before + 1);
    let third = pair(team).await;
    let mut tx = store.write().await.unwrap();
    tx.revoke_device_keys_of(team.id, team.owner, at(1)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(active().await, BTreeSet::from([foreign.0, foreign.1, lone.id]));
    let nobody =
        CredentialRow { companion_id: Some(CredentialId::generate()), ..credential_row(team, KeyKind::Device) };
    let refused = store.write().await.unwrap().insert_credential(&nobody).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
    assert!(store.read().await.unwrap().find_credential(team.id, third.1).await.unwrap().unwrap().revoked_at.is_some());
}
