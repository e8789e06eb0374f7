//! The `towline up` of the demonstration: started on an empty data directory, found again by a later run, stopped with its
//! containers.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{process::Command as AsyncCommand, time::Instant};

use crate::{engine, tools};

/// How long anything may take that has to happen soon.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for.
pub const POLL: Duration = Duration::from_millis(200);

/// What a later run has to know to end this one.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    process: u32,
    program: PathBuf,
    service_id: Option<String>,
}

/// The part of `bootstrap.json` that is used here.
#[derive(Debug, Deserialize)]
struct Bootstrap {
    url: String,
    api_key: String,
}

/// A running system.
#[derive(Debug)]
pub struct System {
    directory: PathBuf,
    program: PathBuf,
    process: u32,
    bootstrap: Bootstrap,
}

impl System {
    /// Starts `towline up` on an empty data directory and a free port, in the background.
    ///
    /// # Errors
    /// When it ends, or does not say where it listens; with the end of its log.
    pub async fn start(program: PathBuf, docker_host: String) -> Result<Self> {
        let directory = directory();
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let log = fs::File::create(directory.join("towline.log"))?;
        let mut command = isolated(&program);
        command.args(["up", "--listen", "127.0.0.1:0", "--name", "demo", "--data-dir"]).arg(directory.join("data"));
        // A process group of its own, so that Ctrl-C on this task is not for it.
        command.env("DOCKER_HOST", docker_host).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut system = Self {
            directory,
            program,
            process: child.id(),
            bootstrap: Bootstrap { url: String::new(), api_key: String::new() },
        };
        system.note(None)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(bootstrap) = system.read_bootstrap()
                && answers(&bootstrap.url).await
            {
                system.bootstrap = bootstrap;
                return Ok(system);
            }
            if let Some(status) = child.try_wait()? {
                bail!("towline up ended with {status}:\n{}", system.end_of_log());
            }
            if Instant::now() > deadline {
                let log = system.end_of_log();
                system.stop().await?;
                bail!("towline up does not answer after {PATIENCE:?}:\n{log}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends what an earlier run has left running. `false` when there was nothing.
    ///
    /// # Errors
    /// When it does not end, or its containers cannot be removed.
    pub async fn stop_earlier() -> Result<bool> {
        let directory = directory();
        let Ok(text) = fs::read_to_string(directory.join("running.json")) else { return Ok(false) };
        let note: Note =
            serde_json::from_str(&text).context("target/demo/running.json is damaged: remove target/demo")?;
        let bootstrap = Bootstrap { url: String::new(), api_key: String::new() };
        let system = Self { directory, program: note.program, process: note.process, bootstrap };
        let was_running = system.is_running();
        system.stop().await?;
        Ok(was_running)
    }

    /// Stops the service, then the process, and removes what containers are left all the same.
    ///
    /// # Errors
    /// When the process does not end, or its containers cannot be removed.
    pub async fn stop(&self) -> Result<()> {
        let service_id = self.read_note().and_then(|note| note.service_id);
        if self.is_running() {
            if service_id.is_some() {
                // Whatever comes of it: the containers are looked for below.
                let _ = self.output(&["service", "undeploy", super::SLUG, "--wait", "--timeout", "40s"]).await;
            }
            self.end_process().await?;
        }
        if let Some(id) = service_id {
            remove_containers(&id)?;
        }
        let _ = fs::remove_file(self.directory.join("running.json"));
        Ok(())
    }

    async fn end_process(&self) -> Result<()> {
        for signal in ["TERM", "KILL"] {
            let _ = Command::new("kill").args(["-s", signal, &self.process.to_string()]).stderr(Stdio::null()).status();
            let deadline = Instant::now() + PATIENCE;
            while self.is_running() && Instant::now() < deadline {
                tokio::time::sleep(POLL).await;
            }
        }
        if self.is_running() {
            bail!("process {} does not end", self.process);
        }
        Ok(())
    }

    /// Whether the process is there and still the one that was started: numbers are used again.
    fn is_running(&self) -> bool {
        let data_dir = self.data_dir();
        let line = match fs::read(format!("/proc/{}/cmdline", self.process)) {
            Ok(line) => String::from_utf8_lossy(&line).into_owned(),
            Err(_) if Path::new("/proc/self").exists() => return false,
            Err(_) => tools::output(Command::new("ps").args(["-o", "command=", "-p", &self.process.to_string()]))
                .unwrap_or_default(),
        };
        line.contains(&*data_dir.to_string_lossy())
    }

    /// Runs a command of the program against this system, with its output on ours.
    ///
    /// # Errors
    /// When it fails.
    pub async fn towline(&self, arguments: &[&str]) -> Result<()> {
        eprintln!("$ towline {}", arguments.join(" "));
        let status = self.command(arguments).status().await?;
        if !status.success() {
            bail!("towline {} ended with {status}", arguments.join(" "));
        }
        Ok(())
    }

    /// Runs a command of the program against this system and gives what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().await?;
        if !output.status.success() {
            bail!("towline {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, arguments: &[&str]) -> AsyncCommand {
        let mut command = isolated(&self.program);
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).stdin(Stdio::null());
        let mut command = AsyncCommand::from(command);
        command.kill_on_drop(true);
        command
    }

    /// Notes the service, so that its containers are found even when the system has died.
    ///
    /// # Errors
    /// When the note cannot be written, or the service has no id.
    pub fn note_service(&self, service: &Value) -> Result<()> {
        let id = service["id"].as_str().with_context(|| format!("the service has no id: {service:#}"))?;
        self.note(Some(id.to_owned()))
    }

    fn note(&self, service_id: Option<String>) -> Result<()> {
        let note = Note { process: self.process, program: self.program.clone(), service_id };
        fs::write(self.directory.join("running.json"), serde_json::to_vec_pretty(&note)?).context("cannot write a note")
    }

    fn read_note(&self) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.directory.join("running.json")).ok()?).ok()
    }

