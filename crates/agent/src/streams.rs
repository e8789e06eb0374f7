//! Streams that the gateway opens: to an instance's port, or to its log. One task each.
//!
//! The gateway names an instance; where that is reached is looked up here and nowhere else. What is refused never reached a
//! container.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use towline_model::{InstanceId, InstancePhase};
use towline_tunnel::{IncomingStream, LogsRequest, OpenTarget, RefuseCode, Refused, message::Place};

use crate::{
    endpoints::Endpoint,
    logs,
    observed::{InstanceEntry, Observed},
    pipe,
    reach::{Reach, ReachError},
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
    reach: Arc<Reach>,
    limit: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl<R: Runtime> Streams<R> {
    /// Serves at most `limit` streams at a time.
    pub fn new(runtime: Arc<R>, observed: Arc<Observed>, reach: Arc<Reach>, limit: usize) -> Self {
        let limit = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        Self { runtime, observed, reach, limit, tasks: TaskTracker::new() }
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
        if !self.observed.has_settled() {
            // The gateway knows this agent's instances from the process before this one, and sends callers at once.
            let _ = timeout(CONNECT_DEADLINE, self.observed.settled_for(instance)).await;
        }
        if let Some(endpoint) = self.observed.endpoint(instance) {
            return self.connect_out(stream, &endpoint).await;
        }
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

    /// Connects to a place. Whether it was healthy a moment ago does not matter: the try tells.
    async fn connect_out(&self, stream: IncomingStream, endpoint: &Endpoint) {
        match self.reach.connect(&endpoint.spec.place).await {
            Ok(socket) => pipe::join(stream.accept(), socket).await,
            Err(error) => {
                endpoint.suspicion.notify_one();
                stream.refuse(Refused::new(refuse_code(&error, &endpoint.spec.place), error.to_string()));
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
        if self.observed.endpoint(request.instance).is_some() {
            let message = "there is no log here: this service is no container, its process writes elsewhere";
            return Err(Refused::new(RefuseCode::NotReady, message));
        }
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

fn refuse_code(error: &ReachError, place: &Place) -> RefuseCode {
    match error {
        ReachError::Denied(_) => RefuseCode::Denied,
        ReachError::Unresolved { .. } => RefuseCode::Unresolved,
        // A process near by that does not listen is not there: the instance is not ready, whatever the last probe said.
        ReachError::NothingListens(_) if matches!(place, Place::Attached(_)) => RefuseCode::NotReady,
        ReachError::NothingListens(_) | ReachError::Failed { .. } => RefuseCode::ConnectFailed,
        ReachError::UnknownKind => RefuseCode::Unsupported,
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
