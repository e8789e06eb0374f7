//! What has to be done so that the services are what the file says. Pure: no calls, no time.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use towline_model::{ServiceSpec, service::MASKED};

use crate::{client::Service, failure::Failure, output::printable};

/// What happens to one service.
pub struct Step {
    /// Its slug.
    pub slug: String,
    /// What is done.
    pub action: Action,
}

/// What is done with a service.
pub enum Action {
    /// Nothing: it is as wished.
    Keep,
    /// Define and deploy it.
    Create {
        /// The whole definition.
        spec: Box<ServiceSpec>,
    },
    /// Change and deploy it.
    Update {
        /// The service as it is.
        service: Box<Service>,
        /// The fields to send; null returns one to its default.
        changes: Map<String, Value>,
        /// Whether the environment's values could not be compared, since they are hidden from this key.
        is_env_hidden: bool,
    },
    /// Only deploy it.
    Deploy {
        /// The service as it is.
        service: Box<Service>,
    },
    /// Stop and forget it.
    Delete {
        /// The service as it is.
        service: Box<Service>,
    },
}

impl Step {
    /// Whether the service is deployed by this step.
    pub const fn deploys(&self) -> bool {
        matches!(self.action, Action::Create { .. } | Action::Update { .. } | Action::Deploy { .. })
    }

    /// What was done, in a word.
    pub const fn done(&self) -> &'static str {
        match self.action {
            Action::Keep => "unchanged",
            Action::Create { .. } => "created",
            Action::Update { .. } => "updated",
            Action::Deploy { .. } => "deployed",
            Action::Delete { .. } => "deleted",
        }
    }
}

/// Compares what is wished with what there is.
///
/// # Errors
/// When a service is in a state in which it cannot be changed, or a field would change that never can.
pub fn plan(wished: Vec<ServiceSpec>, present: &[Service], prune: bool) -> Result<Vec<Step>, Failure> {
    let slugs: BTreeSet<_> = wished.iter().map(|spec| spec.service_slug.clone()).collect();
    let mut steps = vec![];
    for spec in wished {
        let slug = spec.service_slug.clone();
        let service = present.iter().find(|service| service.view.service_slug == slug);
        let action = match service {
            None => Action::Create { spec: Box::new(spec) },
            Some(service) => compare(&spec, service)?,
        };
        steps.push(Step { slug, action });
    }
    let doomed = present.iter().filter(|service| prune && !slugs.contains(&service.view.service_slug));
    steps.extend(doomed.map(|service| Step {
        slug: service.view.service_slug.clone(),
        action: Action::Delete { service: Box::new(service.clone()) },
    }));
    Ok(steps)
}

fn compare(spec: &ServiceSpec, service: &Service) -> Result<Action, Failure> {
    let status = service.view.service_status.as_str();
    let (changes, is_env_hidden) = changes(spec, service.fields());
    let service = Box::new(service.clone());
    if !changes.is_empty() {
        if matches!(status, "deploying" | "stopping") {
            let slug = &spec.service_slug;
            return Err(Failure::new(format!("{slug} is {status} and cannot be changed until that is over"))
                .hint(format!("wait, or end it with: towline service undeploy {slug} --wait")));
        }
        return Ok(Action::Update { service, changes, is_env_hidden });
    }
    let runs = matches!(status, "running" | "deploying") && !is_given_up(&service);
    Ok(if runs && !is_undeployed_change(&service) { Action::Keep } else { Action::Deploy { service } })
}

/// Whether the definition was changed since it was deployed.
fn is_undeployed_change(service: &Service) -> bool {
    service.fields().get("has_undeployed_changes").and_then(Value::as_bool).unwrap_or(false)
}

/// Whether something older runs, since the newest deploy failed.
fn is_given_up(service: &Service) -> bool {
    service.view.rollout.as_ref().is_some_and(|rollout| rollout.state == "failed")
}

