//! `towline agent`: joins a server and runs containers on this machine.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum, ValueHint};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use towline_agent::{
    AgentConfig, AgentStatus, DockerConfig, DockerRuntime, ProxyConfig, ReachPolicy, Rule, Runtime, VolumeRules,
};
use towline_model::Secret;
use url::Url;

use crate::{
    cli::parse_server_url,
    client::connect::read_secret_file,
    cmd::{Context, serve},
    config::{Environment, SYSTEM_FILE},
    failure::Failure,
    signals::SignalWatch,
    units::parse_connection_lifetime,
};

const EXAMPLE: &str = "\
Example:
  towline agent --server https://towline.example.com --key ak-… --label gpu --label eu
  towline agent --server http://10.0.0.5:7070 --key-file /etc/towline/agent.key --name lab-machine
  towline agent --server https://towline.example.com --key-file a.key --proxy http://proxy:3128

The agent dials the server and listens on no port. It finds the container engine by --docker-host, DOCKER_HOST, or at \
the usual sockets of Docker and Podman, and waits for one when there is none. When it is stopped, its containers go on \
running.";

/// How an agent appears and what it works with, whether alone or in `towline up`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Agent")]
pub struct AgentIdentityArgs {
    /// The agent's name, unique in its team: 1 to 100 characters [default: the machine's name].
    #[arg(id = "agent.name", long = "name", value_name = "NAME")]
    pub name: Option<String>,
    /// A label that services can require; repeat for several, at most 64.
    #[arg(id = "agent.label", long = "label", value_name = "LABEL")]
    pub label: Vec<String>,
    /// What runs the containers.
    #[arg(id = "agent.runtime", long = "runtime", value_name = "RUNTIME", value_enum, default_value = "docker")]
    pub runtime: RuntimeKind,
    /// The container engine's address, such as unix:///run/podman/podman.sock
    /// [default: DOCKER_HOST, else the usual sockets].
    #[arg(id = "agent.docker_host", long = "docker-host", value_name = "URL")]
    pub docker_host: Option<String>,
    /// A directory of this machine that services may mount from, even a system directory; repeat for several. The container
    /// engine's socket and Towline's own keys and data are never mounted [default: everything but system directories].
    #[arg(id = "agent.volume_root", long = "volume-root", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub volume_root: Vec<PathBuf>,
    /// What attached services of this agent may be at: a host, *.host, * or an address or range, each with or without
    /// :port; repeat for several [default: the addresses of this machine itself, 127.0.0.0/8 and ::1].
    #[arg(id = "agent.attach_allow", long = "attach-allow", value_name = "RULE")]
    pub attach_allow: Vec<Rule>,
    /// What external services of this agent may be at, written the same way; repeat for several. Addresses that are not
    /// public must be named as addresses [default: every host at public addresses].
    #[arg(id = "agent.external_allow", long = "external-allow", value_name = "RULE")]
    pub external_allow: Vec<Rule>,
    /// What external services may never be at, written the same way; repeat for several. It wins over what is allowed.
    #[arg(id = "agent.external_deny", long = "external-deny", value_name = "RULE")]
    pub external_deny: Vec<Rule>,
    /// The most streams at a time, each of them one connection to a container.
    #[arg(id = "agent.max_streams", long = "max-streams", value_name = "N", default_value_t = 8192)]
    pub max_streams: usize,
}

/// What can run containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuntimeKind {
    /// The Docker Engine API: Docker or Podman.
    Docker,
}

/// Arguments of `towline agent`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct AgentArgs {
    /// The server's URL.
    #[arg(long, value_name = "URL", value_parser = parse_server_url, value_hint = ValueHint::Url)]
    server: Url,
    /// The key that joins the team (ak-…).
    #[arg(
        id = "agent.key",
        long = "key",
        value_name = "KEY",
        conflicts_with = "agent.key_file",
        required_unless_present = "agent.key_file"
    )]
    key: Option<Secret<String>>,
    /// A file that holds only the key.
    #[arg(id = "agent.key_file", long = "key-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    key_file: Option<PathBuf>,
    /// A PEM file with the certificates that the server's is checked against [default: the machine's trusted ones].
    #[arg(id = "agent.ca_file", long = "ca-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    ca_file: Option<PathBuf>,
    /// The HTTP proxy that the server is reached through by CONNECT, and never without it: http://[user:password@]host:port,
    /// or https:// to the proxy itself; none for no proxy
    /// [default: as HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say].
    #[arg(id = "agent.proxy", long = "proxy", value_name = "URL")]
    proxy: Option<Secret<String>>,
    /// A file that holds only user:password for the proxy.
    #[arg(
        id = "agent.proxy_credentials_file",
        long = "proxy-credentials-file",
        value_name = "FILE",
        requires = "agent.proxy",
        value_hint = ValueHint::FilePath
    )]
    proxy_credentials_file: Option<PathBuf>,
    /// The age at which a balancer before the server cuts every connection, also busy ones: each is replaced at 70 to 80 % of it,
    /// so that streams shorter than the rest are not cut [default: as the server says or as observed].
    #[arg(
        id = "agent.connection_lifetime",
        long = "connection-lifetime",
        value_name = "DURATION",
        value_parser = parse_connection_lifetime
    )]
    connection_lifetime: Option<Duration>,
    #[command(flatten)]
    identity: AgentIdentityArgs,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When a setting is wrong.
