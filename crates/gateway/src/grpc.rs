//! What gRPC callers need beside HTTP/2: a way to say which service they mean, because their paths are methods of theirs
//! and nothing else, and errors that they can read.
//!
//! A gateway's error is a `Trailers-Only` answer, whose status is always 200 (gRPC over HTTP/2, "Responses"). The codes are
//! those of the same list that the statuses of §5 of the contract would be mapped to by a client ("HTTP to gRPC Status Code
//! Mapping"), except where "Status codes and their use in gRPC" has one that says more. `Proxy-Status` stays beside them.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version, header};
use towline_model::ErrorCode;

use crate::{
    body::ResponseBody,
    error::{ExchangeError, ExchangeFailure, GatewayError},
    fields::Headers,
};

/// Names the service of a request whose path does not.
pub(crate) const X_TOWLINE_SERVICE: HeaderName = HeaderName::from_static("x-towline-service");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The service that a request of HTTP/2 names in a field. Paths of the API are not looked at, so that nothing of it can
/// be reached in another way.
pub(crate) fn named_service(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if version != Version::HTTP_2 || uri.path().starts_with("/api/") {
        return None;
    }
    headers.get(X_TOWLINE_SERVICE)?.to_str().ok().map(str::to_owned)
}

/// Whether it is a message of gRPC, not of gRPC-Web.
pub(crate) fn is_grpc(headers: &impl Headers) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The answer to a gRPC call that failed, made of the one that another caller would get.
pub(crate) fn trailers_only(error: &GatewayError, answer: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut parts, _) = answer.into_parts();
    parts.status = StatusCode::OK;
    let headers = &mut parts.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(status(error)));
    headers.insert(GRPC_MESSAGE, message(&error.to_string()));
    Response::from_parts(parts, ResponseBody::empty())
}

/// The code of gRPC ("Status codes and their use in gRPC").
fn status(error: &GatewayError) -> u16 {
    const INVALID_ARGUMENT: u16 = 3;
    const DEADLINE_EXCEEDED: u16 = 4;
    const NOT_FOUND: u16 = 5;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const FAILED_PRECONDITION: u16 = 9;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    if let GatewayError::Exchange(ExchangeError { reason: ExchangeFailure::BrokeHttp(_), .. }) = error {
        return INTERNAL;
    }
    match (error.code(), error.code().status()) {
        (ErrorCode::ServiceNotRunning, _) => FAILED_PRECONDITION,
        (ErrorCode::UpstreamTimeout, _) => DEADLINE_EXCEEDED,
        (ErrorCode::EgressDenied, _) => PERMISSION_DENIED,
        (_, 401) => UNAUTHENTICATED,
        (_, 403) => PERMISSION_DENIED,
        (_, 404) => NOT_FOUND,
        (_, 413 | 429) => RESOURCE_EXHAUSTED,
        (_, 400..=499) => INVALID_ARGUMENT,
        (_, 502..=504) => UNAVAILABLE,
        _ => INTERNAL,
    }
}

/// Bytes other than visible ASCII and spaces, and `%`, are percent-encoded (gRPC over HTTP/2, "Responses").
fn message(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), is, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn only_paths_outside_the_api_need_a_name() {
        for (path, version, named) in [
            ("/demo.Greeter/Hello", Version::HTTP_2, true),
            ("/demo.Greeter/Hello", Version::HTTP_11, false),
            ("/api/v1/r/containers/other/x", Version::HTTP_2, false),
            ("/api/v1/credentials", Version::HTTP_2, false),
        ] {
            let headers = HeaderMap::from_iter([(X_TOWLINE_SERVICE, HeaderValue::from_static("hello"))]);
            let found = named_service(version, &Uri::from_static(path), &headers);
            assert_eq!(found.is_some(), named, "{path} {version:?}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(message("50 % \"ü\"\n"), "50 %25 \"%C3%BC\"%0A");
    }

    #[test]
    fn errors_have_codes_that_clients_know() {
        let slug = || "hello".to_owned();
        for (error, code) in [
            (GatewayError::Forbidden, 7),
            (GatewayError::ServiceNotFound { slug: slug() }, 5),
            (GatewayError::MalformedRequest(String::new()), 3),
            (GatewayError::NoReadyInstance { slug: slug() }, 14),
            (GatewayError::Revoked, 16),
            (
                GatewayError::Exchange(ExchangeError {
                    reason: ExchangeFailure::NoAnswer(std::time::Duration::from_secs(1)),
                    maybe_processed: true,
                }),
                4,
            ),
        ] {
            assert_eq!(status(&error), code, "{error}");
        }
    }
}
