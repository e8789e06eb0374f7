//! WebSockets to containers of HTTP/2 (RFC 8441): the opening handshake of HTTP/1.1 (RFC 6455 §4) becomes a `CONNECT` with
//! `:protocol`, and the 2xx that answers it becomes a `101`. So for everything else a container of HTTP/2 switches like any
//! other, whatever its caller speaks.
//!
//! HTTP/2 has neither `Sec-WebSocket-Key` nor `Sec-WebSocket-Accept` (RFC 8441 §5). The key is answered here, and so it is
//! for us to look at it as a server does. Versions, subprotocols and extensions are the container's affair.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, Request, StatusCode, header};
use towline_tunnel::websocket::derive_accept_key;

use crate::{
    error::GatewayError,
    fields::{Fields, Headers as _, Value},
    h1::{framing::content_length, head::ResponseHead},
    proxy::CallHead,
    ticket_door::is_handshake,
};

/// The one protocol that HTTP/2 can carry.
pub(crate) const PROTOCOL: &str = "websocket";

/// Whether a request asks for a WebSocket; any other wish for a protocol is none that a container of HTTP/2 could fulfil.
///
/// # Errors
/// When it does, and could not be answered as RFC 6455 §4.2 says, or passed on.
pub(crate) fn is_wanted(head: &CallHead, is_chunked: bool) -> Result<bool, GatewayError> {
    if !is_handshake(head) {
        return Ok(false);
    }
    let fault = |fault: &str| Err(GatewayError::MalformedRequest(fault.to_owned()));
    if is_chunked || content_length(&head.headers).is_ok_and(|length| length.is_some_and(|length| length > 0)) {
        return fault("the opening handshake of a WebSocket to a container of HTTP/2 cannot have a body");
    }
    match has_key(&head.headers) {
        true => Ok(true),
        false => fault("a WebSocket is opened with one Sec-WebSocket-Key, 16 bytes in base64 (RFC 6455 §4.2.1)"),
    }
}

fn has_key(headers: &Fields) -> bool {
    let is_key = |key: Value<'_>| STANDARD.decode(key.as_bytes().trim_ascii()).is_ok_and(|key| key.len() == 16);
    headers.only(header::SEC_WEBSOCKET_KEY).is_some_and(is_key)
}

/// Makes a handshake of HTTP/1.1 one of HTTP/2, and gives the `Sec-WebSocket-Accept` that belongs to its key.
pub(super) fn become_connect(request: &mut Request<()>) -> Option<HeaderValue> {
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(h2::ext::Protocol::from_static(PROTOCOL));
    let headers = request.headers_mut();
    let key = headers.remove(header::SEC_WEBSOCKET_KEY)?;
    // What follows are bytes of the WebSocket, and no content.
    headers.remove(header::CONTENT_LENGTH);
    HeaderValue::try_from(derive_accept_key(key.as_bytes().trim_ascii())).ok()
}

/// Makes the head of a 2xx that of a `101`.
pub(super) fn become_switching(head: &mut ResponseHead, accept: HeaderValue) {
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.reason = bytes::Bytes::from_static(b"Switching Protocols");
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn wanted(change: impl FnOnce(&mut CallHead)) -> Result<bool, GatewayError> {
        let request = Request::get("/")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut head = request.body(()).unwrap().into_parts().0.into();
        change(&mut head);
        is_wanted(&head, head.headers.contains_key(header::TRANSFER_ENCODING))
    }

    fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut CallHead) {
        move |head| head.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    #[test]
    fn a_handshake_is_whole_or_none() {
        assert!(wanted(|_| {}).unwrap());
        assert!(wanted(set("content-length", "0")).unwrap());
        assert!(wanted(set("upgrade", "x/1, websocket")).unwrap());
        for (name, value) in [("upgrade", "x/1"), ("connection", "close")] {
            assert!(!wanted(set(name, value)).unwrap(), "{name}: {value}");
        }
        assert!(!wanted(|head| head.method = Method::POST).unwrap());
        assert!(!wanted(|head| head.version = http::Version::HTTP_10).unwrap());
        for (name, value) in [
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("sec-websocket-key", ""),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ"),
            // 15 and 17 bytes.
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25j"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZSE="),
        ] {
            assert!(wanted(set(name, value)).is_err(), "{name}: {value}");
        }
        let twice = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert!(wanted(|head| head.headers.append(header::SEC_WEBSOCKET_KEY, twice)).is_err());
        assert!(wanted(|head| head.headers.remove(header::SEC_WEBSOCKET_KEY)).is_err());
    }

    #[test]
    fn the_key_is_answered_and_goes_no_further() {
        // The example of RFC 6455 §1.3.
        let request = Request::get("http://a/b").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut request = request.header("content-length", "0").header("x-a", "1").body(()).unwrap();
        let accept = become_connect(&mut request).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!((request.method(), request.headers().len()), (&Method::CONNECT, 1));
        assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "websocket");
    }
}
