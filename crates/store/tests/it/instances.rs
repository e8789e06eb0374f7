//! Instances: placed once, reported only by the agent that has them.

use towline_model::{AgentId, InstanceId, InstancePhase};
use towline_store::{InstanceObservation, InstanceRow, ReportOutcome, Store, StoreError};

use crate::{
    fixtures::{add_agent, add_instance, add_service, add_team, at, instance_row, observation},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    an_instance_is_read_back_as_it_was,
    of_twenty_placements_one_holds,
    an_instance_that_should_stop_is_not_placed,
    an_instance_stays_in_its_team,
    a_report_counts_only_from_the_agent_that_has_it,
    a_report_moves_the_revision_only_when_it_is_news,
    the_first_start_is_kept_and_ready_since_tells_the_present_spell,
    a_stop_is_requested_once,
    an_instance_is_deleted_once,
    instances_are_listed_by_service_and_by_agent,
);

async fn the_only(store: &Store) -> InstanceRow {
    let mut rows = store.read().await.unwrap().all_instances().await.unwrap();
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

async fn report(store: &Store, agent_id: AgentId, observation: &InstanceObservation) -> ReportOutcome {
    let mut tx = store.write().await.unwrap();
    let outcome = tx.record_report(agent_id, observation).await.unwrap();
    tx.commit().await.unwrap();
    outcome
}

async fn an_instance_is_read_back_as_it_was(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let agent = add_agent(&store, team.id, "box").await;
    for phase in InstancePhase::ALL {
        let instance = InstanceRow {
            agent_id: Some(agent.id),
            stop_requested_at: Some(at(1)),
            phase,
            reason_kind: Some("exited".to_owned()),
            reason: Some("exit code 1".to_owned()),
            restart_count: 4_000_000_000,
            container_id: Some("c0ffee".to_owned()),
            started_at: Some(at(2)),
            ready_since: Some(at(3)),
            reported_at: Some(at(4)),
            placed_at: Some(at(5)),
            ..instance_row(&service)
        };
        let before = store.revision().await.unwrap();
        let mut tx = store.write().await.unwrap();
        tx.insert_instance(&instance).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.revision().await.unwrap(), before + 1);
        let rows = store.read().await.unwrap().all_instances().await.unwrap();
        assert!(rows.contains(&instance));
    }
}

async fn of_twenty_placements_one_holds(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let agents = [add_agent(&store, team.id, "one").await.id, add_agent(&store, team.id, "two").await.id];
    let instance = add_instance(&store, &service, None).await;
    let place = |store: Store, number: usize| async move {
        let agent_id = agents[number % 2];
        let mut tx = store.write().await.unwrap();
        tx.place_instance(instance.id, agent_id, at(5)).await?;
        tx.commit().await.map(|()| agent_id)
    };
    let outcomes = at_once(20, |number| place(store.clone(), number)).await;
    let placed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    assert_eq!(placed.len(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(StoreError::Concurrent))), "{outcomes:?}");
    let row = the_only(&store).await;
    assert_eq!((row.agent_id, row.placed_at), (Some(*placed[0]), Some(at(5))));
}

async fn an_instance_that_should_stop_is_not_placed(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let agent = add_agent(&store, team.id, "box").await;
    let instance = add_instance(&store, &service, None).await;
    let mut tx = store.write().await.unwrap();
    tx.request_stop(instance.id, at(1)).await.unwrap();
    assert!(matches!(tx.place_instance(instance.id, agent.id, at(2)).await, Err(StoreError::Concurrent)));
    assert!(matches!(tx.place_instance(InstanceId::generate(), agent.id, at(2)).await, Err(StoreError::Concurrent)));
}

async fn an_instance_stays_in_its_team(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    let service = add_service(&store, team.id, "hello").await;
    let foreign_agent = add_agent(&store, other_team.id, "box").await;
    let instance = add_instance(&store, &service, None).await;
    let mut tx = store.write().await.unwrap();
    assert!(matches!(tx.place_instance(instance.id, foreign_agent.id, at(1)).await, Err(StoreError::NotFound)));
    let strays = [
        InstanceRow { agent_id: Some(foreign_agent.id), ..instance_row(&service) },
        InstanceRow { team_id: other_team.id, ..instance_row(&service) },
    ];
    drop(tx);
    for stray in strays {
        let mut tx = store.write().await.unwrap();
        assert!(matches!(tx.insert_instance(&stray).await, Err(StoreError::NotFound)));
    }
}

