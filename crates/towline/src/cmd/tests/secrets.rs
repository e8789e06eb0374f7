//! Secrets, and the keys that they are sealed under.

use serde_json::json;

use super::{ID, Shell, hello, list_of};
use crate::client::test_server::{TestServer, answer, json};

/// A server with one secret, `openai-key`.
async fn server_with_a_secret() -> TestServer {
    TestServer::start(|seen| match seen.line.split('?').next().unwrap() {
        "GET /api/v1/secrets" => {
            let place = json!({"service_slug": "hello", "field": "env_config[0].secret_id", "is_in_definition": true});
            let secret =
                json!({"id": ID, "name": "openai-key", "description": "d", "used_by": [place], "updated_at": "t"});
            json(200, &json!({"secret_list": [secret], "page_meta": {"total_count": 1}}))
        }
        line if line.starts_with("DELETE ") => answer(204, "text/plain", ""),
        "GET /api/v1/r/containers/hello" => json(200, &hello("deploying", &json!({}))),
        line if line.starts_with("GET /api/v1/containers") => list_of(&[]),
        line if line.starts_with("POST ") || line.starts_with("PUT ") => json(201, &json!({"id": ID})),
        line => panic!("{line}"),
    })
    .await
}

#[tokio::test]
async fn a_secrets_value_comes_from_a_file_and_is_not_shown() {
    let server = server_with_a_secret().await;
    let shell = Shell::new(&server);
    let file = shell.file("value", "hunter2\n");
    let done = shell.run(&["secret", "create", "openai-key", "--description", "d", "--value-file", &file]).await;
    done.result.unwrap();
    assert_eq!(server.seen()[0].json(), json!({"name": "openai-key", "description": "d", "value": "hunter2"}));
    assert!(!format!("{}{}", done.data, done.messages).contains("hunter2"));
    shell.run(&["secret", "update", "openai-key", "--value-file", &file]).await.result.unwrap();
    let seen = server.seen().pop().unwrap();
    assert_eq!(
        (seen.line.as_str(), seen.json()),
        (format!("PUT /api/v1/secrets/{ID}").as_str(), json!({"value": "hunter2"}))
    );
    shell.run(&["secret", "update", ID, "--name", "other"]).await.result.unwrap();
    assert_eq!(server.seen().pop().unwrap().json(), json!({"name": "other"}));
    let listed = shell.run(&["secret", "list"]).await.data;
    assert!(listed.contains("openai-key  hello"), "{listed}");
    shell.run(&["secret", "delete", "openai-key"]).await.result.unwrap();
    assert_eq!(server.lines().last().unwrap(), &format!("DELETE /api/v1/secrets/{ID}"));
    let missing = shell.run(&["secret", "delete", "other"]).await;
    assert_eq!(missing.failure().message(), "there is no secret with the name \"other\" in this team");
}

#[tokio::test]
async fn services_name_secrets_and_the_server_hears_their_ids() {
    let server = server_with_a_secret().await;
    let shell = Shell::new(&server);
    let line = ["service", "create", "hello", "--image", "demo", "--env-secret", "KEY=openai-key", "--registry-auth"];
    shell.run(&[&line[..], &["openai-key"]].concat()).await.result.unwrap();
    let body = server.seen().pop().unwrap().json();
    assert_eq!(body["env_config"], json!([{"env_name": "KEY", "secret_id": ID}]));
    assert_eq!(body["registry_auth_secret_id"], ID);
    let unknown = shell.run(&["service", "create", "hello", "--image", "demo", "--env-secret", "KEY=nope"]).await;
    assert!(unknown.failure().message().contains("nope"));

    let text = "service_slug: hello\ndocker_image: demo\nregistry_auth_secret: openai-key\nenv_config:\n\
                - {env_name: KEY, secret: openai-key}\n- {env_name: A, env_value: b}\n";
    let file = shell.file("hello.yaml", text);
    shell.run(&["apply", "-f", &file]).await.result.unwrap();
    let seen = server.seen();
    let made = seen.iter().rev().find(|seen| seen.line == "POST /api/v1/containers").unwrap().json();
    assert_eq!(made["env_config"][0], json!({"env_name": "KEY", "secret_id": ID}));
    assert_eq!(made["registry_auth_secret_id"], ID);
    let both = shell
        .file("both.yaml", &text.replace("secret: openai-key}", &format!("secret: openai-key, secret_id: {ID}}}")));
    assert!(shell.run(&["apply", "-f", &both]).await.failure().message().contains("not both"));
}

#[tokio::test]
async fn a_key_is_rotated_while_the_server_is_stopped() {
    let server = server_with_a_secret().await;
    let shell = Shell::new(&server);
    let data = shell.home.path().join("data");
    let line = ["secret", "rotate-key", "--data-dir", data.to_str().unwrap()];
    let done = shell.run(&line).await;
    done.result.unwrap();
    assert!(done.data.starts_with("sealed 0 secrets anew under the key "), "{}", done.data);
    let keys = || {
        std::fs::read_to_string(data.join("secrets.key")).unwrap().lines().filter(|line| !line.starts_with('#')).count()
    };
    let before = keys();
    shell.run(&[&line[..], &["--drop-old"]].concat()).await.result.unwrap();
    assert!(before >= 1 && keys() == 1);
    let _held = crate::cmd::serve::lock(&data).unwrap();
    assert!(shell.run(&line).await.failure().message().starts_with("another towline server uses"));
}
