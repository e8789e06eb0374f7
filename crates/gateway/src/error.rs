//! Everything that the gateway itself answers with an error: which status, which code, what `Proxy-Status` says, and
//! whether the caller may try again.
//!
//! An answer made here always has `Proxy-Status` (RFC 9209) and the problem body with the vendors' shape; a container's
//! answer never has either. That is how a caller tells them apart.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use towline_model::{AgentId, ErrorCode, FieldError, InstanceId, Problem, ServiceStatus, ValidationError, problem};
use towline_tunnel::{RefuseCode, Refused};

use crate::{
    authenticate::AuthError,
    body::ResponseBody,
    external::TlsFailure,
    line::LineStatus,
    request_id::{RequestIdText, X_REQUEST_ID},
};

/// The header that explains a gateway's answer (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// The header that keeps SDKs from sending a request again by themselves.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Seconds after which a caller may try again when nothing of its request has left the gateway.
const RETRY_AFTER_SECONDS: &str = "1";
/// The most seconds that a caller of a busy service is told to wait.
const MAX_RETRY_AFTER_SECONDS: u64 = 60;
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
        _ => "deploy it first",
    }
}

impl GatewayError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Auth(error) => error.code(),
            Self::Forbidden => ErrorCode::Forbidden,
            Self::ServiceNotFound { .. } => ErrorCode::NotFound,
            Self::ServiceNotRunning { .. } => ErrorCode::ServiceNotRunning,
            Self::MalformedRequest(_) => ErrorCode::MalformedRequest,
            Self::MalformedBody(_) => ErrorCode::MalformedBody,
            Self::Invalid(_) => ErrorCode::ValidationFailed,
            Self::ProtocolNotSupported { .. } | Self::NoWebSocketsHere | Self::NoWebSocketsToHttp2 { .. } => {
                ErrorCode::ProtocolNotSupported
            }
            Self::MethodNotAllowed { .. } => ErrorCode::MethodNotAllowed,
            Self::BodyTooLarge { .. } => ErrorCode::BodyTooLarge,
            Self::NoReadyInstance { .. } | Self::InstanceUnavailable { .. } => ErrorCode::NoReadyInstance,
            Self::TooManyTickets => ErrorCode::RateLimited,
            Self::ServiceBusy { .. } => ErrorCode::ServiceBusy,
            Self::AgentUnreachable { .. } | Self::AgentOffline { .. } => ErrorCode::AgentUnreachable,
            Self::Exchange(error) => error.reason.code(),
            Self::InvokesFull { .. } => ErrorCode::ServerBusy,
            Self::Revoked => ErrorCode::Unauthenticated,
        }
    }

    /// The `error` token of `Proxy-Status` (RFC 9209 §2.3).
    const fn token(&self) -> &'static str {
        match self {
            Self::Auth(_) | Self::Forbidden | Self::Revoked | Self::TooManyTickets => "http_request_denied",
            Self::ServiceNotFound { .. } => "destination_not_found",
            Self::ServiceBusy { .. } => "connection_limit_reached",
            Self::InvokesFull { .. } => "proxy_internal_response",
            Self::ServiceNotRunning { .. }
            | Self::NoReadyInstance { .. }
            | Self::InstanceUnavailable { .. }
            | Self::AgentUnreachable { .. }
            | Self::AgentOffline { .. } => "destination_unavailable",
            Self::MalformedRequest(_)
            | Self::MalformedBody(_)
            | Self::Invalid(_)
            | Self::ProtocolNotSupported { .. }
            | Self::NoWebSocketsHere
            | Self::NoWebSocketsToHttp2 { .. }
            | Self::MethodNotAllowed { .. }
            | Self::BodyTooLarge { .. } => "http_request_error",
            Self::Exchange(error) => error.reason.token(),
        }
    }

    /// The codes of everything that the gateway may answer a call of a service with.
    pub const CODES_OF_CALLS: &[ErrorCode] = &[
        ErrorCode::MalformedRequest,
        ErrorCode::TeamRequired,
        ErrorCode::InvalidParameter,
        ErrorCode::ServiceNotRunning,
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
        ErrorCode::NotInTeam,
        ErrorCode::NotFound,
        ErrorCode::TunnelFailed,
        ErrorCode::UpstreamFailed,
        ErrorCode::EgressDenied,
        ErrorCode::TlsCertificateError,
        ErrorCode::TlsProtocolError,
        ErrorCode::UpstreamProtocolError,
        ErrorCode::UpstreamTimeout,
        ErrorCode::ServiceBusy,
        ErrorCode::NoReadyInstance,
        ErrorCode::AgentUnreachable,
    ];

    /// Those that only a call that is described in JSON is answered with, besides.
    pub const CODES_OF_INVOKES: &[ErrorCode] = &[
        ErrorCode::MalformedBody,
        ErrorCode::ValidationFailed,
        ErrorCode::BodyTooLarge,
        ErrorCode::ResponseTooLarge,
        ErrorCode::ServerBusy,
    ];

    /// Whether the same request may be sent again at once without harm.
    const fn is_retryable(&self) -> bool {
        match self {
            Self::Exchange(ExchangeError { maybe_processed: false, reason: ExchangeFailure::Refused(refused) }) => {
                // What is denied stays denied.
                !matches!(refused.code, RefuseCode::Denied)
            }
            Self::Exchange(ExchangeError { maybe_processed: false, reason: ExchangeFailure::ConnectTimeout(_) }) => {
                true
            }
            Self::Exchange(_) | Self::InvokesFull { maybe_processed: true, .. } => false,
            _ => matches!(self.code().status(), 429 | 503),
        }
    }

    /// The value of `Retry-After` that belongs to the answer.
    #[must_use]
    pub fn retry_after(&self) -> Option<HeaderValue> {
        if let Self::ServiceBusy { status, .. } = self {
            // About as long as whoever is next has waited.
            return Some(HeaderValue::from(status.longest_wait.as_secs().clamp(1, MAX_RETRY_AFTER_SECONDS)));
        }
        self.is_retryable().then_some(HeaderValue::from_static(RETRY_AFTER_SECONDS))
    }

    /// Every field that is wrong.
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::MalformedBody(error) | Self::Invalid(error) => error.fields.clone(),
            _ => Vec::new(),
        }
    }

    /// The body of the answer.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let mut problem = Problem::new(self.code(), self.to_string());
        problem.errors = self.fields();
        problem
    }

    /// The answer on the runtime routes.
    pub(crate) fn to_response(&self, id: &RequestIdText) -> Response<ResponseBody> {
        let problem = self.problem().with_request_id(id.as_str()).with_vendor_error();
        let mut response = problem_response(&problem, id);
        let headers = response.headers_mut();
        headers.insert(PROXY_STATUS, proxy_status(self.token(), &problem.detail));
        match self {
            Self::Auth(error) => {
                if let Some(challenge) = error.challenge() {
                    headers.insert(header::WWW_AUTHENTICATE, challenge);
                }
            }
            Self::Revoked => {
                headers.insert(header::WWW_AUTHENTICATE, AuthError::challenge_for_revoked());
            }
            Self::MethodNotAllowed { allowed } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::InstanceUnavailable { forget: Some(cookie), .. } => {
                headers.insert(header::SET_COOKIE, cookie.clone());
            }
            Self::Exchange(ExchangeError { maybe_processed: true, .. })
            | Self::InvokesFull { maybe_processed: true, .. } => {
                headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl ExchangeFailure {
    const fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(Refused { code: RefuseCode::Denied, .. }) => ErrorCode::EgressDenied,
            Self::Refused(_) | Self::ClosedEarly | Self::Incomplete => ErrorCode::UpstreamFailed,
            Self::Tls(TlsFailure::Certificate(_)) => ErrorCode::TlsCertificateError,
            Self::Tls(TlsFailure::Protocol(_)) => ErrorCode::TlsProtocolError,
            Self::TunnelLost => ErrorCode::TunnelFailed,
            Self::BrokeHttp(_) => ErrorCode::UpstreamProtocolError,
            Self::TooLarge(_) => ErrorCode::ResponseTooLarge,
            Self::ConnectTimeout(_) | Self::NoAnswer(_) | Self::Stalled(_) | Self::Paused(_) | Self::Timeout(_) => {
                ErrorCode::UpstreamTimeout
            }
        }
    }

    const fn token(&self) -> &'static str {
        match self {
            Self::Refused(Refused { code: RefuseCode::ConnectFailed, .. }) => "connection_refused",
            Self::Refused(Refused { code: RefuseCode::Denied, .. }) => "destination_ip_prohibited",
            Self::Refused(Refused { code: RefuseCode::Unresolved, .. }) => "dns_error",
            Self::Refused(_) => "destination_unavailable",
            Self::Tls(TlsFailure::Certificate(_)) => "tls_certificate_error",
            Self::Tls(TlsFailure::Protocol(_)) => "tls_protocol_error",
            Self::ClosedEarly | Self::TunnelLost => "connection_terminated",
            Self::BrokeHttp(_) => "http_protocol_error",
            Self::Incomplete | Self::Paused(_) => "http_response_incomplete",
            Self::TooLarge(_) => "http_response_body_size",
            Self::ConnectTimeout(_) => "connection_timeout",
            Self::NoAnswer(_) => "connection_read_timeout",
            Self::Stalled(_) => "connection_write_timeout",
            Self::Timeout(_) => "http_response_timeout",
        }
    }
}

