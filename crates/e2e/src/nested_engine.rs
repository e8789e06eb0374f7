//! A Docker engine of its own inside a network namespace: the engine of another machine.

use std::{fs, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    dir::test_dir,
    engine::{Engine, START},
    netns::Namespace,
    process::Process,
    wait::wait_until,
};

/// A running `dockerd`. Dropping it ends it, its containers and what it has mounted.
#[derive(Debug)]
pub struct NestedEngine {
    process: Process,
    engine: Engine,
    directory: TempDir,
}

impl NestedEngine {
    /// Starts an engine with nothing in it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(namespace: &Namespace) -> Self {
        let directory = test_dir();
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let host = format!("unix://{}", path("docker.sock"));
        let mut command = namespace.command("dockerd");
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")]);
        command.args(["-H", &host, "--bip", "172.30.255.1/24", "--storage-driver", "overlay2"]);
        let mut process = Process::start("dockerd", &mut command, &directory.path().join("log"));
        let engine = wait_until("the nested engine answers", START, async || {
            process.assert_runs();
            Engine::connect(&host).await.map_err(|error| error.to_string())
        })
        .await;
        Self { process, engine, directory }
    }

    /// The connection to it.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for NestedEngine {
    fn drop(&mut self) {
        // It ends its containers and its containerd by itself when it is asked to, which takes a moment.
        self.process.end(Duration::from_secs(15));
        // What an engine that was killed has mounted would keep its directory from being removed.
        let root = self.directory.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&root));
        for path in below.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["-l", path]).output();
        }
    }
}
