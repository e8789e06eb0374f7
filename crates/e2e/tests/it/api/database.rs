//! The same server on PostgreSQL.

use serde_json::json;
use towline_e2e::{
    postgres::TempDatabase,
    system::{Server, ServerOptions, demo_service},
};

#[tokio::test]
async fn postgres_keeps_what_sqlite_keeps() {
    let database = TempDatabase::create();
    let options = ServerOptions { database_url: Some(database.url().to_owned()), ..ServerOptions::default() };
    let mut server = Server::start_with(options).await;
    let owner = server.owner().await;
    let id = owner.create_service(&demo_service("hello", 2)).await;
    owner.put(&format!("/containers/{id}"), &json!({"usage_prompt": "say hi"})).await.expect(200);
    owner.post("/containers", &demo_service("hello", 2)).await.problem(409, "already_exists");
    owner.deploy(&id).await;
    server.kill();
    server.start_again().await;
    let service = owner.service(&id).await;
    assert_eq!((&service["service_status"], &service["usage_prompt"]), (&json!("deploying"), &json!("say hi")));
    owner.undeploy(&id).await;
    owner.wait_for_status(&id, "stopped").await;
    assert_eq!(owner.delete(&format!("/containers/{id}")).await.status, 204);
    // The password of the database is nobody's business.
    let password = database.url().split(':').nth(2).and_then(|rest| rest.split('@').next()).unwrap().to_owned();
    assert!(!server.process.output().contains(&password), "the log has the database's password");
}
