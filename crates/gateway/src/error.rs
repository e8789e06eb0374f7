//! What goes wrong before, in or after a call, so that the gateway itself answers, in words for whoever called.
//!
//! What such an answer looks like, its status, code and headers, is in [`crate::error_answer`].

use std::time::Duration;

use http::HeaderValue;
use towline_model::{AgentId, InstanceId, ServiceStatus, ValidationError};
use towline_tunnel::{RefuseCode, Refused};

use crate::{authenticate::AuthError, external::TlsFailure, line::LineStatus};

/// What is said of a request that must not simply be sent again.
const MAYBE_PROCESSED: &str = "; the container may have processed the request, so check before sending it again";

/// Why the gateway, and not the container, answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// Nobody that the gateway knows.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Known, and not allowed.
    #[error("calling services needs the role `member` or above, or a key with the scope `invoke`")]
    Forbidden,
    /// No such service in the caller's team.
    #[error("there is no service {slug:?} in this team; GET /api/v1/r/containers lists those that there are")]
    ServiceNotFound {
        /// What was asked for.
        slug: String,
    },
    /// The service cannot be called in its status.
    #[error("the service {slug:?} is {}, not running; {}", status.as_str(), what_to_do(*status))]
    ServiceNotRunning {
        /// The service.
        slug: String,
        /// Its status.
        status: ServiceStatus,
    },
    /// The request breaks HTTP, or cannot be passed on as it is.
    #[error("{0}")]
    MalformedRequest(String),
    /// The description of an invoke is not the JSON that is expected.
    #[error("{0}")]
    MalformedBody(ValidationError),
    /// A field of an invoke has a value that is not allowed.
    #[error("{0}")]
    Invalid(ValidationError),
    /// What `:protocol` names is not spoken here (RFC 8441 §4).
    #[error("inside HTTP/2 only `websocket` can be opened (RFC 8441), not {protocol:?}")]
    ProtocolNotSupported {
        /// What it names.
        protocol: String,
    },
    /// A WebSocket to something that is no service.
    #[error("only a service takes WebSockets, at /api/v1/r/containers/<slug>/ and below")]
    NoWebSocketsHere,
    /// A WebSocket to a container of HTTP/2 that takes none.
    #[error(
        "the container of service {slug} speaks HTTP/2 (`app_protocol: h2c`) and takes no WebSockets there: its SETTINGS lack \
         ENABLE_CONNECT_PROTOCOL (RFC 8441); let it send that, or deploy the service with `app_protocol: http1`"
    )]
    NoWebSocketsToHttp2 {
        /// The service.
        slug: String,
    },
    /// The method does not exist on this path.
    #[error("only {allowed} is possible here")]
    MethodNotAllowed {
        /// The method that is.
        allowed: &'static str,
    },
    /// The request's body is over the limit.
    #[error("the request body is larger than the limit of {limit} bytes for an invoke; the proxy route has no limit")]
    BodyTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Running, but nothing to send the request to.
    #[error("none of the instances of {slug:?} is ready at the moment; try again shortly")]
    NoReadyInstance {
        /// The service.
        slug: String,
    },
    /// Ready instances, but no way to them.
    #[error("no online agent can reach a ready instance of {slug:?}; try again shortly")]
    AgentUnreachable {
        /// The service.
        slug: String,
    },
    /// The caller insists on an instance that cannot take its request.
    #[error("the instance {instance} of {slug:?} {}", if *.gone {
        "is gone; leave X-Towline-Instance out to be served by another"
    } else {
        "is not ready at the moment; try again shortly, or leave X-Towline-Instance out to be served by another"
    })]
    InstanceUnavailable {
        /// The service.
        slug: String,
        /// The instance.
        instance: InstanceId,
        /// Whether it will never come back.
        gone: bool,
        /// The cookie that makes a browser forget it.
        forget: Option<HeaderValue>,
    },
    /// More WebSocket tickets were made than are remembered.
    #[error("this team has made too many WebSocket tickets within 30 seconds; try again when some have expired")]
    TooManyTickets,
    /// The service has as many requests as it takes at a time.
    #[error("the service {slug:?} takes no more than {} requests at a time, and {}; try again later", status.running, match reason {
        BusyReason::LineIsFull => format!("{} more wait already", status.waiting),
        BusyReason::WaitedInVain => "the time for this one was over before it was its turn".to_owned(),
    })]
    ServiceBusy {
        /// The service.
        slug: String,
        /// The line before it.
        status: LineStatus,
        /// Why this one cannot wait.
        reason: BusyReason,
    },
    /// The bodies of invokes take as much memory as they may.
    #[error(
        "the bodies of invokes take as much memory as they may ({limit} bytes); try again shortly, or use the proxy route, \
         which holds no bodies{}",
        if *.maybe_processed { MAYBE_PROCESSED } else { "" }
    )]
    InvokesFull {
        /// Bytes that there are for all.
        limit: usize,
        /// Whether the container may have seen something of a request that must not be sent twice.
        maybe_processed: bool,
    },
    /// The exchange with the container failed.
    #[error("{}{}", .0.reason, .0.advice())]
    Exchange(ExchangeError),
    /// What let the request in ended while it ran.
    #[error("the key, the membership or the sign-in that let this request in has ended while it ran")]
    Revoked,
    /// The agent itself is wanted, and has no session here.
    #[error("the agent {agent} is not connected to this server; try again when it is")]
    AgentOffline {
        /// The agent.
        agent: AgentId,
    },
}

