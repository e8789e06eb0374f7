//! What a transaction promises: all or nothing, one snapshot, no lost update.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use towline_store::{Constraint, Store, StoreError};

use crate::{
    fixtures::{add_service, add_team, service_row, team_row, user_row},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    a_dropped_transaction_leaves_nothing,
    a_reader_sees_one_snapshot_and_waits_for_no_writer,
    a_reader_cannot_write,
    after_a_refused_statement_nothing_more_is_done,
    a_statement_that_is_dropped_half_way_ends_the_transaction,
    no_update_of_twenty_is_lost,
    transactions_that_meet_crosswise_are_told_so_and_succeed_when_repeated,
    the_revision_moves_with_the_commit_and_only_then,
    the_order_of_revisions_is_the_order_of_commits,
    a_begin_that_is_dropped_half_way_harms_nobody,
    a_closed_store_says_so,
    nul_is_replaced_on_both_engines_alike,
);

async fn a_dropped_transaction_leaves_nothing(database: &Database) {
    let store = database.connect().await;
    let team = team_row("gone");
    let mut tx = store.write().await.unwrap();
    tx.insert_team(&team).await.unwrap();
    assert_eq!(tx.find_team(team.id).await.unwrap().as_ref(), Some(&team), "it sees its own change");
    drop(tx);
    assert_eq!(store.read().await.unwrap().find_team(team.id).await.unwrap(), None);
    // The connection is usable again, and the next writer does not inherit anything.
    let mut tx = store.write().await.unwrap();
    tx.insert_team(&team).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.read().await.unwrap().find_team(team.id).await.unwrap(), Some(team));
}

async fn a_reader_sees_one_snapshot_and_waits_for_no_writer(database: &Database) {
    let store = database.connect().await;
    let team = team_row("later");
    let mut before = store.read().await.unwrap();
    assert_eq!(before.find_team(team.id).await.unwrap(), None);
    let mut tx = store.write().await.unwrap();
    tx.insert_team(&team).await.unwrap();
    let mut during = store.read().await.unwrap();
    assert_eq!(during.find_team(team.id).await.unwrap(), None, "not committed yet");
    tx.commit().await.unwrap();
    assert_eq!(before.find_team(team.id).await.unwrap(), None, "the snapshot does not move");
    assert_eq!(store.read().await.unwrap().find_team(team.id).await.unwrap(), Some(team));
}

async fn a_reader_cannot_write(database: &Database) {
    let store = database.connect().await;
    let team = team_row("never");
    let mut tx = store.read().await.unwrap();
    assert!(matches!(tx.insert_team(&team).await, Err(StoreError::Unavailable(_))));
    drop(tx);
    assert_eq!(store.read().await.unwrap().find_team(team.id).await.unwrap(), None);
}

async fn after_a_refused_statement_nothing_more_is_done(database: &Database) {
    let store = database.connect().await;
    let (team, user) = (team_row("with a twin"), user_row("a@example.com"));
    let mut tx = store.write().await.unwrap();
    tx.insert_user(&user).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = store.write().await.unwrap();
    tx.insert_team(&team).await.unwrap();
    let refused = tx.insert_user(&user_row("A@Example.com")).await;
    assert!(matches!(refused, Err(StoreError::Conflict { constraint: Constraint::UserEmailAddress })), "{refused:?}");
    assert!(matches!(tx.find_team(team.id).await, Err(StoreError::Aborted)));
    assert!(matches!(tx.commit().await, Err(StoreError::Aborted)));
    assert_eq!(store.read().await.unwrap().find_team(team.id).await.unwrap(), None);
}

async fn a_statement_that_is_dropped_half_way_ends_the_transaction(database: &Database) {
    let store = database.connect().await;
    let (first, second) = (team_row("first"), team_row("second"));
    let mut tx = store.write().await.unwrap();
    tx.insert_team(&first).await.unwrap();
    if tx.insert_team(&second).now_or_never().is_none() {
        assert!(matches!(tx.find_team(first.id).await, Err(StoreError::Aborted)));
        assert!(matches!(tx.commit().await, Err(StoreError::Aborted)));
    } else {
        drop(tx);
    }
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.find_team(first.id).await.unwrap(), None);
    assert_eq!(tx.find_team(second.id).await.unwrap(), None);
    tx.insert_team(&first).await.unwrap();
    tx.commit().await.unwrap();
}

