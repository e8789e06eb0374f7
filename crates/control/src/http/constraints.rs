//! What the descriptions of the fields cannot say of themselves, as JSON Schema: how texts are written, and which fields
//! exclude or need each other. The rules are the model's; this is how a client learns of them before it asks.
//!
//! Not here, because JSON Schema has no words for it: names and paths that are unique within a list, sizes in bytes, and
//! whether what is referred to exists.

use serde_json::{Map, Value, json};
use towline_model::{AuditAction, Role};

use super::page::CURSOR_PATTERN;

/// A text without NUL.
const NO_NUL: &str = r"^[^\x00]*$";
/// A name for people.
const NO_CONTROLS: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";
/// A path, and perhaps a query, of an HTTP request.
const HTTP_PATH: &str = r#"^/(?:[!"$-.0-\[\]-~][!"$-\[\]-~]*)?$"#;
const LABEL: &str = "^[A-Za-z0-9](?:[A-Za-z0-9._/=-]{0,61}[A-Za-z0-9])?$";
const SECRET_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$";
/// A part of an absolute path: anything but `..`.
const PATH_PART: &str = r"(?:[^./:\x00-\x1f\x7f-\x9f][^/:\x00-\x1f\x7f-\x9f]*|\.|\.[^./:\x00-\x1f\x7f-\x9f][^/:\x00-\x1f\x7f-\x9f]*|\.\.[^/:\x00-\x1f\x7f-\x9f]+)";
const PORT: &str = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
const IPV6: &str = "(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|(?:[0-9A-Fa-f]{1,4}:){1,7}:\
    |(?:[0-9A-Fa-f]{1,4}:){1,6}:[0-9A-Fa-f]{1,4}|(?:[0-9A-Fa-f]{1,4}:){1,5}(?::[0-9A-Fa-f]{1,4}){1,2}\
    |(?:[0-9A-Fa-f]{1,4}:){1,4}(?::[0-9A-Fa-f]{1,4}){1,3}|(?:[0-9A-Fa-f]{1,4}:){1,3}(?::[0-9A-Fa-f]{1,4}){1,4}\
    |(?:[0-9A-Fa-f]{1,4}:){1,2}(?::[0-9A-Fa-f]{1,4}){1,5}|[0-9A-Fa-f]{1,4}:(?::[0-9A-Fa-f]{1,4}){1,6}\
    |:(?::[0-9A-Fa-f]{1,4}){1,7}|::)";

/// Adds them to the schemas, before those of services are joined.
pub(super) fn add_to_schemas(schemas: &mut Value) {
    add_patterns(schemas);
    let names = [
        ("CreateCredentialRequest", "display_name"),
        ("TeamRequest", "team_name"),
        ("UpdateMeRequest", "display_name"),
        ("AcceptRequest", "display_name"),
        ("ConfirmPairingRequest", "device_name"),
    ];
    for (schema, field) in names {
        schemas[schema]["properties"][field]["pattern"] = json!(NO_CONTROLS);
    }
    for schema in ["CreateSecretRequest", "UpdateSecretRequest"] {
        let fields = &mut schemas[schema]["properties"];
        fields["name"]["pattern"] = json!(SECRET_NAME);
        fields["description"]["pattern"] = json!(NO_NUL);
        fields["value"]["pattern"] = json!(NO_NUL);
    }
    let invited: Vec<_> = Role::ALL.into_iter().filter(|&role| role != Role::Owner).map(Role::as_str).collect();
    let role = &mut schemas["CreateInvitationRequest"]["properties"]["invitation_role"];
    *role = json!({"type": "string", "enum": invited, "description": role["description"]});
    // Keys of agents have no scopes and no list of services.
    schemas["CreateCredentialRequest"]["oneOf"] = json!([
        {"properties": {"kind": {"const": "integration"}}},
        {"properties": {"kind": {"const": "agent"}, "scopes": {"type": "null"}, "services": {"type": "null"}}},
    ]);
    // A password is proved, and a sign-in kept, for a new password only.
    schemas["UpdateMeRequest"]["anyOf"] = json!([
        {"properties": {"current_password": {"type": "null"}, "refresh_token": {"type": "null"}}},
        {"properties": {"new_password": {"type": "string"}}, "required": ["new_password"]},
    ]);
    // A line has a length only where there is one.
    schemas["ServiceSpec"]["anyOf"] = json!([
        {"properties": {"max_queued_requests": {"type": "null"}}},
        {"properties": {"max_concurrent_requests": {"type": "integer"}}, "required": ["max_concurrent_requests"]},
    ]);
    schemas["EnvEntry"]["oneOf"] = json!([
        {"properties": {"env_value": {"type": "string"}, "secret_id": {"type": "null"}}, "required": ["env_value"]},
        {"properties": {"secret_id": {"type": "string"}, "env_value": {"type": "null"}}, "required": ["secret_id"]},
    ]);
}

