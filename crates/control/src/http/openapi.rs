//! The OpenAPI 3.1 document, made from the code: operations and schemas from their descriptions beside the handlers,
//! permissions and common errors from the table of routes.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{Method, header};
use serde_json::{Map, Value, json};
use towline_model::{Action, CredentialId, ErrorCode, Principal, Role, Scope, SignInId, TeamId, UserId};
use utoipa::OpenApi;

use super::{
    access::{Access, Limit},
    agents, audit, auth, calls, constraints, credentials, events, examples, health, instances, invitations, logs,
    members, oidc, pairing,
    router::{Route, routes},
    runtime, secrets, services, teams, users,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Towline",
        description = "Deploys containers on machines that only dial out, and lets callers reach them through a tunnel.\n\n\
            What a service answers to calls is described by the service itself: `openapi_url` says where.\n\n\
            Every error is a problem document (RFC 9457) with a stable `error_code`. Every answer carries `X-Request-Id`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "people", description = "Signing in, who one is, teams, their members and invitations."),
        (name = "credentials", description = "Keys of programs, agents and devices; pairing of devices."),
        (name = "services", description = "Services: define, deploy, look at."),
        (name = "secrets", description = "Values that definitions refer to and that nobody gets to see again."),
        (name = "agents", description = "The machines of the team."),
        (name = "audit", description = "Who did what."),
        (name = "runtime", description = "What callers of services see."),
        (name = "operations", description = "For whoever watches over the server."),
    ),
    paths(
        auth::login, auth::refresh, auth::logout, oidc::start, oidc::callback, users::me, users::update_me,
        teams::create, teams::list, teams::show, teams::update, teams::delete, teams::transfer, teams::leave,
        members::list, members::show, members::update, members::remove,
        invitations::create, invitations::list, invitations::revoke, invitations::accept,
        credentials::create, credentials::list, credentials::revoke,
        pairing::start, pairing::poll, pairing::confirm, pairing::revoke,
        services::create, services::list, services::show, services::update, services::delete,
        services::deploy, services::undeploy, services::restart,
        instances::list, events::list, logs::read, agents::list, audit::list, audit::export,
        secrets::create, secrets::list, secrets::show, secrets::update, secrets::delete,
        runtime::list_services, runtime::show_service, runtime::create_ticket, runtime::list_agents,
        calls::call, calls::invoke,
        serve, health::healthz, health::readyz,
    ),
    components(schemas(towline_model::Problem)),
)]
struct Document;

/// The document, in a form that is the same each time it is made.
#[must_use]
pub fn openapi_json() -> String {
    let mut document = serde_json::to_value(Document::openapi()).expect("an OpenAPI document is JSON");
    document["components"]["securitySchemes"] = security_schemes();
    document["components"]["headers"] = headers();
    constraints::add_to_schemas(&mut document["components"]["schemas"]);
    join_service_schemas(&mut document["components"]["schemas"]);
    document["components"]["schemas"]["Problem"]["properties"]["error_code"]["enum"] =
        ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    for route in routes() {
        let method = route.method.as_str().to_ascii_lowercase();
        let operation = &mut document["paths"][route.path][method];
        if operation.is_object() {
            describe_access(operation, &route);
        }
    }
    calls::describe(&mut document["paths"]);
    tell_range_of_unsigned(&mut document);
    examples::add_examples(&mut document);
    let mut text = serde_json::to_string_pretty(&sorted(document)).expect("a value is JSON");
    text.push('\n');
    text
}

/// Describe this API.
///
/// The OpenAPI 3.1 document of all of it.
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    operation_id = "get_openapi",
    tag = "operations",
    responses((status = 200, description = "The document.", body = serde_json::Value))
)]
pub async fn serve() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(openapi_json);
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