    fn read_bootstrap(&self) -> Option<Bootstrap> {
        serde_json::from_slice(&fs::read(self.data_dir().join("bootstrap.json")).ok()?).ok()
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.bootstrap.url
    }

    /// The first integration key.
    pub fn key(&self) -> &str {
        &self.bootstrap.api_key
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where it keeps its state.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        self.directory.join("towline.log")
    }

    /// The last lines of its log.
    pub fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

fn directory() -> PathBuf {
    tools::target().join("demo")
}

/// The program without the settings of whoever runs this task.
fn isolated(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOWLINE_") {
            command.env_remove(name);
        }
    }
    // No such file: no settings, neither the user's nor the machine's.
    command.env("XDG_CONFIG_HOME", directory().join("no-config"));
    command
}

async fn answers(url: &str) -> bool {
    let Some(address) = url.strip_prefix("http://") else { return false };
    tokio::net::TcpStream::connect(address.trim_end_matches('/')).await.is_ok()
}

fn remove_containers(service_id: &str) -> Result<()> {
    let Ok(engine) = engine::find_engine() else { return Ok(()) };
    let filters = format!("%7B%22label%22%3A%5B%22towline.service%3D{service_id}%22%5D%7D");
    let answer = engine.request("GET", &format!("/containers/json?all=1&filters={filters}"), b"")?;
    let containers: Vec<Value> = serde_json::from_slice(&answer.body).context("the engine lists its containers")?;
    for id in containers.iter().filter_map(|container| container["Id"].as_str()) {
        let answer = engine.request("DELETE", &format!("/containers/{id}?force=1&v=1"), b"")?;
        if answer.status >= 300 && answer.status != 404 {
            bail!("cannot remove container {id}: {}", String::from_utf8_lossy(&answer.body));
        }
    }
    Ok(())
}
