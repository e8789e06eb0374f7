//! Agents end, the server ends, connections break: containers neither stop nor double.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use towline_e2e::{
    api::Api,
    cable::Cable,
    system::{Server, ServerOptions},
};

use super::{
    agent::{Machine, QUIET, count_containers, wait_for_count},
    sim_service,
};

struct Deployed {
    server: Server,
    owner: Api,
    id: String,
    cable: Cable,
    machine: Machine,
}

async fn deployed(replicas: u32) -> Deployed {
    let server = Server::start().await;
    let owner = server.owner().await;
    let cable = Cable::to(server.api().address()).await;
    let machine = Machine::start_with(&server, "one", &cable.url(), &[]);
    let id = owner.create_service(&sim_service("hello", replicas)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, u64::from(replicas)).await;
    Deployed { server, owner, id, cable, machine }
}

impl Deployed {
    async fn wait_until_it_answers(&self) {
        self.server.api().wait_for_answer("/r/containers/hello/", 200).await;
    }

    async fn wait_until_it_does_not_answer(&self) {
        self.server.api().wait_for_answer("/r/containers/hello/", 503).await;
    }

    /// Nothing was made, stopped or removed since the deploy.
    fn assert_untouched(&self, replicas: usize) {
        assert_eq!(count_containers(std::slice::from_ref(&self.machine)), replicas);
        let log = self.machine.engine.log();
        let changes: Vec<_> = log.iter().filter(|line| !line.starts_with("start")).collect();
        assert!(changes.len() == replicas && changes.iter().all(|line| line.starts_with("create")), "{log:?}");
        assert_eq!(self.machine.count("start"), replicas, "{log:?}");
    }
}

#[tokio::test]
async fn an_agent_that_crashes_adopts_what_it_finds() {
    let mut deployed = deployed(3).await;
    for _ in 0..3 {
        deployed.machine.kill_agent().await;
        deployed.wait_until_it_does_not_answer().await;
        deployed.machine.start_agent();
        deployed.wait_until_it_answers().await;
    }
    deployed.owner.wait_for_ready(&deployed.id, 3).await;
    deployed.assert_untouched(3);
}

#[tokio::test]
async fn an_agent_that_ends_by_wish_leaves_everything_running() {
    let mut deployed = deployed(2).await;
    deployed.machine.stop_agent().await;
    deployed.assert_untouched(2);
    deployed.machine.start_agent();
    deployed.wait_until_it_answers().await;
    deployed.owner.wait_for_ready(&deployed.id, 2).await;
    deployed.assert_untouched(2);
}

