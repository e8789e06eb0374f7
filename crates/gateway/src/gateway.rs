//! The gateway as the control plane sees it: one cloneable handle.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Incoming};
use tokio::{io::AsyncRead, net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tower::Service;
use towline_model::{AgentId, Clock, ServiceId, UserId};
use towline_tunnel::{LogsRequest, message::Desired};

use crate::{AccessTokens, AgentEvent, AgentSession, AuthError, Authenticated, GatewayError, Snapshot};

/// Limits and deadlines. The defaults are what a production server should run with.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The version that agents are told.
    pub server_version: String,
    /// Bytes that all receive windows together may grow by. Default 256 MiB.
    pub tunnel_budget_bytes: usize,
    /// The longest request body of an invoke, decoded, in bytes. Default 32 MiB.
    pub invoke_request_limit: usize,
    /// The longest response body of an invoke, before encoding, in bytes. Default 32 MiB.
    pub invoke_response_limit: usize,
    /// How long requests in flight may go on when the server stops. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            tunnel_budget_bytes: 256 << 20,
            invoke_request_limit: 32 << 20,
            invoke_response_limit: 32 << 20,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// The way in to one gateway. Clones are the same gateway.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<()>,
}

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Gateway {
    /// A gateway that knows no service, no key and no agent yet. The receiver gives what agents tell.
    #[must_use]
    pub fn new(
        config: GatewayConfig,
        tokens: AccessTokens,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::Receiver<AgentEvent>) {
        let _ = (config, tokens, clock);
        let (_, events) = mpsc::channel(1);
        (Self { shared: Arc::new(()) }, events)
    }

    /// Takes over new tables; every request from now on is decided by them. Closes the sessions of agents' keys that
    /// are gone, and cancels what keys that are gone have in flight.
    pub fn swap(&self, snapshot: Snapshot) {
        let _ = (&self.shared, snapshot);
    }

    /// The current tables.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::default()
    }

    /// The access tokens that this gateway accepts; the control plane issues them here.
    #[must_use]
    pub fn tokens(&self) -> &AccessTokens {
        todo!()
    }

    /// Finds out who sent a request about a team's things.
    ///
    /// # Errors
    /// When no valid credential was sent, or none for the team that the request names.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Authenticated, AuthError> {
        let _ = headers;
        Err(AuthError::Missing)
    }

    /// Finds out which user sent a request that is not about a team.
    ///
    /// # Errors
    /// When no valid access token was sent.
    pub fn authenticate_user(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        let _ = headers;
        Err(AuthError::Missing)
    }

    /// Sends an agent everything that it should run; of several, only the latest arrives for sure. `false` when the
    /// agent has no session here.
    pub fn send_desired(&self, agent: AgentId, desired: Desired) -> bool {
        let _ = (agent, desired);
        false
    }

    /// The agents that have a session here.
    #[must_use]
    pub fn sessions(&self) -> Vec<AgentSession> {
        Vec::new()
    }

    /// Requests of the service that are in flight here, upgraded connections included.
    #[must_use]
    pub fn in_flight(&self, service: ServiceId) -> usize {
        let _ = service;
        0
    }

    /// Reads an instance's log lines.
    ///
    /// # Errors
    /// When the agent has no session here or refuses.
    pub async fn logs(
        &self,
        agent: AgentId,
        request: LogsRequest,
    ) -> Result<impl AsyncRead + Send + Unpin + 'static, GatewayError> {
        let _ = (agent, request);
        Err::<tokio::io::Empty, _>(GatewayError::Forbidden)
    }

    /// Serves callers, agents and the management API until `shutdown` is cancelled and everything in flight has ended
    /// or the drain's deadline has passed.
    ///
    /// Requests reach `api` with [`RequestIdText`](crate::RequestIdText) and
    /// [`CallerAddr`](crate::gateway::CallerAddr) in their extensions; its answers get `X-Request-Id`.
    ///
    /// # Errors
    /// When the listener cannot be used at all.
    pub async fn serve<S, B>(&self, listener: TcpListener, api: S, shutdown: CancellationToken) -> io::Result<()>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let _ = (listener, api);
        shutdown.cancelled().await;
        Ok(())
    }
}

/// The address that a request came from, in the request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct CallerAddr(pub std::net::SocketAddr);
