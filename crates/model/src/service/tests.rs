//! The rules of a definition, field by field.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const SECRET: &str = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("an object") };
    map
}

fn minimal() -> Value {
    json!({"service_slug": "hello", "display_name": "Hello", "docker_image": "demo"})
}

fn with(field: &str, value: Value) -> Result<ServiceSpec, ValidationError> {
    let mut map = object(minimal());
    map.insert(field.to_owned(), value);
    ServiceSpec::from_json(map)
}

#[test]
fn defaults_are_those_of_the_contract() {
    let spec = ServiceSpec::from_json(object(minimal())).unwrap();
    assert_eq!((spec.exposed_port, spec.container_port()), (Some(8080), 8080));
    assert_eq!(spec.health_path.as_deref(), Some("/health"));
    assert_eq!(spec.replica_count, 1);
    assert_eq!(spec.gpu_count, 0);
    assert_eq!(spec.service_desc, "");
    assert_eq!(spec.service_type, ServiceType::Deployed);
}

#[test]
fn every_field_is_checked_and_named() {
    let long = "x".repeat(256);
    for (field, value) in [
        ("service_slug", json!("ab")),
        ("service_slug", json!("-abc")),
        ("service_slug", json!("Abc")),
        ("service_slug", json!("a".repeat(101))),
        ("display_name", json!("")),
        ("display_name", json!(long)),
        ("docker_image", json!("a b")),
        ("docker_image", json!(null)),
        ("exposed_port", json!(0)),
        ("exposed_port", json!(65536)),
        ("exposed_port", json!("80")),
        ("app_protocol", json!("http2")),
        ("health_path", json!("health")),
        ("health_path", json!("//evil/health")),
        ("openapi_url", json!("https://elsewhere/openapi.json")),
        ("env_config", json!([{"env_name": "1X", "env_value": ""}])),
        ("env_config", json!([{"env_name": "X", "env_value": MASKED}])),
        ("env_config", json!([{"env_name": "X", "env_value": "1"}, {"env_name": "X", "env_value": "2"}])),
        ("env_config", json!([{"env_name": "X", "env_value": "1", "secret": true}])),
        ("env_config", json!([{"env_name": "X"}])),
        ("env_config", json!([{"env_name": "X", "env_value": "1", "secret_id": SECRET}])),
        ("env_config", json!([{"env_name": "X", "secret_id": "nonsense"}])),
        ("registry_auth_secret_id", json!("nonsense")),
        ("volume_config", json!([{"host_path": "relative", "container_path": "/x"}])),
        ("volume_config", json!([{"host_path": "/a/../etc", "container_path": "/x"}])),
        ("volume_config", json!([{"host_path": "/a", "container_path": "/"}])),
        ("required_labels", json!(["gpu", ""])),
        ("gpu_count", json!(-2)),
        ("replica_count", json!(0)),
        ("replica_count", json!(11)),
        ("cpu_limit", json!(0)),
        ("memory_limit_bytes", json!(1024)),
        ("request_timeout_seconds", json!(0)),
        ("connect_timeout_seconds", json!(301)),
        ("first_byte_timeout_seconds", json!(0)),
        ("idle_timeout_seconds", json!(86401)),
        ("max_concurrent_requests", json!(0)),
        ("max_queued_requests", json!(5)),
        ("probe", json!({"interval_seconds": 0})),
    ] {
        let error = with(field, value.clone()).expect_err(&format!("{field} = {value}"));
        assert!(error.fields.iter().any(|e| e.field.starts_with(field)), "{field} = {value}: {error}");
    }
    let error = with("colour", json!("red")).unwrap_err();
    assert!(error.to_string().contains("colour"), "{error}");
}

#[test]
fn a_definition_has_a_size() {
    let words = |bytes: usize| json!(vec!["x".repeat(bytes / 4); 4]);
    assert!(with("command", words(128 << 10)).is_ok());
    let error = with("command", words((128 << 10) + 4)).unwrap_err();
    assert_eq!((error.fields.len(), error.fields[0].field.as_str()), (1, "command"), "{error}");

    // By parts, and by updates that are small enough each.
    let spec = with("args", words(60 << 10)).unwrap();
    let value = "v".repeat(64 << 10);
    let env = json!({"env_config": [{"env_name": "A", "env_value": value}]});
    let spec = spec.merge(object(env)).unwrap();
    let error = spec.merge(object(json!({"command": words(4 << 10)}))).unwrap_err();
    assert_eq!(error.fields[0].field, "env_config");
    assert!(error.to_string().contains("128 KiB"), "{error}");
    let path = format!("/{}", "p".repeat(4000));
    let error = spec.merge(object(json!({"volume_config": [{"host_path": path, "container_path": path}]})));
    assert!(error.is_err());
}

#[test]
fn all_errors_are_told_at_once() {
    let error = ServiceSpec::from_json(object(json!({
        "service_slug": "x", "display_name": "", "docker_image": "", "replica_count": 99,
    })))
    .unwrap_err();
    assert_eq!(error.fields.len(), 4, "{error}");
}

