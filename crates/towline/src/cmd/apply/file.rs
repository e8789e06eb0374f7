//! Reads the file: YAML documents or JSON, each a service or a list of services.

use std::{collections::BTreeSet, fs, io, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};
use towline_model::ServiceSpec;

use crate::failure::Failure;

/// The services in a file, or on stdin when it is `-`, as they are written.
///
/// # Errors
/// When the file cannot be read, or holds something else than services.
pub fn read_definitions(path: &Path) -> Result<Vec<Map<String, Value>>, Failure> {
    let text = if path == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    let text = text.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    definitions(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// The services of a text.
fn definitions(text: &str) -> Result<Vec<Map<String, Value>>, String> {
    let mut found = vec![];
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        match Value::deserialize(document).map_err(|error| error.to_string())? {
            Value::Null => {}
            Value::Object(service) => found.push(service),
            Value::Array(services) => {
                for service in services {
                    let Value::Object(service) = service else { return Err("a list must hold services".to_owned()) };
                    found.push(service);
                }
            }
            _ => return Err("a document must be a service or a list of services".to_owned()),
        }
    }
    Ok(found)
}

/// Checks every service, so that a wrong file changes nothing.
///
/// # Errors
/// Names the service and each of its fields that are wrong; tells when the file has none, or one twice.
pub fn specs(definitions: Vec<Map<String, Value>>, path: &Path) -> Result<Vec<ServiceSpec>, Failure> {
    let path = path.display();
    let mut slugs = BTreeSet::new();
    let mut specs = vec![];
    for (index, mut definition) in definitions.into_iter().enumerate() {
        let slug = definition.get("service_slug").and_then(Value::as_str).map(str::to_owned);
        let name = slug.clone().unwrap_or_else(|| format!("service number {}", index + 1));
        if let (false, Some(slug)) = (definition.contains_key("display_name"), &slug) {
            definition.insert("display_name".to_owned(), Value::String(slug.clone()));
        }
        // In a file, null is how YAML writes an empty value: the default.
        definition.retain(|_, value| !value.is_null());
        let spec =
            ServiceSpec::from_json(definition).map_err(|error| Failure::usage(format!("{path}: {name}: {error}")))?;
        if !slugs.insert(spec.service_slug.clone()) {
            return Err(Failure::usage(format!("{path}: {name} is there twice")));
        }
        specs.push(spec);
    }
    if specs.is_empty() {
        return Err(Failure::usage(format!("{path} holds no service")).hint("towline apply --help shows one"));
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
service_slug: one
docker_image: demo
usage_prompt:
---
---
- {service_slug: two, docker_image: demo, replica_count: 2}
- {service_slug: three, docker_image: demo}
";

    fn read(text: &str) -> Result<Vec<ServiceSpec>, Failure> {
        let path = Path::new("a.yaml");
        let definitions = definitions(text).map_err(Failure::usage)?;
        specs(definitions, path)
    }

    #[test]
    fn documents_and_lists_are_services() {
        let specs = read(FILE).unwrap();
        let seen: Vec<_> = specs.iter().map(|spec| (spec.service_slug.as_str(), spec.replica_count)).collect();
        assert_eq!(seen, [("one", 1), ("two", 2), ("three", 1)]);
        assert_eq!(specs[0].display_name, "one");
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(read(r#"{"service_slug": "one", "docker_image": "demo"}"#).unwrap().len(), 1);
    }

    #[test]
    fn a_wrong_file_says_where() {
        for (text, expected) in [
            ("service_slug: one", "a.yaml: one: docker_image"),
            ("{service_slug: one, docker_image: demo, replicas: 2}", "a.yaml: one: "),
            ("{docker_image: demo}", "a.yaml: service number 1: "),
            (
                "- {service_slug: one, docker_image: a}\n- {service_slug: one, docker_image: a}",
                "a.yaml: one is there twice",
            ),
            ("", "a.yaml holds no service"),
            ("- 1", "a list must hold services"),
            ("hello", "a document must be a service"),
            ("a: [", "line"),
        ] {
            let failure = read(text).unwrap_err();
            assert!(failure.message().contains(expected), "{text}: {failure}");
        }
    }
}