#[tokio::test]
async fn a_server_that_crashes_stops_nothing() {
    let mut deployed = deployed(3).await;
    for _ in 0..2 {
        deployed.server.kill();
        deployed.assert_untouched(3);
        deployed.server.start_again().await;
        deployed.wait_until_it_answers().await;
    }
    deployed.owner.wait_for_ready(&deployed.id, 3).await;
    tokio::time::sleep(QUIET).await;
    deployed.assert_untouched(3);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_dialled_anew() {
    let deployed = deployed(2).await;
    for _ in 0..3 {
        deployed.cable.cut();
        deployed.wait_until_it_does_not_answer().await;
        deployed.cable.mend();
        deployed.wait_until_it_answers().await;
    }
    deployed.owner.wait_for_ready(&deployed.id, 2).await;
    deployed.assert_untouched(2);
}

/// Nobody says that the connection is gone: both sides find out by themselves.
#[tokio::test]
async fn a_connection_that_goes_silent_is_noticed_from_both_ends() {
    let deployed = deployed(1).await;
    deployed.cable.silence();
    deployed.wait_until_it_does_not_answer().await;
    deployed.cable.mend();
    deployed.wait_until_it_answers().await;
    deployed.owner.wait_for_ready(&deployed.id, 1).await;
    deployed.assert_untouched(1);
}

#[tokio::test]
async fn what_is_undeployed_while_the_agent_is_away_is_gone_when_it_is_back() {
    let mut deployed = deployed(2).await;
    deployed.machine.kill_agent().await;
    deployed.wait_until_it_does_not_answer().await;
    deployed.owner.undeploy(&deployed.id).await;
    deployed.owner.wait_for_status(&deployed.id, "stopped").await;
    assert_eq!(deployed.machine.engine.containers().len(), 2);
    deployed.machine.start_agent();
    wait_for_count(std::slice::from_ref(&deployed.machine), 0).await;
}

/// A machine is away for so long that its instance is given to another. When it comes back, the old one goes: whoever is late is fenced.
#[tokio::test]
async fn an_instance_that_was_replaced_meanwhile_is_removed_when_its_machine_is_back() {
    let arguments = ["--agent-lost-after", "2s"].map(str::to_owned).to_vec();
    let server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
    let owner = server.owner().await;
    let mut machines = vec![Machine::start(&server, "one")];
    let id = owner.create_service(&sim_service("hello", 1)).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    machines[0].kill_agent().await;
    machines.push(Machine::start(&server, "two"));
    let second = &machines[1];
    second.wait_for_containers("the second machine has it", |containers| containers.len() == 1).await;
    owner.wait_for_ready(&id, 1).await;
    assert_eq!(machines[0].engine.containers().len(), 1);
    machines[0].start_agent();
    machines[0].wait_for_containers("the first machine has it no more", <[_]>::is_empty).await;
    assert_eq!(count_containers(&machines), 1);
    server.api().get("/r/containers/hello/").await.assert_status(200);
}

/// Ten rounds of whatever can happen, in an order that the seed decides. At the end there is exactly what was wished.
#[tokio::test]
async fn whatever_happens_the_wish_is_what_is_there_at_the_end() {
    for seed in 0..2 {
        let mut random = SmallRng::seed_from_u64(seed);
        // However long the rounds take, nobody is away for so long that an instance is given to another.
        let arguments = ["--agent-lost-after", "10m"].map(str::to_owned).to_vec();
        let mut server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
        let owner = server.owner().await;
        let mut machines = Vec::new();
        let mut cables = Vec::new();
        for name in ["one", "two", "three"] {
            let cable = Cable::to(server.api().address()).await;
            machines.push(Machine::start_with(&server, name, &cable.url(), &[]));
            cables.push(cable);
        }
        let mut ids = Vec::new();
        for (slug, replicas) in [("svc-a", 3), ("svc-b", 2), ("svc-c", 1)] {
            let id = owner.create_service(&sim_service(slug, replicas)).await;
            owner.deploy(&id).await;
            ids.push((id, replicas));
        }
        for (id, replicas) in &ids {
            owner.wait_for_ready(id, u64::from(*replicas)).await;
        }
        for _ in 0..10 {
            let which = random.random_range(0..machines.len());
            match random.random_range(0..5) {
                0 => machines[which].kill_agent().await,
                1 => machines[which].start_agent_if_ended(),
                2 => cables[which].cut(),
                3 => cables[which].mend(),
                _ => {
                    server.kill();
                    server.start_again().await;
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        }
        for (machine, cable) in machines.iter_mut().zip(&cables) {
            cable.mend();
            machine.start_agent_if_ended();
        }
        for (id, replicas) in &ids {
            owner.wait_for_ready(id, u64::from(*replicas)).await;
        }
        wait_for_count(&machines, 6).await;
        // Nothing was away for long, so nothing was made twice.
        let made: usize = machines.iter().map(|machine| machine.count("create")).sum();
        assert_eq!(made, 6, "seed {seed}");
        for (id, _) in &ids {
            owner.undeploy(id).await;
        }
        for (id, _) in &ids {
            owner.wait_for_status(id, "stopped").await;
        }
        wait_for_count(&machines, 0).await;
    }
}
