//! A container engine, as a test looks at it from beside the agent.

use std::{collections::HashMap, time::Duration};

use bollard::{
    API_DEFAULT_VERSION, Docker, body_try_stream,
    models::{ContainerInspectResponse, ContainerSummary},
    query_parameters::{ImportImageOptions, InspectContainerOptions, ListContainersOptions, RemoveContainerOptions},
};
use futures_util::TryStreamExt;

/// The image of the demo service.
pub const DEMO_IMAGE: &str = "towline-demo:latest";

/// A connection to an engine.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    host: String,
}

impl Engine {
    /// The engine that agents of this machine use, with the demo image in it.
    ///
    /// # Panics
    /// When there is no engine or no image.
    pub async fn of_this_machine() -> Self {
        let host = std::env::var_os("DOCKER_HOST").and_then(|host| host.into_string().ok());
        let host = host.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        let engine = Self::connect(&host).await;
        let engine = engine.unwrap_or_else(|error| panic!("{error}: run `cargo xtask test`, which starts an engine"));
        let image = engine.docker.inspect_image(DEMO_IMAGE).await;
        assert!(image.is_ok(), "{DEMO_IMAGE} is missing: run `cargo xtask test`, which builds it");
        engine
    }

    /// Connects to an engine.
    ///
    /// # Errors
    /// When none answers at that socket.
    pub async fn connect(host: &str) -> Result<Self, bollard::errors::Error> {
        let docker = Docker::connect_with_unix(host, 120, API_DEFAULT_VERSION)?.negotiate_version().await?;
        Ok(Self { docker, host: host.to_owned() })
    }

    /// Its address, as in `DOCKER_HOST`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The client of its API.
    #[must_use]
    pub const fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The containers of a service, whatever they are doing, sorted by id.
    ///
    /// # Panics
    /// When the engine does not answer.
    pub async fn containers(&self, service_id: &str) -> Vec<ContainerSummary> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("towline.service={service_id}")])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let mut list = self.docker.list_containers(Some(options)).await.expect("the engine lists containers");
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// The ids of the containers of a service, sorted.
    pub async fn container_ids(&self, service_id: &str) -> Vec<String> {
        self.containers(service_id).await.into_iter().filter_map(|container| container.id).collect()
    }

    /// Everything about a container.
    ///
    /// # Panics
    /// When there is no such container.
    pub async fn inspect(&self, container: &str) -> ContainerInspectResponse {
        let inspected = self.docker.inspect_container(container, None::<InspectContainerOptions>).await;
        inspected.unwrap_or_else(|error| panic!("cannot look at container {container}: {error}"))
    }

    /// Since when each container of a service runs, by id: the same as before only if nobody has restarted it.
    pub async fn started_at(&self, service_id: &str) -> Vec<(String, String)> {
        let mut started = Vec::new();
        for id in self.container_ids(service_id).await {
            let state = self.inspect(&id).await.state.unwrap_or_default();
            started.push((id, state.started_at.unwrap_or_default()));
        }
        started
    }

    /// Copies an image from another engine.
    ///
    /// # Panics
    /// When either of them fails.
    pub async fn load_image(&self, image: &str, from: &Self) {
        let tar = from.docker.export_image(image).map_err(std::io::Error::other);
        // The stream must own what it reads from.
        let tar: Vec<_> = tar.try_collect().await.expect("the other engine exports the image");
        let body = body_try_stream(futures_util::stream::iter(tar.into_iter().map(Ok::<_, std::io::Error>)));
        let loaded = self.docker.import_image(ImportImageOptions::default(), body, None);
        let _: Vec<_> = loaded.try_collect().await.expect("the engine takes the image");
    }

    /// Removes every container of a service by force: what a failed test leaves behind.
    pub async fn remove_containers(&self, service_id: &str) {
        for id in self.container_ids(service_id).await {
            let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
            let _ = self.docker.remove_container(&id, Some(options)).await;
        }
    }
}

/// How long an engine may take for its own start.
pub const START: Duration = Duration::from_secs(60);
