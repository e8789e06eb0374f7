//! Agents: one a name, and the newest session wins.

use towline_model::{SessionId, TeamId};
use towline_store::{AgentObservation, AgentRegistration, Store, StoreError};

use crate::{
    fixtures::{add_agent, add_team, at, page, registration},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    an_agent_that_joins_again_keeps_its_id_and_session,
    of_twenty_that_join_with_one_name_all_get_one_agent,
    the_newest_session_wins,
    a_session_that_was_replaced_says_nothing_more,
    all_sessions_are_cleared,
    agents_are_listed_by_team,
    an_agent_needs_its_team,
);

async fn an_agent_that_joins_again_keeps_its_id_and_session(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let first = add_agent(&store, team.id, "box").await;
    let known = registration();
    assert_eq!((first.team_id, first.name.as_str()), (team.id, "box"));
    assert_eq!((&first.machine_id, &first.agent_version), (&known.machine_id, &known.agent_version));
    assert_eq!((&first.labels, first.gpu_count), (&known.labels, known.gpu_count));
    assert_eq!(first.capabilities, known.capabilities);
    assert_eq!((first.engine_ready, &first.engine_message), (known.engine_ready, &known.engine_message));
    assert_eq!((first.session_id, first.last_seen_at, first.created_at), (None, Some(at(0)), at(0)));

    let session = SessionId::generate();
    let mut tx = store.write().await.unwrap();
    assert!(tx.set_session(first.id, session, at(1)).await.unwrap());
    let upgraded = AgentRegistration {
        machine_id: "machine-2".to_owned(),
        agent_version: "0.2.0".to_owned(),
        labels: vec![],
        capabilities: vec![],
        gpu_count: -1,
        engine_ready: false,
        engine_message: None,
        transport: "websocket".to_owned(),
        via_proxy: true,
    };
    let again = tx.upsert_agent(team.id, "box", &upgraded, at(2)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((again.id, again.created_at, again.session_id), (first.id, first.created_at, Some(session)));
    assert_eq!((again.machine_id.as_str(), again.agent_version.as_str()), ("machine-2", "0.2.0"));
    assert_eq!((again.labels.len(), again.gpu_count, again.engine_ready), (0, -1, false));
    assert!(again.capabilities.is_empty());
    assert_eq!((first.transport.as_deref(), first.via_proxy), (Some("upgrade"), false));
    assert_eq!((again.transport.as_deref(), again.via_proxy), (Some("websocket"), true));
    assert_eq!((again.engine_message.as_deref(), again.last_seen_at), (None, Some(at(2))));
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.find_agent(team.id, first.id).await.unwrap().as_ref(), Some(&again));
    assert_eq!(tx.find_agent_by_name(team.id, "box").await.unwrap(), Some(again));
    assert_eq!(tx.find_agent(TeamId::generate(), first.id).await.unwrap(), None);
}

async fn of_twenty_that_join_with_one_name_all_get_one_agent(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let agents = at_once(20, |_| {
        let store = store.clone();
        async move { add_agent(&store, team.id, "box").await.id }
    })
    .await;
    assert!(agents.iter().all(|id| *id == agents[0]));
}

async fn set(store: &Store, agent: towline_model::AgentId, session: SessionId) -> bool {
    let mut tx = store.write().await.unwrap();
    let done = tx.set_session(agent, session, at(1)).await.unwrap();
    tx.commit().await.unwrap();
    done
}

async fn clear(store: &Store, agent: towline_model::AgentId, session: SessionId) -> bool {
    let mut tx = store.write().await.unwrap();
    let done = tx.clear_session(agent, session).await.unwrap();
    tx.commit().await.unwrap();
    done
}

async fn the_newest_session_wins(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let agent = add_agent(&store, team.id, "box").await;
    let (old, new) = (SessionId::generate(), SessionId::generate());
    let mut revision = store.revision().await.unwrap();
    for (moves, done) in [
        (true, set(&store, agent.id, old).await),
        (true, set(&store, agent.id, new).await),
        (false, clear(&store, agent.id, old).await),
    ] {
        assert_eq!(done, moves);
        revision += i64::from(moves);
    }
    assert_eq!(store.revision().await.unwrap(), revision);
    let session = async || store.read().await.unwrap().find_agent(team.id, agent.id).await.unwrap().unwrap().session_id;
    assert_eq!(session().await, Some(new), "the old session took nothing along");
    assert!(clear(&store, agent.id, new).await);
    assert_eq!(session().await, None);
    assert_eq!(store.revision().await.unwrap(), revision + 1);
    assert!(!set(&store, towline_model::AgentId::generate(), new).await);
}

async fn a_session_that_was_replaced_says_nothing_more(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let agent = add_agent(&store, team.id, "box").await;
    let (old, new) = (SessionId::generate(), SessionId::generate());
    set(&store, agent.id, old).await;
    set(&store, agent.id, new).await;
    let before = store.revision().await.unwrap();
    let heard = AgentObservation {
        seen_at: at(7),
        engine_ready: false,
        engine_message: Some("the Docker daemon does not answer".to_owned()),
    };
    let mut tx = store.write().await.unwrap();
    assert!(!tx.touch_agent(agent.id, old, &heard).await.unwrap());
    assert!(tx.find_agent(team.id, agent.id).await.unwrap().unwrap().engine_ready);
    assert!(tx.touch_agent(agent.id, new, &heard).await.unwrap());
    tx.commit().await.unwrap();
    let row = store.read().await.unwrap().find_agent(team.id, agent.id).await.unwrap().unwrap();
    assert_eq!((row.last_seen_at, row.engine_ready), (Some(at(7)), false));
    assert_eq!(row.engine_message, heard.engine_message);
    assert_eq!(store.revision().await.unwrap(), before + 1, "what can be placed there has changed");
    let mut tx = store.write().await.unwrap();
    assert!(tx.touch_agent(agent.id, new, &AgentObservation { seen_at: at(8), ..heard }).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 1, "nobody needs to know");
}

async fn all_sessions_are_cleared(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    for name in ["one", "two", "three"] {
        let agent = add_agent(&store, team.id, name).await;
        if name != "three" {
            set(&store, agent.id, SessionId::generate()).await;
        }
    }
    let before = store.revision().await.unwrap();
    for expected in [2, 0] {
        let mut tx = store.write().await.unwrap();
        assert_eq!(tx.clear_all_sessions().await.unwrap(), expected);
        tx.commit().await.unwrap();
    }
    assert_eq!(store.revision().await.unwrap(), before + 1);
    assert!(store.read().await.unwrap().all_agents().await.unwrap().iter().all(|agent| agent.session_id.is_none()));
}

async fn agents_are_listed_by_team(database: &Database) {
    let store = database.connect().await;
    let (team, other_team) = (add_team(&store).await, add_team(&store).await);
    let first = add_agent(&store, team.id, "zebra").await;
    let second = add_agent(&store, team.id, "ape").await;
    add_agent(&store, other_team.id, "ape").await;
    let mut tx = store.read().await.unwrap();
    let listed = tx.list_agents(team.id, page(1, 1)).await.unwrap();
    assert_eq!((listed.items, listed.total_count), (vec![first], 2));
    assert_eq!(tx.list_agents(team.id, page(2, 1)).await.unwrap().items, [second]);
    assert_eq!(tx.all_agents().await.unwrap().len(), 3);
}

async fn an_agent_needs_its_team(database: &Database) {
    let store = database.connect().await;
    let mut tx = store.write().await.unwrap();
    let refused = tx.upsert_agent(TeamId::generate(), "box", &registration(), at(0)).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
}
