//! A client that is generated from the API's description by tools that nobody here wrote: it compiles with every type
//! checked, and creates and lists services.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use towline_e2e::{dir::test_dir, needs, system::Server, wait::SOON};

/// Generating and compiling take seconds of one core, and others run beside it.
const BUILD_DEADLINE: std::time::Duration = SOON.saturating_mul(6);

/// Runs a command and gives what it printed.
async fn run(program: &Path, arguments: &[&str], directory: &Path) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).kill_on_drop(true).stdin(Stdio::null());
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    let output = timeout(BUILD_DEADLINE, command.output()).await.expect("it ends").expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {}\n{text}", program.display(), output.status);
    output.stdout
}

#[tokio::test]
async fn a_generated_client_compiles_and_creates_and_lists_services() {
    let node = needs::node_directory();
    let modules = std::fs::canonicalize(node.join("node_modules")).unwrap();
    let server = Server::start().await;
    let owner = server.owner().await;
    let wished = json!({"kind": "integration", "display_name": "typed", "scopes": ["read", "invoke", "manage"]});
    let key = owner.post("/credentials", &wished).await.expect(201);
    // Modules are looked for beside the program, so it gets a directory of its own with a link to them.
    let directory = test_dir();
    std::os::unix::fs::symlink(&modules, directory.path().join("node_modules")).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/services.mts");
    std::fs::copy(source, directory.path().join("services.mts")).unwrap();
    // Fields that have a default need not be sent.
    let description = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json");
    let generate = [description, "-o", "towline.d.ts", "--default-non-nullable=false"];
    run(&modules.join(".bin/openapi-typescript"), &generate, directory.path()).await;
    let strict = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes"];
    let target = ["--target", "es2023", "--lib", "es2023,dom", "--module", "nodenext", "services.mts"];
    run(&modules.join(".bin/tsc"), &[&strict[..], &target[..]].concat(), directory.path()).await;
    let arguments = ["services.mjs", &*server.bootstrap.url, key["raw_key"].as_str().unwrap()];
    let seen: Value =
        serde_json::from_slice(&run(Path::new("node"), &arguments, directory.path()).await).expect("it prints JSON");
    let expected = json!({
        "listed": true, "slugs": ["first", "second"], "statuses": ["created", "created"], "total": 2,
        "taken": "already_exists", "unknown": "not_found", "not_running": "service_not_running",
    });
    assert_eq!(seen, expected);
}