/// An exchange with a container that brought no usable answer.
#[derive(Debug)]
pub struct ExchangeError {
    /// What failed.
    pub reason: ExchangeFailure,
    /// Whether the container may have seen something of a request that must not be sent twice.
    pub maybe_processed: bool,
}

impl ExchangeError {
    const fn advice(&self) -> &'static str {
        if self.maybe_processed { MAYBE_PROCESSED } else { "" }
    }
}

/// Why a request to a service with a limit is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyReason {
    /// As many wait as may.
    LineIsFull,
    /// It has waited for as long as it may take as a whole.
    WaitedInVain,
}

/// How an exchange with a container fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeFailure {
    /// The agent could not connect to the container.
    #[error("{}: {}", what_was_refused(.0.code), .0.message)]
    Refused(Refused),
    /// TLS with an external server failed.
    #[error("{}", what_tls_says(.0))]
    Tls(TlsFailure),
    /// The container closed or reset the connection without an answer.
    #[error("the container closed the connection before it answered")]
    ClosedEarly,
    /// The connection to the agent was lost.
    #[error("the connection to the agent was lost before the container answered")]
    TunnelLost,
    /// The container's answer is not HTTP, or is HTTP that must not be passed on.
    #[error("the container's answer breaks HTTP: {0}")]
    BrokeHttp(String),
    /// The container's answer ended too soon.
    #[error("the container's answer ended before it was complete")]
    Incomplete,
    /// The container's answer is over an invoke's limit, in bytes.
    #[error("the container's answer is larger than the limit of {0} bytes for an invoke; use the proxy route")]
    TooLarge(usize),
    /// No connection to the container in time.
    #[error("there was no connection to the container within the {} seconds that the service allows", .0.as_secs_f32())]
    ConnectTimeout(Duration),
    /// The container did not begin its answer in time.
    #[error("the container did not begin to answer within the {} seconds that the service allows", .0.as_secs_f32())]
    NoAnswer(Duration),
    /// The container did not go on taking the request.
    #[error("the container has taken nothing of the request for the {} seconds that the service allows", .0.as_secs_f32())]
    Stalled(Duration),
    /// The container did not go on with its answer.
    #[error("the container has sent nothing more of its answer for the {} seconds that the service allows", .0.as_secs_f32())]
    Paused(Duration),
    /// The container did not answer in time.
    #[error("the container did not answer within the {} seconds that the service allows", .0.as_secs_f32())]
    Timeout(Duration),
}

const fn what_was_refused(code: RefuseCode) -> &'static str {
    match code {
        RefuseCode::Denied => "the agent may not connect to that place",
        RefuseCode::Unresolved => "the agent cannot find that place",
        _ => "the agent cannot connect to the container",
    }
}

fn what_tls_says(failure: &TlsFailure) -> String {
    match failure {
        TlsFailure::Certificate(said) => format!("the external server does not prove who it is: {said}"),
        TlsFailure::Protocol(said) => format!("no TLS connection with the external server: {said}"),
    }
}

const fn what_to_do(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Deploying => "wait until an instance is ready",
        ServiceStatus::Failed => "its status_reason says why; deploy it again when that is solved",
        ServiceStatus::Stopping => "deploy it again when it has stopped",
        _ => "deploy it first",
    }
}
