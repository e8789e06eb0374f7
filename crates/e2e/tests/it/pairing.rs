//! A machine is let in: `towline login` as its users run it, the page in a real browser, and what the keys do then.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use towline_e2e::{
    api::Api,
    browser::Browser,
    dir::test_dir,
    process::Process,
    system::{Server, towline},
    wait::{SOON, wait_until},
};

use crate::attached::LocalProcess;

const CREDENTIALS: &str = "config/towline/credentials.json";

/// Somebody's machine, with a home of its own.
pub struct Machine {
    home: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        Self { home: test_dir() }
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn start(&self, arguments: &[&str]) -> Process {
        let log = self.path().join(format!("{}.log", arguments[0]));
        Process::start("towline", towline(self.path()).args(arguments), &log)
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::from({
            let mut command = towline(self.path());
            command.args(arguments);
            command
        });
        command.stdin(std::process::Stdio::null()).output().await.unwrap()
    }

    /// `towline login`, until it shows its code. Gives the code, too.
    pub async fn begin_login(&self, server: &Server) -> (Process, String) {
        let mut login = self.start(&["login", "--server", &server.bootstrap.url]);
        login.wait_for_output("waiting to be let in").await;
        let output = login.output();
        let (_, rest) = output.split_once("The code is ").unwrap();
        let code = rest.split(',').next().unwrap().to_owned();
        let link = format!("{}/pair?code={code}&name=", server.bootstrap.url);
        assert!(output.contains(&link), "{output}");
        (login, code)
    }

    /// Signs in, as the owner confirms it by the API.
    async fn login(&self, server: &Server) {
        let (mut login, code) = self.begin_login(server).await;
        let confirm = json!({"user_code": code.to_lowercase(), "device_name": "laptop"});
        let reply = server.owner().await.post("/desktop/pair/confirm", &confirm).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
        login.wait_for_end(0, SOON).await;
        assert!(login.output().contains("signed in to"), "{}", login.output());
    }

    /// The key that is kept here.
    pub fn key(&self, server: &Server, name: &str) -> String {
        let kept: Value = serde_json::from_slice(&fs::read(self.path().join(CREDENTIALS)).unwrap()).unwrap();
        kept["devices"][format!("{}/", server.bootstrap.url)][name].as_str().unwrap().to_owned()
    }
}

