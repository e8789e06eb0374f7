//! The transparent proxy: who may call what, what a container is told, and the way of HTTP/2 callers' requests. HTTP/1.1
//! has a way of its own, which keeps more of the bytes: `h1::forward`.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts};
use http_body::Body as _;
use tokio::time::Instant;
use towline_model::{Action, InstanceId, Principal, Secret};

use crate::{
    access_token::TokenHolder,
    affinity::{Affinity, Preference},
    alarm::Alarm,
    authenticate::{self, AuthError, Authenticated},
    body::{ContainerBody, ResponseBody, Terms},
    caller::Active,
    caller_body::CallerBody,
    caller_http2::reply::{Reply, ReplySource},
    dispatch::{Answer, Outbound, dispatch},
    error::{ExchangeError, ExchangeFailure, GatewayError},
    fields::{Fields, Headers, Value},
    forwarded::{Hop, X_FORWARDED_PREFIX},
    gateway::Shared,
    h1::{
        framing::content_length,
        head::{HeadFault, written_request},
    },
    headers::{join_cookie_crumbs, put_request_hops, take_request_hops, take_response_hops},
    http2::websocket,
    outgoing::{Framed, Outgoing, Source},
    pool,
    presented::{self, Doors},
    request_id::{RequestIdText, X_REQUEST_ID, X_TOWLINE_REQUEST_ID},
    service::Service,
    standing::Standing,
    state::State,
    ticket_door::{self, TicketDoor},
    tickets::{Holder, Permit},
};

/// A call of a service that may go on.
pub(crate) struct Admitted {
    pub service: Arc<Service>,
    /// The header that opened the door; `None` when it was a ticket.
    pub consumed: Option<HeaderName>,
    /// What the call lives by.
    pub standing: Standing,
}

impl Admitted {
    pub(crate) fn terms(&self) -> Terms {
        Terms { standing: Some(self.standing.clone()), ..self.limits() }
    }

    /// The same without the standing, for whoever looks at it itself.
    pub(crate) fn limits(&self) -> Terms {
        let timeouts = self.service.route.timeouts;
        let deadline = timeouts.total.map(|length| (Instant::now() + length, length));
        Terms { deadline, idle: timeouts.idle, standing: None }
    }
}

/// Decides whether a caller may call the service of that slug now: contract §5, in this order.
pub(crate) fn admit(shared: &Shared, headers: &impl Headers, slug: &str) -> Result<Admitted, GatewayError> {
    let state = shared.state.load();
    let authority = shared.authority(&state);
    let Authenticated { principal, consumed } = authenticate::authenticate(headers, Doors::Calls, authority)?;
    let service = callable(&state, &principal, slug)?;
    let standing = shared.standing(&principal, &state);
    Ok(Admitted { service: Arc::clone(service), consumed: Some(consumed), standing })
}

/// The same for a WebSocket with a ticket. No header of it is for us; one that holds a key of ours is not passed on.
fn admit_ticket(shared: &Shared, headers: &Fields, door: &TicketDoor, slug: &str) -> Result<Admitted, GatewayError> {
    let state = shared.state.load();
    let authority = shared.authority(&state);
    presented::refuse_another(headers, None, authority)?;
    let permit = shared.tickets.redeem(door.ticket.expose(), Instant::now()).ok_or(AuthError::UnknownTicket)?;
    let principal = authenticate::principal_of_permit(&permit, authority)?;
    let service = callable(&state, &principal, slug)?;
    if service.route.service_id != permit.service_id {
        return Err(AuthError::UnknownTicket.into());
    }
    let standing = shared.standing(&principal, &state);
    Ok(Admitted { service: Arc::clone(service), consumed: None, standing })
}

/// Makes a ticket, for whoever could call the service now: a browser does not show its page why a handshake fails.
pub(crate) fn issue_ticket(shared: &Shared, principal: &Principal, slug: &str) -> Result<Secret<String>, GatewayError> {
    let state = shared.state.load();
    let service = callable(&state, principal, slug)?;
    let holder = match principal {
        Principal::User { user_id, sign_in, .. } => Holder::User(TokenHolder { user_id: *user_id, sign_in: *sign_in }),
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
        .filter(|service| principal.sees(service.route.service_id))
        .ok_or_else(|| GatewayError::ServiceNotFound { slug: slug.chars().take(100).collect() })?;
    if service.route.status != towline_model::ServiceStatus::Running {
        return Err(GatewayError::ServiceNotRunning { slug: slug.to_owned(), status: service.route.status });
    }
    Ok(service)
}

/// What is added to a container's answer: the request's id, and what its caller asked for.
pub(crate) struct Additions<'a> {
    id: &'a RequestIdText,
    /// With the service's path as the caller sees it, without its last slash.
    affinity: Option<(Affinity, HeaderValue)>,
    /// The subprotocol that a browser waits for.
    protocol: Option<HeaderValue>,
}

