//! Invoke: a request to a service, described in JSON; for callers that cannot send it themselves.

pub(crate) mod memory;

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, uri::PathAndQuery};
use http_body::Body;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use towline_model::{
    ValidationError,
    service::is_http_path,
    validate::{Checks, without_value},
};

use self::memory::{Full, Held};
use crate::{
    affinity::{Affinity, Preference},
    alarm::Alarm,
    body::{ContainerBody, Cut, ResponseBody, Terms},
    caller::Active,
    caller_body::CallerBody,
    dispatch::{Answer, Outbound, dispatch},
    error::{ExchangeError, ExchangeFailure, GatewayError},
    fields::{Fields, Headers as _},
    forwarded::Hop,
    gateway::Shared,
    h1::head::written_request,
    headers::{take_request_hops, take_response_hops},
    outgoing::{NoSource, Outgoing},
    pool,
    proxy::{Admitted, admit, authority_of, broke_http},
    request_id::{RequestIdText, X_REQUEST_ID},
};

/// The methods that can be described.
const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
/// Bytes that a description may have beside the encoded body.
const ENVELOPE: usize = 1 << 20;
/// Fields that a description may have.
const MAX_FIELDS: usize = 100;
/// How long a caller may take to send a description.
const READ_DEADLINE: std::time::Duration = std::time::Duration::from_secs(300);

/// The description of a request.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvokeRequest {
    /// One of GET, POST, PUT, PATCH, DELETE, HEAD and OPTIONS.
    #[serde(default)]
    #[schema(required, example = "GET", pattern = "^(?:GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS)$")]
    method: String,
    /// The path on the container with an optional query; it starts with exactly one `/`.
    #[serde(default)]
    #[schema(required, example = "/health", max_length = 8192, pattern = r#"^/(?:[!"$-.0-\[\]-~][!"$-\[\]-~]*)?$"#)]
    path: String,
    /// Header fields by their names, at most 100.
    #[serde(default)]
    #[schema(example = json!({"accept": "text/plain"}))]
    headers: Option<BTreeMap<String, String>>,
    /// The body, in base64 of the standard alphabet with padding (RFC 4648 §4).
    #[serde(default)]
    #[schema(
        example = "aGk=",
        pattern = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    body_base64: Option<String>,
}

/// The description of an answer.
#[derive(Serialize, utoipa::ToSchema)]
pub struct InvokeResponse {
    /// The status of the container's answer.
    #[schema(example = 200)]
    status_code: u16,
    /// Header fields by their names in lower case; several of one name are joined with `, `.
    #[schema(example = json!({"content-type": "text/plain"}))]
    headers: BTreeMap<String, String>,
    /// Fields that repeat, line by line; `Set-Cookie` always, because it cannot be joined.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, example = json!({"set-cookie": ["a=b"]}))]
    multi_value_headers: BTreeMap<String, Vec<String>>,
    /// The body, in base64.
    #[schema(example = "b2s=")]
    body_base64: String,
}

/// A description that was read and checked.
pub(crate) struct Described {
    pub method: Method,
    pub path: PathAndQuery,
    pub headers: Fields,
    pub body: Bytes,
}

