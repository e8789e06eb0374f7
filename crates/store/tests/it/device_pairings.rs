//! Devices that wait to be let in.

use towline_model::PairingId;
use towline_store::{Constraint, DevicePairingRow, PairedWith, StoreError};

use crate::{
    fixtures::{Team, add_team, at},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    a_pairing_is_found_until_it_expires,
    codes_are_unique,
    a_pairing_is_confirmed_once,
    a_confirmed_pairing_is_taken_once,
    a_pairing_ends_with_the_membership_and_with_the_team,
);

fn row(number: u8) -> DevicePairingRow {
    DevicePairingRow {
        id: PairingId::generate(),
        device_code_hash: [number; 32],
        user_code_hash: [100 + number; 32],
        created_at: at(0),
        expires_at: at(100),
        paired_with: None,
    }
}

fn with(team: Team) -> PairedWith {
    PairedWith { team_id: team.id, user_id: team.owner, device_name: "Ada’s laptop".to_owned() }
}

async fn a_pairing_is_found_until_it_expires(database: &Database) {
    let store = database.connect().await;
    let (waiting, confirmed) =
        (row(1), DevicePairingRow { paired_with: Some(with(add_team(&store).await)), expires_at: at(50), ..row(2) });
    let before = store.revision().await.unwrap();
    let mut tx = store.write().await.unwrap();
    tx.insert_device_pairing(&waiting).await.unwrap();
    tx.insert_device_pairing(&confirmed).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before, "no gateway needs to know");
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.find_device_pairing([1; 32], at(99)).await.unwrap().as_ref(), Some(&waiting));
    assert_eq!(tx.find_device_pairing([1; 32], at(100)).await.unwrap(), None);
    assert_eq!(tx.find_device_pairing([2; 32], at(1)).await.unwrap().as_ref(), Some(&confirmed));
    assert_eq!(tx.find_device_pairing([101; 32], at(1)).await.unwrap(), None, "a user code is no device code");
    assert_eq!(tx.count_device_pairings().await.unwrap(), 2);
    assert_eq!(tx.prune_device_pairings(at(50)).await.unwrap(), 1);
    assert_eq!(tx.count_device_pairings().await.unwrap(), 1);
    assert_eq!(tx.take_confirmed_device_pairing([1; 32], at(1)).await.unwrap(), None, "nobody has confirmed it");
}

async fn codes_are_unique(database: &Database) {
    let store = database.connect().await;
    let mut tx = store.write().await.unwrap();
    tx.insert_device_pairing(&row(1)).await.unwrap();
    tx.commit().await.unwrap();
    for twin in [
        DevicePairingRow { user_code_hash: [9; 32], ..row(1) },
        DevicePairingRow { device_code_hash: [9; 32], ..row(1) },
    ] {
        let refused = store.write().await.unwrap().insert_device_pairing(&twin).await;
        assert!(matches!(refused, Err(StoreError::Conflict { constraint: Constraint::PairingCode })), "{refused:?}");
    }
}

async fn a_pairing_is_confirmed_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut tx = store.write().await.unwrap();
    tx.insert_device_pairing(&row(1)).await.unwrap();
    tx.insert_device_pairing(&row(2)).await.unwrap();
    let paired = with(team);
    assert_eq!(tx.confirm_device_pairing([9; 32], &paired, at(1), at(31)).await.unwrap(), None);
    assert_eq!(tx.confirm_device_pairing([101; 32], &paired, at(100), at(130)).await.unwrap(), None, "too late");
    let late = tx.confirm_device_pairing([102; 32], &paired, at(99), at(129)).await.unwrap().unwrap();
    assert_eq!(late.expires_at, at(129), "there is time to fetch the keys");
    tx.commit().await.unwrap();
    let outcomes = at_once(10, |_| {
        let (store, paired) = (store.clone(), with(team));
        async move {
            let mut tx = store.write().await.unwrap();
            let confirmed = tx.confirm_device_pairing([101; 32], &paired, at(1), at(31)).await.unwrap();
            tx.commit().await.unwrap();
            confirmed
        }
    })
    .await;
    let confirmed: Vec<_> = outcomes.into_iter().flatten().collect();
    assert_eq!(confirmed.len(), 1);
    assert_eq!((&confirmed[0].paired_with, confirmed[0].expires_at), (&Some(paired), at(100)), "never shortened");
}

async fn a_confirmed_pairing_is_taken_once(database: &Database) {
    let store = database.connect().await;
    let confirmed = DevicePairingRow { paired_with: Some(with(add_team(&store).await)), ..row(1) };
    let mut tx = store.write().await.unwrap();
    tx.insert_device_pairing(&confirmed).await.unwrap();
    assert_eq!(tx.take_confirmed_device_pairing([1; 32], at(100)).await.unwrap(), None, "too late");
    tx.commit().await.unwrap();
    let outcomes = at_once(10, |_| {
        let store = store.clone();
        async move {
            let mut tx = store.write().await.unwrap();
            let taken = tx.take_confirmed_device_pairing([1; 32], at(1)).await.unwrap();
            tx.commit().await.unwrap();
            taken
        }
    })
    .await;
    assert_eq!(outcomes.into_iter().flatten().collect::<Vec<_>>(), [confirmed]);
}

async fn a_pairing_ends_with_the_membership_and_with_the_team(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let mut tx = store.write().await.unwrap();
    for (number, team) in [(1, Some(team)), (2, Some(other)), (3, None)] {
        tx.insert_device_pairing(&DevicePairingRow { paired_with: team.map(with), ..row(number) }).await.unwrap();
    }
    tx.delete_device_pairings_of(team.id, other.owner).await.unwrap();
    assert_eq!(tx.count_device_pairings().await.unwrap(), 3);
    tx.delete_device_pairings_of(team.id, team.owner).await.unwrap();
    assert_eq!(tx.count_device_pairings().await.unwrap(), 2);
    tx.begin_team_end(other.id, at(1)).await.unwrap();
    assert_eq!(tx.count_device_pairings().await.unwrap(), 1, "what nobody has confirmed belongs to no team");
}