/// An answer with a problem body and the request's id: for every route.
pub(crate) fn problem_response(problem: &Problem, id: &RequestIdText) -> Response<ResponseBody> {
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    headers.insert(X_REQUEST_ID, id.value().clone());
    response
}

/// A `Proxy-Status` of one member with an error and its details, written as RFC 8941 wants it.
pub(crate) fn proxy_status(token: &str, details: &str) -> HeaderValue {
    let mut text = format!("towline; error={token}; details=\"");
    for character in details.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            // A string of RFC 8941 holds visible ASCII and spaces only.
            ' '..='~' => text.push(character),
            _ => text.push('?'),
        }
    }
    text.push('"');
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("towline"))
}

#[cfg(test)]
#[path = "error_codes_tests.rs"]
mod codes_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(reason: ExchangeFailure, maybe_processed: bool) -> GatewayError {
        GatewayError::Exchange(ExchangeError { reason, maybe_processed })
    }

    fn refused(code: RefuseCode) -> ExchangeFailure {
        ExchangeFailure::Refused(Refused::new(code, "why"))
    }

    #[test]
    fn the_table_of_statuses() {
        let slug = || "hello".to_owned();
        let not_running = GatewayError::ServiceNotRunning { slug: slug(), status: ServiceStatus::Stopped };
        for (error, status, code, token, retry_after, should_retry) in [
            (not_running, 400, "service_not_running", "destination_unavailable", false, true),
            (GatewayError::MalformedRequest("x".into()), 400, "malformed_request", "http_request_error", false, true),
            (AuthError::Missing.into(), 401, "unauthenticated", "http_request_denied", false, true),
            (AuthError::NotInTeam.into(), 403, "not_in_team", "http_request_denied", false, true),
            (GatewayError::Forbidden, 403, "forbidden", "http_request_denied", false, true),
            (GatewayError::ServiceNotFound { slug: slug() }, 404, "not_found", "destination_not_found", false, true),
            (
                GatewayError::ProtocolNotSupported { protocol: "x".into() },
                501,
                "protocol_not_supported",
                "http_request_error",
                false,
                true,
            ),
            (GatewayError::BodyTooLarge { limit: 1 }, 413, "body_too_large", "http_request_error", false, true),
            (exchange(ExchangeFailure::TunnelLost, true), 502, "tunnel_failed", "connection_terminated", false, false),
            (
                exchange(ExchangeFailure::ClosedEarly, false),
                502,
                "upstream_failed",
                "connection_terminated",
                false,
                true,
            ),
            (
                exchange(refused(RefuseCode::ConnectFailed), false),
                502,
                "upstream_failed",
                "connection_refused",
                true,
                true,
            ),
            (
                exchange(refused(RefuseCode::Denied), false),
                502,
                "egress_denied",
                "destination_ip_prohibited",
                false,
                true,
            ),
            (exchange(refused(RefuseCode::Unresolved), false), 502, "upstream_failed", "dns_error", true, true),
            (
                exchange(ExchangeFailure::Tls(TlsFailure::Certificate("x".into())), false),
                502,
                "tls_certificate_error",
                "tls_certificate_error",
                false,
                true,
            ),
            (
                exchange(ExchangeFailure::Tls(TlsFailure::Protocol("x".into())), false),
                502,
                "tls_protocol_error",
                "tls_protocol_error",
                false,
                true,
            ),
            (
                exchange(ExchangeFailure::BrokeHttp("x".into()), true),
                502,
                "upstream_protocol_error",
                "http_protocol_error",
                false,
                false,
            ),
            (
                exchange(ExchangeFailure::Timeout(Duration::from_secs(2)), true),
                502,
                "upstream_timeout",
                "http_response_timeout",
                false,
                false,
            ),
            (
                exchange(ExchangeFailure::TooLarge(1), true),
                502,
                "response_too_large",
                "http_response_body_size",
                false,
                false,
            ),
            (
                GatewayError::ServiceBusy {
                    slug: slug(),
                    status: LineStatus::default(),
                    reason: BusyReason::LineIsFull,
                },
                503,
                "service_busy",
                "connection_limit_reached",
                true,
                true,
            ),
            (
                GatewayError::InvokesFull { limit: 1, maybe_processed: false },
                503,
                "server_busy",
                "proxy_internal_response",
                true,
                true,
            ),
            (
                GatewayError::InvokesFull { limit: 1, maybe_processed: true },
                503,
                "server_busy",
                "proxy_internal_response",
                false,
                false,
            ),
            (
                exchange(ExchangeFailure::ConnectTimeout(Duration::from_secs(2)), false),
                502,
                "upstream_timeout",
                "connection_timeout",
                true,
                true,
            ),
            (
                exchange(ExchangeFailure::NoAnswer(Duration::from_secs(2)), true),
                502,
                "upstream_timeout",
                "connection_read_timeout",
                false,
                false,
            ),
            (
                exchange(ExchangeFailure::Stalled(Duration::from_secs(2)), true),
                502,
                "upstream_timeout",
                "connection_write_timeout",
                false,
                false,
            ),
            (
                exchange(ExchangeFailure::Paused(Duration::from_secs(2)), true),
                502,
                "upstream_timeout",
                "http_response_incomplete",
                false,
                false,
            ),
            (
                GatewayError::NoReadyInstance { slug: slug() },
                503,
                "no_ready_instance",
                "destination_unavailable",
                true,
                true,
            ),
            (
                GatewayError::AgentUnreachable { slug: slug() },
                503,
                "agent_unreachable",
                "destination_unavailable",
                true,
                true,
            ),
        ] {
            let response = error.to_response(&RequestIdText::generate());
            let headers = response.headers();
            assert_eq!(response.status(), status, "{error}");
            assert_eq!(error.code().as_str(), code);
            let proxy_status = headers[PROXY_STATUS].to_str().unwrap();
            assert!(proxy_status.starts_with(&format!("towline; error={token}; details=\"")), "{proxy_status}");
            assert_eq!(headers.contains_key(header::RETRY_AFTER), retry_after, "{error}");
            assert_eq!(!headers.contains_key(X_SHOULD_RETRY), should_retry, "{error}");
            assert_eq!(headers[header::CONTENT_TYPE], problem::CONTENT_TYPE);
            assert_eq!(headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
        }
    }

    #[test]
    fn details_are_quoted() {
        assert_eq!(proxy_status("x", "a \"b\" \\ ü\r\n"), "towline; error=x; details=\"a \\\"b\\\" \\\\ ???\"");
    }
}
