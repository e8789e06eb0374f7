//! Services: one slug a team, no lost update, and what the reconciler looks at.

use serde_json::json;
use towline_model::{SecretId, ServiceId, ServiceStatus, TeamId};
use towline_store::{Constraint, ServiceRow, Store, StoreError};

use crate::{
    fixtures::{add_instance, add_service, add_team, at, event_row, page, service_row, spec},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    a_service_is_read_back_as_it_was,
    a_slug_is_taken_once_in_a_team,
    of_twenty_with_one_slug_one_is_stored,
    a_service_that_changed_meanwhile_is_not_overwritten,
    a_service_that_changed_meanwhile_is_not_deleted,
    a_deleted_service_takes_its_instances_and_events_along,
    pages_are_stable_and_the_oldest_come_first,
    the_reconciler_sees_what_runs_or_should,
    another_teams_service_is_not_there,
    a_document_that_cannot_be_read_fails_only_its_service,
    what_cannot_be_read_is_not_written_over,
    services_that_mention_an_id_are_found,
);

async fn a_service_is_read_back_as_it_was(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut service = add_service(&store, team.id, "hello").await;
    let find = async || store.read().await.unwrap().find_service(team.id, service.id).await.unwrap().unwrap();
    assert_eq!(find().await, service);

    for status in ServiceStatus::ALL {
        let before = store.revision().await.unwrap();
        service.status = status;
        service.deployed_spec = Some(spec("hello"));
        service.generation += 1;
        service.status_reason = Some("no agent has the label “gpu”".to_owned());
        service.deploy_started_at = Some(at(1));
        service.drain_until = Some(at(2));
        service.rollout = Some(json!({"ready": 1, "of": 2, "note": null}));
        service.updated_at = at(3);
        let mut tx = store.write().await.unwrap();
        tx.update_service(&mut service).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.read().await.unwrap().find_service(team.id, service.id).await.unwrap().unwrap(), service);
        assert_eq!(store.revision().await.unwrap(), before + 1);
    }
    assert_eq!(service.version, 6);
    let by_slug = store.read().await.unwrap().find_service_by_slug(team.id, "hello").await.unwrap();
    assert_eq!(by_slug, Some(service));
}

async fn a_slug_is_taken_once_in_a_team(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    add_service(&store, team.id, "hello").await;
    add_service(&store, other_team.id, "hello").await;
    let mut tx = store.write().await.unwrap();
    let refused = tx.insert_service(&service_row(team.id, "hello")).await;
    assert!(matches!(refused, Err(StoreError::Conflict { constraint: Constraint::ServiceSlug })), "{refused:?}");
    drop(tx);
    let mut tx = store.write().await.unwrap();
    let refused = tx.insert_service(&service_row(TeamId::generate(), "hello")).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
}

async fn of_twenty_with_one_slug_one_is_stored(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let add = |store: Store| async move {
        let mut tx = store.write().await.unwrap();
        tx.insert_service(&service_row(team.id, "hello")).await?;
        tx.commit().await
    };
    let outcomes = at_once(20, |_| add(store.clone())).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let refused = |outcome: &&Result<(), StoreError>| {
        matches!(outcome, Err(StoreError::Conflict { constraint: Constraint::ServiceSlug }))
    };
    assert_eq!(outcomes.iter().filter(refused).count(), 19);
    assert_eq!(store.read().await.unwrap().list_services(team.id, None, page(1, 20)).await.unwrap().total_count, 1);
}

async fn a_service_that_changed_meanwhile_is_not_overwritten(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut mine = add_service(&store, team.id, "hello").await;
    let mut theirs = mine.clone();
    theirs.spec.display_name = "theirs".to_owned();
    let mut tx = store.write().await.unwrap();
    tx.update_service(&mut theirs).await.unwrap();
    tx.commit().await.unwrap();

    mine.spec.display_name = "mine".to_owned();
    let before = store.revision().await.unwrap();
    let mut tx = store.write().await.unwrap();
    assert!(matches!(tx.update_service(&mut mine).await, Err(StoreError::Concurrent)));
    assert_eq!(mine.version, 0, "a refused update raises nothing");
    // Nothing was refused by the engine, so that the transaction can still be used.
    let mut again = tx.find_service(team.id, mine.id).await.unwrap().unwrap();
    assert_eq!(again, theirs);
    tx.update_service(&mut again).await.unwrap();
    tx.update_service(&mut again).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(again.version, 3);
    assert_eq!(store.revision().await.unwrap(), before + 1);
}

