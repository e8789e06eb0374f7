//! An image registry of one's own on loopback: Debian's `docker-registry`.

use std::{fs, path::Path};

use bollard::{
    auth::DockerCredentials,
    models::{ContainerConfig, ContainerCreateBody},
    query_parameters::{
        CommitContainerOptions, CreateContainerOptions, PushImageOptions, RemoveContainerOptions, RemoveImageOptions,
    },
};
use futures_util::TryStreamExt;
use tempfile::TempDir;

use crate::{
    claim::Claim,
    dir::test_dir,
    engine::{DEMO_IMAGE, Engine},
    process::Process,
    wait::{SOON, wait_until},
};

/// A running registry with nothing in it.
#[derive(Debug)]
pub struct Registry {
    address: String,
    process: Process,
    directory: TempDir,
    /// The port, also while it is down.
    _port: Claim,
}

/// A login, as `username:password`. The password has every character that could be lost on the way: one that ends user names,
/// and those that plain base64 writes as `+` and `/`.
pub const LOGIN: &str = "robot$ci:p~?>w:ord";

/// The same for the registry: a bcrypt hash with the least cost, since it is no secret.
const HTPASSWD: &str = "robot$ci:$2b$05$abcdefghijklmnopqrstuuxSLlFil4/nlfUQ9GjkXxwAGkLIfhXam\n";

impl Registry {
    /// Starts one on a port of loopback, which engines allow to be without TLS.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        let (directory, port) = (test_dir(), Claim::port());
        let address = port.address().to_string();
        let process = serve(directory.path(), &address, "");
        let mut registry = Self { address, process, directory, _port: port };
        registry.wait_until_it_listens().await;
        registry
    }

    async fn wait_until_it_listens(&mut self) {
        wait_until("the registry listens", SOON, async || {
            self.process.assert_runs();
            tokio::net::TcpStream::connect(&self.address).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Puts an image into the registry that is nowhere else, and gives its reference: the demo service with a label of its own.
    ///
    /// # Panics
    /// When the engine or the registry refuses a step.
    pub async fn publish(&mut self, engine: &Engine, name: &str) -> String {
        self.process.assert_runs();
        let docker = engine.docker();
        let (repository, tag) = (format!("{}/{name}", self.address), "1");
        let reference = format!("{repository}:{tag}");
        let body = ContainerCreateBody { image: Some(DEMO_IMAGE.to_owned()), ..ContainerCreateBody::default() };
        let container = docker.create_container(None::<CreateContainerOptions>, body).await.expect("a container").id;
        let options = CommitContainerOptions {
            container: Some(container.clone()),
            repo: Some(repository.clone()),
            tag: Some(tag.to_owned()),
            changes: Some(format!("LABEL only.in={}", self.address)),
            ..CommitContainerOptions::default()
        };
        docker.commit_container(options, ContainerConfig::default()).await.expect("an image of the container");
        let _ = docker.remove_container(&container, None::<RemoveContainerOptions>).await;
        let options = PushImageOptions { tag: Some(tag.to_owned()), ..PushImageOptions::default() };
        let pushed = docker.push_image(&repository, Some(options), Some(DockerCredentials::default()));
        pushed.try_collect::<Vec<_>>().await.expect("the registry takes the image");
        self.forget(engine, &reference).await;
        reference
    }

    /// From now on it gives its images to [`LOGIN`] only.
    pub async fn require_login(&mut self) {
        self.process.kill();
        let file = self.directory.path().join("htpasswd");
        fs::write(&file, HTPASSWD).expect("a file in the test's directory");
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        self.process = serve(self.directory.path(), &self.address, &auth);
        self.wait_until_it_listens().await;
    }

    /// Removes an image from the engine, so that it is only in the registry.
    pub async fn forget(&self, engine: &Engine, reference: &str) {
        let options = RemoveImageOptions { force: true, ..RemoveImageOptions::default() };
        let _ = engine.docker().remove_image(reference, Some(options), None).await;
    }

    /// Where it listens, as the first part of a reference.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn serve(directory: &Path, address: &str, more: &str) -> Process {
    let root = directory.join("images");
    let config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"{address}\"}}\n{more}",
        root.display()
    );
    let file = directory.join("config.yml");
    fs::write(&file, config).expect("a file in the test's directory");
    let mut command = std::process::Command::new("docker-registry");
    command.arg("serve").arg(&file);
    Process::start("docker-registry", &mut command, &directory.join("log"))
}
