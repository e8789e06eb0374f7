//! The two upgrade requests of an agent: for its session and for a carrier.
//!
//! A request is answered at once. What follows the `101` runs in a task of its own with deadlines of its own, so that a
//! slow or silent agent holds up nobody.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::either::Either;
use towline_model::{ErrorCode, Problem};
use towline_tunnel::{
    CarrierConfig, gateway_carrier,
    upgrade::{ConnectionKind, Framing, WORKER_FIELD},
    websocket::{WebSocketIo, derive_accept_key},
};

use super::{
    handshake::{self, Newcomer},
    session::Arriving,
};
use crate::{
    authenticate::{self, AuthError},
    body::ResponseBody,
    caller::Active,
    caller_body::CallerBody,
    caller_stream::CallerStream,
    error_answer::problem_response,
    gateway::Shared,
    headers::{header_has_token, put_switching_hops},
    presented,
    request_id::{RequestIdText, X_REQUEST_ID},
    rewound::Rewound,
};

/// How long the switch of protocols may take after the request was accepted.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

/// An answer other than `101`.
type Refused = Box<Response<ResponseBody>>;

/// Answers an agent that wants to open its session.
pub(crate) fn session(
    shared: &Arc<Shared>,
    active: &Active,
    request: &Request<CallerBody>,
    id: &RequestIdText,
    handover: Option<Handover>,
) -> Response<ResponseBody> {
    let (wanted, newcomer) = match check_session(shared, active, request, id) {
        Ok(accepted) => accepted,
        Err(refused) => return *refused,
    };
    active.caller().note_upgrade();
    let task = Arc::clone(shared);
    let framing = wanted.framing();
    shared.tasks.spawn(async move {
        if let Some(upgraded) = upgraded(handover, framing).await {
            handshake::run(task, upgraded, newcomer).await;
        }
    });
    switching(ConnectionKind::Session, &wanted, id)
}

fn check_session(
    shared: &Arc<Shared>,
    active: &Active,
    request: &Request<CallerBody>,
    id: &RequestIdText,
) -> Result<(Wanted, Newcomer), Refused> {
    let wanted = check_upgrade(request, ConnectionKind::Session, id)?;
    let state = shared.state.load();
    let authority = shared.authority(&state);
    let credential =
        authenticate::authenticate_agent(request.headers(), authority).map_err(|error| unauthorised(&error, id))?;
    let key = state.key(credential.id);
    let address = shared.client_address(active.caller(), request.headers());
    let admission = shared
        .agents
        .admit(credential.team_id, address, shared.config.session_limits())
        .map_err(|reason| refusal(&Problem::new(ErrorCode::RateLimited, reason), id))?;
    if shared.is_stopping() {
        return Err(refusal(
            &Problem::new(ErrorCode::Unavailable, "the server is stopping; connect again shortly"),
            id,
        ));
    }
    let newcomer = Newcomer {
        credential_id: credential.id,
        team_id: credential.team_id,
        expires_at: credential.expires_at,
        last_use: credential.last_use.clone(),
        key,
        admission,
        framing: wanted.framing(),
    };
    Ok((wanted, newcomer))
}

/// Answers an agent that brings a carrier.
pub(crate) fn carrier(
    shared: &Arc<Shared>,
    active: &Active,
    request: &Request<CallerBody>,
    id: &RequestIdText,
    handover: Option<Handover>,
) -> Response<ResponseBody> {
    let (wanted, arriving) = match check_carrier(shared, request, id) {
        Ok(accepted) => accepted,
        Err(refused) => return *refused,
    };
    active.caller().note_upgrade();
    let task = Arc::clone(shared);
    let (framing, peer) = (wanted.framing(), agent_worker(request.headers()));
    shared.tasks.spawn(async move {
        if let Some(upgraded) = upgraded(handover, framing).await {
            run_carrier(&task, upgraded, arriving, peer).await;
        }
    });
    switching(ConnectionKind::Carrier, &wanted, id)
}

fn check_carrier(
    shared: &Arc<Shared>,
    request: &Request<CallerBody>,
    id: &RequestIdText,
) -> Result<(Wanted, Arriving), Refused> {
    let wanted = check_upgrade(request, ConnectionKind::Carrier, id)?;
    let ticket = presented::bearer(request.headers()).map_err(|error| unauthorised(&error, id))?;
    let arriving = shared.agents.redeem(ticket, Instant::now()).ok_or_else(|| {
        let message = "the ticket is unknown, was used before, or has expired; wait for a new one on the session";
        refusal(&Problem::new(ErrorCode::Unauthenticated, message), id)
    })?;
    Ok((wanted, arriving))
}

/// Which worker of the agent reads the carrier, if it says so.
fn agent_worker(headers: &HeaderMap) -> Option<usize> {
    headers.get(WORKER_FIELD)?.to_str().ok()?.parse::<u16>().ok().map(usize::from)
}