/// Carries out the request that the body describes.
pub(crate) async fn invoke(
    shared: &Arc<Shared>,
    active: &Active,
    request: Request<CallerBody>,
    id: &RequestIdText,
    slug: &str,
) -> Result<Response<ResponseBody>, GatewayError> {
    let admitted = admit(shared, request.headers(), slug)?;
    if request.method() != Method::POST {
        return Err(GatewayError::MethodNotAllowed { allowed: "POST" });
    }
    let affinity = Affinity::of(request.headers())?;
    let host = authority_of(request.uri()).or_else(|| request.headers().get(header::HOST).cloned());
    let version = request.version();
    let mut held = shared.invoke_memory.hold();
    let full = |maybe_processed| GatewayError::InvokesFull { limit: shared.invoke_memory.limit(), maybe_processed };
    let read = read_description(request.into_body(), shared.config.invoke_request_limit, &mut held).await;
    let text = read.map_err(|error| error.unwrap_or_else(|| full(false)))?;
    let mut described = describe(&text, shared.config.invoke_request_limit)?;
    drop(text);

    let hop = Hop {
        caller: active.caller(),
        trusted: false,
        version,
        authority: host.as_ref(),
        prefix: &admitted.service.prefix,
    };
    hop.put(&mut described.headers);
    described.headers.insert(X_REQUEST_ID, id.value().clone());
    let terms = admitted.terms();
    let method = described.method.clone();
    let outbound = outbound(described, &admitted, Affinity::preference(affinity))?;
    let answer = dispatch(shared, &admitted.service, outbound, &terms, &mut Alarm::default()).await?;
    let instance = answer.in_flight.instance().id;
    let read = read_answer(answer, &method, terms, shared.config.invoke_response_limit, &mut held).await;
    let described = read.map_err(|error| error.unwrap_or_else(|| full(!method.is_idempotent())))?;
    let mut response = Response::new(ResponseBody::full(held.with(described)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(affinity) = affinity {
        affinity.tell(response.headers_mut(), instance, &admitted.service.prefix);
    }
    Ok(response)
}

fn outbound(
    described: Described,
    admitted: &Admitted,
    preference: Preference,
) -> Result<Outbound<NoSource>, GatewayError> {
    let Described { method, path, mut headers, body } = described;
    let target = admitted.service.target(path.as_str())?;
    admitted.service.put_own_headers(&mut headers);
    if !body.is_empty() || matches!(method, Method::POST | Method::PUT | Method::PATCH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let mut text = written_request(&method, target.as_bytes(), &headers, body.len());
    text.extend_from_slice(&body);
    Ok(Outbound { method, request: Outgoing::complete(text, NoSource), upgrade: false, preference })
}

/// Reads the body of the call itself. `Err(None)` when there is no memory for it.
async fn read_description(
    mut body: CallerBody,
    body_limit: usize,
    held: &mut Held,
) -> Result<Bytes, Option<GatewayError>> {
    // Base64 makes four bytes of three.
    let limit = body_limit.div_ceil(3) * 4 + ENVELOPE;
    let too_large = || Some(GatewayError::BodyTooLarge { limit: body_limit });
    let malformed = |what: &str| Some(GatewayError::MalformedRequest(format!("the request body {what}")));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut text = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| malformed("ended early or its framing is broken"))?;
            let Some(data) = frame.data_ref() else { continue };
            if text.len() + data.len() > limit {
                return Err(too_large());
            }
            held.grow(data.len()).map_err(|Full| None)?;
            text.extend_from_slice(data);
        }
        Ok(text.freeze())
    };
    timeout(READ_DEADLINE, read).await.map_err(|_| malformed("did not arrive in time"))?
}

/// Reads the description and checks every field of it.
pub(crate) fn describe(text: &[u8], body_limit: usize) -> Result<Described, GatewayError> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        // serde would also read an array, field by field.
        return Err(malformed_body("", "must be a JSON object with `method` and `path`"));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let request: InvokeRequest = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        // `.` is the whole, and `?` a place that could not be read at all.
        malformed_body(
            if matches!(field.as_str(), "." | "?") { "" } else { &field },
            &without_value(&error.into_inner().to_string()),
        )
    })?;
    json.end().map_err(|error| malformed_body("", &error.to_string()))?;

    let mut checks = Checks::default();
    let method = METHODS.into_iter().find(|method| method.as_str() == request.method);
    checks.require(method.is_some(), "method", "must be one of GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS");
    let path = if is_http_path(&request.path) { PathAndQuery::try_from(request.path.as_str()).ok() } else { None };
    checks.require(
        path.is_some(),
        "path",
        "must be a path with an optional query, start with exactly one `/`, and hold only visible ASCII characters \
         that a URL may have, at most 8192",
    );
    let headers = describe_headers(request.headers.unwrap_or_default(), &mut checks);
    let body = request.body_base64.map_or(Ok(Vec::new()), |text| STANDARD.decode(text));
    checks.require(body.is_ok(), "body_base64", "must be base64 of the standard alphabet with padding (RFC 4648 §4)");
    checks.finish().map_err(GatewayError::Invalid)?;
    let (Some(method), Some(path), Ok(body)) = (method, path, body) else {
        return Err(malformed_body("", "the description cannot be read"));
    };
    if body.len() > body_limit {
        return Err(GatewayError::BodyTooLarge { limit: body_limit });
    }
    Ok(Described { method, path, headers, body: Bytes::from(body) })
}

