//! The tunnels: rathole, and this project with its server and its agent as processes of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Kind, LOOPBACK, Speech, Stage, Subject, Target, free_port, wait_for};
use crate::{
    bench::{process::Running, provision::Rivals, wan::Place},
    tools,
};

/// How long a server may take to write down its first keys.
const START: Duration = Duration::from_secs(30);
/// Services of the largest table of routes.
const SERVICES: usize = 1000;
/// Agents that they are dealt out to.
const AGENTS: usize = 100;

pub fn rathole(stage: &Stage<'_>, rivals: &Rivals) -> Result<Subject> {
    let directory = stage.directory("rathole")?;
    let (control, port, origin) = (free_port()?, free_port()?, stage.origin_of_callers);
    let (near, far) = (stage.near.address, stage.far.address);
    let server = format!(
        "[server]\nbind_addr = \"{near}:{control}\"\ndefault_token = \"benchmark\"\n\
         [server.services.origin]\nbind_addr = \"{near}:{port}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{near}:{control}\"\ndefault_token = \"benchmark\"\n\
         [client.services.origin]\nlocal_addr = \"{far}:{origin}\"\n"
    );
    let start = |role, place: &Place, name: &str, text: String| {
        let conf = directory.join(name);
        fs::write(&conf, text)?;
        let mut command = place.command(&rivals.rathole);
        command.arg(&conf).env("RUST_LOG", "error");
        Running::start(role, &command, &directory.join("log"))
    };
    let mut gateway = start("gateway", stage.near, "server.toml", server)?;
    wait_for(stage.near, &mut gateway, &[control])?;
    let agent = start("agent", stage.far, "client.toml", client)?;
    wait_for(stage.near, &mut gateway, &[port])?;
    let target = Target::plain(stage.speech, near, port);
    Ok(Subject { kind: Kind::Rathole, processes: vec![gateway, agent], target })
}

pub fn towline(stage: &Stage<'_>) -> Result<Subject> {
    let system = System::start(stage, "towline")?;
    let agent = system.agent(stage, "agent-0", &[])?;
    system.wait_for_agents(stage, 1)?;
    system.apply(stage, &[service("origin", stage.origin, None)])?;
    Ok(system.subject(vec![agent], "origin"))
}

/// A system with many services, dealt out to many agents: `service-<number>`, all of them the origin.
pub fn towline_with_many(stage: &Stage<'_>) -> Result<Subject> {
    let system = System::start(stage, "towline-many")?;
    let label = |number: usize| format!("agent-{}", number % AGENTS);
    let agents: Result<Vec<_>> =
        (0..AGENTS).map(|number| system.agent(stage, &label(number), &[&label(number)])).collect();
    let agents = agents?;
    system.wait_for_agents(stage, AGENTS)?;
    let definition = |number| service(&format!("service-{number}"), stage.origin, Some(label(number)));
    system.apply(stage, &(0..SERVICES).map(definition).collect::<Vec<_>>())?;
    Ok(Subject { kind: Kind::TowlineMany, ..system.subject(agents, "service-0") })
}

fn service(slug: &str, port: u16, label: Option<String>) -> Value {
    json!({
        "service_slug": slug,
        "display_name": slug,
        "service_type": "attached",
        "attached_target": format!("{LOOPBACK}:{port}"),
        // Or the probes of a thousand services, which a hundred machines share elsewhere, would be measured with their routes.
        "probe": { "interval_seconds": 300 },
        "required_labels": Vec::from_iter(label),
    })
}

/// The server and what its first start has written down.
struct System {
    gateway: Running,
    directory: PathBuf,
    /// Without the service.
    target: Target,
    key: String,
}

