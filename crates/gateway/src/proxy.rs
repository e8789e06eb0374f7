//! The transparent proxy: one request in, the same request out, and the answer back.

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header, request::Parts,
    uri::PathAndQuery,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towline_model::{Action, InstanceId, Principal, Secret};

use crate::{
    affinity::Affinity,
    authenticate::{self, AuthError, Authenticated},
    body::{ContainerBody, ResponseBody, Terms},
    caller::Active,
    dispatch::{Answer, Head, Outbound, dispatch},
    error::{ExchangeError, ExchangeFailure, GatewayError},
    forwarded::{Hop, X_FORWARDED_PREFIX},
    gateway::Shared,
    headers::{
        RequestHops, header_has_token, is_plain_chunked, join_cookie_crumbs, put_request_hops, take_request_hops,
        take_response_hops,
    },
    pool,
    presented::{self, Doors},
    request_body::BodySource,
    request_id::{RequestIdText, X_REQUEST_ID, X_TOWLINE_REQUEST_ID},
    service::Service,
    state::State,
    ticket_door::{self, TicketDoor},
    tickets::{Holder, Permit},
    upgrade,
};

/// A call of a service that may go on.
pub(crate) struct Admitted {
    pub service: Arc<Service>,
    /// The header that opened the door; `None` when it was a ticket.
    pub consumed: Option<HeaderName>,
    /// Cancelled when the caller's key is revoked.
    pub revoked: Option<CancellationToken>,
}

impl Admitted {
    pub(crate) fn terms(&self) -> Terms {
        let deadline = self.service.request_timeout().map(|length| (Instant::now() + length, length));
        Terms { deadline, revoked: self.revoked.clone() }
    }
}

/// Decides whether a caller may call the service of that slug now: contract §5, in this order.
pub(crate) fn admit(shared: &Shared, headers: &HeaderMap, slug: &str) -> Result<Admitted, GatewayError> {
    let state = shared.state.load();
    let authority = shared.authority(&state);
    let Authenticated { principal, consumed } = authenticate::authenticate(headers, Doors::Calls, authority)?;
    let service = callable(&state, &principal, slug)?;
    Ok(Admitted { service: Arc::clone(service), consumed: Some(consumed), revoked: revocation(&state, &principal) })
}

/// The same for a WebSocket with a ticket. No header of it is for us; one that holds a key of ours is not passed on.
fn admit_ticket(shared: &Shared, headers: &HeaderMap, door: &TicketDoor, slug: &str) -> Result<Admitted, GatewayError> {
    let state = shared.state.load();
    let authority = shared.authority(&state);
    presented::refuse_another(headers, None, authority)?;
    let permit = shared.tickets.redeem(door.ticket.expose(), Instant::now()).ok_or(AuthError::UnknownTicket)?;
    let principal = authenticate::principal_of_permit(&permit, authority)?;
    let service = callable(&state, &principal, slug)?;
    if service.route.service_id != permit.service_id {
        return Err(AuthError::UnknownTicket.into());
    }
    Ok(Admitted { service: Arc::clone(service), consumed: None, revoked: revocation(&state, &principal) })
}

/// Makes a ticket, for whoever could call the service now: a browser does not show its page why a handshake fails.
pub(crate) fn issue_ticket(shared: &Shared, principal: &Principal, slug: &str) -> Result<Secret<String>, GatewayError> {
    let state = shared.state.load();
    let service = callable(&state, principal, slug)?;
    let holder = match principal {
        Principal::User { user_id, .. } => Holder::User(*user_id),
        Principal::Device { credential_id, .. } | Principal::Integration { credential_id, .. } => {
            Holder::Key(*credential_id)
        }
    };
    let permit = Permit { holder, team_id: principal.team_id(), service_id: service.route.service_id };
    shared.tickets.issue(permit, Instant::now()).ok_or(GatewayError::TooManyTickets)
}

/// The service of that slug, if the principal may call it and it runs.
fn callable<'a>(state: &'a State, principal: &Principal, slug: &str) -> Result<&'a Arc<Service>, GatewayError> {
    if !principal.may(Action::InvokeServices) {
        return Err(GatewayError::Forbidden);
    }
    let service = state
        .service(principal.team_id(), slug)
        .ok_or_else(|| GatewayError::ServiceNotFound { slug: slug.chars().take(100).collect() })?;
    if service.route.status != towline_model::ServiceStatus::Running {
        return Err(GatewayError::ServiceNotRunning { slug: slug.to_owned(), status: service.route.status });
    }
    Ok(service)
}

