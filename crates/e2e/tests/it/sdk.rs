//! The official `openai` and `anthropic` packages of PyPI and npm, unmodified: only the base URL and the key are changed.

mod api_tester;
mod grpc;
mod typed_client;

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use towline_e2e::{needs, wait::SOON};

use crate::docker::Running;

/// Runs a script with the environment that its SDK reads, and gives what it printed.
async fn run(program: &Path, arguments: &[&str], directory: &Path, base_url: &str, key: &str) -> Value {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).kill_on_drop(true).stdin(Stdio::null());
    command.env("OPENAI_BASE_URL", base_url).env("OPENAI_API_KEY", key);
    command.env("ANTHROPIC_BASE_URL", base_url).env("ANTHROPIC_API_KEY", key).env_remove("ANTHROPIC_AUTH_TOKEN");
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    let output = timeout(SOON * 2, command.output()).await.expect("the script ends").expect("the script starts");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

fn script(name: &str) -> String {
    format!("{}/sdk/{name}", env!("CARGO_MANIFEST_DIR"))
}

struct Urls {
    base: String,
    key: String,
    failing: String,
}

impl Urls {
    fn of(running: &Running, below: &str) -> Self {
        let base = running.api.url(&format!("/r/containers/hello{below}"));
        let key = running.api.bearer().to_owned();
        let failing = json!([
            ["unknown_service", running.api.url(&format!("/r/containers/jello{below}")), key],
            ["wrong_key", base, "sk-mistyped"],
        ]);
        Self { base, key, failing: failing.to_string() }
    }
}

/// What a script must have seen. `error` is how this SDK names the classes and texts.
fn check(seen: &Value) {
    assert_eq!(seen["models"], json!(["towline-demo"]), "{seen:#}");
    assert_eq!(seen["chat"], "You said: one two three", "{seen:#}");
    assert_eq!(seen["streamed"], "You said: one two three", "{seen:#}");
    assert!(seen["chunks"].as_u64().unwrap() >= 6, "{seen:#}");
    assert_eq!(seen["usage"], seen["streamed_usage"], "{seen:#}");
    // An error of the service is the service's, untouched.
    assert_eq!(seen["error_of_the_service"]["code"], "model_not_found", "{seen:#}");
    check_ours(seen);
}

/// What a script must have seen of a service that speaks like Anthropic's.
fn check_messages(seen: &Value) {
    assert_eq!(
        (&seen["said"], &seen["stop_reason"]),
        (&json!("You said: one two three"), &json!("end_turn")),
        "{seen:#}"
    );
    assert_eq!((&seen["streamed"], &seen["pieces"]), (&json!("You said: one two three"), &json!(5)), "{seen:#}");
    assert_eq!(seen["usage"], seen["streamed_usage"], "{seen:#}");
    assert_eq!(seen["error_of_the_service"]["body"]["error"]["type"], "invalid_request_error", "{seen:#}");
    check_ours(seen);
}

fn check_ours(seen: &Value) {
    // One of ours is told in our words: the sentence, the code, the request to ask about.
    for (name, class, code) in
        [("unknown_service", "NotFoundError", "not_found"), ("wrong_key", "AuthenticationError", "unauthenticated")]
    {
        let error = &seen[name];
        assert_eq!((&error["class"], &error["code"]), (&json!(class), &json!(code)), "{name}: {seen:#}");
        assert_eq!(error["type"], "towline_error", "{name}: {seen:#}");
        assert!(error["text"].as_str().unwrap().len() > 20, "{name}: {seen:#}");
        assert!(error["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{name}: {seen:#}");
    }
    assert!(seen["unknown_service"]["text"].as_str().unwrap().contains("jello"), "{seen:#}");
}

#[tokio::test]
async fn the_python_packages_work_by_a_swap_of_their_base_url() {
    let python = needs::python();
    let running = Running::start(1).await;
    let urls = Urls::of(&running, "/v1");
    let arguments = [&*script("chat.py"), &urls.failing];
    check(&run(&python, &arguments, running.server.directory(), &urls.base, &urls.key).await);
    // This one sends its key as X-Api-Key.
    let urls = Urls::of(&running, "");
    let arguments = [&*script("messages.py"), &urls.failing];
    check_messages(&run(&python, &arguments, running.server.directory(), &urls.base, &urls.key).await);
}

#[tokio::test]
async fn the_node_packages_work_by_a_swap_of_their_base_url() {
    let directory = needs::node_directory();
    let running = Running::start(1).await;
    check(&run_node(&directory, "chat.mjs", &Urls::of(&running, "/v1")).await);
    check_messages(&run_node(&directory, "messages.mjs", &Urls::of(&running, "")).await);
}

async fn run_node(directory: &Path, name: &str, urls: &Urls) -> Value {
    // Modules are looked for beside the script, so the script goes where the packages are.
    let copy = directory.join(format!("{}-{name}", std::process::id()));
    std::fs::copy(script(name), &copy).unwrap();
    let arguments = [copy.to_str().unwrap(), &urls.failing];
    let seen = run(Path::new("node"), &arguments, directory, &urls.base, &urls.key).await;
    std::fs::remove_file(&copy).unwrap();
    seen
}
