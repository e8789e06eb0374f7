//! Whole commands, from the typed line to what is printed, against a server in the same process.

mod calls;
mod secrets;
mod services;
mod sign_in;
mod team;

use std::ffi::OsString;

use axum::response::Response;
use serde_json::{Value, json};
use towline_model::{ErrorCode, KeyKind, RawKey};

use crate::{
    client::test_server::{TestServer, json, problem},
    cmd::{self, Context},
    config::{self, Environment},
    failure::Failure,
    output::captured::{self, Captured},
};

/// A user's shell.
struct Shell {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// What a command did.
struct Done {
    result: Result<(), Failure>,
    data: String,
    messages: String,
}

impl Shell {
    /// A shell whose commands go to `server` with a key.
    fn new(server: &TestServer) -> Self {
        let key = RawKey::generate(KeyKind::Integration, &mut rand::rng()).expose().clone();
        Self::without_key(server).with("TOWLINE_KEY", &key)
    }

    fn without_key(server: &TestServer) -> Self {
        let home = tempfile::tempdir().unwrap();
        let variables = vec![("HOME".to_owned(), home.path().display().to_string())];
        Self { home, variables }.with("TOWLINE_SERVER", server.url.as_str())
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    async fn run(&self, line: &[&str]) -> Done {
        let (run, captured) = self.start(line);
        let result = run.await;
        Done { result, data: captured.data(), messages: captured.messages() }
    }

    fn start(&self, line: &[&str]) -> (impl Future<Output = Result<(), Failure>> + use<>, Captured) {
        let environment = Environment::from_iter(self.variables.clone());
        let arguments: Vec<OsString> = ["towline"].iter().chain(line).map(Into::into).collect();
        let cli = config::parse(&arguments, &environment).unwrap_or_else(|error| panic!("{line:?}: {error:?}"));
        let (output, captured) = captured::output(cli.global.output);
        let context = Context { output, environment, config_file: cli.global.config, verbose: false };
        (async move { Box::pin(cmd::run(cli.command, &context)).await }, captured)
    }
}

impl Done {
    fn failure(&self) -> &Failure {
        self.result.as_ref().unwrap_err()
    }
}

const ID: &str = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77";

fn hello(status: &str, more: &Value) -> Value {
    let mut service = json!({
        "id": ID, "service_slug": "hello", "display_name": "hello", "service_status": status,
        "docker_image": "demo", "replica_count": 2,
    });
    service.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    service
}

fn list_of(services: &[Value]) -> Response {
    json(200, &json!({"container_list": services, "page_meta": {"total_count": services.len()}}))
}

fn found(service: Option<&Value>) -> Response {
    service.map_or_else(|| problem(ErrorCode::NotFound, "no such service"), |service| json(200, service))
}

/// Waits until a command has printed this and nothing else.
async fn until_printed(captured: &Captured, text: &str) {
    let printed = async {
        while captured.data() != text {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(45), printed).await.unwrap();
}
