//! Docker and Podman through the Docker Engine API.
//!
//! How containers are made is in `definition`; the choices are:
//! * the port is published on 127.0.0.1 at a number that the engine chooses, and no other port of the image is;
//! * labels say whose the container is (`towline.agent`) and what it was made for; without them it is not ours;
//! * the restart policy is `no`: when to start again is the agent's decision, with its own backoff and its own count;
//! * `no-new-privileges`, no added capabilities, logs in `json-file` with rotation (3 × 10 MiB);
//! * no init process is put in front of the program, as with `docker run`: images that bring their own must be process 1.
//!   A program that ignores SIGTERM as process 1 is therefore killed after its grace.
//!
//! An image that is on the machine is used as it is, also by the tag `latest`; only one that is absent is pulled. To move to
//! a newer image of the same tag, name it by digest or remove the old one.

mod definition;
mod engine;
mod failure;
mod listing;
pub(crate) mod states;
mod volumes;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{
    Docker,
    models::{ContainerCreateBody, CreateImageInfo, MountType},
    query_parameters::{
        CreateContainerOptions, CreateImageOptions, EventsOptions, ListContainersOptions, LogsOptions,
        RemoveContainerOptions, StartContainerOptions, StopContainerOptions,
    },
};
use futures_util::{StreamExt, TryStreamExt, future};
use tokio::sync::watch;
use towline_model::AgentId;
use towline_tunnel::message::{EngineStatus, InstanceSpec, RegistryAuth};

pub use self::definition::{LABEL_AGENT, LABEL_GENERATION, LABEL_INSTANCE, LABEL_SERVICE};
pub use self::volumes::VolumeRules;
use self::{
    engine::Address,
    failure::{is_conflict, is_missing, is_missing_image, pull_error, runtime_error},
};
use super::{
    ChangeStream, Container, ContainerId, Exit, LogQuery, LogStream, Owner, PullError, PullProgress, Runtime,
    RuntimeError,
};

/// Lines of an ended program that are told.
const LAST_LINES: &str = "3";
/// The most of one such line, in characters.
const LAST_LINE_CHARS: usize = 300;

/// Where the engine is and what it may be asked for.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    /// The engine's address, as in `DOCKER_HOST`: `unix:///…` or `tcp://127.0.0.1:…`. Without it the usual sockets of
    /// Docker and Podman are tried.
    pub host: Option<String>,
    /// `XDG_RUNTIME_DIR`, where rootless engines have their sockets.
    pub runtime_dir: Option<PathBuf>,
    /// What containers may see of the machine.
    pub volumes: VolumeRules,
}

/// An engine with Docker's API. It need not be there yet, and may come and go.
#[derive(Debug)]
pub struct DockerRuntime {
    config: DockerConfig,
    /// The client of the last success. Forgotten when the engine goes away: another one may come, elsewhere.
    client: Mutex<Option<Docker>>,
}

impl DockerRuntime {
    /// Prepares to use an engine. Connects to nothing.
    #[must_use]
    pub fn new(mut config: DockerConfig) -> Self {
        // Whoever has the socket has the machine, wherever it is.
        let sockets = Address::candidates(&config).unwrap_or_default().into_iter().filter_map(Address::into_socket);
        config.volumes.protected.extend(sockets);
        Self { config, client: Mutex::new(None) }
    }

