//! A Podman for one run of the tests: its API on a socket, with images and containers of its own, gone when it is dropped.
//!
//! Nothing of a Podman that somebody uses on this machine is touched: not its storage, its networks or its socket.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    engine::Engine,
    image,
    tools::{self, Need, find},
};

/// How long it may take to listen. It makes its storage first.
const START: Duration = Duration::from_secs(60);

/// What it consists of.
pub const NEEDS: [Need; 2] = [
    Need {
        name: "podman",
        package: "podman",
        purpose: "the other container engine",
        is_met: || find("podman").is_some(),
    },
    Need {
        name: "netavark",
        package: "netavark",
        purpose: "the other engine's networks",
        is_met: || ["/usr/lib/podman", "/usr/libexec/podman"].iter().any(|at| Path::new(at).join("netavark").exists()),
    },
];

/// `containers.conf(5)`: Podman's own defaults want systemd, and limits that not even root may set everywhere.
const CONTAINERS: &str = "\
[containers]
default_ulimits = []
[engine]
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

/// `containers-registries.conf(5)`: the tests' registry speaks plain HTTP, which Docker takes on loopback by itself.
const REGISTRIES: &str = "\
unqualified-search-registries = []
[[registry]]
location = \"127.0.0.1\"
insecure = true
";

/// A running Podman. Dropping it ends it, and removes its containers and its storage.
pub struct Podman {
    directory: PathBuf,
    service: Option<Child>,
}

impl Podman {
    /// Starts one in a directory of this name, with the demo service's image. What a killed run has left there is removed first.
    ///
    /// # Errors
    /// When Podman is missing or does not start (with its last words), or does not take the image.
    pub fn start(name: &str) -> Result<Self> {
        let directory = tools::target().join(name);
        let mut podman = Self { directory, service: None };
        podman.clear();
        fs::create_dir_all(&podman.directory).with_context(|| format!("cannot make {}", podman.directory.display()))?;
        for (_, name, text) in podman.settings() {
            fs::write(podman.directory.join(name), text)?;
        }
        podman.serve()?;
        let engine = podman.wait()?;
        engine.load_image(&image::archive()?)?;
        Ok(podman)
    }

    /// Where it is, in the form of `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The variables that name its files, and what is in these. The image is so small that copies of it are cheaper than mounts,
    /// which not every file system can be stacked for.
    fn settings(&self) -> [(&'static str, &'static str, String); 3] {
        let directory = self.directory.display();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{directory}/storage\"\nrunroot = \"{directory}/run\"\n"
        );
        [
            ("CONTAINERS_CONF", "containers.conf", CONTAINERS.to_owned()),
            ("CONTAINERS_REGISTRIES_CONF", "registries.conf", REGISTRIES.to_owned()),
            ("CONTAINERS_STORAGE_CONF", "storage.conf", storage),
        ]
    }

    /// The program with everything of its own.
    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command.envs(self.settings().map(|(variable, name, _)| (variable, self.directory.join(name))));
        for (option, name) in [("--tmpdir", "tmp"), ("--network-config-dir", "networks"), ("--volumepath", "volumes")] {
            command.arg(option).arg(self.directory.join(name));
        }
        command
    }

    fn serve(&mut self) -> Result<()> {
        let log = fs::File::create(self.log())?;
        let mut command = self.command();
        command.args(["system", "service", "--time=0"]).arg(self.host());
        // In a group of its own, so that an interrupt from the terminal ends the tests before it.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.service = Some(command.spawn().context("cannot start podman")?);
        Ok(())
    }

    /// Until it answers, has ended, or the deadline has passed.
    #[expect(clippy::disallowed_methods, reason = "an engine does not say when it is ready; it has to be asked")]
    fn wait(&mut self) -> Result<Engine> {
        let start = Instant::now();
        loop {
            let error = match Engine::at(&self.host()) {
                Ok(engine) => return Ok(engine),
                Err(error) => error,
            };
            let has_ended = matches!(self.service.as_mut().map(Child::try_wait), Some(Ok(Some(_))));
            if has_ended || start.elapsed() > START {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                bail!("Podman does not start ({error:#}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the service, then every container that is left, and removes all that is below the directory.
    fn clear(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = tools::run(Command::new("kill").arg(service.id().to_string()));
            let _ = service.wait();
        }
        if self.directory.exists() {
            // Not by `podman system reset`, which also goes for what is not of this run.
            let _ = tools::output(self.command().args(["rm", "--all", "--force", "--time=0"]));
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.clear();
    }
}