fn add_patterns(schemas: &mut Value) {
    let described = &mut schemas["InvokeRequest"]["properties"]["headers"];
    described["maxProperties"] = json!(100);
    described["propertyNames"] = json!({"pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"});
    described["additionalProperties"]["pattern"] = json!(r"^[^\x00-\x08\x0a-\x1f\x7f]*$");
    let part = format!("(?:{PATH_PART})?");
    let label = "(?:[A-Za-z0-9_][A-Za-z0-9_-]{0,62})";
    let domain = "(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)";
    let top = "(?:[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)";
    let octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let host = format!(r"(?:(?:{domain}\.)*{top}|(?:{octet}\.){{3}}{octet}|\[{IPV6}\])");
    let component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    // A first part with a dot or a port is a registry's name.
    let plain = "[a-z0-9]+(?:(?:__?|-+)[a-z0-9]+)*";
    let registry = format!(r"{domain}(?:\.{domain})*(?::{PORT})?");
    let image = format!(
        "^(?:{component}|(?:{registry}|{plain})(?:/{component})+)(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@[A-Za-z0-9+._-]+:[0-9A-Fa-f]{{32,}})?$"
    );
    let spec = &mut schemas["ServiceSpec"]["properties"];
    for (field, pattern) in [
        ("display_name", NO_CONTROLS),
        ("service_desc", NO_NUL),
        ("usage_prompt", NO_NUL),
        ("openapi_url", HTTP_PATH),
        ("health_path", HTTP_PATH),
        ("docker_image", image.as_str()),
        ("attached_target", &format!(r"^(?:{label}(?:\.{label}){{0,3}}|\[{IPV6}\]):{PORT}$")),
        ("external_url", &format!(r#"^[Hh][Tt][Tt][Pp][Ss]://{host}(?::{PORT})?(?:/[!"$->@-\[\]-~]*)?$"#)),
    ] {
        spec[field]["pattern"] = json!(pattern);
    }
    for (field, pattern) in [("required_labels", LABEL), ("command", NO_NUL), ("args", NO_NUL)] {
        spec[field]["items"]["pattern"] = json!(pattern);
    }
    schemas["EnvEntry"]["properties"]["env_value"]["pattern"] = json!(NO_NUL);
    let mount = &mut schemas["VolumeMount"]["properties"];
    mount["host_path"]["pattern"] = json!(format!("^(?:/{part})+$"));
    mount["container_path"]["pattern"] = json!(format!("^/+{PATH_PART}(?:/{part})*$"));
}

/// What a definition of each type has, and has not. The values of `exposed_port` and `health_path` that a container has
/// unless others are given are passed over where they mean nothing.
pub(super) fn kinds_of_service() -> Value {
    let none = || json!({"type": "null"});
    let only_containers = |fields: &mut Map<String, Value>| {
        for field in ["docker_image", "registry_auth_secret_id", "command", "args", "cpu_limit", "memory_limit_bytes"] {
            fields.insert(field.to_owned(), none());
        }
        for field in ["env_config", "volume_config"] {
            fields.insert(field.to_owned(), json!({"maxItems": 0}));
        }
        fields.insert("gpu_count".to_owned(), json!({"enum": [0, null]}));
        fields.insert("exposed_port".to_owned(), json!({"enum": [8080, null]}));
    };
    let kind = |name: &str, own: &str, fields: Map<String, Value>| {
        let mut properties = fields;
        properties.insert("service_type".to_owned(), json!({"const": name}));
        properties.insert(own.to_owned(), json!({"type": "string"}));
        json!({"title": name, "properties": properties, "required": ["service_type", own]})
    };
    let mut external = Map::new();
    only_containers(&mut external);
    external.insert("attached_target".to_owned(), none());
    external.insert("app_protocol".to_owned(), json!({"enum": ["http1", null]}));
    external.insert("health_path".to_owned(), json!({"enum": ["/health", null]}));
    let mut attached = Map::new();
    only_containers(&mut attached);
    attached.extend(["external_url", "external_auth_credential_id"].map(|field| (field.to_owned(), none())));
    let others = ["attached_target", "external_url", "external_auth_credential_id"];
    let deployed = others.map(|field| (field.to_owned(), none())).into_iter().collect();
    let mut deployed = kind("deployed", "docker_image", deployed);
    // It is the type of a definition that names none.
    deployed["properties"]["service_type"] = json!({"enum": ["deployed", null]});
    deployed["required"] = json!(["docker_image"]);
    json!([deployed, kind("external", "external_url", external), kind("attached", "attached_target", attached)])
}

/// The same alternatives for a change of a definition: what they need may be there already, and what they exclude must
/// not come beside it.
pub(super) fn of_changes(mut alternatives: Value) -> Value {
    for fields in alternatives.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        fields.remove("required");
    }
    alternatives
}

/// Says of the parameters how they are written.
pub(super) fn add_to_parameters(operation: &mut Value) {
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        let schema = match parameter["name"].as_str().unwrap_or_default() {
            "Idempotency-Key" => {
                json!({"type": "string", "pattern": "^[!-~]{1,255}$", "example": "0d7c6a3e-1f0a-4f0e-8d8b-5e2f9f0c1a44"})
            }
            // `*`, or tags with their quotes (RFC 9110 §8.8.3 and §13.1.1); ours hold no comma.
            "If-Match" => json!({
                "anyOf": [
                    {"const": "*"},
                    {"type": "string", "pattern": r#"^(W/)?"[!#-+\x2d-~]*"(, ?(W/)?"[!#-+\x2d-~]*")*$"#},
                ],
                "example": "*",
            }),
            "cursor" => json!({
                "type": "string", "pattern": CURSOR_PATTERN, "example": "AAZXqGkCsIABkywHik57vZxFL0sfDTp3",
            }),
            "action" => json!({
                "type": "string",
                "enum": AuditAction::ALL.iter().map(|action| action.as_str()).collect::<Vec<_>>(),
            }),
            _ => continue,
        };
        parameter["schema"] = schema;
    }
}
