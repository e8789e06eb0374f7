//! Carrying out one step. A step ends in any case: everything that waits for the engine has a deadline.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use towline_model::InstanceId;
use towline_tunnel::message::{EngineStatus, InstanceSpec, RegistryAuth};

use super::plan::Step;
use crate::runtime::{Container, ContainerId, Exit, Owner, PullError, PullProgress, Runtime, RuntimeError};

/// How long the engine may take to answer a question.
const ASK_DEADLINE: Duration = Duration::from_secs(20);
/// How long it may take to make a container.
const CREATE_DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take to start one (GPUs and large volumes are slow).
const START_DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take beyond the grace to stop one, and to remove one.
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
/// A pull without any sign of life for so long is given up and started anew.
const PULL_STALL: Duration = Duration::from_secs(300);
/// Containers that are made or started at a time; more only slow each other down.
const STARTS_AT_A_TIME: usize = 8;
/// Images that are pulled at a time.
const PULLS_AT_A_TIME: usize = 3;

/// What a step needs to know beyond itself.
#[derive(Debug, Default)]
pub struct Material {
    /// The instance's definition, for the steps that are about one.
    pub spec: Option<InstanceSpec>,
    /// The logins that an image may be pulled with, in this order; `None` is to pull without one.
    pub logins: Vec<Option<RegistryAuth>>,
}

/// What a step has come to.
#[derive(Debug)]
pub enum Outcome {
    /// What the engine has.
    Looked {
        /// Whether the engine is there.
        engine: EngineStatus,
        /// What it has; `None` when it could not tell.
        containers: Option<Vec<Container>>,
    },
    /// An image is here, or cannot be had.
    Fetched(String, Result<(), PullError>),
    /// A container was made and started, or one of the two failed.
    Created(InstanceId, Result<(), RuntimeError>),
    /// A container was started, or not.
    Started(InstanceId, Result<(), RuntimeError>),
    /// How a container ended.
    Ended(InstanceId, ContainerId, Exit),
    /// A container is gone, or not.
    Removed(ContainerId, Result<(), RuntimeError>),
}

/// Carries out steps. Cheap to clone.
#[derive(Debug)]
pub struct Worker<R> {
    runtime: Arc<R>,
    starts: Arc<Semaphore>,
    pulls: Arc<Semaphore>,
}

impl<R> Clone for Worker<R> {
    fn clone(&self) -> Self {
        Self { runtime: Arc::clone(&self.runtime), starts: Arc::clone(&self.starts), pulls: Arc::clone(&self.pulls) }
    }
}

impl<R: Runtime> Worker<R> {
    /// A worker on that engine.
    pub fn new(runtime: Arc<R>) -> Self {
        Self {
            runtime,
            starts: Arc::new(Semaphore::new(STARTS_AT_A_TIME)),
            pulls: Arc::new(Semaphore::new(PULLS_AT_A_TIME)),
        }
    }

    /// Looks at what is there. `known` is the engine's status of the last look; an engine that was there is not asked for
    /// its version again.
    pub async fn look(self, known: Option<EngineStatus>, owner: Option<Owner>) -> Outcome {
        let mut engine = match known {
            Some(ready @ EngineStatus::Ready { .. }) if owner.is_some() => ready,
            _ => {
                let status = timeout(ASK_DEADLINE, self.runtime.status()).await;
                status.unwrap_or_else(|_| EngineStatus::Unavailable { reason: silent().to_string() })
            }
        };
        let mut containers = None;
        if let (EngineStatus::Ready { .. }, Some(owner)) = (&engine, owner) {
            match within(ASK_DEADLINE, self.runtime.list(owner.agent_id)).await {
                Ok(list) => containers = Some(list),
                Err(error) => engine = EngineStatus::Unavailable { reason: error.to_string() },
            }
        }
        Outcome::Looked { engine, containers }
    }

