//! The audit log: the newest first, found by what matters, read to its end, and forgotten when it is old.

use std::slice::from_ref;

use serde_json::json;
use towline_model::{CredentialId, TeamId, Timestamp, UserId};
use towline_store::{AuditFilter, AuditRow, Page, Position, Store, StoreError};
use uuid::Uuid;

use crate::{
    fixtures::{add_team, at, page},
    harness::{Database, for_each_engine},
};

for_each_engine!(
    an_entry_is_read_back_as_it_was,
    entries_are_found_by_what_matters,
    the_log_is_read_to_its_end_in_pieces,
    old_entries_are_forgotten,
    an_entry_belongs_to_a_team,
    the_servers_own_log_is_apart,
);

fn entry(team_id: TeamId, seconds: u64, action: &str) -> AuditRow {
    AuditRow {
        id: Uuid::now_v7(),
        team_id: Some(team_id),
        at: at(seconds),
        action: action.to_owned(),
        actor_kind: "user".to_owned(),
        actor_name: "ada@example.com".to_owned(),
        user_id: Some(UserId::generate()),
        credential_id: None,
        target_id: None,
        target_name: "hello".to_owned(),
        address: None,
        request_id: None,
        details: None,
    }
}

async fn add(store: &Store, entries: &[&AuditRow], keep_since: Timestamp) {
    let mut tx = store.write().await.unwrap();
    for entry in entries {
        tx.insert_audit_entry(entry, keep_since).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn an_entry_is_read_back_as_it_was(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let full = AuditRow {
        credential_id: Some(CredentialId::generate()),
        target_id: Some("01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77".to_owned()),
        address: Some("203.0.113.5".to_owned()),
        request_id: Some("r-1".to_owned()),
        details: Some(json!({"fields": ["docker_image"]})),
        ..entry(team.id, 2, "service.update")
    };
    let plain = entry(team.id, 1, "service.create");
    add(&store, &[&plain, &full], at(0)).await;
    add(&store, &[&entry(other.id, 1, "service.create")], at(0)).await;
    let mut tx = store.read().await.unwrap();
    let listed = tx.list_audit_entries(team.id, &AuditFilter::default(), page(1, 10)).await.unwrap();
    assert_eq!((listed.items, listed.total_count), (vec![full, plain], 2));
}

async fn entries_are_found_by_what_matters(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let key = CredentialId::generate();
    let first = AuditRow { credential_id: Some(key), ..entry(team.id, 1, "service.create") };
    let second = AuditRow { target_id: Some("x".to_owned()), ..entry(team.id, 2, "service.deploy") };
    let third = entry(team.id, 3, "credential.create");
    add(&store, &[&first, &second, &third], at(0)).await;
    let mut tx = store.read().await.unwrap();
    let none = AuditFilter::default;
    for (filter, expected) in [
        (AuditFilter { action: Some("service.create".to_owned()), ..none() }, vec![&first]),
        (AuditFilter { target_id: Some("x".to_owned()), ..none() }, vec![&second]),
        (AuditFilter { user_id: third.user_id, ..none() }, vec![&third]),
        (AuditFilter { credential_id: Some(key), ..none() }, vec![&first]),
        (AuditFilter { since: Some(at(2)), ..none() }, vec![&third, &second]),
        (AuditFilter { until: Some(at(2)), ..none() }, vec![&first]),
        (AuditFilter { since: Some(at(2)), until: Some(at(3)), ..none() }, vec![&second]),
        (AuditFilter { action: Some("service.create".to_owned()), since: Some(at(2)), ..none() }, vec![]),
    ] {
        let found = tx.list_audit_entries(team.id, &filter, page(1, 10)).await.unwrap();
        assert_eq!(found.items.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        assert_eq!(found.total_count, expected.len() as u64, "{filter:?}");
    }
}

async fn the_log_is_read_to_its_end_in_pieces(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    // Two at a time have the same age: then the id decides.
    let mut entries: Vec<_> = (0..7).map(|number| entry(team.id, number / 2, "service.deploy")).collect();
    add(&store, &entries.iter().collect::<Vec<_>>(), at(0)).await;
    entries.sort_by_key(|entry| (entry.at, entry.id));
    let (mut read, mut position) = (Vec::new(), None);
    loop {
        let mut tx = store.read().await.unwrap();
        let piece = tx.audit_entries_after(team.id, &AuditFilter::default(), position, 3).await.unwrap();
        let Some(last) = piece.last() else { break };
        position = Some(Position { at: last.at, id: last.id });
        read.extend(piece);
    }
    assert_eq!(read, entries);
}

async fn old_entries_are_forgotten(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    add(&store, &[&entry(other.id, 1, "service.create")], at(0)).await;
    add(&store, &[&entry(team.id, 1, "service.create"), &entry(team.id, 5, "service.deploy")], at(0)).await;
    add(&store, &[&entry(team.id, 9, "service.delete")], at(5)).await;
    let mut tx = store.read().await.unwrap();
    let listed = tx.list_audit_entries(team.id, &AuditFilter::default(), page(1, 10)).await.unwrap();
    let actions: Vec<_> = listed.items.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["service.delete", "service.deploy"]);
    let others = tx.list_audit_entries(other.id, &AuditFilter::default(), page(1, 10)).await.unwrap();
    assert_eq!(others.total_count, 1);
}

async fn an_entry_belongs_to_a_team(database: &Database) {
    let store = database.connect().await;
    let mut tx = store.write().await.unwrap();
    let refused = tx.insert_audit_entry(&entry(TeamId::generate(), 1, "service.create"), at(0)).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
}

async fn the_servers_own_log_is_apart(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let of_server = |seconds, action: &str| AuditRow {
        team_id: None,
        details: Some(json!({"issuer": "https://id.example.com"})),
        ..entry(team.id, seconds, action)
    };
    let (made, signed_in) = (of_server(2, "user.create"), of_server(3, "user.sign_in"));
    let of_team = entry(team.id, 1, "user.sign_in");
    add(&store, &[&of_team, &of_server(1, "user.create"), &made], at(0)).await;
    // What is too old is forgotten in the log that is written to, and only there.
    add(&store, &[&signed_in], at(2)).await;
    let none = AuditFilter::default();
    let mut tx = store.read().await.unwrap();
    let listed = tx.list_audit_entries(None, &none, page(1, 1)).await.unwrap();
    assert_eq!((listed.items, listed.total_count), (vec![signed_in.clone()], 2));
    let after = listed.next.unwrap();
    let rest = tx.list_audit_entries(None, &none, Page { after: Some(after), ..page(1, 1) }).await.unwrap();
    assert_eq!((rest.items, rest.next), (vec![made.clone()], None));
    let filter = AuditFilter { action: Some("user.create".to_owned()), until: Some(at(3)), ..none.clone() };
    assert_eq!(tx.list_audit_entries(None, &filter, page(1, 10)).await.unwrap().items, from_ref(&made));
    let first = tx.audit_entries_after(None, &none, None, 1).await.unwrap();
    assert_eq!(first, [made]);
    let position = Position { at: first[0].at, id: first[0].id };
    assert_eq!(tx.audit_entries_after(None, &none, Some(position), 9).await.unwrap(), [signed_in]);
    assert_eq!(tx.list_audit_entries(team.id, &none, page(1, 10)).await.unwrap().items, from_ref(&of_team));
    assert_eq!(tx.audit_entries_after(team.id, &none, None, 9).await.unwrap(), [of_team]);
}
