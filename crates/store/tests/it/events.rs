//! Events: the newest first, and only so many.

use towline_model::{InstanceId, TeamId};
use towline_store::{EVENTS_KEPT_PER_SERVICE, EventRow, Store, StoreError};

use crate::{
    fixtures::{add_service, add_team, at, event_row, page},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    the_newest_event_comes_first,
    old_events_are_forgotten,
    many_may_append_at_once,
    an_event_belongs_to_a_service_of_its_team
);

async fn append(store: &Store, event: &EventRow) {
    let mut tx = store.write().await.unwrap();
    tx.append_event(event).await.unwrap();
    tx.commit().await.unwrap();
}

async fn the_newest_event_comes_first(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let (service, other) = (add_service(&store, team.id, "one").await, add_service(&store, team.id, "two").await);
    let before = store.revision().await.unwrap();
    append(&store, &event_row(&other, 1, "another service's")).await;
    let first = event_row(&service, 1, "first");
    let twin = EventRow { instance_id: Some(InstanceId::generate()), ..event_row(&service, 1, "at the same time") };
    let last = event_row(&service, 2, "last");
    for event in [&first, &last, &twin] {
        append(&store, event).await;
    }
    let mut tx = store.read().await.unwrap();
    let listed = tx.list_events(team.id, service.id, page(1, 2)).await.unwrap();
    assert_eq!((listed.items, listed.total_count), (vec![last, twin], 3));
    assert_eq!(tx.list_events(team.id, service.id, page(2, 2)).await.unwrap().items, [first]);
    assert_eq!(tx.list_events(TeamId::generate(), service.id, page(1, 2)).await.unwrap().total_count, 0);
    assert_eq!(store.revision().await.unwrap(), before, "no gateway needs to know");
}

async fn old_events_are_forgotten(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let (service, other) = (add_service(&store, team.id, "one").await, add_service(&store, team.id, "two").await);
    append(&store, &event_row(&other, 0, "kept")).await;
    let mut tx = store.write().await.unwrap();
    let kept = u64::try_from(EVENTS_KEPT_PER_SERVICE).unwrap();
    for number in 0..kept + 3 {
        // Two at a time have the same age: then the id decides.
        tx.append_event(&event_row(&service, number / 2, &number.to_string())).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    let listed = tx.list_events(team.id, service.id, page(1, 500)).await.unwrap();
    assert_eq!(listed.total_count, kept);
    let messages: Vec<u64> = listed.items.iter().map(|event| event.message.parse().unwrap()).collect();
    assert_eq!(messages, (3..kept + 3).rev().collect::<Vec<_>>());
    assert_eq!(tx.list_events(team.id, other.id, page(1, 20)).await.unwrap().total_count, 1);
}

async fn many_may_append_at_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "one").await;
    let kept = u64::try_from(EVENTS_KEPT_PER_SERVICE).unwrap();
    let mut tx = store.write().await.unwrap();
    for number in 0..kept {
        tx.append_event(&event_row(&service, number, "old")).await.unwrap();
    }
    tx.commit().await.unwrap();
    at_once(20, |number| {
        let (store, service) = (store.clone(), service.clone());
        async move { append(&store, &event_row(&service, kept + number as u64, "new")).await }
    })
    .await;
    append(&store, &event_row(&service, kept + 20, "new")).await;
    let listed = store.read().await.unwrap().list_events(team.id, service.id, page(1, 500)).await.unwrap();
    assert_eq!(listed.total_count, kept);
    assert_eq!(listed.items.iter().filter(|event| event.message == "new").count(), 21);
    assert_eq!(listed.items[0].at, at(kept + 20));
}

async fn an_event_belongs_to_a_service_of_its_team(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    let service = add_service(&store, team.id, "hello").await;
    let stray = EventRow { team_id: other_team.id, ..event_row(&service, 1, "stray") };
    let refused = store.write().await.unwrap().append_event(&stray).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
}
