//! Towline as its users run it: `towline server` and `towline agent` as processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    api::Api,
    claim::Claim,
    dir::test_dir,
    needs,
    process::Process,
    wait::{SOON, wait_until},
};

/// What the first start of a server writes.
#[derive(Debug, Clone, Deserialize)]
pub struct Bootstrap {
    /// Where the server listens.
    pub url: String,
    /// The first team.
    pub team_id: String,
    /// The owner's name at sign-in.
    pub email_address: String,
    /// The owner's password.
    pub user_password: String,
    /// An integration key.
    pub api_key: String,
    /// An agent key.
    pub agent_key: String,
}

/// A `towline` process's own environment: nothing of the developer's settings reaches it.
#[must_use]
pub fn towline(directory: &Path) -> Command {
    let mut command = Command::new(needs::towline());
    isolate(&mut command, directory);
    command
}

/// The same, inside a network namespace.
#[must_use]
pub fn towline_in(namespace: &str, directory: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(needs::towline());
    isolate(&mut command, directory);
    command
}

fn isolate(command: &mut Command, directory: &Path) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOWLINE_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", directory).env("XDG_CONFIG_HOME", directory.join("config")).current_dir(directory);
    command.env("TOWLINE_LOG", "info");
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The network namespace that it runs in; the machine's own if there is none.
    pub namespace: Option<String>,
    /// The address to listen on; loopback with a port of its own if there is none.
    pub listen: Option<String>,
    /// `postgres://…`; SQLite in the data directory if there is none.
    pub database_url: Option<String>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// A running `towline server` with its own data directory.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub process: Process,
    /// What its first start wrote.
    pub bootstrap: Bootstrap,
    options: ServerOptions,
    directory: TempDir,
    /// The port, also while it is down.
    _port: Option<Claim>,
}

