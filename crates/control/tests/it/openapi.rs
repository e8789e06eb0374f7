//! The description of the API: complete, valid as far as it refers to itself, and the one that is checked in.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use towline_control::{documents::documents, http::router::routes, openapi_json};

use crate::support::{Caller, TestServer};

fn document() -> Value {
    serde_json::from_str(&openapi_json()).unwrap()
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let item = item.as_object().unwrap().iter();
            item.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation))
        })
        .collect()
}

/// The path of calls that are passed on.
const CALL_PATH: &str = "/api/v1/r/containers/{slug}/{path}";

/// Whether the gateway serves it.
fn is_call((_, path): &(String, String)) -> bool {
    path == CALL_PATH || path == "/api/v1/r/invoke/{slug}"
}

#[test]
fn the_routes_and_the_document_are_the_same() {
    let document = document();
    let described: BTreeSet<_> = operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let (calls, described): (BTreeSet<_>, BTreeSet<_>) = described.into_iter().partition(is_call);
    // What the gateway serves has no row in the table.
    assert_eq!(calls.len(), 8, "{calls:?}");
    let routed: BTreeSet<_> = routes().iter().map(|route| (route.method.to_string(), route.path.to_owned())).collect();
    assert_eq!(described, routed);
}

#[test]
fn every_operation_says_what_a_client_needs_to_know() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let at = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}: the id is taken");
        assert!(
            operation["summary"].as_str().is_some_and(|text| text.ends_with('.')),
            "{at}: {}",
            operation["summary"]
        );
        assert!(operation["x-permission"].is_object(), "{at} has no permission");
        assert!(operation["security"].is_array(), "{at} has no security");
        let in_path = operation["parameters"].as_array().into_iter().flatten().filter(|it| it["in"] == "path").count();
        assert_eq!(in_path, path.matches('{').count(), "{at}: parameters of the path");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with(['2', '3'])), "{at} never succeeds");
        for (status, response) in responses {
            let content = response["content"].as_object();
            let is_problem = content.is_some_and(|content| content.contains_key("application/problem+json"));
            assert_eq!(is_problem, status.starts_with(['4', '5']), "{at} {status}");
            // A container's answer has our id beside its own.
            let id = if path == CALL_PATH { "X-Towline-Request-Id" } else { "X-Request-Id" };
            assert!(response["headers"][id].is_object(), "{at} {status} has no {id}");
            let challenges = response["headers"]["WWW-Authenticate"].is_object();
            assert_eq!(challenges, status == "401", "{at} {status}: WWW-Authenticate");
            let may_be_empty = status == "204" || status.starts_with('3');
            assert!(may_be_empty || content.is_some(), "{at} {status} has no content");
        }
        for error in ["400", "401", "403"] {
            let is_team = operation["x-permission"]["role"].is_string();
            assert!(!is_team || responses.contains_key(error), "{at} does not say {error}");
        }
    }
}

#[test]
fn the_document_is_complete_in_itself() {
    let text = openapi_json();
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut used = BTreeSet::new();
    for reference in text.split("\"$ref\": \"").skip(1) {
        let target = reference.split('"').next().unwrap();
        let Some(name) = target.strip_prefix("#/components/schemas/") else {
            let pointer = target.strip_prefix('#').unwrap_or_else(|| panic!("{target}"));
            assert!(document.pointer(pointer).is_some(), "{target} is not there");
            continue;
        };
        assert!(schemas.contains_key(name), "{name} is not there");
        used.insert(name.to_owned());
    }
    for name in schemas.keys() {
        assert!(used.contains(name), "nothing uses the schema {name}");
    }
}

#[tokio::test]
async fn answers_have_the_fields_that_are_described() {
    let server = TestServer::start().await;
    let path = server.create(&crate::support::minimal("hello")).await;
    let document = document();
    let service = server.get(&server.owner(), &path).await.json(200);
    let schema = &document["components"]["schemas"]["Service"];
    let properties: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    let fields: BTreeSet<_> = service.as_object().unwrap().keys().cloned().collect();
    assert!(fields.is_subset(&properties), "{:?}", fields.difference(&properties));
    let required: BTreeSet<_> =
        schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert!(required.is_subset(&fields), "{:?}", required.difference(&fields));
}

#[tokio::test]
async fn the_document_is_served_to_everybody() {
    let server = TestServer::start().await;
    let answer = server.get(&Caller::NOBODY, "/api/v1/openapi.json").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.text(), openapi_json());
}

/// What the bodies of an operation, as a request's or an answer's, show as examples.
fn examples<'a>(document: &'a Value, body: &'a Value) -> Vec<&'a Value> {
    let media = body["content"].as_object().into_iter().flat_map(|content| content.values());
    let several = |media: &'_ Value| media["examples"].as_object().map(|examples| examples.len());
    media
        .inspect(|media| assert!(media.get("example").is_some() || several(media) > Some(0), "no example: {media:#}"))
        .flat_map(|media| match media["examples"].as_object() {
            Some(examples) => examples.values().map(|example| &resolved(document, example)["value"]).collect(),
            None => vec![&media["example"]],
        })
        .collect()
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    target.map_or(value, |pointer| document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is not there")))
}

#[test]
fn every_operation_has_examples_and_names_its_errors() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let _ = examples(&document, &operation["requestBody"]);
        for (status, response) in operation["responses"].as_object().unwrap() {
            let shown = examples(&document, response);
            if !status.starts_with(['4', '5']) {
                continue;
            }
            for problem in shown.into_iter().filter(|shown| shown.is_object()) {
                let code = problem["error_code"].as_str().unwrap_or_else(|| panic!("{at} {status}: {problem:#}"));
                assert_eq!(problem["status"].to_string(), *status, "{at}");
                let description = response["description"].as_str().unwrap();
                assert!(description.contains(&format!("`{code}`")), "{at} {status}: {description}");
            }
        }
    }
    let create = &document["paths"]["/api/v1/containers"]["post"]["requestBody"];
    let definition = examples(&document, create)[0].as_object().unwrap().clone();
    towline_model::ServiceSpec::from_json(definition).unwrap();
}

#[test]
fn what_is_made_from_the_code_is_the_current_one() {
    for (name, text) in documents() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
        #[expect(clippy::disallowed_methods, reason = "a switch of this test only")]
        if std::env::var("UPDATE_OPENAPI").is_ok() {
            fs::write(&path, &text).unwrap();
        }
        let checked_in = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            checked_in == text,
            "{name} is out of date: run `cargo xtask openapi`, or this test with UPDATE_OPENAPI=1"
        );
    }
}