impl Additions<'_> {
    pub(crate) fn put(&self, headers: &mut impl Headers, instance: InstanceId) {
        headers.insert(X_TOWLINE_REQUEST_ID, self.id.value());
        if let Some((affinity, prefix)) = &self.affinity {
            affinity.tell(headers, instance, prefix);
        }
    }

    /// A failed call's error, with what else its caller has to know.
    pub(crate) fn explain(&self, error: GatewayError) -> GatewayError {
        match &self.affinity {
            Some((affinity, prefix)) => affinity.forget(error, prefix),
            None => error,
        }
    }

    /// The same for a `101`.
    pub(crate) fn put_switching(&self, headers: &mut Fields, instance: InstanceId) {
        self.put(headers, instance);
        if let Some(protocol) = &self.protocol
            && !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
    }
}

/// The head of a call, as the container is to see it in the end.
#[derive(Debug)]
pub(crate) struct CallHead {
    pub method: Method,
    pub version: Version,
    /// The host in the target, which counts more than `Host` (RFC 9112 §3.2.2).
    pub authority: Option<HeaderValue>,
    pub headers: Fields,
}

impl From<Parts> for CallHead {
    fn from(parts: Parts) -> Self {
        let Parts { method, uri, version, headers, .. } = parts;
        Self { method, version, authority: authority_of(&uri), headers: headers.into() }
    }
}

/// One call of a service.
pub(crate) struct Call<'a> {
    pub shared: &'a Shared,
    pub active: &'a Active,
    pub id: &'a RequestIdText,
    /// The part of the path that names the service.
    pub slug: &'a str,
    /// The path and query that the container sees.
    pub target: &'a str,
    /// Whether the service was named in a field, so that its path is no part of the request's.
    pub is_named: bool,
}

/// A call that may go on, as its container is to see it.
pub(crate) struct Prepared<'a> {
    pub admitted: Admitted,
    pub target: Cow<'a, str>,
    /// Whether it asks for another protocol.
    pub upgrade: bool,
    pub preference: Preference,
    pub additions: Additions<'a>,
}