    /// Carries out one step.
    pub async fn carry_out(self, step: Step, owner: Owner, material: Material) -> Outcome {
        match (step, material.spec) {
            (Step::FetchImage(image), _) => {
                let result = self.fetch(&image, &material.logins).await;
                Outcome::Fetched(image, result)
            }
            (Step::Create(instance), Some(InstanceSpec { withheld: Some(why), .. })) => {
                Outcome::Created(instance, Err(RuntimeError::Rejected(why)))
            }
            (Step::Create(instance), Some(spec)) => Outcome::Created(instance, self.create(&owner, &spec).await),
            (Step::Create(instance), None) => Outcome::Created(instance, Err(RuntimeError::Gone)),
            (Step::Start(instance, container), _) => Outcome::Started(instance, self.start(&container).await),
            (Step::LookIntoEnd(instance, container), _) => {
                // Not to know how it ended must not keep it from being started again.
                let exit = within(ASK_DEADLINE, self.runtime.exit(&container)).await.unwrap_or_default();
                Outcome::Ended(instance, container, exit)
            }
            (Step::Remove(container), _) => {
                let result = self.remove(&container).await;
                Outcome::Removed(container.id, result)
            }
        }
    }

    async fn fetch(&self, image: &str, logins: &[Option<RegistryAuth>]) -> Result<(), PullError> {
        if within(ASK_DEADLINE, self.runtime.has_image(image)).await? {
            return Ok(());
        }
        let _turn = self.pulls.acquire().await.expect("the semaphore is never closed");
        // Somebody else may have pulled it while this one waited for its turn.
        if within(ASK_DEADLINE, self.runtime.has_image(image)).await? {
            return Ok(());
        }
        let mut logins = logins.iter().map(Option::as_ref);
        let mut result = self.pull(image, logins.next().flatten()).await;
        // Another service may have another login, which the registry takes.
        for login in logins {
            if !matches!(result, Err(PullError::Denied { .. } | PullError::LoginRefused { .. })) {
                break;
            }
            result = self.pull(image, login).await;
        }
        match &result {
            Ok(()) => tracing::info!(image, "the image is here"),
            Err(error) => tracing::warn!(image, %error, "the image cannot be had"),
        }
        result
    }

    async fn pull(&self, image: &str, login: Option<&RegistryAuth>) -> Result<(), PullError> {
        tracing::info!(image, with_login = login.is_some(), "pulling the image");
        let progress = watch::Sender::new(PullProgress::default());
        let mut seen = progress.subscribe();
        tokio::select! {
            result = self.runtime.pull(image, login, &progress) => result,
            () = stalled(&mut seen) => Err(PullError::Unreachable {
                image: image.to_owned(),
                said: format!("nothing was received for {} s", PULL_STALL.as_secs()),
            }),
        }
    }

    async fn create(&self, owner: &Owner, spec: &InstanceSpec) -> Result<(), RuntimeError> {
        let _turn = self.starts.acquire().await.expect("the semaphore is never closed");
        let container = within(CREATE_DEADLINE, self.runtime.create(owner, spec)).await?;
        within(START_DEADLINE, self.runtime.start(&container)).await?;
        tracing::info!(instance = %spec.instance_id, service = %spec.service_slug, generation = spec.generation,
            %container, "container started");
        Ok(())
    }

    async fn start(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        let _turn = self.starts.acquire().await.expect("the semaphore is never closed");
        within(START_DEADLINE, self.runtime.start(container)).await?;
        tracing::info!(%container, "container started again");
        Ok(())
    }

    async fn remove(&self, container: &Container) -> Result<(), RuntimeError> {
        let (id, grace) = (&container.id, container.stop_grace);
        within(grace + REMOVE_DEADLINE, self.runtime.stop(id, grace)).await?;
        within(REMOVE_DEADLINE, self.runtime.remove(id)).await?;
        tracing::info!(instance = %container.instance_id, generation = container.generation, container = %id,
            "container removed");
        Ok(())
    }
}

/// Ends when a pull has shown no sign of life for too long.
async fn stalled(seen: &mut watch::Receiver<PullProgress>) {
    while let Ok(changed) = timeout(PULL_STALL, seen.changed()).await {
        if changed.is_err() {
            // The pull is over; its result is on the way.
            sleep(PULL_STALL).await;
        }
    }
}

async fn within<T>(deadline: Duration, work: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
    timeout(deadline, work).await.unwrap_or_else(|_| Err(silent()))
}

fn silent() -> RuntimeError {
    RuntimeError::Unavailable("the container engine does not answer; look at its logs and restart it".to_owned())
}