/// The fields that differ, as the API takes them, and whether environment values could not be compared.
fn changes(spec: &ServiceSpec, present: &Map<String, Value>) -> (Map<String, Value>, bool) {
    let Ok(Value::Object(wished)) = serde_json::to_value(spec) else { unreachable!("a definition is an object") };
    let is_env_hidden = is_masked(present);
    let mut changes = Map::new();
    for (field, value) in &wished {
        let same = if field == "env_config" && is_env_hidden {
            visible_env(value) == visible_env(&present[field])
        } else {
            present.get(field).is_some_and(|present| is_same(value, present))
        };
        if !same {
            changes.insert(field.clone(), value.clone());
        }
    }
    // What the file leaves out and has no default of its own is cleared.
    for field in [
        "docker_image",
        "registry_auth_secret_id",
        "health_path",
        "external_auth_credential_id",
        "usage_prompt",
        "openapi_url",
        "command",
        "args",
        "cpu_limit",
        "memory_limit_bytes",
        "request_timeout_seconds",
        "connect_timeout_seconds",
        "first_byte_timeout_seconds",
        "idle_timeout_seconds",
        "max_concurrent_requests",
        "max_queued_requests",
    ] {
        if !wished.contains_key(field) && present.get(field).is_some_and(|value| !value.is_null()) {
            changes.insert(field.to_owned(), Value::Null);
        }
    }
    (changes, is_env_hidden && wished["env_config"].as_array().is_some_and(|list| !list.is_empty()))
}

fn is_same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() < f64::EPSILON,
        _ => one == other,
    }
}

fn is_masked(present: &Map<String, Value>) -> bool {
    let list = present.get("env_config").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().any(|entry| entry.get("env_value").and_then(Value::as_str) == Some(MASKED))
}

/// What everybody sees of an environment: names, and which secrets.
fn visible_env(list: &Value) -> BTreeSet<(&str, &str)> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let seen =
        |entry| Some((Value::get(entry, "env_name")?.as_str()?, entry["secret_id"].as_str().unwrap_or_default()));
    list.iter().filter_map(seen).collect()
}

fn env_names(list: &Value) -> BTreeSet<&str> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|entry| entry.get("env_name")?.as_str()).collect()
}

/// The plan for people: `+` new, `~` changed, `-` gone.
pub fn to_text(steps: &[Step]) -> String {
    let mut lines = vec![];
    for Step { slug, action } in steps {
        match action {
            Action::Keep => lines.push(format!("  {slug}: as wished")),
            Action::Create { spec } => {
                let places = [&spec.docker_image, &spec.attached_target, &spec.external_url];
                let what = places.into_iter().flatten().next().map_or("", String::as_str);
                lines.push(format!("+ {slug}: create and deploy {what}"));
            }
            Action::Deploy { service } => {
                lines.push(format!("~ {slug}: deploy (it is {})", service.view.service_status))
            }
            Action::Delete { service } => {
                lines.push(format!("- {slug}: delete (it is {})", service.view.service_status))
            }
            Action::Update { service, changes, is_env_hidden } => {
                lines.push(format!("~ {slug}: update and deploy"));
                lines.extend(changes.iter().map(|(field, value)| change_text(field, value, service)));
                if *is_env_hidden {
                    lines
                        .push("    the environment's values are hidden from this key and were not compared".to_owned());
                }
            }
        }
    }
    lines.join("\n")
}

/// One field of a change. Values of the environment are never printed.
fn change_text(field: &str, value: &Value, service: &Service) -> String {
    let show = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "(default)".to_owned(),
        Some(value) if field == "env_config" => env_names(value).into_iter().collect::<Vec<_>>().join(", "),
        Some(value) => printable(&value.to_string()),
    };
    format!("    {field}: {} -> {}", show(service.fields().get(field)), show(Some(value)))
}

/// The plan for programs.
pub fn to_json(steps: &[Step]) -> Value {
    let steps: Vec<_> = steps
        .iter()
        .map(|step| {
            let fields = match &step.action {
                Action::Update { changes, .. } => changes.keys().cloned().collect(),
                _ => vec![],
            };
            json!({"service_slug": step.slug, "action": step.done(), "changed_fields": fields})
        })
        .collect();
    json!({ "step_list": steps })
}