async fn a_service_that_changed_meanwhile_is_not_deleted(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let read_before = add_service(&store, team.id, "hello").await;
    let mut deployed = ServiceRow { status: ServiceStatus::Deploying, ..read_before.clone() };
    let mut tx = store.write().await.unwrap();
    tx.update_service(&mut deployed).await.unwrap();
    assert!(matches!(tx.delete_service(&read_before).await, Err(StoreError::Concurrent)));
    tx.delete_service(&deployed).await.unwrap();
    assert!(matches!(tx.delete_service(&deployed).await, Err(StoreError::Concurrent)));
    tx.commit().await.unwrap();
    assert_eq!(store.read().await.unwrap().find_service(team.id, deployed.id).await.unwrap(), None);
}

async fn a_deleted_service_takes_its_instances_and_events_along(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let (service, other) = (add_service(&store, team.id, "one").await, add_service(&store, team.id, "two").await);
    add_instance(&store, &service, None).await;
    let kept = add_instance(&store, &other, None).await;
    let mut tx = store.write().await.unwrap();
    tx.append_event(&event_row(&service, 1, "created")).await.unwrap();
    tx.delete_service(&service).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.all_instances().await.unwrap(), [kept]);
    assert_eq!(tx.list_events(team.id, service.id, page(1, 20)).await.unwrap().total_count, 0);
}

async fn pages_are_stable_and_the_oldest_come_first(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    add_service(&store, other_team.id, "theirs").await;
    let mut expected = Vec::new();
    for number in 0..7 {
        let service = ServiceRow { created_at: at(number / 3), ..service_row(team.id, &format!("service-{number}")) };
        let mut tx = store.write().await.unwrap();
        tx.insert_service(&service).await.unwrap();
        tx.commit().await.unwrap();
        expected.push(service);
    }
    expected.sort_by_key(|row| (row.created_at, row.id));
    let mut tx = store.read().await.unwrap();
    let mut seen = Vec::new();
    for number in 1..=4 {
        let listed = tx.list_services(team.id, None, page(number, 2)).await.unwrap();
        assert_eq!(listed.total_count, 7);
        seen.extend(listed.items);
    }
    assert_eq!(seen, expected);
    assert_eq!(tx.list_services(team.id, None, page(0, 0)).await.unwrap().items, expected[..1]);
    assert_eq!(tx.all_services().await.unwrap().len(), 8);

    let mut slugs: Vec<_> = expected.iter().map(|row| (row.id, row.spec.service_slug.clone())).collect();
    slugs.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(tx.service_slugs(team.id).await.unwrap(), slugs);
    let only = [expected[4].id, ServiceId::generate(), expected[1].id];
    let listed = tx.list_services(team.id, Some(&only), page(1, 20)).await.unwrap();
    assert_eq!((listed.total_count, listed.items), (2, vec![expected[1].clone(), expected[4].clone()]));
    let second = tx.list_services(team.id, Some(&only), page(2, 1)).await.unwrap();
    assert_eq!((second.total_count, second.items), (2, vec![expected[4].clone()]));
    assert_eq!(tx.list_services(team.id, Some(&[]), page(1, 20)).await.unwrap().total_count, 0);
    assert_eq!(tx.list_services(other_team.id, Some(&only), page(1, 20)).await.unwrap().total_count, 0);
}

async fn the_reconciler_sees_what_runs_or_should(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut expected = Vec::new();
    for status in ServiceStatus::ALL {
        for has_instance in [false, true] {
            let slug = format!("{status:?}-{has_instance}").to_lowercase();
            let service = ServiceRow { status, ..service_row(team.id, &slug) };
            let mut tx = store.write().await.unwrap();
            tx.insert_service(&service).await.unwrap();
            tx.commit().await.unwrap();
            if has_instance {
                add_instance(&store, &service, None).await;
            }
            let under_way =
                matches!(status, ServiceStatus::Deploying | ServiceStatus::Running | ServiceStatus::Stopping);
            if has_instance || under_way {
                expected.push(service.id);
            }
        }
    }
    let mut seen: Vec<_> =
        store.read().await.unwrap().services_to_reconcile().await.unwrap().iter().map(|row| row.id).collect();
    seen.sort();
    assert_eq!(seen, expected);
}

