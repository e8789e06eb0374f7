//! A machine with an agent and an engine in memory.

use std::{collections::BTreeMap, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towline_agent::{
    AgentConfig,
    runtime::{
        Container,
        fake::{FakeRuntime, Program},
    },
};
use towline_e2e::{
    system::Server,
    wait::{SOON, wait_until},
};
use towline_model::{InstanceId, Secret};

/// The image that every simulated engine has.
pub const IMAGE: &str = "sim:1";

/// A machine. Its engine stays when its agent ends.
pub struct Machine {
    pub engine: FakeRuntime,
    config: AgentConfig,
    agent: JoinSet<()>,
    stop: CancellationToken,
}

impl Machine {
    /// A machine whose agent has just been started.
    pub fn start(server: &Server, name: &str) -> Self {
        Self::start_with(server, name, &server.bootstrap.url, &[])
    }

    /// The same, with a URL to dial and labels.
    pub fn start_with(server: &Server, name: &str, url: &str, labels: &[&str]) -> Self {
        let engine = FakeRuntime::new(&[IMAGE]).with_program(Program::Http);
        let key = Secret::new(server.bootstrap.agent_key.clone());
        let mut config = AgentConfig::new(url.parse().unwrap(), key);
        name.clone_into(&mut config.name);
        config.machine_id = format!("machine of {name}");
        config.labels = labels.iter().map(|&label| label.to_owned()).collect();
        let mut machine = Self { engine, config, agent: JoinSet::new(), stop: CancellationToken::new() };
        machine.start_agent();
        machine
    }

    /// Waits until the server sees the agent.
    pub async fn wait_until_online(&self, server: &Server) {
        let api = server.api();
        let is_online = async || api.agent_is(&self.config.name, "agent_status", "online").await;
        wait_until(&format!("{} is online", self.config.name), SOON, is_online).await;
    }

    /// Starts the agent (again).
    pub fn start_agent(&mut self) {
        self.stop = CancellationToken::new();
        let (config, engine, stop) = (self.config.clone(), self.engine.clone(), self.stop.clone());
        self.agent.spawn(async move {
            towline_agent::run(config, engine, stop).await.unwrap();
        });
    }

    /// Starts the agent if it does not run.
    pub fn start_agent_if_ended(&mut self) {
        if self.agent.is_empty() {
            self.start_agent();
        }
    }

    /// Ends the agent as a crash does: no goodbye, and its sockets are closed.
    pub async fn kill_agent(&mut self) {
        self.agent.shutdown().await;
    }

    /// Ends the agent by wish.
    pub async fn stop_agent(&mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(SOON, self.agent.join_next()).await;
        ended.expect("the agent ends when it is told to").unwrap().unwrap();
    }

    /// What was made, by instance, with the ids of containers.
    pub fn containers(&self) -> BTreeMap<InstanceId, Vec<String>> {
        let mut by_instance: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for container in self.engine.containers() {
            by_instance.entry(container.instance_id).or_default().push(container.id.as_str().to_owned());
        }
        by_instance
    }

    /// How often something was done: `create`, `start`, `stop`, `remove`, `pull`.
    pub fn count(&self, what: &str) -> usize {
        self.engine.log().iter().filter(|line| line.starts_with(what)).count()
    }

    /// Waits until the containers are as wished.
    pub async fn wait_for_containers(&self, what: &str, holds: impl Fn(&[Container]) -> bool) {
        let waiting = tokio::time::timeout(SOON, self.engine.wait_until(|containers| holds(containers)));
        waiting.await.unwrap_or_else(|_| panic!("waited until {what}: {:?}", self.engine.containers()));
    }
}

/// How many containers there are on all of them, and that no instance has two.
pub fn count_containers(machines: &[Machine]) -> usize {
    let mut all: BTreeMap<InstanceId, Vec<String>> = BTreeMap::new();
    for machine in machines {
        for (instance, mut containers) in machine.containers() {
            all.entry(instance).or_default().append(&mut containers);
        }
    }
    for (instance, containers) in &all {
        assert_eq!(containers.len(), 1, "instance {instance} has several containers: {containers:?}");
    }
    all.len()
}

/// Waits until there are so many containers, each of an instance of its own, and no more for a while.
pub async fn wait_for_count(machines: &[Machine], count: usize) {
    wait_until(&format!("there are {count} containers"), SOON * 3, async || {
        let now: usize = machines.iter().map(|machine| machine.engine.containers().len()).sum();
        if now == count { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    assert_eq!(count_containers(machines), count);
}

/// A time in which something would have happened that must not: two periods of reports and of the reconciler, shortened by
/// nothing, since the processes are real.
pub const QUIET: Duration = Duration::from_secs(3);
