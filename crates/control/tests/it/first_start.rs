//! The first start, the second, and what a loss of power in between leaves.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use tower::ServiceExt;
use towline_control::{Server, ServerConfig};
use towline_model::{Secret, TeamId};
use towline_store::{AuditFilter, AuditRow};

use crate::support::start;

fn config(directory: &Path) -> ServerConfig {
    ServerConfig { bootstrap: true, ..ServerConfig::new(directory.join("data")) }
}

fn read(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("data/bootstrap.json")).unwrap()).unwrap()
}

/// Whether what the file says opens the server.
async fn opens(server: &Server, file: &Value) -> bool {
    let router = towline_control::http::router::router(server.app());
    let body = json!({"email_address": file["email_address"], "user_password": file["user_password"]});
    let login = crate::support::Caller::NOBODY.request(http::Method::POST, "/api/v1/auth/login", Some(&body));
    let list = crate::support::Caller::bearer(file["api_key"].as_str().unwrap());
    let list = list.request(http::Method::GET, "/api/v1/containers", None);
    let (login, list) = (router.clone().oneshot(login).await.unwrap(), router.oneshot(list).await.unwrap());
    login.status() == 200 && list.status() == 200
}

#[tokio::test]
async fn the_first_start_makes_an_owner_and_tells_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let server = start(&config).await;
    let file = read(directory.path());
    let mut names: Vec<_> = file.as_object().unwrap().keys().cloned().collect();
    names.sort_unstable();
    assert_eq!(names, ["agent_key", "api_key", "email_address", "team_id", "url", "user_password"]);
    assert_eq!(file["url"], format!("http://{}", server.addr()));
    assert_eq!(file["email_address"], "owner@towline.local");
    assert!(file["agent_key"].as_str().unwrap().starts_with("ak-"));
    let bootstrap = server.bootstrap().unwrap();
    assert_eq!(
        (bootstrap.url.as_str(), file["api_key"].as_str()),
        (server.url(), Some(bootstrap.api_key.expose().as_str()))
    );
    for name in ["bootstrap.json", "signing-key.der", "towline.db"] {
        let mode = fs::metadata(config.data_dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} can be read by others");
    }
    assert!(opens(&server, &file).await);
    server.shutdown().await;
}

/// What the audit log of a team, or the server's own, says: the action, by whom, to what.
async fn audited(server: &Server, team_id: Option<TeamId>) -> Vec<(String, String, String)> {
    let mut tx = server.store().read().await.unwrap();
    let entries = tx.audit_entries_after(team_id, &AuditFilter::default(), None, 100).await;
    let told = |entry: AuditRow| {
        assert_eq!((entry.actor_kind.as_str(), entry.user_id, &entry.address), ("system", None, &None), "{entry:?}");
        (entry.action, entry.actor_name, format!("{} {}", entry.target_name, entry.details.unwrap_or_default()))
    };
    entries.unwrap().into_iter().map(told).collect()
}

#[tokio::test]
async fn what_the_first_start_makes_is_audited_once() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    start(&config).await.shutdown().await;
    let server = start(&config).await;
    let bootstrap = server.bootstrap().unwrap();
    let prefix = |key: &Secret<String>| key.expose()[..12].to_owned();
    let key =
        |kind: &str, key: &Secret<String>| format!("first start {}", json!({"kind": kind, "key_prefix": prefix(key)}));
    let by_server = |action: &str, target: String| (action.to_owned(), "the server".to_owned(), target);
    let team = audited(&server, Some(bootstrap.team_id)).await;
    let expected = [
        by_server("team.create", "default null".to_owned()),
        by_server("credential.create", key("integration", &bootstrap.api_key)),
        by_server("credential.create", key("agent", &bootstrap.agent_key)),
    ];
    assert_eq!(team, expected);
    let own = audited(&server, None).await;
    assert_eq!(own, [by_server("user.create", "owner@towline.local null".to_owned())]);
    server.shutdown().await;
}

#[tokio::test]
async fn a_second_start_changes_nothing_but_the_url() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    start(&config).await.shutdown().await;
    let first = read(directory.path());
    let server = start(&config).await;
    let second = read(directory.path());
    assert_eq!(second["url"], server.url());
    assert!(opens(&server, &second).await);
    let without_url = |mut file: Value| file.as_object_mut().unwrap().remove("url").map(|_| file);
    assert_eq!(without_url(first), without_url(second));
    server.shutdown().await;
    fs::remove_file(config.data_dir.join("bootstrap.json")).unwrap();
    let server = start(&config).await;
    assert!(server.bootstrap().is_none() && !config.data_dir.join("bootstrap.json").exists(), "it was removed by wish");
    server.shutdown().await;
}

#[tokio::test]
async fn a_file_without_its_database_is_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    fs::create_dir_all(&config.data_dir).unwrap();
    fs::write(config.data_dir.join("bootstrap.json"), "left behind").unwrap();
    let server = start(&config).await;
    assert!(opens(&server, &read(directory.path())).await);
    let mode = fs::metadata(config.data_dir.join("bootstrap.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.shutdown().await;
}

#[tokio::test]
async fn a_loss_of_power_after_the_commit_loses_no_password() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    start(&config).await.shutdown().await;
    let data = &config.data_dir;
    fs::rename(data.join("bootstrap.json"), data.join("bootstrap.json.new")).unwrap();
    let server = start(&config).await;
    assert!(opens(&server, &read(directory.path())).await);
    server.shutdown().await;
}

#[tokio::test]
async fn without_bootstrap_nothing_is_made_and_a_public_url_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(directory.path().join("data"));
    let server = start(&config).await;
    assert!(server.bootstrap().is_none() && !config.data_dir.join("bootstrap.json").exists());
    server.shutdown().await;
    (config.bootstrap, config.public_url) = (true, Some("https://towline.example.com".to_owned()));
    start(&config).await.shutdown().await;
    assert_eq!(read(directory.path())["url"], "https://towline.example.com");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_told() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("data"), "a file").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let started =
        Server::start(config(directory.path()), listener, std::sync::Arc::new(towline_model::SystemClock)).await;
    let error = started.err().expect("it cannot start").to_string();
    assert!(error.contains("data directory") && error.contains("--data-dir"), "{error}");
}