    fn known_client(&self) -> Option<Docker> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_client(&self, client: Option<Docker>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    async fn client(&self) -> Result<Docker, RuntimeError> {
        if let Some(client) = self.known_client() {
            return Ok(client);
        }
        let client = engine::connect(&self.config).await.map_err(RuntimeError::Unavailable)?;
        self.keep_client(Some(client.clone()));
        Ok(client)
    }

    /// Passes a result of the engine on, and forgets an engine that is gone.
    fn checked<T>(&self, result: Result<T, bollard::errors::Error>) -> Result<T, RuntimeError> {
        result.map_err(|error| {
            let error = runtime_error(&error, &self.address());
            if matches!(error, RuntimeError::Unavailable(_)) {
                self.keep_client(None);
            }
            error
        })
    }

    fn address(&self) -> String {
        Address::described(&self.config)
    }

    async fn create_named(
        &self,
        docker: &Docker,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String, bollard::errors::Error> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        Ok(docker.create_container(Some(options), body).await?.id)
    }

    /// Checks where the host paths of a container lead by now.
    async fn check_volumes(&self, docker: &Docker, container: &ContainerId) -> Result<(), RuntimeError> {
        let found = states::inspect(docker, container.as_str()).await;
        let found = self.checked(found)?;
        let asked_for = found.host_config.and_then(|config| config.mounts).unwrap_or_default();
        let asked_for = asked_for.into_iter().filter(|mount| mount.typ == Some(MountType::BIND));
        let mut paths: Vec<_> = asked_for.filter_map(|mount| mount.source).collect();
        if paths.is_empty() {
            // Podman tells only what came of it.
            let there = found.mounts.into_iter().flatten().filter(|mount| mount.typ.as_deref() == Some("bind"));
            paths = there.filter_map(|mount| mount.source).collect();
        }
        paths.iter().try_for_each(|path| self.config.volumes.check(path).map(drop))
    }

    /// The container of that name, if it was made for this instance and deploy.
    async fn own_by_name(
        &self,
        docker: &Docker,
        name: &str,
        owner: &Owner,
        spec: &InstanceSpec,
    ) -> Option<ContainerId> {
        let found = states::inspect(docker, name).await.ok()?;
        let labels = found.config?.labels?;
        let is_own = definition::labels(owner, spec).iter().all(|(label, value)| labels.get(label) == Some(value));
        found.id.filter(|_| is_own).map(ContainerId::new)
    }
}

impl Runtime for DockerRuntime {
    async fn status(&self) -> EngineStatus {
        let version = async {
            let docker = self.client().await?;
            self.checked(docker.version().await)
        };
        match version.await {
            Ok(version) => EngineStatus::Ready { version: engine::version_text(&version) },
            Err(error) => EngineStatus::Unavailable { reason: error.to_string() },
        }
    }

    async fn list(&self, agent: AgentId) -> Result<Vec<Container>, RuntimeError> {
        let docker = self.client().await?;
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL_AGENT}={agent}")])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let list = self.checked(states::list(&docker, options).await)?;
        Ok(list.iter().filter_map(|summary| listing::container(agent, summary)).collect())
    }

