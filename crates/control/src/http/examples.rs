//! Examples for the OpenAPI document: one for every body, made from the examples of its fields, and one for every error
//! that an operation can answer with.

use serde_json::{Map, Value, json};
use towline_model::{ErrorCode, Problem, problem::CONTENT_TYPE};

/// Deeper schemas than any of ours; a schema that holds itself ends here.
const MAX_DEPTH: usize = 12;
const REQUEST_ID: &str = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";

/// Which fields an example shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fields {
    /// Only those that must be there.
    Required,
    /// All of them.
    All,
}

/// Gives every body of every operation an example, unless it has one.
pub(super) fn add_examples(document: &mut Value) {
    document["components"]["examples"] =
        ErrorCode::ALL.iter().map(|&code| problem_example(code)).collect::<Map<_, _>>().into();
    let schemas = document["components"]["schemas"].clone();
    let items = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in items.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        add_to_content(&mut operation["requestBody"], &schemas, Fields::Required);
        let responses = operation["responses"].as_object_mut().into_iter().flatten();
        for (status, response) in responses {
            if status.starts_with(['4', '5']) {
                add_problems(response, status);
            } else {
                add_to_content(response, &schemas, Fields::All);
            }
        }
        // Asking for what is not there has put a null there.
        if operation["requestBody"].is_null()
            && let Some(operation) = operation.as_object_mut()
        {
            operation.remove("requestBody");
        }
    }
}

fn add_to_content(body: &mut Value, schemas: &Value, fields: Fields) {
    let Some(content) = body.get_mut("content").and_then(Value::as_object_mut) else { return };
    for media in content.values_mut() {
        if media.get("example").is_none() && media.get("examples").is_none() {
            media["example"] = example(&media["schema"], schemas, fields, 0);
        }
    }
}

/// An example for each code that the description of the answer names.
fn add_problems(response: &mut Value, status: &str) {
    let description = response["description"].as_str().unwrap_or_default().to_owned();
    let named = |code: &&ErrorCode| {
        code.status().to_string() == status && description.contains(&format!("`{}`", code.as_str()))
    };
    let reference = |code: &ErrorCode| {
        let target = format!("#/components/examples/{}", code.as_str());
        (code.as_str().to_owned(), json!({ "$ref": target }))
    };
    let examples: Map<_, _> = ErrorCode::ALL.iter().filter(named).map(reference).collect();
    if let Some(media) = response.get_mut("content").and_then(|content| content.get_mut(CONTENT_TYPE)) {
        media["examples"] = Value::Object(examples);
    }
}

fn problem_example(code: ErrorCode) -> (String, Value) {
    let problem = Problem::new(code, code.title()).with_request_id(REQUEST_ID);
    let value = serde_json::to_value(problem).expect("a problem is plain fields with string keys");
    (code.as_str().to_owned(), json!({"summary": code.title(), "value": value}))
}

fn example(schema: &Value, schemas: &Value, fields: Fields, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    let given = schema.get("example").or_else(|| schema["examples"].get(0));
    let given = given.or_else(|| schema.get("const")).or_else(|| schema["enum"].get(0));
    if let Some(given) = given.or_else(|| schema.get("default").filter(|default| !default.is_null())) {
        return given.clone();
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        // Optional fields of a definition are left out of an answer.
        let fields = if name == "Service" { Fields::Required } else { fields };
        return example(&schemas[name], schemas, fields, depth + 1);
    }
    for word in ["oneOf", "anyOf", "allOf"] {
        let mut choices = schema[word].as_array().into_iter().flatten();
        if let Some(choice) = choices.find(|choice| choice["type"] != "null") {
            return example(choice, schemas, fields, depth + 1);
        }
    }
    match type_of(schema) {
        "object" => object(schema, schemas, fields, depth),
        "array" => json!([example(&schema["items"], schemas, fields, depth + 1)]),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        "boolean" => json!(true),
        "string" => json!(text(schema["format"].as_str())),
        _ => json!({}),
    }
}

fn object(schema: &Value, schemas: &Value, fields: Fields, depth: usize) -> Value {
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    let shown = properties.filter(|(name, _)| fields == Fields::All || required.contains(&name.as_str()));
    let fields = shown.map(|(name, schema)| (name.clone(), example(schema, schemas, fields, depth + 1)));
    Value::Object(fields.collect())
}

/// The type of a schema; of several, the first that is not null.
fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or_default(),
        kind => kind.as_str().unwrap_or_default(),
    }
}

fn text(format: Option<&str>) -> &'static str {
    match format {
        Some("uuid") => REQUEST_ID,
        Some("date-time") => "2026-11-24T09:30:00Z",
        Some("uri") => "https://example.com/",
        _ => "text",
    }
}