impl<'a> Call<'a> {
    /// Decides whether the call may go on, and changes its headers to those that the container gets.
    pub(crate) fn prepare(&self, head: &mut CallHead, is_chunked: bool) -> Result<Prepared<'a>, GatewayError> {
        let Self { shared, slug, target, .. } = *self;
        let door = ticket_door::find(head, target)?;
        let admitted = match &door {
            None => admit(shared, &head.headers, slug).map_err(|error| explain_ticket(error, target))?,
            Some(door) => admit_ticket(shared, &head.headers, door, slug)?,
        };
        let (target, protocol) = match &door {
            None => (Cow::Borrowed(target), None),
            Some(door) => door.take_from(&mut head.headers, target),
        };
        let target = match target {
            Cow::Borrowed(target) => admitted.service.target(target)?,
            Cow::Owned(target) => Cow::Owned(admitted.service.target(&target)?.into_owned()),
        };
        let (upgrade, affinity) = self.change_headers(head, is_chunked, &admitted)?;
        let prefix = || {
            let seen = head.headers.get(X_FORWARDED_PREFIX);
            seen.map_or_else(|| admitted.service.prefix.clone(), Value::to_value)
        };
        let additions = Additions { id: self.id, affinity: affinity.map(|affinity| (affinity, prefix())), protocol };
        Ok(Prepared { admitted, target, upgrade, preference: Affinity::preference(affinity), additions })
    }

    /// Makes the headers that the container gets; says whether they ask for another protocol, and what affinity the
    /// caller wants.
    fn change_headers(
        &self,
        head: &mut CallHead,
        is_chunked: bool,
        admitted: &Admitted,
    ) -> Result<(bool, Option<Affinity>), GatewayError> {
        let is_http2 = admitted.service.is_http2();
        let wants_websocket = is_http2 && websocket::is_wanted(head, is_chunked)?;
        let CallHead { version, authority, headers, .. } = head;
        if let Some(consumed) = &admitted.consumed {
            headers.remove(consumed);
        }
        let mut hops = take_request_hops(headers);
        if is_http2 {
            // It can carry nothing else (RFC 9113 §8.6, RFC 8441).
            hops.upgrade = wants_websocket.then_some(HeaderValue::from_static(websocket::PROTOCOL));
        } else if *version == Version::HTTP_10 {
            // Only HTTP/1.1 can be switched (RFC 9110 §7.8). What came over HTTP/2 has no such wish, unless it was made one for
            // a WebSocket (RFC 8441).
            hops.upgrade = None;
        }
        if *version == Version::HTTP_2 {
            join_cookie_crumbs(headers);
        }
        let by_cookie = Affinity::take_cookies(headers);
        let affinity = Affinity::of(headers)?.or(by_cookie);
        let hop = Hop {
            caller: self.active.caller(),
            trusted: self.active.caller().trusted,
            version: *version,
            authority: authority.as_ref(),
            prefix: &admitted.service.prefix,
        };
        hop.put(headers);
        admitted.service.put_own_headers(headers);
        put_request_hops(headers, &hops);
        if self.is_named {
            headers.remove(X_FORWARDED_PREFIX);
        }
        headers.insert(X_REQUEST_ID, self.id.value());
        if is_chunked {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Ok((hops.upgrade.is_some(), affinity))
    }

    /// Passes an HTTP/2 request on to its service and the answer back.
    pub(crate) async fn run(
        &self,
        request: Request<CallerBody>,
        reply: Option<Reply>,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let (parts, body) = request.into_parts();
        let mut head = CallHead::from(parts);
        let malformed = |fault: HeadFault| GatewayError::MalformedRequest(fault.to_string());
        let framed = match content_length(&head.headers).map_err(malformed)? {
            _ if body.is_end_stream() => Framed::Length(0),
            Some(length) => Framed::Length(length),
            None => Framed::Chunked,
        };
        let Prepared { admitted, target, preference, additions, .. } =
            self.prepare(&mut head, framed == Framed::Chunked)?;
        let terms = admitted.terms();
        let CallHead { method, headers, .. } = head;
        let text = written_request(&method, target.as_bytes(), &headers, 0);
        let request = Outgoing::new(text, ReplySource::new(body, framed, reply));
        let outbound = Outbound { method: method.clone(), request, upgrade: false, preference };
        let answer = dispatch(self.shared, &admitted.service, outbound, &terms, &mut Alarm::default()).await;
        let answer = answer.map_err(|error| additions.explain(error))?;
        if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(broke_http(&method, "it switches to another protocol without having been asked"));
        }
        let instance = answer.in_flight.instance().id;
        let mut response = inbound(self.shared, answer, terms);
        additions.put(response.headers_mut(), instance);
        Ok(response)
    }
}

/// A ticket that opens nothing here is worth more words than that no credential is there.
fn explain_ticket(error: GatewayError, target: &str) -> GatewayError {
    match error {
        GatewayError::Auth(AuthError::Missing) if ticket_door::is_in_query(target) => AuthError::TicketElsewhere.into(),
        error => error,
    }
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
pub(crate) fn inbound<S: Source + Send + 'static>(
    shared: &Shared,
    answer: Answer<S>,
    terms: Terms,
) -> Response<ResponseBody> {
    let Answer { mut head, mut connection, in_flight, request } = answer;
    let hops = take_response_hops(&mut head.headers);
    connection.keep_for = pool::keep_for(hops.keep_alive_seconds);
    if head.status == StatusCode::NO_CONTENT {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    let is_sent = request.is_sent();
    if !is_sent {
        connection.hand_over(&shared.tasks, request);
    }
    let body = ContainerBody::new(connection, is_sent, in_flight, &terms);
    let mut response = Response::new(ResponseBody::container(body, terms, &shared.tasks));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers.into_map();
    response
}

pub(crate) fn broke_http(method: &http::Method, fault: &str) -> GatewayError {
    let reason = ExchangeFailure::BrokeHttp(fault.to_owned());
    GatewayError::Exchange(ExchangeError { reason, maybe_processed: !method.is_idempotent() })
}