impl System {
    fn start(stage: &Stage<'_>, name: &str) -> Result<Self> {
        let directory = stage.directory(name)?;
        let port = free_port()?;
        let target = Target::plain(stage.speech, stage.near.address, port);
        let mut server = isolated(stage, stage.near, &directory);
        server.args(["server", "--bootstrap", "--listen", &format!("{}:{port}", stage.near.address), "--data-dir"]);
        // A thousand services are more than one credential may define in a minute. Calls of services have no such limit.
        server.arg(directory.join("data")).args(["--api-rate", "off"]);
        if stage.speech == Speech::Https {
            server.arg("--tls-cert").arg(&stage.certificate.chain).arg("--tls-key").arg(&stage.certificate.key);
            server.args(["--public-url", &target.url("")]);
        }
        let mut gateway = Running::start("gateway", &server, &directory.join("server.log"))?;
        wait_for(stage.near, &mut gateway, &[port])?;
        let bootstrap = bootstrap(&directory.join("data/bootstrap.json"), &gateway)?;
        let text = |name: &str| bootstrap[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        let key_file = directory.join("agent.key");
        fs::write(&key_file, text("agent_key")?)?;
        Ok(Self { gateway, directory, target, key: text("api_key")? })
    }

    fn agent(&self, stage: &Stage<'_>, name: &str, labels: &[&str]) -> Result<Running> {
        let mut agent = isolated(stage, stage.far, &self.directory);
        agent
            .args(["agent", "--server", &self.target.url(""), "--name", name, "--key-file"])
            .arg(self.directory.join("agent.key"));
        // No engine is needed: the origin is a process, and the service is attached to it.
        agent.arg("--docker-host").arg(format!("unix://{}", self.directory.join("no-engine").display()));
        for label in labels {
            agent.args(["--label", label]);
        }
        Running::start("agent", &agent, &self.directory.join(format!("{name}.log")))
    }

    /// Waits until so many agents have joined.
    #[expect(clippy::disallowed_methods, reason = "the list of agents has to be asked for")]
    fn wait_for_agents(&self, stage: &Stage<'_>, count: usize) -> Result<()> {
        let started = Instant::now();
        loop {
            let mut list = isolated(stage, stage.near, &self.directory);
            list.arg("agents").arg("--data-dir").arg(self.directory.join("data"));
            let text = tools::output(&mut list)?;
            let joined = text.lines().filter(|line| line.starts_with("agent-")).count();
            if joined >= count {
                return Ok(());
            }
            if started.elapsed() > START {
                bail!("{joined} of {count} agents have joined: {text}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Defines and deploys services, and waits until all of them run.
    fn apply(&self, stage: &Stage<'_>, services: &[Value]) -> Result<()> {
        let file = self.directory.join("services.json");
        fs::write(&file, serde_json::to_vec(services)?)?;
        let mut apply = isolated(stage, stage.near, &self.directory);
        apply.args(["apply", "--wait", "-f"]).arg(&file).arg("--data-dir").arg(self.directory.join("data"));
        tools::output(&mut apply).map(drop).context("cannot deploy the services")
    }

    fn subject(self, agents: Vec<Running>, slug: &str) -> Subject {
        let prefix = format!("/api/v1/r/containers/{slug}");
        let target = Target { prefix, key: Some(self.key), ..self.target };
        let processes = std::iter::once(self.gateway).chain(agents).collect();
        Subject { kind: Kind::Towline, processes, target }
    }
}

/// The program without the settings of whoever runs this task.
fn isolated(stage: &Stage<'_>, place: &Place, directory: &Path) -> Command {
    let mut command = place.command(&stage.programs.towline);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOWLINE_") {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", directory.join("no-config"));
    // Whom the agent and the command line trust.
    command.env("SSL_CERT_FILE", &stage.certificate.chain);
    command
}

#[expect(clippy::disallowed_methods, reason = "the file appears when the server has made its first keys")]
fn bootstrap(path: &Path, gateway: &Running) -> Result<Value> {
    let started = Instant::now();
    loop {
        if let Some(value) = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            return Ok(value);
        }
        if started.elapsed() > START {
            bail!("the server has written no keys: {}", gateway.last_words());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
