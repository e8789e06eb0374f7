//! Attached services: processes that run already, on a machine without a container engine.

use serde_json::{Value, json};
use towline_e2e::{
    claim::Claim,
    dir::test_dir,
    needs,
    process::Process,
    system::{Agent, AgentOptions, Server, towline},
    wait::{SOON, wait_until},
};

/// The demo service as a process of this machine.
pub struct LocalProcess {
    process: Process,
    port: Claim,
    directory: tempfile::TempDir,
}

impl LocalProcess {
    pub async fn start() -> Self {
        let directory = test_dir();
        let port = Claim::port();
        let process = Self::spawn(port.number(), directory.path());
        let mut local = Self { process, port, directory };
        local.wait().await;
        local
    }

    fn spawn(port: u16, directory: &std::path::Path) -> Process {
        let mut command = std::process::Command::new(needs::demo());
        command.env("PORT", port.to_string());
        Process::start("towline-demo", &mut command, &directory.join("demo.log"))
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(self.port.number(), self.directory.path());
        self.wait().await;
    }

    async fn wait(&mut self) {
        let (address, process) = (self.port.address(), &mut self.process);
        wait_until("the process listens", SOON, async || {
            process.assert_runs();
            let connected = tokio::net::TcpStream::connect(address).await;
            connected.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    pub fn target(&self) -> String {
        self.port.address().to_string()
    }
}

/// An agent on a machine without a container engine.
pub async fn agent_without_engine(server: &Server, name: &str, arguments: &[&str]) -> Agent {
    let options = AgentOptions {
        name: name.to_owned(),
        docker_host: Some("unix:///nonexistent/docker.sock".to_owned()),
        arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        ..AgentOptions::default()
    };
    server.start_agent_with(options).await
}

/// An attached service.
pub fn attached(slug: &str, target: &str) -> Value {
    json!({
        "service_slug": slug, "display_name": slug, "service_type": "attached", "attached_target": target,
        "probe": {"interval_seconds": 1},
    })
}

#[tokio::test]
async fn a_process_becomes_a_service_goes_and_comes_back() {
    let server = Server::start().await;
    let _agent = agent_without_engine(&server, "bare", &[]).await;
    let mut local = LocalProcess::start().await;
    let owner = server.owner().await;
    let id = owner.create_service(&attached("ollama", &local.target())).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;

    let api = server.api();
    let echo = api.get("/r/containers/ollama/echo?x=1").await.expect(200);
    assert_eq!(echo["target"], "/echo?x=1");
    let host = echo["headers"].as_array().unwrap().iter().find(|field| field[0] == "host").unwrap();
    assert_eq!(host[1], local.target(), "it is told the name that a neighbour would use");

    local.process.kill();
    // At once: whoever could not connect tells it. Never a 502, since nothing listens.
    let words = api.get("/r/containers/ollama/echo").await.gateway_problem(503, "no_ready_instance");
    assert!(words.contains("ollama"), "{words}");
    let service = wait_until("it is not ready, and says why", SOON, async || {
        let service = owner.service(&id).await;
        let says_why = service["status_reason"].as_str().is_some_and(|reason| reason.contains("nothing listens on"));
        if service["instances_ready"] == 0 && says_why { Ok(service) } else { Err(service.to_string()) }
    })
    .await;
    assert_eq!(service["service_status"], "running");
    api.get("/r/containers/ollama/echo").await.gateway_problem(503, "no_ready_instance");

    local.start_again().await;
    api.wait_for_answer("/r/containers/ollama/echo", 200).await;

    // The rest of a service's life, none of which needs an engine.
    owner.act(&format!("/containers/{id}/restart")).await.expect(200);
    wait_until("the restart has taken over", SOON, async || {
        let service = owner.service(&id).await;
        let is_done = service["rollout"]["generation"] == 2 && service["rollout"]["state"] == "succeeded";
        if is_done { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    api.get("/r/containers/ollama/echo").await.expect(200);
    let log = owner.get(&format!("/containers/{id}/logs")).await;
    assert!(log.status == 409 && log.text().contains("is no container"), "{} {}", log.status, log.text());
    let began = std::time::Instant::now();
    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "it took {:?}", began.elapsed());
    assert_eq!(owner.delete(&format!("/containers/{id}")).await.status, 204);
    local.process.assert_runs();
}

#[tokio::test]
async fn the_agent_decides_what_it_attaches_to() {
    let server = Server::start().await;
    let local = LocalProcess::start().await;
    let _agent = agent_without_engine(&server, "strict", &["--attach-allow", "127.0.0.1:1"]).await;
    let owner = server.owner().await;
    let id = owner.create_service(&attached("ollama", &local.target())).await;
    owner.deploy(&id).await;
    let service = owner.wait_for_status(&id, "failed").await;
    let reason = service["status_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("strict may not connect to") && reason.contains("--attach-allow"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_starts_again_interrupts_nothing_that_it_need_not() {
    let server = Server::start().await;
    let mut agent = agent_without_engine(&server, "bare", &[]).await;
    let local = LocalProcess::start().await;
    let owner = server.owner().await;
    let id = owner.create_service(&attached("ollama", &local.target())).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    let before = owner.instances(&id).await;
    agent.kill();
    server.api().wait_for_answer("/r/containers/ollama/echo", 503).await;
    agent.start_again();
    server.api().wait_for_answer("/r/containers/ollama/echo", 200).await;
    let after = owner.instances(&id).await;
    assert_eq!((&after[0]["id"], &after[0]["phase"]), (&before[0]["id"], &json!("ready")));
}

/// `towline expose` as somebody runs it on the server's own machine.
fn expose(server: &Server, local: &LocalProcess, log: &str, arguments: &[&str]) -> Process {
    let mut command = towline(server.directory());
    command.args(["expose", &local.port.number().to_string(), "--data-dir"]).arg(server.directory().join("data"));
    command.args(arguments);
    Process::start("towline expose", &mut command, &server.directory().join(log))
}

#[tokio::test]
async fn one_command_exposes_a_process_until_it_ends() {
    let server = Server::start().await;
    let mut local = LocalProcess::start().await;
    let (owner, api) = (server.owner().await, server.api());

    let mut command = expose(&server, &local, "first.log", &["--name", "my-model"]);
    command.wait_for_output("/api/v1/r/containers/my-model/").await;
    api.get("/r/containers/my-model/echo").await.expect(200);
    local.process.kill();
    api.get("/r/containers/my-model/echo").await.gateway_problem(503, "no_ready_instance");
    local.start_again().await;
    api.wait_for_answer("/r/containers/my-model/echo", 200).await;

    // Nobody in the team gets further with this agent than to the exposed process.
    let first = api.get("/r/containers/my-model").await.expect(200);
    let mut other = attached("other", &server.api().address().to_string());
    other["required_labels"] = first["required_labels"].clone();
    let id = owner.create_service(&other).await;
    owner.deploy(&id).await;
    let reason = owner.wait_for_status(&id, "failed").await["status_reason"].to_string();
    assert!(reason.contains("--attach-allow"), "{reason}");

    command.signal("INT");
    command.wait_for_end(0, SOON).await;
    api.wait_for_answer("/r/containers/my-model/echo", 503).await;

    // Again: the same service, found and brought up to date; this time it is not left behind.
    let mut command = expose(&server, &local, "second.log", &["--name", "my-model", "--rm"]);
    command.wait_for_output("/api/v1/r/containers/my-model/").await;
    api.get("/r/containers/my-model/echo").await.expect(200);
    assert_eq!(api.get("/r/containers/my-model").await.expect(200)["id"], first["id"]);
    command.signal("INT");
    command.wait_for_end(0, SOON).await;
    api.get("/r/containers/my-model").await.problem(404, "not_found");
    local.process.assert_runs();
}

#[tokio::test]
async fn an_agent_of_this_machine_takes_what_is_exposed() {
    let server = Server::start().await;
    let _agent = agent_without_engine(&server, "bare", &[]).await;
    let local = LocalProcess::start().await;
    let mut command = expose(&server, &local, "expose.log", &["--name", "my-model"]);
    command.wait_for_end(0, SOON).await;
    assert!(command.output().contains("towline service undeploy"), "{}", command.output());
    server.api().get("/r/containers/my-model/echo").await.expect(200);
    let owner = server.owner().await;
    let id = server.api().get("/r/containers/my-model").await.expect(200)["id"].as_str().unwrap().to_owned();
    assert_eq!(owner.instances(&id).await[0]["agent_name"], "bare");
}