    async fn changes(&self, agent: AgentId) -> Result<ChangeStream, RuntimeError> {
        let docker = self.client().await?;
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![format!("{LABEL_AGENT}={agent}")]),
        ]);
        let options = EventsOptions { filters: Some(filters), ..EventsOptions::default() };
        let events = docker.events(Some(options)).inspect_err(|error| tracing::debug!(%error, "no more hints"));
        Ok(events.take_while(|event| future::ready(event.is_ok())).map(|_| ()).boxed())
    }

    async fn has_image(&self, image: &str) -> Result<bool, RuntimeError> {
        let docker = self.client().await?;
        match docker.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => self.checked(Err(error)),
        }
    }

    async fn pull(
        &self,
        image: &str,
        login: Option<&RegistryAuth>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), PullError> {
        let docker = self.client().await?;
        let (name, tag) = definition::split_reference(image);
        let options = CreateImageOptions {
            from_image: Some(name.to_owned()),
            tag: tag.map(str::to_owned),
            ..CreateImageOptions::default()
        };
        let credentials = login.map(|login| definition::credentials(image, login));
        let docker = if login.is_some() { docker.with_request_modifier(with_url_safe_login) } else { docker };
        let mut messages = docker.create_image(Some(options), None, credentials);
        let mut layers = HashMap::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| pull_error(image, &error, login, &self.address()))?;
            progress.send_modify(|progress| note_progress(progress, &mut layers, message));
        }
        // Some engines report a failed pull as an end without an error.
        if self.has_image(image).await? {
            return Ok(());
        }
        Err(PullError::NotFound { image: image.to_owned(), said: "the engine pulled nothing".to_owned() })
    }

    async fn create(&self, owner: &Owner, spec: &InstanceSpec) -> Result<ContainerId, RuntimeError> {
        let body = definition::body(owner, spec, &self.config.volumes.resolve(&spec.volumes)?);
        let docker = self.client().await?;
        let name = definition::name(spec);
        let mut made = self.create_named(&docker, &name, body.clone()).await;
        if made.as_ref().is_err_and(is_conflict) {
            // Either an answer of the engine got lost, or somebody else has the name.
            if let Some(own) = self.own_by_name(&docker, &name, owner, spec).await {
                return Ok(own);
            }
            let other_name = format!("{name}-{:08x}", rand::random::<u32>());
            made = self.create_named(&docker, &other_name, body).await;
        }
        match made {
            Ok(id) => Ok(ContainerId::new(id)),
            Err(error) if is_missing_image(&error) => Err(RuntimeError::ImageMissing),
            Err(error) => self.checked(Err(error)),
        }
    }

    async fn start(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        let docker = self.client().await?;
        self.check_volumes(&docker, container).await?;
        self.checked(docker.start_container(container.as_str(), None::<StartContainerOptions>).await)
    }

    async fn exit(&self, container: &ContainerId) -> Result<Exit, RuntimeError> {
        let docker = self.client().await?;
        let found = states::inspect(&docker, container.as_str()).await;
        let state = self.checked(found)?.state.unwrap_or_default();
        let options = LogsOptions { stdout: true, stderr: true, tail: LAST_LINES.to_owned(), ..LogsOptions::default() };
        let lines: Vec<_> = docker.logs(container.as_str(), Some(options)).try_collect().await.unwrap_or_default();
        Ok(Exit {
            code: state.exit_code,
            out_of_memory: state.oom_killed.unwrap_or_default(),
            error: state.error.unwrap_or_default(),
            last_lines: lines.iter().filter_map(|line| printable(line.as_ref())).collect(),
        })
    }

    async fn stop(&self, container: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let docker = self.client().await?;
        // The client's own deadline must not cut the grace short; the caller has one.
        let docker = docker.with_timeout(grace + Duration::from_secs(120));
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), ..StopContainerOptions::default() };
        match docker.stop_container(container.as_str(), Some(options)).await {
            Err(error) if is_missing(&error) => Ok(()),
            result => self.checked(result),
        }
    }

    async fn remove(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        let docker = self.client().await?;
        let options = RemoveContainerOptions { v: true, force: true, ..RemoveContainerOptions::default() };
        match docker.remove_container(container.as_str(), Some(options)).await {
            // Gone, or somebody else is removing it: the next look tells.
            Err(error) if is_missing(&error) || is_conflict(&error) => Ok(()),
            result => self.checked(result),
        }
    }

    async fn logs(&self, container: &ContainerId, query: LogQuery) -> Result<LogStream, RuntimeError> {
        let docker = self.client().await?;
        let found = states::inspect(&docker, container.as_str()).await;
        self.checked(found)?;
        let since = query.since.map_or(0, |since| i32::try_from(since.as_unix_seconds().max(0)).unwrap_or(i32::MAX));
        let options = LogsOptions {
            follow: query.follow,
            stdout: true,
            stderr: true,
            since,
            tail: query.tail.map_or_else(|| "all".to_owned(), |tail| tail.to_string()),
            ..LogsOptions::default()
        };
        let address = self.address();
        let lines = docker.logs(container.as_str(), Some(options));
        Ok(lines.map(move |line| line.map(|line| line.into_bytes()).map_err(|e| runtime_error(&e, &address))).boxed())
    }
}

/// Engines read the login as base64url (RFC 4648 §5), and Docker passes over one that it cannot read; the client writes it as
/// plain base64.
fn with_url_safe_login<B>(mut request: http::Request<B>) -> http::Request<B> {
    if let Some(login) = request.headers_mut().get_mut("x-registry-auth") {
        let text = login.to_str().unwrap_or_default().replace('+', "-").replace('/', "_");
        if let Ok(mut value) = http::HeaderValue::try_from(text) {
            value.set_sensitive(true);
            *login = value;
        }
    }
    request
}

fn note_progress(progress: &mut PullProgress, layers: &mut HashMap<String, (u64, u64)>, message: CreateImageInfo) {
    progress.messages += 1;
    let (Some(layer), Some(detail)) = (message.id, message.progress_detail) else { return };
    let known = layers.entry(layer).or_default();
    let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
    if message.status.as_deref() == Some("Downloading") {
        *known = (bytes(detail.current).unwrap_or(known.0), bytes(detail.total).unwrap_or(known.1));
    }
    progress.bytes = layers.values().map(|(current, _)| current).sum();
    progress.total_bytes = layers.values().map(|(_, total)| total).sum();
}

fn printable(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(LAST_LINE_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_sent_as_engines_read_it_and_is_not_logged() {
        let request = http::Request::builder().header("X-Registry-Auth", "a+b/c=").body(()).unwrap();
        let request = with_url_safe_login(request);
        assert_eq!(request.headers()["x-registry-auth"], "a-b_c=");
        assert!(!format!("{request:?}").contains("a-b_c"));
        assert!(with_url_safe_login(http::Request::new(())).headers().is_empty());
    }
}
