//! The loop of a caller's HTTP/1.1 connection: one request after another, in their order, until either side ends it.

use std::{convert::Infallible, future::poll_fn, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, Uri, uri::PathAndQuery};
use http_body::Body;
use tower::Service;
use towline_model::{ErrorCode, Problem};

use super::{
    conn::{CallerConn, Next},
    forward::{After, forward},
    framing::{BodyReader, request_body},
    head::{HeadFault, MAX_REQUEST_FIELDS, RequestHead},
    respond::{self, Exchange},
};
use crate::{
    alarm::Alarm,
    body::ResponseBody,
    caller::Active,
    caller_body::CallerBody,
    error_answer::{PROXY_STATUS, problem_response, proxy_status},
    gateway::{BoxError, Shared},
    path::{Destination, destination},
    proxy::{Call, CallHead, authority_of},
    request_id::RequestIdText,
    route,
};

/// Serves a caller to the end of its connection.
pub(crate) async fn serve<S, B>(shared: Arc<Shared>, mut conn: CallerConn, api: S)
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut alarm, mut active) = (Alarm::default(), Active::idle(Arc::clone(&conn.caller)));
    loop {
        conn.rest();
        let mut head = match poll_fn(|cx| conn.poll_next(cx)).await {
            Next::Request(head) => head,
            Next::Fault(fault) => return refuse(&shared, conn, fault).await,
            Next::End => return conn.close().await,
        };
        let mut body = match request_body(&head) {
            Ok(body) => body,
            Err(fault) => return refuse(&shared, conn, fault).await,
        };
        let after = match Kind::of(&mut head, &body) {
            Ok((uri, Kind::Service)) => {
                active.begin(!body.is_over());
                call_service(&shared, (&mut conn, &active), (head, uri), &mut body, &mut alarm).await
            }
            Ok((uri, Kind::Agent)) => match respond::agent(&shared, conn, request(head, uri), api.clone()).await {
                Some((rest, after)) => {
                    conn = rest;
                    after
                }
                None => return,
            },
            Ok((uri, Kind::Other)) => {
                // Boxed, so that every connection does not keep room for it.
                Box::pin(respond::other(&shared, &mut conn, request(head, uri), body, api.clone())).await
            }
            Err((uri, fault)) => {
                let id = RequestIdText::sent_in(&head.headers);
                let answer = route::malformed(&shared, (&head.method, &uri), fault, &id);
                conn.caller.note_nonsense();
                respond::write(&mut conn, answer, Exchange::last(), &mut body).await
            }
        };
        active.end();
        match after {
            After::Keep => {}
            After::Close => return conn.close().await,
            After::Drop => return,
        }
    }
}

/// What has to be done with a request.
enum Kind {
    /// It is passed on to a service.
    Service,
    /// An agent wants the connection.
    Agent,
    /// Anything else.
    Other,
}

impl Kind {
    /// Takes the target, and looks at it (RFC 9112 §3.2). A fault comes with what the target could be read as.
    fn of(head: &mut RequestHead, body: &BodyReader) -> Result<(Uri, Self), (Uri, &'static str)> {
        let uri = uri_of(std::mem::take(&mut head.target), &head.method).map_err(|fault| (Uri::default(), fault))?;
        if let Err(fault) = route::check_target(&head.method, head.version, &head.headers) {
            return Err((uri, fault));
        }
        let kind = match destination(&head.method, uri.path_and_query().map_or("", PathAndQuery::as_str)) {
            Destination::Proxy { .. } => Self::Service,
            Destination::AgentSession | Destination::AgentCarrier if body.is_over() => Self::Agent,
            Destination::AgentSession | Destination::AgentCarrier => {
                return Err((uri, "an agent connects with a request that has no body"));
            }
            Destination::Invoke { .. } | Destination::Api => Self::Other,
        };
        Ok((uri, kind))
    }
}

/// Reads a target: a path, `*`, or a whole URL. Nothing of it is changed, so what `Uri` would cut off is refused.
fn uri_of(target: Bytes, method: &Method) -> Result<Uri, &'static str> {
    const BAD: &str = "the request's target has a byte in it that no URL has";
    if memchr::memchr(b'#', &target).is_some() {
        return Err("the request's target has a fragment");
    }
    match target.first() {
        Some(b'/') => PathAndQuery::from_maybe_shared(target).map(Uri::from).map_err(|_| BAD),
        Some(b'*') if target.len() == 1 && *method == Method::OPTIONS => Ok(Uri::from_static("*")),
        _ => {
            let uri = Uri::from_maybe_shared(target).map_err(|_| BAD)?;
            match uri.scheme_str() {
                Some("http" | "https") if uri.authority().is_some() => Ok(uri),
                _ if *method == Method::CONNECT => Ok(uri),
                _ => Err("the request's target must be a path, or a URL that begins with http:// or https://"),
            }
        }
    }
}

fn request(head: RequestHead, uri: Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.into_map();
    request
}

/// Passes a request on to a service, or answers why not.
async fn call_service(
    shared: &Arc<Shared>,
    (conn, active): (&mut CallerConn, &Active),
    (head, uri): (RequestHead, Uri),
    body: &mut BodyReader,
    alarm: &mut Alarm,
) -> After {
    let id = RequestIdText::sent_in(&head.headers);
    let exchange = Exchange::of(&head.method, head.version, &head.headers);
    let RequestHead { method, version, headers, .. } = head;
    let Destination::Proxy { slug, target } =
        destination(&method, uri.path_and_query().map_or("", PathAndQuery::as_str))
    else {
        return After::Drop;
    };
    let head = CallHead { method, version, authority: authority_of(&uri), headers };
    let call = Call { shared, active, id: &id, slug, target, is_named: false };
    let error = match forward(&call, conn, head, (&mut *body, alarm)).await {
        Ok(after) => return after,
        Err(_) if conn.is_broken() => return After::Drop,
        Err(error) => error,
    };
    let answer = route::ours(route::rescue(&error, &id), shared, &id);
    respond::write(conn, answer, exchange, body).await
}

/// Answers what is no request, and ends the connection.
async fn refuse(shared: &Shared, mut conn: CallerConn, fault: HeadFault) {
    conn.caller.note_nonsense();
    let answer = refusal(shared, fault);
    respond::write(&mut conn, answer, Exchange::last(), &mut BodyReader::Over).await;
    conn.close().await;
}

/// The answer to a request of which not even the path may be known: as on the runtime routes, where callers' libraries
/// look for these fields.
fn refusal(shared: &Shared, fault: HeadFault) -> Response<ResponseBody> {
    let code = match fault {
        HeadFault::TooLarge => ErrorCode::HeadersTooLarge,
        HeadFault::Version => ErrorCode::VersionNotSupported,
        HeadFault::Malformed(_) => ErrorCode::MalformedRequest,
    };
    let text = match fault {
        HeadFault::TooLarge => format!(
            "the request's head has more than {} bytes or {MAX_REQUEST_FIELDS} fields; send fewer or shorter ones",
            shared.config.head_limit
        ),
        fault => fault.to_string(),
    };
    let id = RequestIdText::generate();
    let problem = Problem::new(code, text).with_request_id(id.as_str()).with_vendor_error();
    let mut response = problem_response(&problem, &id);
    response.headers_mut().insert(PROXY_STATUS, proxy_status("http_request_error", &problem.detail));
    route::ours(response, shared, &id)
}
