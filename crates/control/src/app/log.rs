//! Logs of a service: which instances are meant, and the streams of their lines.

use std::{pin::Pin, time::Duration};

use tokio::io::AsyncRead;
use towline_model::{AgentId, InstanceId, Principal, ServiceId, ServiceType, Timestamp};
use towline_store::{InstanceRow, ServiceRow, StoreError};
use towline_tunnel::LogsRequest;

use super::{App, find_service};
use crate::rollout::{Deploys, Rollout};

/// How long an agent may take to open a log.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogsQuery {
    /// Of this instance only; otherwise of every instance of the deploy that serves callers or is on its way.
    pub instance: Option<InstanceId>,
    /// Only the last so many lines of each instance.
    pub tail: Option<u32>,
    /// Only lines written at or after this moment.
    pub since: Option<Timestamp>,
    /// Whether new lines are wanted as they come.
    pub follow: bool,
}

/// The lines of one instance.
pub struct InstanceLog {
    /// The instance.
    pub instance: InstanceId,
    /// Its lines as bytes, ended by `\n` each; or why there are none.
    pub lines: Result<Pin<Box<dyn AsyncRead + Send>>, String>,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The team has no such service.
    #[error("there is no such service in this team; GET /api/v1/containers lists those that there are")]
    NotFound,
    /// The service has no such instance.
    #[error("the service has no such instance; GET /api/v1/containers/{{id}}/instances lists those that it has")]
    UnknownInstance,
    /// The service has no containers.
    #[error("the service is {}: its process is no container and writes its logs elsewhere", .0.as_str())]
    NoContainer(ServiceType),
    /// No agent gave any.
    #[error("the logs cannot be read at the moment: {0}")]
    Unreachable(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl App {
    /// Opens the logs of a service. Instances that wait for a place have none and are left out.
    ///
    /// # Errors
    /// See [`LogsError`]. One instance out of several that cannot be reached is no error.
    pub async fn open_logs(
        &self,
        principal: &Principal,
        id: ServiceId,
        query: LogsQuery,
    ) -> Result<Vec<InstanceLog>, LogsError> {
        let mut tx = self.read().await?;
        let row = find_service(&mut tx, principal, id).await?.ok_or(LogsError::NotFound)?;
        let instances = tx.instances_of_service(id).await?;
        drop(tx);
        if row.spec.service_type != ServiceType::Deployed {
            return Err(LogsError::NoContainer(row.spec.service_type));
        }
        let mut logs = Vec::new();
        for (instance, agent) in chosen(&row, &instances, query.instance)? {
            logs.push(InstanceLog { instance, lines: self.open_log(agent, instance, query).await });
        }
        match logs.iter().all(|log| log.lines.is_err()).then(|| logs.first()).flatten() {
            Some(InstanceLog { lines: Err(why), .. }) => Err(LogsError::Unreachable(why.clone())),
            _ => Ok(logs),
        }
    }

    async fn open_log(
        &self,
        agent: AgentId,
        instance: InstanceId,
        query: LogsQuery,
    ) -> Result<Pin<Box<dyn AsyncRead + Send>>, String> {
        let request = LogsRequest { instance, tail: query.tail, since: query.since, follow: query.follow };
        match tokio::time::timeout(OPEN_DEADLINE, self.inner.gateway.logs(agent, request)).await {
            Ok(Ok(lines)) => Ok(Box::pin(lines)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the agent did not answer in time".to_owned()),
        }
    }
}

/// The placed instances that are meant.
fn chosen(
    row: &ServiceRow,
    instances: &[InstanceRow],
    wanted: Option<InstanceId>,
) -> Result<Vec<(InstanceId, AgentId)>, LogsError> {
    let place = |instance: &InstanceRow| instance.agent_id.map(|agent| (instance.id, agent));
    if let Some(wanted) = wanted {
        let instance = instances.iter().find(|instance| instance.id == wanted).ok_or(LogsError::UnknownInstance)?;
        return Ok(place(instance).into_iter().collect());
    }
    let rollout = Rollout::of(row);
    let deploys = Deploys::of(row, rollout.as_ref());
    let generation = deploys.serving.or(deploys.coming).map_or(row.generation, |deploy| deploy.generation);
    Ok(instances.iter().filter(|instance| instance.generation == generation).filter_map(place).collect())
}