fn revocation(state: &State, principal: &Principal) -> Option<CancellationToken> {
    match principal {
        Principal::User { .. } => None,
        Principal::Device { credential_id, .. } | Principal::Integration { credential_id, .. } => {
            Some(state.revocation(*credential_id))
        }
    }
}

/// What is added to a container's answer: the request's id, and what its caller asked for.
pub(crate) struct Additions<'a> {
    id: &'a RequestIdText,
    affinity: Option<Affinity>,
    /// The service's path as the caller sees it, without its last slash.
    prefix: HeaderValue,
    /// The subprotocol that a browser waits for.
    protocol: Option<HeaderValue>,
}

impl Additions<'_> {
    fn put(&self, headers: &mut HeaderMap, instance: InstanceId) {
        headers.insert(X_TOWLINE_REQUEST_ID, self.id.value().clone());
        if let Some(affinity) = self.affinity {
            affinity.tell(headers, instance, &self.prefix);
        }
    }

    /// The same for a `101`.
    pub(crate) fn put_switching(&self, headers: &mut HeaderMap, instance: InstanceId) {
        self.put(headers, instance);
        if let Some(protocol) = &self.protocol
            && !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol.clone());
        }
    }
}

/// Passes a request on to a service and its answer back.
pub(crate) async fn proxy(
    shared: &Arc<Shared>,
    active: &Active,
    request: Request<Incoming>,
    id: &RequestIdText,
    (slug, target): (&str, &str),
) -> Result<Response<ResponseBody>, GatewayError> {
    let (mut parts, incoming) = request.into_parts();
    let door = ticket_door::find(&parts, target)?;
    let admitted = match &door {
        None => admit(shared, &parts.headers, slug).map_err(|error| explain_ticket(error, target))?,
        Some(door) => admit_ticket(shared, &parts.headers, door, slug)?,
    };
    let (target, protocol) = match &door {
        None => (Cow::Borrowed(target), None),
        Some(door) => door.take_from(&mut parts.headers, target),
    };
    let terms = admitted.terms();
    let version = parts.version;
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    let (outbound, affinity) = outbound(&mut parts, incoming, active, id, (&admitted, &target))?;
    let prefix = outbound.head.headers.get(X_FORWARDED_PREFIX).unwrap_or(&admitted.service.prefix).clone();
    let additions = Additions { id, affinity, prefix, protocol };
    let wants_upgrade = outbound.upgrade;
    let answer = dispatch(shared, &admitted.service, outbound, &terms).await.map_err(|error| match affinity {
        Some(affinity) => affinity.forget(error, &additions.prefix),
        None => error,
    })?;
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match on_upgrade {
            Some(on_upgrade) if wants_upgrade => {
                Ok(upgrade::switch(shared, active, on_upgrade, answer, (terms, &additions)))
            }
            _ => Err(broke_http(&parts.method, "it switches to another protocol without having been asked")),
        };
    }
    let instance = answer.in_flight.instance().id;
    let mut response = inbound(answer, active, terms, (&parts.method, version))?;
    additions.put(response.headers_mut(), instance);
    if wants_upgrade {
        // What the caller may have sent already, in the belief of speaking another protocol, is not to be read as
        // its next request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A ticket that opens nothing here is worth more words than that no credential is there.
fn explain_ticket(error: GatewayError, target: &str) -> GatewayError {
    match error {
        GatewayError::Auth(AuthError::Missing) if ticket_door::is_in_query(target) => AuthError::TicketElsewhere.into(),
        error => error,
    }
}

/// Makes the request that the container gets, and says what affinity its caller wants.
fn outbound(
    parts: &mut Parts,
    incoming: Incoming,
    active: &Active,
    id: &RequestIdText,
    (admitted, target): (&Admitted, &str),
) -> Result<(Outbound, Option<Affinity>), GatewayError> {
    let malformed = |message: &str| GatewayError::MalformedRequest(message.to_owned());
    let mut headers = std::mem::take(&mut parts.headers);
    if headers.contains_key(header::TRANSFER_ENCODING) && !is_plain_chunked(&headers) {
        return Err(malformed("Transfer-Encoding must be `chunked` and nothing else"));
    }
    let path = PathAndQuery::try_from(target).ok().and_then(|target| admitted.service.uri(target));
    let uri = path.ok_or_else(|| malformed("the path cannot be passed on"))?;
    let is_http2 = parts.version == Version::HTTP_2;
    let has_body = !hyper::body::Body::is_end_stream(&incoming);
    let chunked = has_body && !headers.contains_key(header::CONTENT_LENGTH);
    let expects_continue = !is_http2 && header_has_token(&headers, &header::EXPECT, "100-continue");
    let host = authority_of(&parts.uri).or_else(|| headers.get(header::HOST).cloned());

    if let Some(consumed) = &admitted.consumed {
        headers.remove(consumed);
    }
    let mut hops = take_request_hops(&mut headers);
    if parts.version != Version::HTTP_11 {
        // Only HTTP/1.1 can be switched (RFC 9110 §7.8).
        hops.upgrade = None;
    }
    if is_http2 {
        join_cookie_crumbs(&mut headers);
    }
    let by_cookie = Affinity::take_cookies(&mut headers);
    let affinity = Affinity::of(&headers)?.or(by_cookie);
    let upgrade = hops.upgrade.is_some();
    finish_headers(&mut headers, &hops, active, admitted, (parts.version, host.as_ref()));
    headers.insert(X_REQUEST_ID, id.value().clone());
    if chunked {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let head = Head { method: parts.method.clone(), uri, headers };
    let body = BodySource::of(incoming, expects_continue);
    Ok((Outbound { head, body, upgrade, preference: Affinity::preference(affinity) }, affinity))
}

/// Adds what the container is told beside what the caller said.
fn finish_headers(
    headers: &mut HeaderMap,
    hops: &RequestHops,
    active: &Active,
    admitted: &Admitted,
    (version, host): (Version, Option<&HeaderValue>),
) {
    let caller = active.caller();
    admitted.service.put_own_headers(headers);
    put_request_hops(headers, hops);
    let hop =
        Hop { address: &caller.address, trusted: caller.trusted, version, host, prefix: &admitted.service.prefix };
    hop.put(headers);
}

/// The host in a request's target: `:authority` of HTTP/2, or the absolute form of HTTP/1.1, which counts more than
/// `Host` (RFC 9112 §3.2.2).
pub(crate) fn authority_of(uri: &Uri) -> Option<HeaderValue> {
    let authority = uri.authority()?.as_str();
    // A user's name has no business in a host (RFC 9110 §4.2.4).
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    HeaderValue::from_str(host).ok()
}

/// Makes the answer that the caller gets.
fn inbound(
    answer: Answer,
    active: &Active,
    terms: Terms,
    (method, version): (&http::Method, Version),
) -> Result<Response<ResponseBody>, GatewayError> {
    let Answer { response, mut connection, in_flight } = answer;
    let (mut parts, incoming) = response.into_parts();
    if let Some(fault) = framing_fault(&parts.headers) {
        return Err(broke_http(method, fault));
    }
    let hops = take_response_hops(&mut parts.headers);
    connection.keep_for = pool::keep_for(hops.keep_alive_seconds);
    // What is spoken to the caller depends on the caller, not on the container.
    parts.version = Version::HTTP_11;
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut body = ContainerBody::new(incoming, connection, in_flight, terms);
    if version == Version::HTTP_10 && length.is_none() {
        body.reset_on_cut(active);
    }
    let body = match (parts.status, length) {
        // hyper leaves out a length that it is not shown as the body's own.
        (StatusCode::NOT_MODIFIED, Some(length)) if version != Version::HTTP_2 => ResponseBody::told(length),
        (StatusCode::NO_CONTENT, Some(_)) => {
            parts.headers.remove(header::CONTENT_LENGTH);
            ResponseBody::container(body)
        }
        _ => ResponseBody::container(body),
    };
    Ok(Response::from_parts(parts, body))
}

/// What is wrong with the framing of a container's answer (RFC 9112 §6.1): it is refused, never repaired.
pub(crate) fn framing_fault(headers: &HeaderMap) -> Option<&'static str> {
    if !headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Some("it has both Content-Length and Transfer-Encoding");
    }
    if !is_plain_chunked(headers) {
        return Some("its Transfer-Encoding is not `chunked`");
    }
    None
}

pub(crate) fn broke_http(method: &http::Method, fault: &str) -> GatewayError {
    let reason = ExchangeFailure::BrokeHttp(fault.to_owned());
    GatewayError::Exchange(ExchangeError { reason, maybe_processed: !method.is_idempotent() })
}
