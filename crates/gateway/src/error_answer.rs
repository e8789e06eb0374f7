//! Everything that the gateway itself answers with an error: which status, which code, what `Proxy-Status` says, and
//! whether the caller may try again. What went wrong, in words, is in [`crate::error`].
//!
//! An answer made here always has `Proxy-Status` (RFC 9209) and the problem body with the vendors' shape; a container's
//! answer never has either. That is how a caller tells them apart.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use towline_model::{ErrorCode, FieldError, Problem, problem};
use towline_tunnel::{RefuseCode, Refused};

use crate::{
    authenticate::AuthError,
    body::ResponseBody,
    error::{ExchangeError, ExchangeFailure, GatewayError},
    external::TlsFailure,
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
    use std::time::Duration;

    use towline_model::ServiceStatus;

    use super::*;
    use crate::{error::BusyReason, line::LineStatus};

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
