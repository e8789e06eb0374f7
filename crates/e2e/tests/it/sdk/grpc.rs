//! gRPC from end to end: the stock `grpcio` of PyPI as caller and as service.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use towline_e2e::{
    claim::Claim,
    dir::test_dir,
    needs,
    process::Process,
    system::Server,
    wait::{SOON, wait_until},
};

use super::{run, script};
use crate::{attached::agent_without_engine, tls};

/// How long after a caller has given up the service may run on. Both are on this machine, so a round trip takes a few
/// milliseconds; a busy machine may need more. Nothing else ends these calls within a minute.
const ROUND_TRIP: Duration = Duration::from_secs(8);

/// A gRPC service as a process of this machine.
async fn service(python: &Path, directory: &Path) -> (Process, Claim) {
    let port = Claim::port();
    let mut command = std::process::Command::new(python);
    command.arg(script("grpc_echo.py")).args(["serve", &port.number().to_string()]);
    let mut process = Process::start("the gRPC service", &mut command, &directory.join("grpc.log"));
    wait_until("the gRPC service listens", SOON, async || {
        process.assert_runs();
        let connected = tokio::net::TcpStream::connect(port.address()).await;
        connected.map(drop).map_err(|error| error.to_string())
    })
    .await;
    (process, port)
}

/// Makes every kind of call through this server; with a file of certificates by TLS.
async fn call(server: &Server, address: &str, authority: Option<&Path>) -> Value {
    let python = needs::python();
    let directory = test_dir();
    let (_process, port) = service(&python, directory.path()).await;
    let arguments = authority.map(|path| ["--ca-file".to_owned(), path.display().to_string()]);
    let arguments: Vec<&str> = arguments.iter().flatten().map(String::as_str).collect();
    let _agent = agent_without_engine(server, "bare", &arguments).await;
    let owner = server.owner().await;
    let definition = json!({
        "service_slug": "echo", "display_name": "Echo", "service_type": "attached",
        "attached_target": port.address().to_string(), "app_protocol": "h2c",
        "health_path": "/grpc.health.v1.Health/Check", "probe": {"interval_seconds": 1},
    });
    let id = owner.create_service(&definition).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;

    let (program, authority) = (script("grpc_echo.py"), authority.map(|path| path.display().to_string()));
    let mut arguments = vec![&*program, "call", address, &server.bootstrap.api_key, "echo"];
    arguments.extend(authority.as_deref());
    run(&python, &arguments, directory.path(), "", "").await
}

#[tokio::test]
async fn every_kind_of_grpc_call_works_and_ends_as_it_should() {
    let server = Server::start().await;
    check(&call(&server, &server.api().address().to_string(), None).await);
}

#[tokio::test]
async fn every_kind_of_grpc_call_works_by_tls() {
    let directory = test_dir();
    let (server, _, files) = tls::start(directory.path()).await;
    let address = format!("localhost:{}", server.api().address().port());
    check(&call(&server, &address, Some(&files.authority)).await);
}

fn check(seen: &Value) {
    assert_eq!(seen["unary"], json!(["hello", "a,b", "42", [0, 255]]), "{seen:#}");
    assert_eq!(seen["large"], true, "{seen:#}");
    assert_eq!(seen["server_stream"], json!(["n0", "n1", "n2", "n3", "n4"]), "{seen:#}");
    assert_eq!(seen["client_stream"], "a+b+c", "{seen:#}");
    assert_eq!(seen["bidi"], json!(["X", "Y", "Z"]), "{seen:#}");
    // Errors of the service are the service's, untouched.
    let failed = &seen["fail"];
    assert_eq!(
        (&failed["code"], &failed["details"]),
        (&json!("FAILED_PRECONDITION"), &json!("not 100 %: ü")),
        "{seen:#}"
    );
    assert_eq!(failed["trailers"]["x-sum"], "43", "{seen:#}");
    assert!(failed["trailers"].get("proxy-status").is_none(), "{seen:#}");
    assert_eq!(seen["no_method"]["code"], "UNIMPLEMENTED", "{seen:#}");
    // Ours say what they are.
    for (case, code, words) in [("unknown_service", "NOT_FOUND", "jello"), ("wrong_key", "UNAUTHENTICATED", "key")] {
        let error = &seen[case];
        assert_eq!(error["code"], code, "{seen:#}");
        assert!(error["details"].as_str().is_some_and(|details| details.contains(words)), "{seen:#}");
        assert!(
            error["trailers"]["proxy-status"].as_str().is_some_and(|text| text.starts_with("towline; error=")),
            "{seen:#}"
        );
    }
    // Who gives up is heard at the service within a round trip.
    let told: Vec<f64> = seen["cancel"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert!(told.len() == 6 && told.iter().all(|&seconds| seconds < ROUND_TRIP.as_secs_f64()), "{seen:#}");
    assert_eq!(seen["deadline"], "DEADLINE_EXCEEDED", "{seen:#}");
}
