//! The end of a team, with the real agent: its containers stop, its keys die, what it has in flight is cut.

use towline_e2e::system::Server;

use super::{agent::Machine, sim_service};

#[tokio::test]
async fn a_deleted_teams_containers_stop_and_its_keys_open_nothing() {
    let server = Server::start().await;
    let owner = server.owner().await;
    let machines = [Machine::start(&server, "one"), Machine::start(&server, "two")];
    let id = owner.create_service(&sim_service("hello", 2)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 2).await;
    server.api().get("/r/containers/hello/").await.assert_status(200);

    assert_eq!(owner.delete("/teams/current").await.status, 204);
    // Before the answer, not after it.
    for machine in &machines {
        assert_eq!(machine.engine.containers().len(), 0, "{:?}", machine.engine.log());
    }
    server.api().get("/r/containers").await.problem(401, "unauthenticated");
    server.api().get("/r/containers/hello/").await.gateway_problem(401, "unauthenticated");
    owner.get("/containers").await.problem(403, "not_in_team");
    owner.get("/teams/current").await.problem(403, "not_in_team");
}
