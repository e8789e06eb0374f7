//! The whole API against its own description, by a tester that nobody here wrote: schemathesis makes requests that fit the
//! description and requests that do not, and looks whether the answers do. `sdk/schemathesis.toml` says what it may do.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{process::Command, time::timeout};
use towline_e2e::{
    api::Api,
    needs,
    system::{Server, ServerOptions},
    wait::{SOON, wait_until},
};

use crate::attached::{LocalProcess, agent_without_engine, attached};

/// The longest that the whole run may take, with others beside it; alone it takes a fraction of that.
const DEADLINE: Duration = Duration::from_secs(560);

/// Writes words of which schemathesis picks.
fn write_words(directory: &Path, name: &str, words: &[String]) {
    let lines: String = words.iter().map(|word| format!("\"{word}\"\n")).collect();
    fs::write(directory.join(name), lines).unwrap();
}

/// Makes a service of each type that changes are to be about, and writes down its id by the type.
async fn write_services_of_types(owner: &Api, directory: &Path) {
    let mut ids = serde_json::Map::new();
    for (kind, field, value) in [
        ("deployed", "docker_image", "towline-demo:latest"),
        ("external", "external_url", "https://example.com"),
        ("attached", "attached_target", "127.0.0.1:1"),
    ] {
        let definition = json!({
            "service_slug": kind, "display_name": kind, "service_type": kind, field: value, "max_concurrent_requests": 1,
        });
        ids.insert(kind.to_owned(), owner.create_service(&definition).await.into());
    }
    fs::write(directory.join("services-of-types.json"), serde_json::Value::from(ids).to_string()).unwrap();
}

/// Makes what the requests are to be about, and writes down the ids.
async fn furnish(owner: &Api, target: &str, directory: &Path) {
    let running = owner.create_service(&attached("hello", target)).await;
    owner.deploy(&running).await;
    wait_until("the service is ready", SOON, async || {
        let service = owner.service(&running).await;
        if service["instances_ready"] == 1 { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    let spare = owner.create_service(&attached("spare", target)).await;
    owner.deploy(&spare).await;
    let login = json!({"name": "login", "value": "user:password"});
    let secret = owner.post("/secrets", &login).await.expect(201);
    let key = json!({"kind": "integration", "display_name": "spare"});
    let key = owner.post("/credentials", &key).await.expect(201);
    let id = |answer: &serde_json::Value| answer["id"].as_str().unwrap().to_owned();
    write_services_of_types(owner, directory).await;
    write_words(directory, "services.txt", &[running]);
    write_words(directory, "spare-services.txt", &[spare]);
    write_words(directory, "secrets.txt", &[id(&secret)]);
    write_words(directory, "spare-keys.txt", &[id(&key)]);
}

#[tokio::test]
async fn schemathesis_finds_nothing() {
    let program = needs::schemathesis();
    // It asks more than any caller would; what it would learn of the rest is 429.
    let unlimited = ["--sign-in-rate", "--account-rate", "--api-rate", "--anonymous-rate"];
    let arguments = unlimited.into_iter().flat_map(|rate| [rate.to_owned(), "off".to_owned()]).collect();
    let server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
    let _agent = agent_without_engine(&server, "bare", &[]).await;
    let local = LocalProcess::start().await;
    let owner = server.owner().await;
    let directory = server.directory();
    furnish(&owner, &local.target(), directory).await;
    for name in ["schemathesis.toml", "schemathesis_hooks.py"] {
        fs::copy(super::script(name), directory.join(name)).unwrap();
    }
    let mut command = Command::new(program);
    // All checks are its default; naming them would turn those on again that the file turns off.
    command.args(["--config-file", "schemathesis.toml", "run", "--no-color", &owner.url("/openapi.json")]);
    command.env("TOWLINE_TOKEN", owner.bearer()).env("TOWLINE_TEAM_ID", &server.bootstrap.team_id);
    // One to be deleted, one to be handed over.
    for (variable, name) in [("TOWLINE_SPARE_TEAM_ID", "Spare"), ("TOWLINE_OTHER_TEAM_ID", "Other")] {
        let made = owner.post("/teams", &json!({"team_name": name})).await.expect(201);
        command.env(variable, made["id"].as_str().unwrap());
    }
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    command.current_dir(directory).kill_on_drop(true).stdin(Stdio::null());
    let output = timeout(DEADLINE, command.output()).await.expect("it ends").expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(said.contains("No issues found"), "{said}");
}