fn malformed_body(field: &str, message: &str) -> GatewayError {
    GatewayError::MalformedBody(ValidationError::one(field, message))
}

/// Takes the described fields, without those that are dropped by contract §5.
fn describe_headers(described: BTreeMap<String, String>, checks: &mut Checks) -> Fields {
    checks.require(described.len() <= MAX_FIELDS, "headers", "must have at most 100 fields");
    let mut headers = Fields::default();
    for (name, value) in described {
        let field = || format!("headers.{}", name.chars().take(100).collect::<String>());
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            checks.require_with(false, || (field(), "is not the name of a header field".to_owned()));
            continue;
        };
        let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else {
            checks.require_with(false, || (field(), "must not have control characters in its value".to_owned()));
            continue;
        };
        headers.append(parsed, value);
    }
    take_request_hops(&mut headers);
    // A described body has no trailers that `Trailer` could announce.
    let dropped = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::TRAILER];
    headers.retain(|name| !dropped.contains(name) && !name.as_str().starts_with("proxy-"));
    headers
}

/// Reads an answer to its end and describes it. `Err(None)` when there is no memory for it.
async fn read_answer(
    answer: Answer<NoSource>,
    method: &Method,
    terms: Terms,
    limit: usize,
    held: &mut Held,
) -> Result<Vec<u8>, Option<GatewayError>> {
    let failed = |reason| GatewayError::Exchange(ExchangeError { reason, maybe_processed: !method.is_idempotent() });
    let Answer { mut head, mut connection, in_flight, request } = answer;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Some(broke_http(method, "it switches to another protocol without having been asked")));
    }
    connection.keep_for = pool::keep_for(take_response_hops(&mut head.headers).keep_alive_seconds);
    // An answer that comes before the request is through does not wait for it: the connection is not used again.
    let mut body = ContainerBody::new(connection, request.is_sent(), in_flight, &terms);
    let bytes = tokio::select! {
        biased;
        bytes = read_body(&mut body, limit, held) => bytes.map_err(|failure| failure.map(failed))?,
        cut = terms.over() => return Err(Some(match cut {
            Cut::Exchange(reason) => failed(reason),
            Cut::Revoked => GatewayError::Revoked,
        })),
    };
    drop(body);
    let described = describe_answer(head.status, &head.headers.into_map(), &bytes);
    Ok(serde_json::to_vec(&described).unwrap_or_default())
}