pub async fn run(args: AgentArgs, context: &Context) -> Result<(), Failure> {
    let signals = SignalWatch::start()?;
    let key = match (args.key, &args.key_file) {
        (Some(key), _) => key,
        (None, Some(path)) => read_secret_file(path)?,
        (None, None) => return Err(Failure::usage("a key is needed").hint("give --key or --key-file")),
    };
    let proxy = match (args.proxy, &args.proxy_credentials_file) {
        (Some(url), _) if url.expose() == "none" => ProxyConfig::None,
        (Some(url), file) => {
            ProxyConfig::Always { url, credentials: file.as_deref().map(read_secret_file).transpose()? }
        }
        (None, _) => conventional_proxy(&context.environment),
    };
    let (ca_file, connection_lifetime) = (args.ca_file, args.connection_lifetime);
    // An agent is a guest on its machine: cores that look busy are not what its owner expects of it.
    let workers = serve::workers(Duration::ZERO)?;
    let config =
        AgentConfig { ca_file, proxy, connection_lifetime, workers, ..config(args.server, key, &args.identity)? };
    config.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let secret_files = [args.key_file, args.proxy_credentials_file].into_iter().flatten().collect();
    let mut agent = Some(start(config, runtime(&args.identity, secret_files, context)));
    let shutdown = signals.shutdown();
    tokio::select! {
        () = shutdown.cancelled() => {}
        failure = failed(&mut agent) => return Err(failure),
    }
    if let Some(agent) = agent {
        agent.stop().await;
    }
    Ok(())
}

/// The settings of an agent.
///
/// # Errors
/// When one of them is wrong.
pub fn config(server: Url, key: Secret<String>, args: &AgentIdentityArgs) -> Result<AgentConfig, Failure> {
    let mut config = AgentConfig::new(server, key);
    if let Some(name) = &args.name {
        name.clone_into(&mut config.name);
    }
    args.label.clone_into(&mut config.labels);
    config.max_streams = args.max_streams;
    config.reach = ReachPolicy {
        attach_allow: args.attach_allow.clone(),
        external_allow: args.external_allow.clone(),
        external_deny: args.external_deny.clone(),
    };
    config.validate().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(config)
}

/// The proxy of the conventional variables, which most programs take in either case.
pub fn conventional_proxy(environment: &Environment) -> ProxyConfig {
    let text = |name: &str| {
        let value = environment.text(name).or_else(|| environment.text(&name.to_ascii_lowercase()));
        value.unwrap_or_default().to_owned()
    };
    let secret = |name| Secret::new(text(name));
    ProxyConfig::Conventional {
        all: secret("ALL_PROXY"),
        http: secret("HTTP_PROXY"),
        https: secret("HTTPS_PROXY"),
        no: text("NO_PROXY"),
    }
}

/// What runs the containers, none of which gets to see `protected` files and directories, nor where this user's keys and data
/// are. Nothing is connected to yet.
pub fn runtime(args: &AgentIdentityArgs, protected: Vec<PathBuf>, context: &Context) -> DockerRuntime {
    let environment = &context.environment;
    DockerRuntime::new(DockerConfig {
        host: args.docker_host.clone().or_else(|| environment.text("DOCKER_HOST").map(str::to_owned)),
        runtime_dir: environment.path("XDG_RUNTIME_DIR"),
        volumes: volume_rules(args, protected, context, Path::new(SYSTEM_FILE)),
    })
}

fn volume_rules(
    args: &AgentIdentityArgs,
    mut protected: Vec<PathBuf>,
    context: &Context,
    system_file: &Path,
) -> VolumeRules {
    protected.push(context.environment.data_dir());
    protected.extend(context.environment.config_dir());
    protected.extend(context.config_file.clone());
    // Also where another file is named: it can hold keys all the same.
    protected.push(system_file.to_owned());
    VolumeRules { allowed_roots: args.volume_root.clone(), protected }
}

