//! Idempotency keys: taken once, answered once, given back, forgotten; and lists that grow while they are walked.

use std::collections::BTreeSet;

use towline_store::{IdempotencyRow, Store};

use crate::{
    fixtures::{add_service, add_team, at, page},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    of_many_claims_at_once_one_holds,
    an_answer_is_kept_and_a_key_can_be_given_back,
    old_keys_are_forgotten,
    a_key_without_an_answer_is_taken_over_once_and_stays_taken,
    keys_without_an_answer_are_given_back,
    whoever_walks_a_growing_list_sees_each_old_row_once
);

fn row(scope: &str, key: &str, seconds: u64) -> IdempotencyRow {
    IdempotencyRow {
        scope: scope.to_owned(),
        key: key.to_owned(),
        fingerprint: [7; 32],
        created_at: at(seconds),
        status: None,
        body: None,
        made_id: None,
    }
}

async fn claim(store: &Store, row: &IdempotencyRow) -> bool {
    let mut tx = store.write().await.unwrap();
    let claimed = tx.claim_idempotency_key(row).await.unwrap();
    tx.commit().await.unwrap();
    claimed
}

async fn of_many_claims_at_once_one_holds(database: &Database) {
    let store = database.connect().await;
    let claims = at_once(20, |_| {
        let store = store.clone();
        async move { claim(&store, &row("a", "k", 1)).await }
    });
    assert_eq!(claims.await.into_iter().filter(|&claimed| claimed).count(), 1);
    assert!(claim(&store, &row("b", "k", 1)).await, "the same key of somebody else is another one");
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.count_idempotency_keys("a").await.unwrap(), 1);
    assert_eq!(tx.find_idempotency_key("a", "k").await.unwrap(), Some(row("a", "k", 1)));
    assert_eq!(tx.find_idempotency_key("a", "other").await.unwrap(), None);
}

async fn an_answer_is_kept_and_a_key_can_be_given_back(database: &Database) {
    let store = database.connect().await;
    assert!(claim(&store, &row("a", "k", 1)).await && claim(&store, &row("a", "l", 1)).await);
    let answered = IdempotencyRow {
        status: Some(201),
        body: Some("{\"id\":\"x\"}".to_owned()),
        made_id: Some("x".to_owned()),
        ..row("a", "k", 1)
    };
    let mut tx = store.write().await.unwrap();
    tx.answer_idempotency_key(&answered).await.unwrap();
    tx.release_idempotency_key(&row("a", "l", 1)).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.find_idempotency_key("a", "k").await.unwrap(), Some(answered));
    assert_eq!(tx.find_idempotency_key("a", "l").await.unwrap(), None);
    drop(tx);
    assert!(claim(&store, &row("a", "l", 2)).await, "what was given back is free");
}

async fn old_keys_are_forgotten(database: &Database) {
    let store = database.connect().await;
    assert!(claim(&store, &row("a", "old", 1)).await && claim(&store, &row("a", "new", 2)).await);
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.prune_idempotency_keys(at(2)).await.unwrap(), 1);
    assert_eq!(tx.find_idempotency_key("a", "old").await.unwrap(), None);
    assert!(tx.find_idempotency_key("a", "new").await.unwrap().is_some());
}

async fn whoever_walks_a_growing_list_sees_each_old_row_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut old = BTreeSet::new();
    for number in 0..23 {
        // All are of the same time: then the id decides.
        old.insert(add_service(&store, team.id, &format!("old-{number}")).await.id);
    }
    for per_page in [1, 4, 7, 23, 100] {
        let mut seen = Vec::new();
        for number in 1.. {
            let listed =
                store.read().await.unwrap().list_services(team.id, None, page(number, per_page)).await.unwrap();
            if listed.items.is_empty() || old.iter().all(|id| seen.contains(id)) {
                break;
            }
            seen.extend(listed.items.into_iter().map(|service| service.id));
            add_service(&store, team.id, &format!("new-{per_page}-{number}")).await;
        }
        let of_old: Vec<_> = seen.iter().filter(|id| old.contains(id)).collect();
        assert_eq!((of_old.len(), of_old.into_iter().collect::<BTreeSet<_>>().len()), (23, 23), "{per_page}");
    }
}

async fn a_key_without_an_answer_is_taken_over_once_and_stays_taken(database: &Database) {
    let store = database.connect().await;
    let (first, second) = (row("a", "k", 1), IdempotencyRow { fingerprint: [8; 32], ..row("a", "k", 10) });
    assert!(claim(&store, &first).await);
    let mut tx = store.write().await.unwrap();
    assert!(!tx.take_over_idempotency_key(&second, at(1)).await.unwrap(), "it is not old enough");
    assert!(tx.take_over_idempotency_key(&second, at(2)).await.unwrap());
    assert!(!tx.take_over_idempotency_key(&row("a", "k", 11), at(2)).await.unwrap(), "it is new again");
    // The first one ends after all, and changes nothing of what is the second's.
    tx.answer_idempotency_key(&IdempotencyRow { status: Some(200), ..first.clone() }).await.unwrap();
    tx.release_idempotency_key(&first).await.unwrap();
    assert_eq!(tx.find_idempotency_key("a", "k").await.unwrap(), Some(second.clone()));
    let answered = IdempotencyRow { status: Some(201), ..second };
    tx.answer_idempotency_key(&answered).await.unwrap();
    assert!(!tx.take_over_idempotency_key(&row("a", "k", 99), at(98)).await.unwrap(), "it has an answer");
    assert_eq!(tx.find_idempotency_key("a", "k").await.unwrap(), Some(answered));
    tx.commit().await.unwrap();
}

async fn keys_without_an_answer_are_given_back(database: &Database) {
    let store = database.connect().await;
    assert!(claim(&store, &row("a", "k", 1)).await && claim(&store, &row("a", "l", 1)).await);
    let answered = IdempotencyRow { status: Some(201), ..row("a", "k", 1) };
    let mut tx = store.write().await.unwrap();
    tx.answer_idempotency_key(&answered).await.unwrap();
    assert_eq!(tx.release_unanswered_idempotency_keys().await.unwrap(), 1);
    assert_eq!(tx.find_idempotency_key("a", "k").await.unwrap(), Some(answered));
    assert_eq!(tx.find_idempotency_key("a", "l").await.unwrap(), None);
    tx.commit().await.unwrap();
}
