//! Invitations by mail, through a mail server that others wrote (`aiosmtpd`).

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use towline_e2e::{
    dir::test_dir,
    needs,
    process::Process,
    system::{Server, ServerOptions},
    wait::{SOON, wait_until},
};

/// A running mail server.
struct MailServer {
    process: Process,
    _directory: TempDir,
}

impl MailServer {
    fn start() -> Self {
        let directory = test_dir();
        let mut command = Command::new(needs::python());
        command.arg("-u").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/mail.py"));
        let process = Process::start("the mail server", &mut command, &directory.path().join("mail.log"));
        Self { process, _directory: directory }
    }

    /// What it has said, without lines that are no JSON.
    fn said(&self) -> Vec<Value> {
        self.process.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    async fn port(&mut self) -> u64 {
        let process = &mut self.process;
        wait_until("the mail server listens", SOON, async || {
            process.assert_runs();
            let output = process.output();
            let said = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            said.filter_map(|line| line["port"].as_u64()).next().ok_or(output)
        })
        .await
    }

    fn mails(&self) -> Vec<Value> {
        self.said().into_iter().filter(|line| line["to"].is_array()).collect()
    }
}

async fn start(url: &str) -> Server {
    let arguments = ["--smtp-url", url, "--smtp-from", "Towline <towline@example.com>"];
    let arguments = arguments.map(str::to_owned).to_vec();
    Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await
}

async fn invite(server: &Server, address: &str) -> Value {
    let body = json!({"email_address": address, "invitation_role": "member"});
    server.owner().await.post("/invitations", &body).await.created()
}

#[tokio::test]
async fn an_invitation_comes_by_mail_and_opens_the_team() {
    let mut mail = MailServer::start();
    let port = mail.port().await;
    let server = start(&format!("smtp://towline:hunter2@127.0.0.1:{port}")).await;
    let owner = server.owner().await;
    owner.put("/teams/current", &json!({"team_name": "Größe"})).await.expect(200);
    let made = invite(&server, "Ada@Example.com").await;
    assert_eq!(made["mail_status"], "sent", "{made}");
    assert!(made.get("token").is_none(), "what was mailed is not shown: {made}");
    let mails = mail.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    let mail = &mails[0];
    assert_eq!((&mail["from"], &mail["to"]), (&json!("towline@example.com"), &json!(["ada@example.com"])));
    assert_eq!(mail["headers"]["from"], "Towline <towline@example.com>");
    assert!(mail["headers"]["subject"].as_str().unwrap().contains("Größe"), "{mail:#}");
    let text = mail["text"].as_str().unwrap();
    assert!(text.contains(&server.bootstrap.url) && text.contains("as member"), "{text}");
    let token = text.split("--token ").nth(1).unwrap().split_whitespace().next().unwrap();
    let body = json!({"token": token, "user_password": "long enough"});
    server.api().anonymous().post("/invitations/accept", &body).await.expect(200);
    server.api().login("ada@example.com", "long enough", &server.bootstrap.team_id).await;
    let output = server.process.output();
    assert!(!output.contains(token) && !output.contains("hunter2"), "the log has a secret");
}

#[tokio::test]
async fn an_invitation_is_not_lost_with_its_mail() {
    let mut mail = MailServer::start();
    let port = mail.port().await;
    // The mailbox does not exist; the password is wrong; nobody listens.
    for (url, address) in [
        (format!("smtp://towline:hunter2@127.0.0.1:{port}"), "ada@example.org"),
        (format!("smtp://towline:wrong@127.0.0.1:{port}"), "ada@example.com"),
        ("smtp://towline:hunter2@127.0.0.1:9".to_owned(), "ada@example.com"),
    ] {
        let server = start(&url).await;
        let made = invite(&server, address).await;
        assert_eq!(made["mail_status"], "failed", "{url}: {made}");
        let body = json!({"token": made["token"], "user_password": "long enough"});
        server.api().anonymous().post("/invitations/accept", &body).await.expect(200);
        let output = server.process.output();
        assert!(output.contains("mail could not be sent") && !output.contains("hunter2"), "{output}");
    }
    assert_eq!(mail.mails(), Vec::<Value>::new());
}
