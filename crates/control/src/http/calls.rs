//! The description of what the gateway serves: calls of services, passed on as they are or described in JSON.
//!
//! The requests themselves never come here; the functions carry the descriptions only. Which errors the gateway answers
//! with is `towline_gateway::GatewayError`'s.

use serde_json::{Value, json};
use towline_gateway::{
    GatewayError,
    invoke::{InvokeRequest, InvokeResponse},
};
use towline_model::{Action, ErrorCode};

use super::{
    access::Access,
    openapi::{add_errors, add_headers, permission},
};

/// The path of a call that is passed on.
const CALL_PATH: &str = "/api/v1/r/containers/{slug}/{path}";
/// The path of a call that is described.
const INVOKE_PATH: &str = "/api/v1/r/invoke/{slug}";
/// The methods that OpenAPI has words for; every other one is passed on, too.
const METHODS: [(&str, bool); 7] = [
    ("delete", true),
    ("get", false),
    ("head", false),
    ("options", false),
    ("patch", true),
    ("post", true),
    ("put", true),
];
/// Call a service.
///
/// Any method, any path: everything after the slug, path and query, reaches the container byte for byte, slashes included,
/// and so do the body and all headers but the one with the credential. `{path}` may be empty, which is the container's `/`.
/// The answer comes back unchanged and streamed, WebSockets and other upgrades included; nothing is added to it but
/// `X-Towline-Request-Id`. An answer of the gateway in place of the container's has `Proxy-Status`.
#[utoipa::path(
    post,
    path = "/api/v1/r/containers/{slug}/{path}",
    operation_id = "call_service",
    tag = "runtime",
    params(
        ("slug" = String, Path, description = "The service's slug.", example = "hello"),
        ("path" = String, Path, description = "The path on the container without its first slash; it may have slashes of its own.", example = "echo"),
    ),
    request_body(content = Vec<u8>, description = "Whatever the service takes.", content_type = "*/*"),
    responses((status = "2XX", description = "The container's answer."), (status = "default", description = "Any other answer of the container.")),
)]
#[expect(dead_code, reason = "for the description only")]
pub fn call() {}

/// Call a service by a description of the request.
///
/// For callers that cannot send arbitrary requests. Hop-by-hop headers, `Host`, `Content-Length`, `Authorization` and
/// `Proxy-*` are left out of the request. Each body may have 32 MiB unless the server is told otherwise, and the bodies of all
/// that run at a time 256 MiB: 503 `server_busy` when there is no room for one more.
#[utoipa::path(
    post,
    path = "/api/v1/r/invoke/{slug}",
    operation_id = "invoke_service",
    tag = "runtime",
    params(("slug" = String, Path, description = "The service's slug.", example = "hello")),
    request_body = InvokeRequest,
    responses((status = 200, description = "The container has answered, with whatever status.", body = InvokeResponse))
)]
#[expect(dead_code, reason = "for the description only")]
pub fn invoke() {}

/// Completes the descriptions.
pub(super) fn describe(paths: &mut Value) {
    let mut template = paths[CALL_PATH]["post"].clone();
    template["requestBody"]["content"]["*/*"] = json!({"schema": {}, "example": "hi"});
    for (method, has_body) in METHODS {
        let mut operation = template.clone();
        operation["operationId"] = json!(format!("call_service_{method}"));
        operation["summary"] = json!(format!("Call a service with {}.", method.to_ascii_uppercase()));
        if let Some(operation) = operation.as_object_mut().filter(|_| !has_body) {
            operation.remove("requestBody");
        }
        describe_call(&mut operation, GatewayError::CODES_OF_CALLS);
        let answers = operation["responses"].as_object_mut().into_iter().flatten();
        for answer in answers.map(|(_, answer)| answer) {
            // The container may answer with any status itself. Then it has no `X-Request-Id` of ours.
            answer["content"]["*/*"] = json!({"schema": {}, "example": "ok"});
            add_headers(answer, &["X-Towline-Request-Id", "X-Towline-Instance"]);
        }
        paths[CALL_PATH][method] = operation;
    }
    let invoke = &mut paths[INVOKE_PATH]["post"];
    invoke["requestBody"]["required"] = json!(true);
    describe_call(invoke, &[GatewayError::CODES_OF_CALLS, GatewayError::CODES_OF_INVOKES].concat());
    add_headers(&mut invoke["responses"]["200"], &["X-Towline-Instance"]);
    for (_, answer) in invoke["responses"].as_object_mut().into_iter().flatten() {
        add_headers(answer, &["X-Request-Id"]);
    }
}

fn describe_call(operation: &mut Value, errors: &[ErrorCode]) {
    operation["x-permission"] = permission(Access::Team(Action::InvokeServices));
    operation["security"] = json!([{"access_token": [], "team": []}, {"key": []}, {"key_header": []}]);
    let affinity = json!([
        {
            "name": "X-Towline-Affinity", "in": "header", "required": false,
            "description": "Asks for X-Towline-Instance in the answer. Sent back with it, that instance is preferred (`soft`) or insisted on (`strict`).",
            "schema": {"type": "string", "enum": ["soft", "strict"]},
        },
    ]);
    if let (Some(parameters), Some(affinity)) = (operation["parameters"].as_array_mut(), affinity.as_array()) {
        parameters.extend(affinity.iter().cloned());
    }
    add_errors(&mut operation["responses"], errors);
    let answers = operation["responses"].as_object_mut().into_iter().flatten();
    for (status, answer) in answers.filter(|(status, _)| status.starts_with(['4', '5'])) {
        add_headers(answer, &["Proxy-Status"]);
        match status.as_str() {
            "401" => add_headers(answer, &["WWW-Authenticate"]),
            "502" => add_headers(answer, &["X-Should-Retry", "Retry-After"]),
            "503" => add_headers(answer, &["X-Should-Retry", "Retry-After"]),
            _ => {}
        }
    }
}
