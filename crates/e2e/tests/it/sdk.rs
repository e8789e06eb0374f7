//! The official `openai` packages of PyPI and npm, unmodified: only the base URL and the key are changed.

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
    fn of(running: &Running) -> Self {
        let base = running.api.url("/r/containers/hello/v1");
        let key = running.api.bearer().to_owned();
        let failing = json!([
            ["unknown_service", running.api.url("/r/containers/jello/v1"), key],
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
async fn the_python_package_works_by_a_swap_of_its_base_url() {
    let python = needs::python();
    let running = Running::start(1).await;
    let urls = Urls::of(&running);
    let arguments = [&*script("chat.py"), &urls.failing];
    check(&run(&python, &arguments, running.server.directory(), &urls.base, &urls.key).await);
}

#[tokio::test]
async fn the_node_package_works_by_a_swap_of_its_base_url() {
    let directory = needs::node_directory();
    let running = Running::start(1).await;
    let urls = Urls::of(&running);
    // Modules are looked for beside the script, so the script goes where the package is.
    let copy = directory.join(format!("chat-{}.mjs", std::process::id()));
    std::fs::copy(script("chat.mjs"), &copy).unwrap();
    let arguments = [copy.to_str().unwrap(), &urls.failing];
    let seen = run(Path::new("node"), &arguments, &directory, &urls.base, &urls.key).await;
    std::fs::remove_file(&copy).unwrap();
    check(&seen);
}
