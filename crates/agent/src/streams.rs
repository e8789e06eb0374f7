//! Streams that the gateway opens: to an instance's port, or to its log. One task each.
//!
//! The gateway names an instance; where that is reached is looked up here and nowhere else. What is refused never reached a
//! container.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use towline_model::{InstanceId, InstancePhase};
use towline_tunnel::{IncomingStream, LogsRequest, OpenTarget, RefuseCode, Refused};

use crate::{
    logs,
    observed::{InstanceEntry, Observed},
    pipe,
    runtime::{LogQuery, LogStream, Runtime, RuntimeError},
};

/// How long the connection to a container may take. On one machine it takes microseconds, or the program is stuck.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the engine may take to open a log.
const LOG_DEADLINE: Duration = Duration::from_secs(10);

/// Serves streams.
#[derive(Debug)]
pub struct Streams<R> {
    runtime: Arc<R>,
    observed: Arc<Observed>,
    limit: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl<R: Runtime> Streams<R> {
    /// Serves at most `limit` streams at a time.
    pub fn new(runtime: Arc<R>, observed: Arc<Observed>, limit: usize) -> Self {
        let limit = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        Self { runtime, observed, limit, tasks: TaskTracker::new() }
    }

    /// Serves one stream in a task of its own. Once closed, streams are refused.
    pub fn serve(self: &Arc<Self>, stream: IncomingStream) {
        if self.tasks.is_closed() {
            return stream.refuse(Refused::new(RefuseCode::Draining, "the agent is about to end"));
        }
        let Ok(permit) = Arc::clone(&self.limit).try_acquire_owned() else {
            return stream.refuse(Refused::new(RefuseCode::Limit, "the agent has as many streams as it may"));
        };
        let streams = Arc::clone(self);
        self.tasks.spawn(async move {
            match stream.target().clone() {
                OpenTarget::Instance(instance) => streams.connect(stream, instance).await,
                OpenTarget::Logs(request) => streams.send_logs(stream, request).await,
            }
            drop(permit);
        });
    }

    /// Takes no more streams.
    pub fn close(&self) {
        self.tasks.close();
    }

    /// Streams that run.
    pub fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Waits, once closed, until the last stream has ended.
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }

    async fn connect(&self, stream: IncomingStream, instance: InstanceId) {
        let entry = self.observed.instance(instance);
        let Some(endpoint) = entry.as_ref().and_then(|entry| entry.endpoint) else {
            return stream.refuse(not_open(entry.as_ref()));
        };
        match timeout(CONNECT_DEADLINE, TcpStream::connect(endpoint)).await {
            Ok(Ok(socket)) => {
                let _ = socket.set_nodelay(true);
                pipe::join(stream.accept(), socket).await;
            }
            Ok(Err(error)) => {
                let message = format!("the container does not take the connection: {error}");
                stream.refuse(Refused::new(RefuseCode::ConnectFailed, message));
            }
            Err(_) => {
                let message = "the container did not take the connection within 5 seconds";
                stream.refuse(Refused::new(RefuseCode::ConnectFailed, message));
            }
        }
    }

    async fn send_logs(&self, stream: IncomingStream, request: LogsRequest) {
        match self.open_logs(&request).await {
            Ok(lines) => logs::send(lines, stream.accept()).await,
            Err(refused) => stream.refuse(refused),
        }
    }

    async fn open_logs(&self, request: &LogsRequest) -> Result<LogStream, Refused> {
        let entry = self.observed.instance(request.instance);
        let container = entry.as_ref().and_then(|entry| entry.container.as_ref());
        let Some(container) = container else { return Err(not_open(entry.as_ref())) };
        let query = LogQuery { tail: request.tail, since: request.since, follow: request.follow };
        let opened = timeout(LOG_DEADLINE, self.runtime.logs(container, query)).await;
        opened
            .unwrap_or_else(|_| Err(RuntimeError::Unavailable("the container engine does not answer".to_owned())))
            .map_err(|error| match error {
                RuntimeError::Gone => Refused::new(RefuseCode::UnknownInstance, error.to_string()),
                other => Refused::new(RefuseCode::NotReady, other.to_string()),
            })
    }
}

fn not_open(entry: Option<&InstanceEntry>) -> Refused {
    let Some(entry) = entry else {
        return Refused::new(RefuseCode::UnknownInstance, "this agent has no such instance");
    };
    let what = match entry.phase {
        InstancePhase::Pending => "is not taken up yet",
        InstancePhase::Pulling => "waits for its image",
        InstancePhase::Starting => "is starting",
        InstancePhase::BackingOff => "has failed and waits for its next try",
        InstancePhase::Stopping => "is being stopped",
        InstancePhase::Ready | InstancePhase::Unhealthy => "has no port at the moment",
    };
    Refused::new(RefuseCode::NotReady, format!("the instance {what}"))
}
