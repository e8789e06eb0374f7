//! The codes that are described are those that are answered with: no more, no fewer.

use std::{collections::BTreeSet, time::Duration};

use towline_model::{AgentId, InstanceId, ServiceStatus, ValidationError};

use super::*;
use crate::{error::BusyReason, line::LineStatus, presented::X_TOWLINE_KEY};

/// Where an error is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occurs {
    OnEveryCall,
    OnInvokes,
    /// On routes that are no calls, or for requests that are described nowhere.
    Elsewhere,
}

/// The number of a variant, and where it occurs. Another variant? Give it the next number, and an example below.
fn place(error: &GatewayError) -> (usize, Occurs) {
    use Occurs::{Elsewhere, OnEveryCall, OnInvokes};
    match error {
        GatewayError::Auth(_) => (0, OnEveryCall),
        GatewayError::Forbidden => (1, OnEveryCall),
        GatewayError::ServiceNotFound { .. } => (2, OnEveryCall),
        GatewayError::ServiceNotRunning { .. } => (3, OnEveryCall),
        GatewayError::MalformedRequest(_) => (4, OnEveryCall),
        GatewayError::MalformedBody(_) => (5, OnInvokes),
        GatewayError::Invalid(_) => (6, OnInvokes),
        GatewayError::MethodNotAllowed { .. } => (7, Elsewhere),
        GatewayError::BodyTooLarge { .. } => (8, OnInvokes),
        GatewayError::NoReadyInstance { .. } => (9, OnEveryCall),
        GatewayError::AgentUnreachable { .. } => (10, OnEveryCall),
        GatewayError::InstanceUnavailable { .. } => (11, OnEveryCall),
        GatewayError::TooManyTickets => (12, Elsewhere),
        GatewayError::ServiceBusy { .. } => (13, OnEveryCall),
        GatewayError::InvokesFull { .. } => (14, OnInvokes),
        GatewayError::Exchange(ExchangeError { reason: ExchangeFailure::TooLarge(_), .. }) => (15, OnInvokes),
        GatewayError::Exchange(error) => (16 + failure_number(&error.reason), OnEveryCall),
        GatewayError::Revoked => (27, OnEveryCall),
        GatewayError::AgentOffline { .. } => (28, Elsewhere),
        GatewayError::ProtocolNotSupported { .. } => (29, Elsewhere),
        GatewayError::NoWebSocketsHere => (30, Elsewhere),
        GatewayError::NoWebSocketsToHttp2 { .. } => (31, Elsewhere),
    }
}

fn failure_number(failure: &ExchangeFailure) -> usize {
    match failure {
        ExchangeFailure::Refused(_) => 0,
        ExchangeFailure::Tls(_) => 1,
        ExchangeFailure::ClosedEarly => 2,
        ExchangeFailure::TunnelLost => 3,
        ExchangeFailure::BrokeHttp(_) => 4,
        ExchangeFailure::Incomplete => 5,
        ExchangeFailure::TooLarge(_) => unreachable!("it has a number of its own"),
        ExchangeFailure::ConnectTimeout(_) => 6,
        ExchangeFailure::NoAnswer(_) => 7,
        ExchangeFailure::Stalled(_) => 8,
        ExchangeFailure::Paused(_) => 9,
        ExchangeFailure::Timeout(_) => 10,
    }
}