async fn read_body(
    body: &mut ContainerBody,
    limit: usize,
    held: &mut Held,
) -> Result<BytesMut, Option<ExchangeFailure>> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Some(ExchangeFailure::TooLarge(limit)));
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        if let Some(data) = frame.map_err(Some)?.data_ref() {
            if bytes.len() + data.len() > limit {
                return Err(Some(ExchangeFailure::TooLarge(limit)));
            }
            held.grow(data.len()).map_err(|Full| None)?;
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

fn describe_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> InvokeResponse {
    let mut joined = BTreeMap::new();
    let mut repeated = BTreeMap::new();
    for name in headers.keys() {
        let lines: Vec<String> = headers.get_all(name).iter().map(text_of).collect();
        joined.insert(name.to_string(), lines.join(", "));
        if lines.len() > 1 || name == header::SET_COOKIE {
            repeated.insert(name.to_string(), lines);
        }
    }
    InvokeResponse {
        status_code: status.as_u16(),
        headers: joined,
        multi_value_headers: repeated,
        body_base64: STANDARD.encode(body),
    }
}

/// A value as text: UTF-8, or else byte by byte as Latin-1, so that nothing is lost.
fn text_of(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().copied().map(char::from).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LIMIT: usize = 1000;

    fn described(value: &Value) -> Result<Described, GatewayError> {
        describe(value.to_string().as_bytes(), LIMIT)
    }

    #[test]
    fn the_smallest_description_will_do() {
        let request = described(&json!({"method": "GET", "path": "/a?b=c%20d"})).unwrap();
        assert_eq!(request.method, Method::GET);
        assert_eq!(request.path.as_str(), "/a?b=c%20d");
        assert!(request.headers.is_empty() && request.body.is_empty());
    }

    #[test]
    fn dropped_headers_are_dropped_and_others_kept() {
        let request = described(&json!({"method": "POST", "path": "/", "body_base64": "aGk=", "headers": {
            "Host": "evil", "Content-Length": "9", "Authorization": "Bearer x", "Proxy-Authorization": "y",
            "Proxy-Anything": "z", "Connection": "X-Gone", "X-Gone": "1", "Keep-Alive": "1", "TE": "trailers",
            "Transfer-Encoding": "chunked", "Trailer": "X-Sum", "Upgrade": "h2c", "Content-Type": "text/plain", "X-Kept": "ü",
        }}))
        .unwrap();
        let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, [&b"content-type"[..], b"x-kept"]);
        assert_eq!(request.headers.get(HeaderName::from_static("x-kept")).unwrap().as_bytes(), "ü".as_bytes());
        assert_eq!(request.body, "hi");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, code, field) in [
            ("", "malformed_body", ""),
            ("{", "malformed_body", ""),
            ("[]", "malformed_body", ""),
            ("{} {}", "malformed_body", ""),
            (r#"{"path": "/"}"#, "validation_failed", "method"),
            (r#"{"method": "GET"}"#, "validation_failed", "path"),
            (r#"{"method": null, "path": "/"}"#, "malformed_body", "method"),
            (r#"{"method": 1, "path": "/"}"#, "malformed_body", "method"),
            (r#"{"method": "GET", "path": "/", "headers": {"a": 1}}"#, "malformed_body", "headers.a"),
            (r#"{"method": "GET", "path": "/", "colour": 1}"#, "malformed_body", "colour"),
            (r#"{"method": "GET", "path": "/"} x"#, "malformed_body", ""),
            (r#"{"method": "get", "path": "/"}"#, "validation_failed", "method"),
            (r#"{"method": "CONNECT", "path": "/"}"#, "validation_failed", "method"),
            (r#"{"method": "TRACE", "path": "/"}"#, "validation_failed", "method"),
            (r#"{"method": "GET", "path": ""}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "a"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "//evil.example/"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "http://evil.example/"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "/a b"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "/a\r\nX: y"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "/\\evil"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "/\u0000"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "/#fragment"}"#, "validation_failed", "path"),
            (r#"{"method": "GET", "path": "/", "headers": {"a b": "x"}}"#, "validation_failed", "headers.a b"),
            (r#"{"method": "GET", "path": "/", "headers": {"a": "x\r\ny: z"}}"#, "validation_failed", "headers.a"),
            (r#"{"method": "GET", "path": "/", "body_base64": "%"}"#, "validation_failed", "body_base64"),
            (r#"{"method": "GET", "path": "/", "body_base64": "aGk"}"#, "validation_failed", "body_base64"),
        ] {
            let error = describe(text.as_bytes(), LIMIT).err().unwrap_or_else(|| panic!("{text}"));
            assert_eq!(error.code().as_str(), code, "{text}: {error}");
            let (GatewayError::MalformedBody(fields) | GatewayError::Invalid(fields)) = &error else {
                panic!("{error:?}")
            };
            assert_eq!(fields.fields[0].field, field, "{text}: {error}");
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused() {
        let encoded = STANDARD.encode(vec![0; LIMIT + 1]);
        let error = described(&json!({"method": "POST", "path": "/", "body_base64": encoded})).err().unwrap();
        assert_eq!(error.code().status(), 413);
        let encoded = STANDARD.encode(vec![0; LIMIT]);
        assert!(described(&json!({"method": "POST", "path": "/", "body_base64": encoded})).is_ok());
    }

    #[test]
    fn repeated_headers_are_listed_whole() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-a", "2, 3"), ("set-cookie", "a=b"), ("x-b", "only")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append(HeaderName::from_static("x-latin"), HeaderValue::from_bytes(b"\xe9").unwrap());
        let described = describe_answer(StatusCode::OK, &headers, b"hi");
        let value = serde_json::to_value(&described).unwrap();
        assert_eq!(
            value,
            json!({
                "status_code": 200,
                "headers": {"x-a": "1, 2, 3", "set-cookie": "a=b", "x-b": "only", "x-latin": "é"},
                "multi_value_headers": {"x-a": ["1", "2, 3"], "set-cookie": ["a=b"]},
                "body_base64": "aGk=",
            })
        );
        headers.remove("x-a");
        headers.remove("set-cookie");
        let value = serde_json::to_value(describe_answer(StatusCode::OK, &headers, b"")).unwrap();
        assert!(value.get("multi_value_headers").is_none());
    }
}