async fn run_carrier(shared: &Arc<Shared>, io: Upgraded, arriving: Arriving, peer: Option<usize>) {
    let config = CarrierConfig { budget: shared.budget.clone(), ..CarrierConfig::default() };
    let (carrier, driver) = gateway_carrier(io, config);
    let is_paired = peer.is_some_and(|peer| shared.config.workers.is_paired_with(peer));
    let Some((session, link)) = arriving.arrive(carrier, is_paired) else { return };
    let mut driver = std::pin::pin!(driver.run());
    let end = tokio::select! {
        end = &mut driver => end,
        // A carrier can outlive its session, whose task sees to this otherwise.
        () = session.key.ended() => {
            link.cut();
            driver.await
        }
    };
    tracing::debug!(agent = %session.agent_id(), session = %session.id, %end, "carrier ended");
    session.remove(&link);
}

/// An agent's socket after the `101`, as HTTP gives it.
pub(crate) type Switched = Rewound<CallerStream>;

/// The same, as frames are sent and received on it.
pub(crate) type Upgraded = Either<Switched, WebSocketIo<Switched>>;

/// Where an agent's socket is handed over once the `101` is written.
pub(crate) type Handover = oneshot::Receiver<Switched>;

async fn upgraded(handover: Option<Handover>, framing: Framing) -> Option<Upgraded> {
    match tokio::time::timeout(UPGRADE_DEADLINE, handover?).await {
        Ok(Ok(switched)) => {
            switched.get_ref().tune_for_frames();
            Some(match framing {
                Framing::Bare => Either::Left(switched),
                Framing::WebSocket => Either::Right(WebSocketIo::server(switched).await),
            })
        }
        Ok(Err(_)) => {
            tracing::debug!("an agent went away before its connection was switched");
            None
        }
        Err(_) => None,
    }
}

/// What an agent asks to switch to.
enum Wanted {
    Bare,
    WebSocket {
        /// What proves that the request was understood (RFC 6455 §4.2.2).
        accept: HeaderValue,
    },
}

impl Wanted {
    const fn framing(&self) -> Framing {
        match self {
            Self::Bare => Framing::Bare,
            Self::WebSocket { .. } => Framing::WebSocket,
        }
    }
}

/// Checks that a request is an upgrade to frames of exactly this kind (RFC 9110 §7.8, §15.5.22), bare or in a WebSocket.
fn check_upgrade(request: &Request<CallerBody>, kind: ConnectionKind, id: &RequestIdText) -> Result<Wanted, Refused> {
    let headers = request.headers();
    let may_upgrade = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && header_has_token(headers, &header::CONNECTION, "upgrade");
    if may_upgrade && header_has_token(headers, &header::UPGRADE, kind.upgrade()) {
        return Ok(Wanted::Bare);
    }
    if may_upgrade && let Some(accept) = accept_websocket(headers, kind.subprotocol()) {
        return Ok(Wanted::WebSocket { accept });
    }
    let message = format!(
        "this is where agents connect: GET over HTTP/1.1 with `Upgrade: {}`, or `Upgrade: websocket` (version 13) and \
         `Sec-WebSocket-Protocol: {}`; every proxy on the way has to pass one of the two",
        kind.upgrade(),
        kind.subprotocol()
    );
    let problem = Problem::new(ErrorCode::UpgradeRequired, message).with_request_id(id.as_str());
    let mut response = problem_response(&problem, id);
    put_switching_hops(response.headers_mut(), offered(kind));
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    Err(Box::new(response))
}

const fn offered(kind: ConnectionKind) -> HeaderValue {
    HeaderValue::from_static(match kind {
        ConnectionKind::Session => "towline-session/1, websocket",
        ConnectionKind::Carrier => "towline-carrier/1, websocket",
    })
}

/// The accept value for a request that opens a WebSocket with this subprotocol (RFC 6455 §4.2.1).
pub(crate) fn accept_websocket(headers: &HeaderMap, subprotocol: &str) -> Option<HeaderValue> {
    let is_ours = header_has_token(headers, &header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && header_has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_ours)?.as_bytes();
    let is_nonce = STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    is_nonce.then(|| HeaderValue::from_str(&derive_accept_key(key)).ok()).flatten()
}

fn unauthorised(error: &AuthError, id: &RequestIdText) -> Refused {
    let mut refused = refusal(&error.problem(), id);
    if let Some(challenge) = error.challenge() {
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    refused
}

fn refusal(problem: &Problem, id: &RequestIdText) -> Refused {
    Box::new(problem_response(&problem.clone().with_request_id(id.as_str()), id))
}

fn switching(kind: ConnectionKind, wanted: &Wanted, id: &RequestIdText) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    match wanted {
        Wanted::Bare => put_switching_hops(headers, HeaderValue::from_static(kind.upgrade())),
        Wanted::WebSocket { accept } => {
            put_switching_hops(headers, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.clone());
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(kind.subprotocol()));
        }
    }
    headers.insert::<HeaderName>(X_REQUEST_ID, id.value().clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_worker_is_a_small_number_or_unknown() {
        let worker = |value: &'static [u8]| {
            agent_worker(&HeaderMap::from_iter([(
                HeaderName::from_static(WORKER_FIELD),
                HeaderValue::from_bytes(value).unwrap(),
            )]))
        };
        assert_eq!((worker(b"0"), worker(b"65535")), (Some(0), Some(65_535)));
        for wrong in [&b""[..], b"-1", b"65536", b"1, 2", b"one", b"\xff"] {
            assert_eq!(worker(wrong), None, "{wrong:?}");
        }
        assert_eq!(agent_worker(&HeaderMap::new()), None);
    }
}