/// What was done, in one line.
pub fn summary(steps: &[Step]) -> String {
    let words = ["created", "updated", "deployed", "deleted", "unchanged"];
    let counted = words.map(|word| (steps.iter().filter(|step| step.done() == word).count(), word));
    let parts: Vec<_> =
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> ServiceSpec {
        let Value::Object(map) = value else { panic!("an object") };
        ServiceSpec::from_json(map).unwrap()
    }

    fn hello(more: Value) -> ServiceSpec {
        let mut map = json!({"service_slug": "hello", "display_name": "Hello", "docker_image": "demo:1"});
        map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec(map)
    }

    fn service(spec: &ServiceSpec, status: &str) -> Service {
        let mut json = serde_json::to_value(spec).unwrap();
        json["id"] = json!("01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77");
        json["service_status"] = json!(status);
        json.try_into().unwrap()
    }

    fn text(wished: Vec<ServiceSpec>, present: &[Service], prune: bool) -> String {
        to_text(&plan(wished, present, prune).unwrap())
    }

    #[test]
    fn applying_twice_changes_nothing_the_second_time() {
        let wished = hello(json!({"cpu_limit": 2, "env_config": [{"env_name": "A", "env_value": "1"}]}));
        assert_eq!(text(vec![wished.clone()], &[], false), "+ hello: create and deploy demo:1");
        let present = service(&wished, "running");
        assert_eq!(text(vec![wished], &[present], false), "  hello: as wished");
    }

    #[test]
    fn only_what_differs_is_changed_and_what_is_left_out_returns_to_its_default() {
        let present = service(
            &hello(json!({"replica_count": 3, "usage_prompt": "say hi", "memory_limit_bytes": 1 << 30})),
            "running",
        );
        let wished = hello(json!({"docker_image": "demo:2", "memory_limit_bytes": 1 << 30}));
        insta::assert_snapshot!(text(vec![wished], &[present], false), @r#"
        ~ hello: update and deploy
            docker_image: "demo:1" -> "demo:2"
            replica_count: 3 -> 1
            usage_prompt: "say hi" -> (default)
        "#);
    }

    #[test]
    fn an_attached_service_is_applied_like_any_other() {
        let attached = |more: Value| {
            let mut map = json!({
                "service_slug": "ollama", "display_name": "Ollama", "service_type": "attached",
                "attached_target": "127.0.0.1:11434",
            });
            map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec(map)
        };
        let wished = attached(json!({}));
        assert_eq!(text(vec![wished.clone()], &[], false), "+ ollama: create and deploy 127.0.0.1:11434");
        let present = service(&wished, "running");
        assert_eq!(text(vec![wished.clone()], &[present], false), "  ollama: as wished");
        let present = service(&attached(json!({"health_path": "/api/tags"})), "running");
        let text = text(vec![wished], &[present], false);
        assert!(text.contains("health_path: \"/api/tags\" -> (default)"), "{text}");
    }

    #[test]
    fn what_does_not_run_is_deployed() {
        for status in ["created", "stopped", "failed"] {
            let wished = hello(json!({}));
            let present = service(&wished, status);
            assert_eq!(text(vec![wished], &[present], false), format!("~ hello: deploy (it is {status})"));
        }
    }

    #[test]
    fn prune_deletes_what_the_file_does_not_name() {
        let present = service(&hello(json!({})), "running");
        let other = hello(json!({"service_slug": "other"}));
        assert_eq!(
            text(vec![other.clone()], std::slice::from_ref(&present), false),
            "+ other: create and deploy demo:1"
        );
        let pruned = text(vec![other], &[present], true);
        assert_eq!(pruned, "+ other: create and deploy demo:1\n- hello: delete (it is running)");
    }

    #[test]
    fn hidden_values_are_neither_compared_nor_shown() {
        let env = json!({"env_config": [{"env_name": "TOKEN", "env_value": "hunter2"}]});
        let masked = service(&hello(env.clone()).masked(), "running");
        assert_eq!(text(vec![hello(env.clone())], std::slice::from_ref(&masked), false), "  hello: as wished");
        let mut more = env;
        more["replica_count"] = json!(2);
        let changed = text(vec![hello(more)], &[masked], false);
        assert!(changed.contains("were not compared") && !changed.contains("hunter2"), "{changed}");
        let present = service(&hello(json!({})), "running");
        let added = text(
            vec![hello(json!({"env_config": [{"env_name": "TOKEN", "env_value": "hunter2"}]}))],
            &[present],
            false,
        );
        assert!(added.contains("env_config:  -> TOKEN") && !added.contains("hunter2"), "{added}");
    }

    #[test]
    fn a_service_on_its_way_is_not_changed() {
        let present = service(&hello(json!({})), "deploying");
        let Err(failure) = plan(vec![hello(json!({"replica_count": 2}))], &[present], false) else { panic!("planned") };
        assert!(failure.message().contains("is deploying"), "{failure}");
    }
}
