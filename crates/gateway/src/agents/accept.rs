//! The two upgrade requests of an agent: for its session and for a carrier.
//!
//! A request is answered at once. What follows the `101` runs in a task of its own with deadlines of its own, so that a
//! slow or silent agent holds up nobody.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tokio::{sync::oneshot, time::Instant};
use towline_model::{ErrorCode, Problem};
use towline_tunnel::{
    CarrierConfig, gateway_carrier,
    message::{CARRIER_UPGRADE, SESSION_UPGRADE},
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
    error::problem_response,
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
    let newcomer = match check_session(shared, active, request, id) {
        Ok(newcomer) => newcomer,
        Err(refused) => return *refused,
    };
    active.caller().note_upgrade();
    let task = Arc::clone(shared);
    shared.tasks.spawn(async move {
        if let Some(upgraded) = upgraded(handover).await {
            handshake::run(task, upgraded, newcomer).await;
        }
    });
    switching(SESSION_UPGRADE, id)
}

fn check_session(
    shared: &Arc<Shared>,
    active: &Active,
    request: &Request<CallerBody>,
    id: &RequestIdText,
) -> Result<Newcomer, Refused> {
    check_upgrade(request, SESSION_UPGRADE, id)?;
    let state = shared.state.load();
    let authority = shared.authority(&state);
    let credential =
        authenticate::authenticate_agent(request.headers(), authority).map_err(|error| unauthorised(&error, id))?;
    let revoked = state.key(credential.id);
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
    Ok(Newcomer {
        credential_id: credential.id,
        team_id: credential.team_id,
        expires_at: credential.expires_at,
        revoked,
        admission,
    })
}

/// Answers an agent that brings a carrier.
pub(crate) fn carrier(
    shared: &Arc<Shared>,
    active: &Active,
    request: &Request<CallerBody>,
    id: &RequestIdText,
    handover: Option<Handover>,
) -> Response<ResponseBody> {
    let arriving = match check_carrier(shared, request, id) {
        Ok(arriving) => arriving,
        Err(refused) => return *refused,
    };
    active.caller().note_upgrade();
    let task = Arc::clone(shared);
    shared.tasks.spawn(async move {
        if let Some(upgraded) = upgraded(handover).await {
            run_carrier(&task, upgraded, arriving).await;
        }
    });
    switching(CARRIER_UPGRADE, id)
}

fn check_carrier(shared: &Arc<Shared>, request: &Request<CallerBody>, id: &RequestIdText) -> Result<Arriving, Refused> {
    check_upgrade(request, CARRIER_UPGRADE, id)?;
    let ticket = presented::bearer(request.headers()).map_err(|error| unauthorised(&error, id))?;
    shared.agents.redeem(ticket, Instant::now()).ok_or_else(|| {
        let message = "the ticket is unknown, was used before, or has expired; wait for a new one on the session";
        refusal(&Problem::new(ErrorCode::Unauthenticated, message), id)
    })
}

async fn run_carrier(shared: &Arc<Shared>, io: Upgraded, arriving: Arriving) {
    let config = CarrierConfig { budget: shared.budget.clone(), ..CarrierConfig::default() };
    let (carrier, driver) = gateway_carrier(io, config);
    let Some((session, link)) = arriving.arrive(carrier) else { return };
    let mut driver = std::pin::pin!(driver.run());
    let end = tokio::select! {
        end = &mut driver => end,
        // A carrier can outlive its session, whose task sees to this otherwise.
        () = session.revoked.cancelled() => {
            link.cut();
            driver.await
        }
    };
    tracing::debug!(agent = %session.agent_id(), session = %session.id, %end, "carrier ended");
    session.remove(&link);
}

/// An agent's socket after the `101`.
pub(crate) type Upgraded = Rewound<CallerStream>;

/// Where an agent's socket is handed over once the `101` is written.
pub(crate) type Handover = oneshot::Receiver<Upgraded>;

async fn upgraded(handover: Option<Handover>) -> Option<Upgraded> {
    match tokio::time::timeout(UPGRADE_DEADLINE, handover?).await {
        Ok(Ok(upgraded)) => Some(upgraded),
        Ok(Err(_)) => {
            tracing::debug!("an agent went away before its connection was switched");
            None
        }
        Err(_) => None,
    }
}

/// Checks that a request is an upgrade to exactly this protocol (RFC 9110 §7.8, §15.5.22).
fn check_upgrade(request: &Request<CallerBody>, protocol: &'static str, id: &RequestIdText) -> Result<(), Refused> {
    let headers = request.headers();
    if request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && header_has_token(headers, &header::CONNECTION, "upgrade")
        && offers(headers, protocol)
    {
        return Ok(());
    }
    let message = format!("this is where agents connect: GET over HTTP/1.1 with `Upgrade: {protocol}`");
    let problem = Problem::new(ErrorCode::UpgradeRequired, message).with_request_id(id.as_str());
    let mut response = problem_response(&problem, id);
    put_switching_hops(response.headers_mut(), HeaderValue::from_static(protocol));
    Err(Box::new(response))
}

fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    header_has_token(headers, &header::UPGRADE, protocol)
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

fn switching(protocol: &'static str, id: &RequestIdText) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    put_switching_hops(headers, HeaderValue::from_static(protocol));
    headers.insert::<HeaderName>(X_REQUEST_ID, id.value().clone());
    response
}
