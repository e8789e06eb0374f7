//! Whether a request may be sent again after an attempt failed. Pure.
//!
//! Nothing that was sent is silently sent twice. Another attempt is made only when the container provably got nothing
//! of the last one, or when the method is idempotent and what failed was a connection that the container may simply
//! have been closing for its idleness (RFC 9110 §9.2.2, RFC 9112 §9.3.1).

use towline_tunnel::RefuseCode;

use crate::{
    error::{ExchangeError, ExchangeFailure, GatewayError},
    outgoing::Interrupt,
    upstream::{Failure, FailureReason},
};

/// What is known of the request beside the failure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The service's slug.
    pub slug: &'a str,
    /// Whether sending it twice has the effect of sending it once.
    pub idempotent: bool,
    /// Whether its head and all of its body that was sent are still here.
    pub replayable: bool,
    /// Whether it was sent again before after a container may have got it.
    pub resent: bool,
}

/// What to do after a failed attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Try again, over a new stream.
    Again {
        /// Whether the instance cannot help, so that only others are tried.
        elsewhere: bool,
        /// Whether the container may have got the request already.
        resent: bool,
        /// What to answer when there is nothing left to try.
        otherwise: GatewayError,
    },
    /// Answer with this.
    GiveUp(GatewayError),
}

/// Judges a failed attempt.
pub(crate) fn judge(failure: Failure, facts: Facts<'_>) -> Verdict {
    let untouched = failure.untouched || matches!(failure.reason, FailureReason::Refused(_));
    let closing = failure.reused && matches!(failure.reason, FailureReason::Closed | FailureReason::TunnelLost);
    let elsewhere = match &failure.reason {
        FailureReason::Refused(refused) => !matches!(refused.code, RefuseCode::Draining | RefuseCode::Limit),
        // Another agent may have another way to the server.
        FailureReason::Tls(_) | FailureReason::ConnectTimeout(_) => true,
        _ => false,
    };
    let resend = !untouched && closing && facts.idempotent && !facts.resent;
    // What one container of a service cannot do, no other can.
    let given_up = matches!(
        failure.reason,
        FailureReason::CallerBody | FailureReason::Revoked | FailureReason::Late(_) | FailureReason::NoWebSockets
    );
    let again = facts.replayable && !given_up && (untouched || resend);
    let otherwise = answer(failure.reason, facts, !untouched && !facts.idempotent);
    if again { Verdict::Again { elsewhere, resent: resend, otherwise } } else { Verdict::GiveUp(otherwise) }
}

/// The answer to a caller whose request cannot go on.
pub(crate) fn interrupted(interrupt: Interrupt) -> GatewayError {
    match interrupt {
        Interrupt::Gone => {
            GatewayError::MalformedRequest("the request body ended early or its framing is broken".to_owned())
        }
        Interrupt::Revoked => GatewayError::Revoked,
    }
}

fn answer(reason: FailureReason, facts: Facts<'_>, maybe_processed: bool) -> GatewayError {
    let slug = || facts.slug.to_owned();
    let reason = match reason {
        FailureReason::Refused(refused) => match refused.code {
            RefuseCode::ConnectFailed | RefuseCode::Denied | RefuseCode::Unresolved => {
                ExchangeFailure::Refused(refused)
            }
            RefuseCode::Draining | RefuseCode::Limit => return GatewayError::AgentUnreachable { slug: slug() },
            _ => return GatewayError::NoReadyInstance { slug: slug() },
        },
        FailureReason::Tls(failure) => ExchangeFailure::Tls(failure),
        FailureReason::Closed => ExchangeFailure::ClosedEarly,
        FailureReason::TunnelLost => ExchangeFailure::TunnelLost,
        FailureReason::BrokeHttp(why) => ExchangeFailure::BrokeHttp(why),
        FailureReason::NoWebSockets => return GatewayError::NoWebSocketsToHttp2 { slug: slug() },
        FailureReason::ConnectTimeout(limit) => ExchangeFailure::ConnectTimeout(limit),
        FailureReason::Late(failure) => failure,
        FailureReason::CallerBody => return interrupted(Interrupt::Gone),
        FailureReason::Revoked => return interrupted(Interrupt::Revoked),
    };
    GatewayError::Exchange(ExchangeError { reason, maybe_processed })
}

#[cfg(test)]
mod tests {
    use towline_tunnel::Refused;