fn security_schemes() -> Value {
    json!({
        "access_token": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "A signed-in user's token from POST /api/v1/auth/login. On a team's resources send X-Team-ID, too.",
        },
        "team": {
            "type": "apiKey", "in": "header", "name": "X-Team-ID",
            "description": "The id of the team that a call with an access token is about.",
        },
        "key": {
            "type": "http", "scheme": "bearer",
            "description": "An integration key (sk-) or a device's key (dk-). It brings its team; X-Team-ID is ignored. It is also taken \
                from X-Towline-Key, X-Api-Key, api-key and x-goog-api-key.",
        },
        "key_header": {
            "type": "apiKey", "in": "header", "name": "X-Towline-Key",
            "description": "The same in a header of its own: a call's Authorization then reaches the container as it is.",
        },
    })
}

/// The headers of answers, to be referred to.
fn headers() -> Value {
    let text = |description: &str| json!({"description": description, "schema": {"type": "string"}});
    let mut request_id = text("The request's id: the caller's, when it was well-formed, or a new one.");
    request_id["required"] = json!(true);
    request_id["schema"]["pattern"] = json!("^[A-Za-z0-9._-]{1,128}$");
    json!({
        "X-Request-Id": request_id,
        "WWW-Authenticate": text("What a credential is expected to be (RFC 6750)."),
        "Retry-After": text("After how many seconds the request may be sent again."),
        "ETag": text("The tag of this answer, for If-None-Match, and for If-Match where the thing can be changed."),
        "Proxy-Status": text("Why the gateway answers in place of the container (RFC 9209)."),
        "X-Should-Retry": text("`false` when the container may have seen a request that must not be sent twice."),
        "X-Towline-Request-Id": text("The request's id, beside the container's own headers."),
        "X-Towline-Instance": text("The instance that has answered, for callers that have sent X-Towline-Affinity."),
    })
}

/// Lets an answer have headers of [`headers`].
pub(super) fn add_headers(answer: &mut Value, names: &[&str]) {
    for name in names {
        answer["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
    }
}

/// What the table of routes says: who may, with what, and the errors that follow from it.
fn describe_access(operation: &mut Value, route: &Route) {
    let mut errors = vec![ErrorCode::Internal, ErrorCode::Unavailable];
    operation["security"] = match route.access {
        Access::Public => json!([]),
        Access::Anybody => json!([{}, {"access_token": []}]),
        Access::SignedIn => json!([{"access_token": []}]),
        Access::Device => json!([{"key": []}]),
        Access::Team(action) if takes_keys(action) => json!([{"access_token": [], "team": []}, {"key": []}]),
        Access::Team(_) => json!([{"access_token": [], "team": []}]),
    };
    operation["x-permission"] = permission(route.access);
    if route.limit != Limit::None {
        errors.push(ErrorCode::RateLimited);
    }
    if route.access != Access::Public {
        errors.extend([ErrorCode::Unauthenticated, ErrorCode::MalformedRequest]);
    }
    if route.access == Access::Device {
        // A token can be sent, too, and is told that it is the wrong thing.
        errors.extend([ErrorCode::TeamRequired, ErrorCode::InvalidParameter]);
        errors.extend([ErrorCode::Forbidden, ErrorCode::NotInTeam]);
    }
    if let Access::Team(_) = route.access {
        errors.extend([
            ErrorCode::TeamRequired,
            ErrorCode::InvalidParameter,
            ErrorCode::Forbidden,
            ErrorCode::NotInTeam,
        ]);
    }
    if route.access == Access::Team(Action::InvokeServices) {
        errors.extend([ErrorCode::ServiceNotRunning]);
    }
    if route.path.contains('{') {
        errors.extend([ErrorCode::InvalidParameter, ErrorCode::NotFound]);
    }
    if operation["requestBody"].is_object() {
        operation["requestBody"]["required"] = json!(true);
        errors.extend([ErrorCode::MalformedBody, ErrorCode::ValidationFailed]);
        errors.extend([ErrorCode::BodyTooLarge, ErrorCode::UnsupportedMediaType]);
    }
    if route.method == Method::POST && route.access != Access::Public {
        add_header(operation, "Idempotency-Key", "Sent again within 24 hours, the request is carried out once.");
        errors.extend([ErrorCode::IdempotencyKeyInUse, ErrorCode::IdempotencyKeyUsed]);
        errors.push(ErrorCode::IdempotencyKeyReused);
    }
    if takes_if_match(route) {
        add_header(
            operation,
            "If-Match",
            "The ETag of what is changed, as it was read, or *; 412 when it was changed since.",
        );
        errors.push(ErrorCode::PreconditionFailed);
    }
    if operation["parameters"].is_array() {
        errors.push(ErrorCode::InvalidParameter);
    }
    add_errors(&mut operation["responses"], &errors);
    constraints::add_to_parameters(operation);
    describe_headers(operation, route.method == Method::GET);
}

fn describe_headers(operation: &mut Value, is_get: bool) {
    for (status, answer) in operation["responses"].as_object_mut().into_iter().flatten() {
        add_headers(answer, &["X-Request-Id"]);
        match status.as_str() {
            "200" if is_get && answer["content"].get("application/json").is_some() => add_headers(answer, &["ETag"]),
            "401" => add_headers(answer, &["WWW-Authenticate"]),
            "429" | "503" => add_headers(answer, &["Retry-After"]),
            _ => {}
        }
    }
}

/// Whether a route changes something that can be read with an ETag.
fn takes_if_match(route: &Route) -> bool {
    let is_thing = ["/api/v1/containers/{id}", "/api/v1/secrets/{id}", "/api/v1/members/{id}"]
        .iter()
        .any(|thing| route.path.starts_with(thing));
    route.method == Method::PUT || (route.method != Method::GET && is_thing)
}

/// Adds an optional header to the parameters.
fn add_header(operation: &mut Value, name: &str, description: &str) {
    let header = json!({
        "name": name, "in": "header", "required": false, "description": description, "schema": {"type": "string"},
    });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(header),
        None => operation["parameters"] = json!([header]),
    }
}