/// An agent that runs in this process.
pub struct RunningAgent {
    shutdown: CancellationToken,
    task: JoinSet<Result<(), Failure>>,
}

/// Starts an agent.
pub fn start(config: AgentConfig, runtime: impl Runtime) -> RunningAgent {
    start_with_status(config, runtime, watch::Sender::new(AgentStatus::Connecting))
}

/// Starts an agent that tells how it stands with the server.
pub fn start_with_status(
    config: AgentConfig,
    runtime: impl Runtime,
    status: watch::Sender<AgentStatus>,
) -> RunningAgent {
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let ended = towline_agent::run_with_status(config, runtime, token, status).await;
        ended.map_err(|error| Failure::new(format!("the agent has ended: {error}")))
    });
    RunningAgent { shutdown, task }
}

/// Returns when the agent, if there is one, cannot go on. It is gone then.
pub async fn failed(agent: &mut Option<RunningAgent>) -> Failure {
    let Some(running) = agent else { return std::future::pending().await };
    let ended = running.task.join_next().await;
    *agent = None;
    match ended {
        Some(Ok(Err(failure))) => failure,
        _ => Failure::new("the agent has ended by itself"),
    }
}

impl RunningAgent {
    /// Lets the agent finish what it carries, and ends it. Its containers go on.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.task.join_next().await {
            if let Ok(Err(failure)) = ended {
                tracing::warn!("{failure}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs};

    use super::*;
    use crate::{cli::Command, config, output};

    /// What may be mounted where an agent was started so.
    fn rules(line: &[&str], variables: &[(&str, &str)]) -> VolumeRules {
        rules_beside(Path::new("/no/such/file"), line, variables)
    }

    /// The same, where the machine's own configuration file is this one.
    fn rules_beside(system_file: &Path, line: &[&str], variables: &[(&str, &str)]) -> VolumeRules {
        let environment = Environment::from_iter(variables.iter().copied());
        let arguments: Vec<OsString> = ["towline", "agent"].iter().chain(line).map(OsString::from).collect();
        let cli = config::parse(&arguments, &environment).unwrap();
        let (output, _) = output::captured::output(output::Format::Text);
        let context = Context { output, environment, config_file: cli.global.config, verbose: false };
        let Command::Agent(args) = cli.command else { panic!("{:?}", cli.command) };
        volume_rules(&args.identity, vec![], &context, system_file)
    }

    #[test]
    fn a_configuration_file_that_is_named_is_not_mounted_wherever_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let [home, keys, models] = ["home", "keys", "models"].map(|name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path.to_str().unwrap().to_owned()
        });
        let file = format!("{keys}/agent.toml");
        fs::write(&file, "server = \"http://127.0.0.1:7070\"\n[agent]\nkey = \"ak-x\"\n").unwrap();
        // Its directory is allowed by name, and its parent not forbidden as a system directory.
        let root = ["--volume-root", dir.path().to_str().unwrap()];
        let typed = rules(&[&["--config", &file], &root[..]].concat(), &[("HOME", &home)]);
        let by_variable = rules(&root, &[("HOME", &home), ("TOWLINE_CONFIG", &file)]);
        for rules in [typed, by_variable] {
            for path in [&file, &keys] {
                let error = rules.check(path).unwrap_err().to_string();
                assert!(error.contains("belongs to the agent itself"), "{path}: {error}");
            }
            rules.check(&models).unwrap();
        }
        let key = ["--server", "http://127.0.0.1:7070", "--key", "ak-x"];
        rules(&[&key[..], &root].concat(), &[("HOME", &home)]).check(&keys).unwrap();
    }

    #[test]
    fn the_machines_configuration_file_is_not_mounted_whether_it_is_read_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path).to_str().unwrap().to_owned();
        for path in ["home", "etc/ssl", "etc/towline"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let (etc, file) = (at("etc"), at("etc/towline/towline.toml"));
        let line = ["--server", "http://127.0.0.1:7070", "--key", "ak-x", "--volume-root", &etc];
        let rules = rules_beside(Path::new(&file), &line, &[("HOME", &at("home"))]);
        rules.check(&etc).unwrap();
        fs::write(&file, "").unwrap();
        for path in [&file, &at("etc/towline"), &etc] {
            let error = rules.check(path).unwrap_err().to_string();
            assert!(error.contains("belongs to the agent itself"), "{path}: {error}");
        }
        rules.check(&at("etc/ssl")).unwrap();
    }
}
