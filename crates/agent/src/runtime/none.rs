//! No container engine at all: for an agent that only connects to places, such as that of `towline expose`.

use std::{
    future::{Future, Ready, ready},
    time::Duration,
};

use tokio::sync::watch;
use towline_model::AgentId;
use towline_tunnel::message::{EngineStatus, InstanceSpec, RegistryAuth};

use super::{
    ChangeStream, Container, ContainerId, Exit, LogQuery, LogStream, Owner, PullError, PullProgress, Runtime,
    RuntimeError,
};

/// An engine that is never there.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRuntime;

const REASON: &str = "this agent runs no containers";

fn unavailable<T>() -> Ready<Result<T, RuntimeError>> {
    ready(Err(RuntimeError::Unavailable(REASON.to_owned())))
}

impl Runtime for NoRuntime {
    async fn status(&self) -> EngineStatus {
        EngineStatus::Unavailable { reason: REASON.to_owned() }
    }

    fn list(&self, _: AgentId) -> impl Future<Output = Result<Vec<Container>, RuntimeError>> + Send {
        unavailable()
    }

    fn changes(&self, _: AgentId) -> impl Future<Output = Result<ChangeStream, RuntimeError>> + Send {
        unavailable()
    }

    fn has_image(&self, _: &str) -> impl Future<Output = Result<bool, RuntimeError>> + Send {
        unavailable()
    }

    async fn pull(&self, _: &str, _: Option<&RegistryAuth>, _: &watch::Sender<PullProgress>) -> Result<(), PullError> {
        Err(RuntimeError::Unavailable(REASON.to_owned()).into())
    }

    fn create(&self, _: &Owner, _: &InstanceSpec) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send {
        unavailable()
    }

    fn start(&self, _: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send {
        unavailable()
    }

    fn exit(&self, _: &ContainerId) -> impl Future<Output = Result<Exit, RuntimeError>> + Send {
        unavailable()
    }

    fn stop(&self, _: &ContainerId, _: Duration) -> impl Future<Output = Result<(), RuntimeError>> + Send {
        unavailable()
    }

    fn remove(&self, _: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send {
        unavailable()
    }

    fn logs(&self, _: &ContainerId, _: LogQuery) -> impl Future<Output = Result<LogStream, RuntimeError>> + Send {
        unavailable()
    }
}
