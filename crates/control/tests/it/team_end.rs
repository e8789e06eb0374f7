//! The end of a team, with agents that speak the real protocol.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use towline_gateway::testing::within;
use towline_model::{InstancePhase, KeyHash, Role};
use towline_tunnel::message::InstanceSpec;

use crate::{
    agents::Machine,
    support::{Caller, TestServer, minimal},
};

const CURRENT: &str = "/api/v1/teams/current";

#[tokio::test]
async fn a_deleted_team_stops_its_containers_and_then_loses_keys_and_sessions() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for_status(&path, "running").await;
    machine.wished(|instances| instances.len() == 1).await;

    assert_eq!(server.delete(&server.owner(), CURRENT).await.status, StatusCode::NO_CONTENT);
    // The agent was told to run nothing before its session ended.
    machine.wished(<[InstanceSpec]>::is_empty).await;
    within("the session's end", machine.agent.session_ended()).await;
    let snapshot = server.server.app().gateway().snapshot();
    assert!(snapshot.credentials.key(&KeyHash::of(&server.ours.keys["ak"])).is_none(), "the agent's key is dead");
    for key in ["sk", "sk-read", "sk-manage", "dk"] {
        server.get(&server.key(key), "/api/v1/containers").await.problem(401, "unauthenticated");
    }
    for role in Role::ALL {
        server.get(&server.user(role), CURRENT).await.problem(403, "not_in_team");
        let user = Caller::bearer(&server.token(server.ours.users[&role]));
        assert_eq!(server.get(&user, "/api/v1/users/me").await.json(200)["team_list"], json!([]));
        assert_eq!(server.get(&user, "/api/v1/teams").await.json(200)["team_list"], json!([]));
    }
    let mut tx = server.server.store().read().await.unwrap();
    assert_eq!(tx.ending_teams().await.unwrap(), []);
    assert!(tx.all_services().await.unwrap().is_empty() && tx.all_agents().await.unwrap().is_empty());
    // The other team has lost nothing.
    let others = server.user_in(&server.theirs, Role::Owner);
    assert_eq!(server.get(&others, CURRENT).await.json(200)["member_count"], 4);
    server.get(&Caller::bearer(&server.theirs.keys["sk"]), "/api/v1/containers").await.json(200);
}

#[tokio::test]
async fn the_sessions_wait_until_the_containers_have_stopped() {
    let server = TestServer::start().await;
    let machine = Machine::join(&server, "box").await;
    let path = server.create(&minimal("hello")).await;
    server.act(&server.owner(), &format!("{path}/deploy")).await.json(200);
    server.wait_for_status(&path, "running").await;
    let spec = machine.wished(|instances| instances.len() == 1).await.remove(0);
    // From here on it reports by hand: its container takes its time.
    machine.report_by_hand();
    let owner = server.owner();
    let deletion = server.delete(&owner, CURRENT);
    let told = async {
        let revision = machine.revision_of(<[InstanceSpec]>::is_empty).await;
        machine.say(revision, &[(spec.instance_id, spec.generation, InstancePhase::Stopping)]).await;
        let key = server.key("sk");
        // Keys of callers are dead by then, and the team is nobody's.
        server.get(&key, "/api/v1/containers").await.problem(401, "unauthenticated");
        server.get(&server.owner(), CURRENT).await.problem(403, "not_in_team");
        let session = tokio::time::timeout(Duration::from_millis(300), machine.agent.session_ended()).await;
        assert!(session.is_err(), "the session is still there");
        machine.say(revision, &[]).await;
    };
    let (answer, ()) = tokio::join!(deletion, told);
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    within("the session's end", machine.agent.session_ended()).await;
}

#[tokio::test]
async fn only_the_owner_deletes_a_team_and_only_once() {
    let server = TestServer::start().await;
    server.delete(&server.user(Role::Admin), CURRENT).await.problem(403, "forbidden");
    let (owner, other) = (server.owner(), server.owner());
    let (one, other) = tokio::join!(server.delete(&owner, CURRENT), server.delete(&other, CURRENT));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 403], "{} {}", one.text(), other.text());
}

#[tokio::test]
async fn an_end_that_was_cut_off_is_finished_after_a_restart() {
    let server = TestServer::start().await;
    let mut tx = server.server.store().write().await.unwrap();
    let now = towline_model::Clock::now(&towline_model::SystemClock);
    assert!(tx.begin_team_end(server.ours.id, now).await.unwrap());
    tx.commit().await.unwrap();
    // Nothing but the state says so: the next pass finds it.
    let gone = async {
        while !server.server.store().read().await.unwrap().ending_teams().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the team's end", Box::pin(gone)).await;
    server.get(&server.owner(), CURRENT).await.problem(403, "not_in_team");
}