async fn a_report_counts_only_from_the_agent_that_has_it(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let (holder, stranger) = (add_agent(&store, team.id, "one").await, add_agent(&store, team.id, "two").await);
    let instance = add_instance(&store, &service, None).await;
    let ready = observation(&instance, InstancePhase::Ready, 5);
    assert_eq!(report(&store, holder.id, &ready).await, ReportOutcome::Fenced, "not placed yet");
    let mut tx = store.write().await.unwrap();
    tx.place_instance(instance.id, holder.id, at(1)).await.unwrap();
    tx.commit().await.unwrap();

    let placed = the_only(&store).await;
    assert_eq!(report(&store, stranger.id, &ready).await, ReportOutcome::Fenced);
    let other_generation = InstanceObservation { generation: 2, ..ready.clone() };
    assert_eq!(report(&store, holder.id, &other_generation).await, ReportOutcome::Fenced);
    let gone = InstanceObservation { instance_id: InstanceId::generate(), ..ready.clone() };
    assert_eq!(report(&store, holder.id, &gone).await, ReportOutcome::Fenced);
    assert_eq!(the_only(&store).await, placed, "nothing of it was kept");

    assert_eq!(report(&store, holder.id, &ready).await, ReportOutcome::Changed);
    let expected = InstanceRow {
        phase: InstancePhase::Ready,
        container_id: Some("c0ffee".to_owned()),
        started_at: Some(at(5)),
        ready_since: Some(at(5)),
        reported_at: Some(at(5)),
        ..placed
    };
    assert_eq!(the_only(&store).await, expected);
}

async fn a_report_moves_the_revision_only_when_it_is_news(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let agent = add_agent(&store, team.id, "box").await;
    let instance = add_instance(&store, &service, Some(agent.id)).await;
    let mut revision = store.revision().await.unwrap();
    let starting = observation(&instance, InstancePhase::Starting, 1);
    let news = [
        starting.clone(),
        InstanceObservation { reason: Some("the probe got 503".to_owned()), ..starting.clone() },
        InstanceObservation { reason_kind: Some("probe_failed".to_owned()), ..starting.clone() },
        InstanceObservation { restart_count: 1, ..starting.clone() },
        InstanceObservation { container_id: None, ..starting },
    ];
    for observation in news {
        assert_eq!(report(&store, agent.id, &observation).await, ReportOutcome::Changed, "{observation:?}");
        revision += 1;
        assert_eq!(store.revision().await.unwrap(), revision);
        let again = InstanceObservation { reported_at: at(9), ..observation };
        assert_eq!(report(&store, agent.id, &again).await, ReportOutcome::Unchanged);
        assert_eq!(the_only(&store).await.reported_at, Some(at(9)));
        assert_eq!(store.revision().await.unwrap(), revision);
    }
}

async fn the_first_start_is_kept_and_ready_since_tells_the_present_spell(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let agent = add_agent(&store, team.id, "box").await;
    let instance = add_instance(&store, &service, Some(agent.id)).await;
    let steps = [
        (InstancePhase::Pulling, 0, 1, (None, None)),
        (InstancePhase::Starting, 0, 2, (Some(at(2)), None)),
        (InstancePhase::Ready, 0, 3, (Some(at(2)), Some(at(3)))),
        (InstancePhase::Ready, 0, 4, (Some(at(2)), Some(at(3)))),
        (InstancePhase::Ready, 1, 5, (Some(at(2)), Some(at(3)))),
        (InstancePhase::BackingOff, 1, 6, (Some(at(2)), None)),
        (InstancePhase::Ready, 1, 7, (Some(at(2)), Some(at(7)))),
    ];
    for (phase, restart_count, seconds, expected) in steps {
        let said = InstanceObservation { restart_count, ..observation(&instance, phase, seconds) };
        report(&store, agent.id, &said).await;
        let row = the_only(&store).await;
        assert_eq!((row.started_at, row.ready_since), expected, "{phase:?} at {seconds}");
    }
}

async fn a_stop_is_requested_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let instance = add_instance(&store, &service, None).await;
    let before = store.revision().await.unwrap();
    for (seconds, expected) in [(1, true), (2, false)] {
        let mut tx = store.write().await.unwrap();
        assert_eq!(tx.request_stop(instance.id, at(seconds)).await.unwrap(), expected);
        tx.commit().await.unwrap();
    }
    assert_eq!(the_only(&store).await.stop_requested_at, Some(at(1)));
    assert_eq!(store.revision().await.unwrap(), before + 1);
}

async fn an_instance_is_deleted_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let service = add_service(&store, team.id, "hello").await;
    let instance = add_instance(&store, &service, None).await;
    let mut tx = store.write().await.unwrap();
    assert!(tx.delete_instance(instance.id).await.unwrap());
    assert!(!tx.delete_instance(instance.id).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(store.read().await.unwrap().all_instances().await.unwrap(), []);
}

async fn instances_are_listed_by_service_and_by_agent(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let (one, two) = (add_service(&store, team.id, "one").await, add_service(&store, team.id, "two").await);
    let agent = add_agent(&store, team.id, "box").await;
    let first = add_instance(&store, &one, Some(agent.id)).await;
    let second = add_instance(&store, &one, None).await;
    let third = add_instance(&store, &two, Some(agent.id)).await;
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.instances_of_service(one.id).await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(tx.instances_of_agent(agent.id).await.unwrap(), [first.clone(), third.clone()]);
    assert_eq!(tx.all_instances().await.unwrap(), [first, second, third]);
}