impl Server {
    /// Starts a server on an empty data directory and a port of loopback, and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(ServerOptions::default()).await
    }

    /// The same, otherwise.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(options: ServerOptions) -> Self {
        let directory = test_dir();
        let port = options.listen.is_none().then(Claim::port);
        let listen = port.as_ref().map(|port| port.address().to_string());
        let listen = options.listen.clone().or(listen).expect("one of the two is there");
        let mut process = spawn(&options, &listen, directory.path());
        let file = directory.path().join("data/bootstrap.json");
        let bootstrap: Bootstrap = wait_until("the server has written bootstrap.json", SOON, async || {
            process.assert_runs();
            let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        })
        .await;
        let mut server = Self { process, bootstrap, options, directory, _port: port };
        server.wait_until_it_answers().await;
        server
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data directory and the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        let address = self.api().address().to_string();
        self.process = spawn(&self.options, &address, self.directory.path());
        self.wait_until_it_answers().await;
    }

    /// The same, with other arguments from now on.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again_with(&mut self, arguments: Vec<String>) {
        self.options.arguments = arguments;
        self.start_again().await;
    }

    async fn wait_until_it_answers(&mut self) {
        let api = self.api();
        let process = &mut self.process;
        wait_until("the server answers", SOON, async || {
            process.assert_runs();
            let answer = api.request(http::Method::GET, "/r/containers").send().await;
            match answer {
                Ok(response) if response.status() == 200 => Ok(()),
                Ok(response) => Err(response.status().to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// The server's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The runtime API with the first integration key.
    #[must_use]
    pub fn api(&self) -> Api {
        // Under TLS, too, a server takes plain HTTP from its own machine.
        let url = match self.bootstrap.url.strip_prefix("https://").and_then(|url| url.rsplit_once(':')) {
            Some((_, port)) => format!("http://127.0.0.1:{port}"),
            None => self.bootstrap.url.clone(),
        };
        Api::new(&url).with_key(&self.bootstrap.api_key)
    }

    /// The API as the owner.
    pub async fn owner(&self) -> Api {
        let Bootstrap { email_address, user_password, team_id, .. } = &self.bootstrap;
        self.api().login(email_address, user_password, team_id).await
    }

    /// Starts an agent of the first team.
    pub async fn start_agent(&self, name: &str) -> Agent {
        self.start_agent_with(AgentOptions { name: name.to_owned(), ..AgentOptions::default() }).await
    }

    /// The same, otherwise.
    ///
    /// # Panics
    /// When it does not come online.
    pub async fn start_agent_with(&self, options: AgentOptions) -> Agent {
        let directory = test_dir();
        let process = spawn_agent(&options, &self.bootstrap, directory.path());
        let mut agent = Agent { process, options, bootstrap: self.bootstrap.clone(), directory };
        agent.wait_until_online(&self.api()).await;
        agent
    }

    /// Waits until an agent is online and its engine ready, as the server sees it.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn wait_for_engine(&self, agent: &str) {
        let api = self.api();
        let is_ready = async || api.agent_is(agent, "engine_status", "ready").await;
        wait_until(&format!("the engine of {agent} is ready"), SOON, is_ready).await;
    }
}

fn spawn(options: &ServerOptions, listen: &str, directory: &Path) -> Process {
    let mut command = match &options.namespace {
        Some(namespace) => towline_in(namespace, directory),
        None => towline(directory),
    };
    command.args(["server", "--bootstrap", "--listen", listen, "--data-dir"]).arg(directory.join("data"));
    if let Some(url) = &options.database_url {
        command.args(["--database-url", url]);
    }
    command.args(&options.arguments);
    Process::start("towline server", &mut command, &directory.join("server.log"))
}

/// How an agent is started.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// The network namespace that it runs in; the machine's own if there is none.
    pub namespace: Option<String>,
    /// `DOCKER_HOST`; the machine's engine if there is none.
    pub docker_host: Option<String>,
    /// Where it finds the server; the URL that the server wrote if there is none.
    pub server_url: Option<String>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// A running `towline agent`.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    options: AgentOptions,
    bootstrap: Bootstrap,
    directory: TempDir,
}

impl Agent {
    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, with the same name.
    pub fn start_again(&mut self) {
        self.process = spawn_agent(&self.options, &self.bootstrap, self.directory.path());
    }

    /// Waits until the server sees it.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub async fn wait_until_online(&mut self, api: &Api) {
        let name = self.options.name.clone();
        let process = &mut self.process;
        wait_until(&format!("{name} is online"), SOON, async || {
            process.assert_runs();
            api.agent_is(&name, "agent_status", "online").await
        })
        .await;
    }

    /// Waits until the server has seen the end of one that was stopped.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub async fn wait_until_offline(&self, api: &Api) {
        let name = &self.options.name;
        wait_until(&format!("{name} is offline"), SOON, async || api.agent_is(name, "agent_status", "offline").await)
            .await;
    }
}

fn spawn_agent(options: &AgentOptions, bootstrap: &Bootstrap, directory: &Path) -> Process {
    let mut command = match &options.namespace {
        Some(namespace) => towline_in(namespace, directory),
        None => towline(directory),
    };
    let server = options.server_url.as_ref().unwrap_or(&bootstrap.url);
    command.args(["agent", "--server", server, "--name", &options.name]);
    for label in &options.labels {
        command.args(["--label", label]);
    }
    command.args(&options.arguments).env("TOWLINE_AGENT_KEY", &bootstrap.agent_key);
    if let Some(host) = &options.docker_host {
        command.env("DOCKER_HOST", host);
    }
    let log: PathBuf = directory.join("agent.log");
    Process::start(&format!("towline agent {}", options.name), &mut command, &log)
}

/// The demo service as a definition.
#[must_use]
pub fn demo_service(slug: &str, replicas: u32) -> serde_json::Value {
    json!({
        "service_slug": slug,
        "display_name": slug,
        "docker_image": "towline-demo:latest",
        "replica_count": replicas,
        "probe": {"interval_seconds": 1},
    })
}