/// Adds the errors that are not described yet; several codes of one status share an answer.
pub(super) fn add_errors(responses: &mut Value, errors: &[ErrorCode]) {
    let Some(responses) = responses.as_object_mut() else { return };
    for code in ErrorCode::ALL.iter().filter(|code| errors.contains(code)) {
        let status = code.status().to_string();
        let name = format!("`{}`", code.as_str());
        let sentence = format!("{name}: {}", code.title());
        match responses.get_mut(&status) {
            Some(answer) => {
                let before = answer["description"].as_str().unwrap_or_default();
                if before.contains(&name) {
                    continue;
                }
                answer["description"] = json!(format!("{before} {sentence}"));
            }
            None => {
                responses.insert(status, problem_response(&sentence));
            }
        }
    }
}

fn problem_response(description: &str) -> Value {
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    json!({"description": description, "content": {"application/problem+json": {"schema": schema}}})
}

/// Who may use a route: the weakest role, and the scope that an integration key needs.
pub(super) fn permission(access: Access) -> Value {
    let action = match access {
        Access::Public => return json!({"needs": "nothing"}),
        Access::Anybody => return json!({"needs": "nothing, or a signed-in user"}),
        Access::SignedIn => return json!({"needs": "a signed-in user"}),
        Access::Device => return json!({"needs": "a device's key"}),
        Access::Team(action) => action,
    };
    let (user_id, team_id) = (UserId::from_uuid(uuid::Uuid::nil()), TeamId::from_uuid(uuid::Uuid::nil()));
    let sign_in = SignInId::from_uuid(uuid::Uuid::nil());
    let role = Role::ALL.into_iter().find(|&role| Principal::User { user_id, team_id, role, sign_in }.may(action));
    let scope = Scope::ALL.into_iter().find(|&scope| key_with(scope).may(action));
    json!({"role": role.map(Role::as_str), "scope": scope.map(Scope::as_str)})
}

fn takes_keys(action: Action) -> bool {
    Scope::ALL.into_iter().any(|scope| key_with(scope).may(action))
}

