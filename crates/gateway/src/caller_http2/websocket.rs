//! WebSockets on streams of HTTP/2 (RFC 8441): a `CONNECT` with `:protocol` becomes the opening handshake of HTTP/1.1 (RFC
//! 6455 §4), and from the container's `101` on, which the caller sees as a 200, the stream carries what the connection does.
//!
//! The key of that handshake is ours, because there is none in HTTP/2; so it is for us to check what the container has made
//! of it. An end of the stream is an end of the connection's direction, and a reset is a reset (RFC 8441 §5).

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use h2::{Reason, RecvStream, ext::Protocol};
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts, uri::PathAndQuery};
use towline_tunnel::websocket::{derive_accept_key, generate_key};

use super::{
    reply::{Reply, ReplySource},
    respond::{send, unless_reset},
};
use crate::{
    alarm::Alarm,
    body::{ResponseBody, Terms},
    caller::Active,
    caller_body::CallerBody,
    dispatch::{Answer, Outbound, dispatch},
    error::GatewayError,
    fields::Headers as _,
    gateway::Shared,
    grpc,
    h1::head::{ResponseHead, written_request},
    headers::{header_has_token, take_response_hops},
    outgoing::{Framed, Outgoing},
    path::{Destination, destination},
    proxy::{Call, CallHead, broke_http, inbound},
    request_id::RequestIdText,
    route,
    stream_io::StreamIo,
    switch::switch,
};

/// What the container said.
enum Opened {
    /// It has switched; the head is what the caller gets.
    Switched(Box<(Answer<ReplySource>, Terms)>),
    /// It has not.
    Refused(Box<Response<ResponseBody>>),
}

/// Answers a `CONNECT` with `:protocol`, and passes bytes from then on.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    active: Active,
    (protocol, parts, stream): (Protocol, Parts, RecvStream),
    reply: &Reply,
) {
    let id = RequestIdText::of(&parts.headers);
    let opened = unless_reset(reply, open(shared, (&active, &id), (&protocol, parts), reply)).await;
    let answer = match opened {
        None => return,
        Some(Ok(Opened::Switched(switched))) => return relay(shared, *switched, stream, reply).await,
        Some(Ok(Opened::Refused(answer))) => *answer,
        Some(Err(error)) => route::ours(route::rescue(&error, &id), shared, &id),
    };
    send(answer.map(|body| body.with_active(active)), reply, false).await;
}

/// Asks the container for a WebSocket.
async fn open(
    shared: &Arc<Shared>,
    (active, id): (&Active, &RequestIdText),
    (protocol, mut parts): (&Protocol, Parts),
    reply: &Reply,
) -> Result<Opened, GatewayError> {
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        let named = protocol.as_str().chars().take(100).collect();
        return Err(GatewayError::ProtocolNotSupported { protocol: named });
    }
    let key = become_handshake(&mut parts)?;
    let uri = parts.uri.clone();
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let named = grpc::named_service(parts.version, &uri, &parts.headers);
    let (slug, target) = match (&named, destination(&parts.method, target)) {
        (Some(slug), _) => (slug.as_str(), target),
        (None, Destination::Proxy { slug, target }) => (slug, target),
        (None, _) => return Err(GatewayError::NoWebSocketsHere),
    };
    let call = Call { shared, active, id, slug, target, is_named: named.is_some() };
    let mut head = CallHead::from(parts);
    let prepared = call.prepare(&mut head, false)?;
    let terms = prepared.admitted.terms();
    let CallHead { method, headers, .. } = head;
    let text = written_request(&method, prepared.target.as_bytes(), &headers, 0);
    let source = ReplySource::new(CallerBody::empty(), Framed::Length(0), Some(reply.clone()));
    let (upgrade, preference) = (prepared.upgrade, prepared.preference);
    let request = Outgoing::complete(text, source);
    let outbound = Outbound { method: method.clone(), request, upgrade, preference };
    let answer = dispatch(shared, &prepared.admitted.service, outbound, &terms, &mut Alarm::default()).await;
    let mut answer = answer.map_err(|error| prepared.additions.explain(error))?;
    let instance = answer.in_flight.instance().id;
    match answer.head.status {
        StatusCode::SWITCHING_PROTOCOLS => {
            check(&answer.head, &key).map_err(|fault| broke_http(&method, fault))?;
            let headers = &mut answer.head.headers;
            take_response_hops(headers);
            // RFC 8441 §5: there is none here. And a 101 has no body, whatever its head says (RFC 9110 §8.6).
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            headers.remove(header::CONTENT_LENGTH);
            prepared.additions.put_switching(headers, instance);
            Ok(Opened::Switched(Box::new((answer, terms))))
        }
        // To the caller it would look like a WebSocket.
        status if status.is_success() => {
            let fault =
                format!("it was asked for a WebSocket, and answered {} without switching to it", status.as_u16());
            Err(broke_http(&method, &fault))
        }
        _ => {
            let mut response = inbound(shared, answer, terms);
            prepared.additions.put(response.headers_mut(), instance);
            Ok(Opened::Refused(Box::new(response)))
        }
    }
}