    use super::*;
    use crate::external::TlsFailure;

    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
    const GET: Facts<'_> = Facts { slug: "hello", idempotent: true, replayable: true, resent: false };
    const POST: Facts<'_> = Facts { idempotent: false, ..GET };

    fn failure(reason: FailureReason, untouched: bool, reused: bool) -> Failure {
        Failure { reason, untouched, reused }
    }

    fn refused(code: RefuseCode) -> FailureReason {
        FailureReason::Refused(Refused::new(code, "why"))
    }

    fn tls() -> FailureReason {
        FailureReason::Tls(TlsFailure::Certificate("expired".to_owned()))
    }

    fn again(failure: Failure, facts: Facts<'_>) -> bool {
        matches!(judge(failure, facts), Verdict::Again { .. })
    }

    #[test]
    fn only_what_is_safe_is_tried_again() {
        use FailureReason::*;
        let broke = || BrokeHttp("x".to_owned());
        for (reason, untouched, reused, get, post) in [
            (Closed, false, false, false, false),
            (Closed, false, true, true, false),
            (Closed, true, true, true, true),
            (TunnelLost, false, false, false, false),
            (TunnelLost, false, true, true, false),
            (TunnelLost, true, false, true, true),
            (broke(), false, true, false, false),
            (NoWebSockets, true, true, false, false),
            (CallerBody, true, false, false, false),
            (Revoked, true, false, false, false),
            (refused(RefuseCode::ConnectFailed), false, false, true, true),
            (ConnectTimeout(SECOND), true, false, true, true),
            (Late(ExchangeFailure::NoAnswer(SECOND)), false, true, false, false),
            (Late(ExchangeFailure::Stalled(SECOND)), false, true, false, false),
            (refused(RefuseCode::Draining), false, false, true, true),
            (tls(), true, false, true, true),
            (tls(), false, false, false, false),
        ] {
            let text = format!("{reason:?} reached it {} reused {reused}", !untouched);
            let copy = match &reason {
                Refused(refused) => Refused(refused.clone()),
                Tls(failure) => Tls(failure.clone()),
                BrokeHttp(why) => BrokeHttp(why.clone()),
                ConnectTimeout(limit) => ConnectTimeout(*limit),
                Late(failure) => Late(failure.clone()),
                NoWebSockets => NoWebSockets,
                Closed => Closed,
                TunnelLost => TunnelLost,
                CallerBody => CallerBody,
                Revoked => Revoked,
            };
            assert_eq!(again(failure(copy, untouched, reused), POST), post, "POST {text}");
            assert_eq!(again(failure(reason, untouched, reused), GET), get, "GET {text}");
        }
    }

    #[test]
    fn a_request_is_sent_again_once_and_only_whole() {
        assert!(!again(failure(FailureReason::Closed, false, true), Facts { resent: true, ..GET }));
        assert!(!again(failure(FailureReason::Closed, false, true), Facts { replayable: false, ..GET }));
        assert!(!again(failure(refused(RefuseCode::NotReady), false, false), Facts { replayable: false, ..GET }));
    }

    #[test]
    fn callers_are_warned_when_a_request_may_have_been_processed() {
        for (reason, facts, warned) in [
            (FailureReason::Closed, POST, true),
            (FailureReason::Closed, GET, false),
            (FailureReason::BrokeHttp("x".to_owned()), POST, true),
            (refused(RefuseCode::ConnectFailed), Facts { replayable: false, ..POST }, false),
        ] {
            match judge(failure(reason, false, false), Facts { resent: true, ..facts }) {
                Verdict::GiveUp(GatewayError::Exchange(error))
                | Verdict::Again { otherwise: GatewayError::Exchange(error), .. } => {
                    assert_eq!(error.maybe_processed, warned, "{error:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn refusals_become_the_statuses_of_the_contract() {
        for (code, status, elsewhere) in [
            (RefuseCode::UnknownInstance, 503, true),
            (RefuseCode::NotReady, 503, true),
            (RefuseCode::Draining, 503, false),
            (RefuseCode::Limit, 503, false),
            (RefuseCode::ConnectFailed, 502, true),
            (RefuseCode::Denied, 502, true),
            (RefuseCode::Unresolved, 502, true),
        ] {
            match judge(failure(refused(code), false, false), POST) {
                Verdict::Again { otherwise, elsewhere: is, .. } => {
                    assert_eq!((otherwise.code().status(), is), (status, elsewhere), "{code:?}");
                }
                Verdict::GiveUp(error) => panic!("{error}"),
            }
        }
    }
}