#[test]
fn null_is_the_same_as_leaving_a_field_out() {
    let mut map = object(minimal());
    map.extend(object(json!({
        "env_config": null, "exposed_port": null, "external_url": null, "external_auth_credential_id": null,
    })));
    assert_eq!(ServiceSpec::from_json(map), ServiceSpec::from_json(object(minimal())));
    assert!(with("display_name", json!(null)).is_err());
    assert!(with("external_auth_credential_id", json!("x")).is_err());
}

#[test]
fn an_update_keeps_clears_and_replaces() {
    let mut map = object(minimal());
    map.extend(object(
        json!({"usage_prompt": "say hi", "replica_count": 3, "env_config": [{"env_name": "A", "env_value": "1"}]}),
    ));
    let spec = ServiceSpec::from_json(map).unwrap();
    let changed =
        spec.merge(object(json!({"usage_prompt": null, "display_name": "Other", "replica_count": null}))).unwrap();
    assert_eq!(changed.usage_prompt, None);
    assert_eq!(changed.display_name, "Other");
    assert_eq!(changed.replica_count, 1);
    assert_eq!(changed.env_config, spec.env_config);
    assert!(spec.merge(object(json!({"display_name": null}))).is_err());
    assert!(spec.merge(object(json!({"service_slug": "other"}))).is_err());
    assert!(spec.merge(object(json!({"colour": null}))).is_err());
    assert_eq!(spec.merge(Map::new()).unwrap(), spec);
}

#[test]
fn the_list_of_fields_is_complete() {
    let mut map = object(minimal());
    map.extend(object(json!({
        "usage_prompt": "u", "openapi_url": "/o", "command": ["c"], "args": ["a"], "cpu_limit": 1.0,
        "memory_limit_bytes": 1 << 30, "request_timeout_seconds": 1, "registry_auth_secret_id": SECRET,
        "connect_timeout_seconds": 1, "first_byte_timeout_seconds": 1, "idle_timeout_seconds": 1,
        "max_concurrent_requests": 1, "max_queued_requests": 0,
    })));
    let spec = ServiceSpec::from_json(map).unwrap();
    let stored = object(serde_json::to_value(&spec).unwrap());
    assert_eq!(stored.len(), 27);
    let attached = serde_json::to_value(typed("attached", "attached_target", "h:1")).unwrap();
    let external = typed("external", "external_url", "https://h");
    let external = external.merge(object(json!({"external_auth_credential_id": SECRET}))).unwrap();
    let external = serde_json::to_value(external).unwrap();
    let stored: Map<_, _> = stored.into_iter().chain(object(attached)).chain(object(external)).collect();
    assert_eq!(stored.len(), 30);
    assert!(stored.keys().all(|field| is_field(field)), "{stored:?}");
}

#[test]
fn what_cannot_be_changed_is_told_before_anything_else() {
    let deployed = ServiceSpec::from_json(object(minimal())).unwrap();
    let attached = typed("attached", "attached_target", "127.0.0.1:11434");
    for (spec, changes, fields) in [
        (&deployed, json!({"service_slug": "other", "replica_count": 99}), &["service_slug"][..]),
        (&deployed, json!({"service_slug": null}), &["service_slug"]),
        (&deployed, json!({"service_slug": 5}), &["service_slug"]),
        (&deployed, json!({"service_type": "attached"}), &["service_type"]),
        (&deployed, json!({"service_type": "attached", "attached_target": "h:1"}), &["service_type"]),
        (
            &deployed,
            json!({"service_type": "external", "docker_image": null, "external_url": "https://h"}),
            &["service_type"],
        ),
        (&deployed, json!({"service_type": "nonsense"}), &["service_type"]),
        (&attached, json!({"service_type": null, "attached_target": null, "docker_image": "demo"}), &["service_type"]),
        (&attached, json!({"service_type": "deployed", "service_slug": "other"}), &["service_slug", "service_type"]),
    ] {
        let error = spec.merge(object(changes.clone())).expect_err(&changes.to_string());
        let named: Vec<_> = error.fields.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(named, fields, "{changes}: {error}");
        for told in &error.fields {
            assert!(told.message.contains("after creation"), "{changes}: {error}");
            assert!(told.message.contains("create another service and delete this one"), "{changes}: {error}");
        }
    }
    let same = json!({"service_slug": "hello", "service_type": "attached"});
    assert_eq!(attached.merge(object(same)).unwrap(), attached);
    assert_eq!(deployed.merge(object(json!({"service_type": null}))).unwrap(), deployed, "its default");
}

fn typed(service_type: &str, field: &str, value: &str) -> ServiceSpec {
    let text = json!({"service_slug": "hello", "display_name": "Hello", "service_type": service_type, field: value});
    ServiceSpec::from_json(object(text)).unwrap()
}