async fn last_used(api: &Api, kind: &str) -> Option<String> {
    let list = api.get(&format!("/credentials?kind={kind}")).await.expect(200);
    let rows = list["credentials"].as_array().unwrap();
    let row = rows.iter().find(|row| row["display_name"] == "laptop").unwrap_or_else(|| panic!("{list:#}"));
    row["last_used_at"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_machine_signs_in_works_and_signs_out() {
    let mut server = Server::start().await;
    let machine = Machine::new();
    machine.login(&server).await;
    let file = machine.path().join(CREDENTIALS);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let key = machine.key(&server, "device_key");
    assert!(key.starts_with("dk-") && machine.key(&server, "agent_key").starts_with("ak-"));

    let owner = server.owner().await;
    owner.create_service(&json!({"service_slug": "hello", "display_name": "hello", "docker_image": "x"})).await;
    let list = machine.run(&["service", "list"]).await;
    assert!(list.status.success() && String::from_utf8_lossy(&list.stdout).contains("hello"), "{list:?}");

    // When it was used is written down at the latest when the server ends.
    server.process.terminate(SOON).await;
    server.start_again().await;
    let owner = server.owner().await;
    assert!(last_used(&owner, "device").await.is_some());
    assert_eq!(last_used(&owner, "agent").await, None, "no agent has joined");

    let device = server.api().with_key(&key);
    device.get("/containers").await.expect(200);
    let out = machine.run(&["logout"]).await;
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    assert!(!file.exists());
    device.get("/containers").await.problem(401, "unauthenticated");
    assert_eq!(machine.run(&["service", "list"]).await.status.code(), Some(1));
}

#[tokio::test]
async fn an_interrupted_login_leaves_nothing() {
    let server = Server::start().await;
    let machine = Machine::new();
    let (mut login, _) = machine.begin_login(&server).await;
    login.signal("INT");
    login.wait_for_end(1, SOON).await;
    assert!(login.output().contains("interrupted"), "{}", login.output());
    assert!(!machine.path().join(CREDENTIALS).exists());
}

#[tokio::test]
async fn who_has_signed_in_exposes_with_nothing_else() {
    let server = Server::start().await;
    let (machine, local) = (Machine::new(), LocalProcess::start().await);
    machine.login(&server).await;
    let mut expose = machine.start(&["expose", &local.target(), "--name", "ollama"]);
    expose.wait_for_output("is the service ollama").await;
    let echo = server.api().get("/r/containers/ollama/echo").await.expect(200);
    assert_eq!(echo["method"], "GET");
    let key = machine.key(&server, "device_key");
    let echo = server.api().with_key(&key).get("/r/containers/ollama/echo").await;
    assert!(!echo.text().contains(&key[12..]), "the process does not see the key");
    assert_eq!(echo.expect(200)["method"], "GET");
    // The keys end together, and with them the agent.
    server.api().with_key(&key).post("/auth/device/revoke", &json!({})).await.expect(200);
    server.api().wait_for_answer("/r/containers/ollama/echo", 503).await;
    assert!(machine.run(&["logout"]).await.status.success(), "the key is gone already, and that is no error");
}

/// Fills the page's fields and sends the form.
pub async fn submit(browser: &mut Browser, form: &str, fields: &[(&str, &str)]) {
    for (id, value) in fields {
        let script = format!("document.getElementById({}).value = {}", json!(id), json!(value));
        browser.evaluate(&script).await;
    }
    let script = format!("document.getElementById({}).requestSubmit()", json!(form));
    browser.evaluate(&script).await;
}

pub async fn shown(browser: &mut Browser, id: &str) -> Value {
    wait_until(&format!("the page shows {id}"), SOON, async || {
        let hidden = browser.evaluate(&format!("document.getElementById({}).hidden", json!(id))).await;
        let text = browser.evaluate("document.body.innerText").await;
        if hidden == false { Ok(text) } else { Err(text.to_string()) }
    })
    .await
}

#[tokio::test]
async fn the_page_signs_in_and_confirms() {
    let server = Server::start().await;
    let started = server.api().anonymous().post("/desktop/pair/start", &json!({})).await.expect(200);
    let mut browser = Browser::start().await;
    browser.visit(&format!("{}&name=Ada%27s%20laptop", started["verification_uri_complete"].as_str().unwrap())).await;
    shown(&mut browser, "sign-in").await;
    let address = server.bootstrap.email_address.as_str();
    submit(&mut browser, "sign-in", &[("email-address", address), ("password", "wrong")]).await;
    let text = shown(&mut browser, "error").await;
    assert!(text.as_str().unwrap().contains("the e-mail address or the password is wrong"), "{text}");

    let password = server.bootstrap.user_password.as_str();
    submit(&mut browser, "sign-in", &[("email-address", address), ("password", password)]).await;
    let text = shown(&mut browser, "confirm").await;
    assert!(text.as_str().unwrap().contains(address), "{text}");
    assert_eq!(browser.evaluate("document.getElementById('code').value").await, started["user_code"]);
    assert_eq!(browser.evaluate("document.getElementById('password').value").await, "", "it is not kept");
    submit(&mut browser, "confirm", &[("code", "bcdf ghjk")]).await;
    let text = shown(&mut browser, "error").await;
    assert!(text.as_str().unwrap().contains("this code is unknown"), "{text}");
    submit(&mut browser, "confirm", &[("code", started["user_code"].as_str().unwrap())]).await;
    shown(&mut browser, "done").await;

    let poll = json!({"device_code": started["device_code"]});
    let keys = server.api().anonymous().post("/desktop/pair/poll", &poll).await.expect(200);
    let device = server.api().with_key(keys["raw_key"].as_str().unwrap());
    assert_eq!(device.get("/teams/current").await.expect(200)["id"], server.bootstrap.team_id.as_str());
    let list = server.owner().await.get("/credentials?kind=device").await.expect(200);
    assert_eq!(list["credentials"][0]["display_name"], "Ada's laptop");
    // Nothing of the sign-in stays in the browser, and a script from elsewhere does not run.
    assert_eq!(browser.evaluate("document.cookie + sessionStorage.length + localStorage.length").await, "00");
    let script = "new Promise((resolve) => { const own = document.createElement('script'); own.textContent = 'window.ran = 1'; \
         document.body.append(own); resolve(typeof window.ran); })";
    assert_eq!(browser.evaluate(script).await, "undefined");
}