async fn no_update_of_twenty_is_lost(database: &Database) {
    let servers = [database.connect().await, database.connect().await];
    let store = &servers[0];
    let team = add_team(store).await;
    let service = add_service(store, team.id, "hello").await;
    let before = store.revision().await.unwrap();
    let raise = |store: Store| async move {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut tx = store.write().await.unwrap();
            let mut row = tx.find_service(team.id, service.id).await.unwrap().unwrap();
            row.generation += 1;
            match tx.update_service(&mut row).await {
                Ok(()) => break tx.commit().await.map(|()| attempts).unwrap(),
                Err(StoreError::Concurrent) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    let attempts = at_once(20, |number| raise(servers[number % 2].clone())).await;
    assert_eq!(attempts.len(), 20);
    let row = store.read().await.unwrap().find_service(team.id, service.id).await.unwrap().unwrap();
    assert_eq!((row.generation, row.version), (20, 20));
    assert_eq!(store.revision().await.unwrap(), before + 20);
    if database.is_sqlite() {
        assert!(attempts.iter().all(|&attempts| attempts == 1), "SQLite has one writer at a time: {attempts:?}");
    }
}

async fn transactions_that_meet_crosswise_are_told_so_and_succeed_when_repeated(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let ids = [add_service(&store, team.id, "one").await.id, add_service(&store, team.id, "two").await.id];
    let raise_both = |store: Store, number: usize| async move {
        let order = if number.is_multiple_of(2) { [ids[0], ids[1]] } else { [ids[1], ids[0]] };
        'again: loop {
            let mut tx = store.write().await.unwrap();
            for id in order {
                let mut row = tx.find_service(team.id, id).await.unwrap().unwrap();
                row.generation += 1;
                match tx.update_service(&mut row).await {
                    Ok(()) => {}
                    Err(StoreError::Concurrent) => continue 'again,
                    Err(error) => panic!("{error:?}"),
                }
            }
            break tx.commit().await.unwrap();
        }
    };
    // Two, since PostgreSQL takes a second to notice each deadlock.
    at_once(2, |number| raise_both(store.clone(), number)).await;
    let mut tx = store.read().await.unwrap();
    for id in ids {
        assert_eq!(tx.find_service(team.id, id).await.unwrap().unwrap().generation, 2);
    }
}

async fn the_revision_moves_with_the_commit_and_only_then(database: &Database) {
    let store = database.connect().await;
    let other_server = database.connect().await;
    let team = add_team(&store).await;
    let before = other_server.revision().await.unwrap();

    let mut tx = store.write().await.unwrap();
    tx.insert_service(&service_row(team.id, "one")).await.unwrap();
    tx.insert_service(&service_row(team.id, "two")).await.unwrap();
    assert_eq!(other_server.revision().await.unwrap(), before, "not committed yet");
    tx.commit().await.unwrap();
    assert_eq!(other_server.revision().await.unwrap(), before + 1, "once for a transaction");
    let mut tx = other_server.read().await.unwrap();
    assert_eq!(tx.revision().await.unwrap(), before + 1);
    assert_eq!(tx.all_services().await.unwrap().len(), 2);
    drop(tx);

    let mut tx = store.write().await.unwrap();
    tx.insert_service(&service_row(team.id, "three")).await.unwrap();
    drop(tx);
    let mut tx = store.write().await.unwrap();
    tx.insert_team(&team_row("no gateway needs this")).await.unwrap();
    tx.commit().await.unwrap();
    store.write().await.unwrap().commit().await.unwrap();
    assert_eq!(other_server.revision().await.unwrap(), before + 1);
}

/// Whoever sees a revision sees every change up to it, however many write at once.
async fn the_order_of_revisions_is_the_order_of_commits(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let before = store.revision().await.unwrap();
    let write = |store: Store, number: usize| async move {
        let mut tx = store.write().await.unwrap();
        tx.insert_service(&service_row(team.id, &format!("service-{number}"))).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.read().await.unwrap();
        let revision = tx.revision().await.unwrap();
        (revision, tx.all_services().await.unwrap().len())
    };
    let seen = at_once(20, |number| write(store.clone(), number)).await;
    for (revision, services) in seen.into_iter().collect::<BTreeMap<_, _>>() {
        assert_eq!(i64::try_from(services).unwrap(), revision - before);
    }
}

/// Callers go away at every point of a transaction's beginning; those that come after them get whole transactions.
async fn a_begin_that_is_dropped_half_way_harms_nobody(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    for round in 0..40 {
        let patience = Duration::from_micros(20 * u64::try_from(round).unwrap());
        for _ in 0..4 {
            poll_and_drop(store.read(), patience);
            poll_and_drop(store.write(), patience);
        }
        add_service(&store, team.id, &format!("service-{round}")).await;
        for _ in 0..4 {
            assert_eq!(store.revision().await.unwrap(), 2 + round);
        }
    }
}

/// Polls a future for so long, and drops it.
fn poll_and_drop(future: impl Future, patience: Duration) {
    let mut future = Box::pin(future);
    let start = Instant::now();
    while future.as_mut().now_or_never().is_none() && start.elapsed() < patience {
        std::hint::spin_loop();
    }
}

async fn a_closed_store_says_so(database: &Database) {
    let store = database.connect().await;
    let clone = store.clone();
    store.close().await;
    assert!(matches!(clone.read().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(clone.write().await, Err(StoreError::Unavailable(_))));
}

async fn nul_is_replaced_on_both_engines_alike(database: &Database) {
    let store = database.connect().await;
    let mut team = team_row("a\0b");
    let mut tx = store.write().await.unwrap();
    tx.insert_team(&team).await.unwrap();
    tx.commit().await.unwrap();
    team.name = "a\u{FFFD}b".to_owned();
    assert_eq!(store.read().await.unwrap().find_team(team.id).await.unwrap(), Some(team));
}