fn key_with(scope: Scope) -> Principal {
    Principal::Integration {
        credential_id: CredentialId::from_uuid(uuid::Uuid::nil()),
        team_id: TeamId::from_uuid(uuid::Uuid::nil()),
        scopes: [scope].into(),
        services: None,
    }
}

/// A service is its definition and what is observed of it; a change of it is a part of its definition.
fn join_service_schemas(schemas: &mut Value) {
    let definition = schemas["ServiceSpec"].clone();
    let observed = schemas["ServiceObserved"].clone();
    if let Some(schemas) = schemas.as_object_mut() {
        schemas.remove("ServiceObserved");
    }
    let mut properties = definition["properties"].as_object().cloned().unwrap_or_default();
    let needed = definition["required"].as_array().cloned().unwrap_or_default();
    let wished: Map<_, _> = properties
        .iter()
        .map(|(name, schema)| {
            let is_needed = needed.contains(&json!(name));
            (name.clone(), if is_needed { schema.clone() } else { nullable(schema) })
        })
        .collect();
    schemas["ServiceChanges"] = json!({
        "type": "object",
        "description": "Fields of a definition. One that is left out keeps its value, null returns an optional one to its default. \
            Together they must be fields of one type, which is the service's; its slug and its type can be sent only as they are.",
        "properties": wished,
        "additionalProperties": false,
        // Both are alternatives of which several can fit.
        "allOf": [
            {"anyOf": constraints::of_changes(constraints::kinds_of_service())},
            {"anyOf": constraints::of_changes(definition["anyOf"].clone())},
        ],
    });
    schemas["ServiceSpec"]["properties"] = Value::Object(wished);
    schemas["ServiceSpec"]["oneOf"] = constraints::kinds_of_service();
    // Optional fields without a default are left out of an answer; all others are always there.
    let mut required: Vec<_> =
        properties.iter().filter(|(_, schema)| !is_nullable(schema)).map(|(name, _)| json!(name)).collect();
    properties.extend(observed["properties"].as_object().cloned().unwrap_or_default());
    required.extend(observed["properties"].as_object().into_iter().flat_map(Map::keys).map(|name| json!(name)));
    schemas["ServiceSpec"]["example"] =
        json!({"service_slug": "hello", "display_name": "Hello", "docker_image": "towline-demo:latest"});
    schemas["ServiceChanges"]["example"] = json!({"docker_image": "towline-demo:2", "replica_count": 2});
    schemas["Service"] = json!({
        "type": "object",
        "description": "A service: its definition, and what is observed of it.",
        "properties": properties,
        "required": required,
    });
}

/// A number of 32 bits without a sign does not fit into the format `int32`, by which it is described.
fn tell_range_of_unsigned(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let is_unsigned = fields.get("minimum").and_then(Value::as_i64).is_some_and(|minimum| minimum >= 0);
            if is_unsigned && fields.get("format").is_some_and(|format| format == "int32") {
                fields.insert("format".to_owned(), json!("int64"));
                fields.entry("maximum").or_insert_with(|| json!(u32::MAX));
            }
            fields.values_mut().for_each(tell_range_of_unsigned);
        }
        Value::Array(items) => items.iter_mut().for_each(tell_range_of_unsigned),
        _ => {}
    }
}

fn is_nullable(schema: &Value) -> bool {
    let has_null = |types: &Value| types.as_array().is_some_and(|types| types.contains(&json!("null")));
    has_null(&schema["type"])
        || schema["oneOf"].as_array().is_some_and(|schemas| schemas.contains(&json!({"type": "null"})))
}

fn nullable(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if is_nullable(&schema) {
        return schema;
    }
    match schema["type"].clone() {
        Value::String(kind) => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        _ => json!({"oneOf": [{"type": "null"}, schema]}),
    }
}

/// The same with the names of every object in order, whatever map this build uses.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries.into_iter().map(|(name, value)| (name, sorted(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}