/// An example of every variant, and of each that has several codes one for each code.
fn examples() -> Vec<GatewayError> {
    let slug = || "hello".to_owned();
    let why = || "why".to_owned();
    let time = Duration::from_secs(1);
    let wrong = || ValidationError::one("path", "is wrong");
    let refused = |code| ExchangeFailure::Refused(Refused::new(code, "why"));
    let (agent, instance) = (AgentId::generate(), InstanceId::generate());
    let status = LineStatus::default();
    let mut examples = vec![
        GatewayError::Forbidden,
        GatewayError::ServiceNotFound { slug: slug() },
        GatewayError::ServiceNotRunning { slug: slug(), status: ServiceStatus::Stopped },
        GatewayError::MalformedRequest(why()),
        GatewayError::MalformedBody(wrong()),
        GatewayError::Invalid(wrong()),
        GatewayError::MethodNotAllowed { allowed: "POST" },
        GatewayError::BodyTooLarge { limit: 1 },
        GatewayError::NoReadyInstance { slug: slug() },
        GatewayError::AgentUnreachable { slug: slug() },
        GatewayError::InstanceUnavailable { slug: slug(), instance, gone: true, forget: None },
        GatewayError::TooManyTickets,
        GatewayError::ServiceBusy { slug: slug(), status, reason: BusyReason::LineIsFull },
        GatewayError::InvokesFull { limit: 1, maybe_processed: false },
        GatewayError::Revoked,
        GatewayError::AgentOffline { agent },
        GatewayError::ProtocolNotSupported { protocol: why() },
        GatewayError::NoWebSocketsHere,
        GatewayError::NoWebSocketsToHttp2 { slug: slug() },
    ];
    let ambiguous = AuthError::Ambiguous { header: X_TOWLINE_KEY };
    let auth = [AuthError::Missing, AuthError::TeamRequired, AuthError::InvalidTeam, AuthError::NotInTeam, ambiguous];
    examples.extend(auth.map(GatewayError::Auth));
    let failures = [
        refused(RefuseCode::ConnectFailed),
        refused(RefuseCode::Denied),
        ExchangeFailure::Tls(TlsFailure::Certificate(why())),
        ExchangeFailure::Tls(TlsFailure::Protocol(why())),
        ExchangeFailure::ClosedEarly,
        ExchangeFailure::TunnelLost,
        ExchangeFailure::BrokeHttp(why()),
        ExchangeFailure::Incomplete,
        ExchangeFailure::TooLarge(1),
        ExchangeFailure::ConnectTimeout(time),
        ExchangeFailure::NoAnswer(time),
        ExchangeFailure::Stalled(time),
        ExchangeFailure::Paused(time),
        ExchangeFailure::Timeout(time),
    ];
    let exchange = |reason| GatewayError::Exchange(ExchangeError { reason, maybe_processed: false });
    examples.extend(failures.map(exchange));
    examples
}

#[test]
fn a_service_that_does_not_run_is_told_with_what_to_do() {
    for (status, to_do) in [
        (ServiceStatus::Created, "deploy it first"),
        (ServiceStatus::Deploying, "wait until an instance is ready"),
        (ServiceStatus::Failed, "its status_reason says why; deploy it again when that is solved"),
        (ServiceStatus::Stopping, "deploy it again when it has stopped"),
        (ServiceStatus::Stopped, "deploy it first"),
    ] {
        let told = GatewayError::ServiceNotRunning { slug: "hello".to_owned(), status }.to_string();
        assert_eq!(told, format!("the service \"hello\" is {}, not running; {to_do}", status.as_str()));
    }
}

#[test]
fn the_described_codes_are_those_that_are_answered_with() {
    let examples = examples();
    let numbers: BTreeSet<_> = examples.iter().map(|error| place(error).0).collect();
    assert_eq!(numbers, (0..32).collect(), "there is an example of every variant");
    let codes = |occurs: Occurs| -> BTreeSet<&str> {
        let there = examples.iter().filter(|error| place(error).1 == occurs);
        there.map(|error| error.code().as_str()).collect()
    };
    let names = |codes: &[ErrorCode]| -> BTreeSet<&str> { codes.iter().map(|code| code.as_str()).collect() };
    assert_eq!(codes(Occurs::OnEveryCall), names(GatewayError::CODES_OF_CALLS));
    assert_eq!(codes(Occurs::OnInvokes), names(GatewayError::CODES_OF_INVOKES));
}