async fn another_teams_service_is_not_there(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    let service = add_service(&store, team.id, "hello").await;
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.find_service(other_team.id, service.id).await.unwrap(), None);
    assert_eq!(tx.find_service_by_slug(other_team.id, "hello").await.unwrap(), None);
    let mut stolen = ServiceRow { team_id: other_team.id, ..service.clone() };
    assert!(matches!(tx.update_service(&mut stolen).await, Err(StoreError::Concurrent)));
    assert!(matches!(tx.delete_service(&stolen).await, Err(StoreError::Concurrent)));
}

/// Runs a service and makes one of its documents one that nobody can read.
async fn damage(database: &Database, store: &Store, service: &ServiceRow, column: &str, text: &str) {
    let mut row = ServiceRow { status: ServiceStatus::Running, deployed_spec: Some(spec("hello")), ..service.clone() };
    let mut tx = store.write().await.unwrap();
    tx.update_service(&mut row).await.unwrap();
    tx.commit().await.unwrap();
    database.execute_raw(&format!("UPDATE services SET {column} = '{text}' WHERE id = '{}'", service.id)).await;
}

async fn a_document_that_cannot_be_read_fails_only_its_service(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let other = add_service(&store, team.id, "other").await;
    let secret = SecretId::generate();
    let newer = format!(r#"{{"service_slug":"x","display_name":"x","from_next_year":["{secret}","hunter2"]}}"#);
    for (column, text) in [
        ("spec", newer.as_str()),
        ("spec", r#"{"docker_image": "hunter2""#),
        ("deployed_spec", &newer),
        ("rollout", "{"),
    ] {
        let service = add_service(&store, team.id, &format!("hello-{}", text.len())).await;
        damage(database, &store, &service, column, text).await;
        let mut tx = store.write().await.unwrap();
        let services = tx.all_services().await.unwrap();
        assert_eq!(services[0], other, "{column}");
        let row = &services[1];
        let unreadable = row.unreadable.as_ref().unwrap();
        assert_eq!((row.id, row.status), (service.id, ServiceStatus::Failed));
        assert_eq!(row.status_reason.as_ref(), Some(&unreadable.why));
        assert!(unreadable.why.contains("delete the service") && !unreadable.why.contains("hunter2"), "{unreadable:?}");
        assert_eq!(unreadable.ids.contains(&secret.as_uuid()), text == newer);
        assert_eq!(row.spec.service_slug, service.spec.service_slug);
        assert_eq!(row.deployed_spec.is_some(), column != "deployed_spec");
        assert_eq!(tx.list_services(team.id, None, page(1, 9)).await.unwrap().items, services);
        assert_eq!(tx.services_to_reconcile().await.unwrap(), std::slice::from_ref(row), "it has to be stopped");
        tx.delete_service(row).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn what_cannot_be_read_is_not_written_over(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    damage(database, &store, &service, "deployed_spec", "damaged").await;
    let find = async || store.read().await.unwrap().find_service(team.id, service.id).await.unwrap().unwrap();
    let mut row = find().await;
    let mut tx = store.write().await.unwrap();
    tx.update_service(&mut row).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(find().await, row);
    let whole = serde_json::to_string(&spec("hello")).unwrap().replace('\'', "''");
    database.execute_raw(&format!("UPDATE services SET deployed_spec = '{whole}'")).await;
    let again = find().await;
    assert_eq!((again.status, again.spec, again.unreadable), (ServiceStatus::Running, service.spec, None));
    assert_eq!(again.status_reason, None);
}

async fn services_that_mention_an_id_are_found(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    let (service, _) = (add_service(&store, team.id, "hello").await, add_service(&store, team.id, "other").await);
    let secret = SecretId::generate();
    damage(database, &store, &service, "rollout", &format!("\"{secret}\"")).await;
    let mut tx = store.read().await.unwrap();
    let found = tx.services_mentioning(team.id, secret).await.unwrap();
    assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), [service.id]);
    assert_eq!(tx.services_mentioning(team.id, SecretId::generate()).await.unwrap(), []);
    assert_eq!(tx.services_mentioning(other_team.id, secret).await.unwrap(), []);
}