#[test]
fn each_type_has_its_own_fields_and_no_other() {
    let attached = typed("attached", "attached_target", "127.0.0.1:11434");
    assert_eq!((attached.exposed_port, &attached.health_path), (None, &None));
    assert_eq!(attached.attached().unwrap().to_string(), "127.0.0.1:11434");
    let external = typed("external", "external_url", "https://api.example.com/v1");
    assert_eq!(external.external().unwrap().authority(), "api.example.com");
    let deployed = ServiceSpec::from_json(object(minimal())).unwrap();
    let container = [
        ("exposed_port", json!(9000)),
        ("env_config", json!([{"env_name": "A", "env_value": "1"}])),
        ("volume_config", json!([{"host_path": "/a", "container_path": "/b"}])),
        ("gpu_count", json!(1)),
        ("command", json!(["a"])),
        ("args", json!(["a"])),
        ("cpu_limit", json!(1)),
        ("memory_limit_bytes", json!(1 << 30)),
        ("docker_image", json!("demo")),
        ("registry_auth_secret_id", json!(SECRET)),
    ];
    let wrong = [
        (&deployed, "attached_target", json!("127.0.0.1:1")),
        (&deployed, "external_url", json!("https://h")),
        (&deployed, "external_auth_credential_id", json!(SECRET)),
        (&attached, "external_auth_credential_id", json!(SECRET)),
        (&external, "external_auth_credential_id", json!("nonsense")),
        (&deployed, "docker_image", json!(null)),
        (&attached, "external_url", json!("https://h")),
        (&attached, "attached_target", json!(null)),
        (&attached, "attached_target", json!("11434")),
        (&external, "attached_target", json!("127.0.0.1:1")),
        (&external, "external_url", json!(null)),
        (&external, "external_url", json!("http://h")),
        (&external, "health_path", json!("/healthz")),
        (&external, "app_protocol", json!("h2c")),
    ];
    let both = container
        .iter()
        .flat_map(|(field, value)| [(&attached, *field, value.clone()), (&external, *field, value.clone())]);
    for (spec, field, value) in both.chain(wrong) {
        let error = spec.merge(object(json!({ field: value }))).expect_err(&format!("{field} = {value}"));
        assert_eq!(error.fields.len(), 1, "{error}");
        assert_eq!(error.fields[0].field, field, "{error}");
    }
    // What clients send that send every field with its default.
    let defaults = json!({
        "exposed_port": 8080, "env_config": [], "volume_config": [], "gpu_count": 0, "replica_count": 1,
        "docker_image": null, "external_auth_credential_id": null,
    });
    assert_eq!(attached.merge(object(defaults.clone())).unwrap(), attached);
    assert_eq!(external.merge(object(defaults)).unwrap(), external);
    assert_eq!(external.merge(object(json!({"health_path": "/health"}))).unwrap(), external);
    let probed = attached.merge(object(json!({"health_path": "/health"}))).unwrap();
    assert_eq!(probed.health_path.as_deref(), Some("/health"));
    assert_eq!(probed.merge(object(json!({"health_path": null}))).unwrap(), attached);
    assert!(attached.merge(object(json!({"service_type": "external"}))).is_err());
}

#[test]
fn the_own_label_of_an_agent_is_a_label() {
    assert!(is_label(&own_label(crate::AgentId::generate())));
}

#[test]
fn references_to_secrets_are_kept_and_seen_by_everybody() {
    let env = json!([{"env_name": "A", "env_value": "1"}, {"env_name": "B", "secret_id": SECRET}]);
    let spec = with("env_config", env.clone()).unwrap().masked();
    let stored = serde_json::to_value(&spec).unwrap();
    assert_eq!(stored["env_config"][1], env[1]);
    let fields: Vec<_> = spec.secret_uses().into_iter().map(|used| used.field).collect();
    assert_eq!(fields, ["env_config[1].secret_id"]);
}

#[test]
fn values_of_the_environment_are_not_logged() {
    let spec = with("env_config", json!([{"env_name": "TOKEN", "env_value": "hunter2"}])).unwrap();
    assert!(!format!("{spec:?}").contains("hunter2"));
    assert_eq!(spec.masked().env_config[0].env_value.as_deref(), Some(MASKED));
}

proptest! {
    #[test]
    fn a_stored_definition_reads_back(port in 1u16.., replicas in 1u32..=10, desc in "[^\0]{0,40}") {
        let mut map = object(minimal());
        map.extend(object(json!({"exposed_port": port, "replica_count": replicas, "service_desc": desc})));
        let spec = ServiceSpec::from_json(map).unwrap();
        prop_assert_eq!(spec.merge(Map::new()).unwrap(), spec);
    }

    #[test]
    fn no_path_escapes_its_host(text in ".{0,20}") {
        if is_http_path(&text) {
            prop_assert!(text.starts_with('/') && !text.starts_with("//") && !text.contains(['\\', '\r', '\n', ' ']));
        }
    }
}
