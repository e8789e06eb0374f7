//! Connections on workers: each on one of them, and the management API on none.

use towline_gateway::testing::{Container, World};

const HELLO: &str = "/api/v1/r/containers/hello/";

#[tokio::test]
async fn the_api_is_not_served_by_a_worker() {
    let world = World::start().await;
    for _ in 0..4 {
        let answer = world.get("", "/api/v1/where").await;
        assert_eq!(answer.text(), "None");
    }
}

#[tokio::test]
async fn callers_on_all_workers_reach_an_agents_carriers_wherever_they_are() {
    let container = Container::echo().await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let calls = (0..16).map(|_| world.get(&team.key, HELLO));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status, 200);
    }
}
