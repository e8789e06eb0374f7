//! Each request to whom it is for, and the two places where every answer passes: ours get their id and date, failed
//! calls become answers.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body;
use tower::{Service, ServiceExt as _};
use towline_model::{Clock, ErrorCode, Problem};

use crate::{
    agents::accept::{self, Handover},
    body::ResponseBody,
    caller::Active,
    caller_body::CallerBody,
    caller_http2::reply::Reply,
    error::GatewayError,
    error_answer::problem_response,
    fields::{Headers, Value},
    gateway::{BoxError, CallerAddr, Shared},
    grpc,
    headers::header_has_token,
    invoke,
    path::{Destination, destination},
    proxy::Call,
    request_id::{RequestIdText, X_REQUEST_ID},
    standing::Standing,
};

/// What a caller's connection can do beside taking the answer to a request.
pub(crate) enum Means {
    Nothing,
    /// It can be handed over.
    Handover(Handover),
    /// It takes interim answers.
    Interims(Reply),
}

impl Means {
    fn handover(self) -> Option<Handover> {
        match self {
            Self::Handover(handover) => Some(handover),
            Self::Nothing | Self::Interims(_) => None,
        }
    }

    fn reply(self) -> Option<Reply> {
        match self {
            Self::Interims(reply) => Some(reply),
            Self::Nothing | Self::Handover(_) => None,
        }
    }
}

/// One request.
pub(crate) async fn handle<S, B>(
    shared: Arc<Shared>,
    active: Active,
    request: Request<CallerBody>,
    (api, means): (S, Means),
) -> Response<ResponseBody>
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let id = RequestIdText::of(request.headers());
    let response = match check_target(request.method(), request.version(), request.headers()) {
        Ok(()) => route(&shared, &active, request, &id, (api, means)).await,
        Err(fault) => malformed(&shared, (request.method(), request.uri()), fault, &id),
    };
    response.map(|body| body.with_active(active))
}

async fn route<S, B>(
    shared: &Arc<Shared>,
    active: &Active,
    mut request: Request<CallerBody>,
    id: &RequestIdText,
    (api, means): (S, Means),
) -> Response<ResponseBody>
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // The target is looked at while the request is passed on.
    let uri = request.uri().clone();
    let method = request.method().clone();
    let named = grpc::named_service(request.version(), &uri, request.headers());
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let destination = match &named {
        Some(slug) => Destination::Proxy { slug, target },
        None => destination(&method, target),
    };
    let answer = match destination {
        Destination::Proxy { slug, target } => {
            let is_grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
            let call = Call { shared, active, id, slug, target, is_named: named.is_some() };
            match call.run(request, means.reply()).await {
                Ok(answer) => return answer,
                Err(error) if is_grpc => grpc::trailers_only(&error, rescue(&error, id)),
                Err(error) => rescue(&error, id),
            }
        }
        Destination::Invoke { slug } => {
            expect(&mut request, means.reply());
            // Boxed, so that every connection does not keep room for it.
            let answer = Box::pin(invoke::invoke(shared, active, request, id, slug)).await;
            answer.unwrap_or_else(|error| rescue(&error, id))
        }
        Destination::AgentSession => accept::session(shared, active, &request, id, means.handover()),
        Destination::AgentCarrier => accept::carrier(shared, active, &request, id, means.handover()),
        Destination::Api => {
            expect(&mut request, means.reply());
            request.extensions_mut().insert(id.clone());
            let address = shared.client_address(active.caller(), request.headers());
            request.extensions_mut().insert(CallerAddr(address));
            let Ok(mut answer) = Box::pin(api.oneshot(request)).await;
            let standing = answer.extensions_mut().remove::<Standing>();
            answer.map(|body| ResponseBody::api(body, standing, &shared.tasks))
        }
    };
    ours(answer, shared, id)
}

/// A caller that waits to be asked for its body is asked by whoever reads it here.
fn expect(request: &mut Request<CallerBody>, reply: Option<Reply>) {
    if let Some(reply) = reply
        && header_has_token(request.headers(), &header::EXPECT, "100-continue")
    {
        request.body_mut().ask_for(reply);
    }
}

/// The answer to a request that is wrong before it is looked at where it goes: the same on a runtime route as all others
/// that are made there.
pub(crate) fn malformed(
    shared: &Shared,
    (method, uri): (&Method, &Uri),
    fault: &str,
    id: &RequestIdText,
) -> Response<ResponseBody> {
    let answer = match destination(method, uri.path_and_query().map_or("", |target| target.as_str())) {
        Destination::Proxy { .. } | Destination::Invoke { .. } => {
            rescue(&GatewayError::MalformedRequest(fault.to_owned()), id)
        }
        Destination::AgentSession | Destination::AgentCarrier | Destination::Api => {
            let problem = Problem::new(ErrorCode::MalformedRequest, fault).with_request_id(id.as_str());
            problem_response(&problem, id)
        }
    };
    ours(answer, shared, id)
}

/// The one place where a failed call of a service becomes an answer.
pub(crate) fn rescue(error: &GatewayError, id: &RequestIdText) -> Response<ResponseBody> {
    let response = error.to_response(id);
    if response.status().is_server_error() {
        tracing::info!(request = id.as_str(), %error, "a call failed");
    } else {
        tracing::debug!(request = id.as_str(), %error, "a call was refused");
    }
    response
}

/// Marks an answer as ours.
pub(crate) fn ours(
    mut response: Response<ResponseBody>,
    shared: &Shared,
    id: &RequestIdText,
) -> Response<ResponseBody> {
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.value().clone());
    if !headers.contains_key(header::DATE) {
        headers.insert(header::DATE, date(&*shared.clock));
    }
    response
}

/// A `Date` (RFC 9110 §6.6.1).
pub(crate) fn date(clock: &dyn Clock) -> HeaderValue {
    let micros = u64::try_from(clock.now().as_micros()).unwrap_or(0);
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_micros(micros));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

/// What is wrong with a request before it is looked at where it goes (RFC 9112 §3.2, §3.2.3).
pub(crate) fn check_target(method: &Method, version: Version, headers: &impl Headers) -> Result<(), &'static str> {
    if *method == Method::CONNECT {
        return Err("CONNECT is not possible here: this is no proxy to other hosts");
    }
    let mut hosts = headers.get_all(header::HOST);
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("Host was sent more than once");
    }
    match first {
        Some(host) if !is_host(host) => Err("the Host header must be a host name and, after a colon, a port"),
        None if version == Version::HTTP_11 => Err("a Host header is required"),
        _ => Ok(()),
    }
}

fn is_host(value: Value<'_>) -> bool {
    value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_request_names_one_host() {
        for (version, hosts, good) in [
            (Version::HTTP_11, &["a.example:7070"][..], true),
            (Version::HTTP_11, &["[::1]:7070"], true),
            (Version::HTTP_11, &[""], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &["a", "a"], false),
            (Version::HTTP_11, &["a b"], false),
            (Version::HTTP_11, &["a/b"], false),
            (Version::HTTP_11, &["user@a"], false),
            (Version::HTTP_11, &["a,b"], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_2, &[], true),
        ] {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            assert_eq!(check_target(&Method::GET, version, &headers).is_ok(), good, "{version:?} {hosts:?}");
        }
        assert!(check_target(&Method::CONNECT, Version::HTTP_2, &HeaderMap::new()).is_err());
    }
}