/// Makes a request the opening handshake of HTTP/1.1, and gives the key that is in it (RFC 8441 §5).
fn become_handshake(parts: &mut Parts) -> Result<HeaderValue, GatewayError> {
    let malformed = |fault: &str| GatewayError::MalformedRequest(fault.to_owned());
    parts.method = Method::GET;
    route::check_target(&parts.method, parts.version, &parts.headers).map_err(malformed)?;
    let key = HeaderValue::try_from(generate_key()).map_err(|_| malformed("no key for the handshake could be made"))?;
    let headers = &mut parts.headers;
    // What comes on the stream is no content of the request.
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Ok(key)
}

/// Whether the container has switched to what it was asked for (RFC 6455 §4.1, the client's items 2 to 4). Whether it has
/// chosen extensions and a subprotocol that were offered is for the caller to see, as without us.
fn check(head: &ResponseHead, key: &HeaderValue) -> Result<(), &'static str> {
    let is_upgrade = head
        .headers
        .only(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"));
    if !is_upgrade || !header_has_token(&head.headers, &header::CONNECTION, "upgrade") {
        return Err("it was asked for a WebSocket, and switched to something else");
    }
    let accept = head.headers.only(header::SEC_WEBSOCKET_ACCEPT);
    match accept.is_some_and(|accept| accept.as_bytes().trim_ascii() == derive_accept_key(key.as_bytes()).as_bytes()) {
        true => Ok(()),
        false => Err("its Sec-WebSocket-Accept is not the one that belongs to the key that it was sent"),
    }
}

/// Tells the caller, and passes bytes until both sides have ended or one has broken.
async fn relay(shared: &Shared, (answer, terms): (Answer<ReplySource>, Terms), stream: RecvStream, reply: &Reply) {
    let Answer { head, mut connection, in_flight, request } = answer;
    drop(request);
    connection.mark_long_lived();
    let mut response = Response::new(());
    *response.headers_mut() = head.headers.into_map();
    let Some(send) = reply.send(response, false) else { return };
    let io = StreamIo::new(stream, send);
    let sending = io.sending();
    let finished = {
        let mut switched = pin!(switch(shared, io, &mut connection, terms));
        poll_fn(|cx| match switched.as_mut().poll(cx) {
            Poll::Ready(finished) => Poll::Ready(finished),
            Poll::Pending => sending.poll_reset(cx).map(|()| false),
        })
        .await
    };
    if !finished {
        // What has come before is to be written first; a reset takes away what is not.
        tokio::task::yield_now().await;
        sending.reset(Reason::CANCEL);
    }
    drop(in_flight);
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_101_is_one_for_this_handshake() {
        // The example of RFC 6455 §1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let head = |changed: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in changed {
                headers.append(*name, HeaderValue::from_static(value));
            }
            ResponseHead {
                status: StatusCode::SWITCHING_PROTOCOLS,
                reason: bytes::Bytes::new(),
                version: http::Version::HTTP_11,
                headers: headers.into(),
            }
        };
        assert!(check(&head(&good), &key).is_ok());
        for (name, value) in [
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("upgrade", "websocket, x"),
            ("sec-websocket-accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-accept", ""),
        ] {
            let changed = good.map(|(found, good)| (found, if found == name { value } else { good }));
            assert!(check(&head(&changed), &key).is_err(), "{name}: {value}");
        }
        for left_out in 0..good.len() {
            let rest: Vec<_> = good.into_iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, f)| f).collect();
            assert!(check(&head(&rest), &key).is_err(), "without {}", good[left_out].0);
            assert!(check(&head(&[&good[..], &good[left_out..=left_out]].concat()), &key).is_err() || left_out == 0);
        }
    }
}
