//! Sign-in with OpenID Connect, against a certified provider that others wrote (`oidc-provider`), as a browser does it.

use std::{collections::BTreeMap, process::Command};

use http::{Method, header};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use towline_e2e::{
    api::Api,
    browser::Browser,
    dir::test_dir,
    needs,
    process::Process,
    system::{Server, towline},
    wait::{SOON, wait_until},
};

use crate::pairing::{Machine, shown, submit};

const SECRET: &str = "a secret of forty and more characters: 0123456789";

/// A server and its identity provider.
struct World {
    server: Server,
    _provider: Process,
    _directory: TempDir,
}

impl World {
    async fn start(more: &[&str]) -> Self {
        let mut server = Server::start().await;
        let directory = test_dir();
        let node = needs::node_directory();
        // Modules are looked for beside the script, so the script goes where the package is.
        let script = node.join(format!("oidc-{}.mjs", server.api().address().port()));
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/oidc.mjs"), &script).unwrap();
        let mut command = Command::new("node");
        command.arg(&script).arg(server.api().url("/auth/oidc/callback")).current_dir(&node);
        let mut provider = Process::start("the identity provider", &mut command, &directory.path().join("oidc.log"));
        let port = wait_until("the identity provider listens", SOON, async || {
            provider.assert_runs();
            let output = provider.output();
            let said = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            said.filter_map(|line| line["port"].as_u64()).next().ok_or(output)
        })
        .await;
        std::fs::remove_file(&script).unwrap();
        let issuer = format!("http://127.0.0.1:{port}");
        let arguments = ["--oidc-issuer", &issuer, "--oidc-client-id", "towline", "--oidc-client-secret", SECRET];
        let arguments = arguments.iter().chain(more).map(|&text| text.to_owned()).collect();
        server.kill();
        server.start_again_with(arguments).await;
        Self { server, _provider: provider, _directory: directory }
    }

    /// Signs in as a browser does, and gives the last answer.
    async fn sign_in(&self, login: &str) -> Response {
        self.sign_in_from("/auth/oidc/start", login).await
    }

    async fn sign_in_from(&self, start: &str, login: &str) -> Response {
        let mut visitor = Visitor::new();
        let start = self.server.api().url(start);
        let mut response = visitor.get(&start).await;
        loop {
            while let Some(target) = redirect(&response) {
                response = visitor.get(&target).await;
            }
            let is_ours = response.url().as_str().starts_with(&self.server.bootstrap.url);
            if is_ours {
                return response;
            }
            // A form of the provider: who are you, and do you agree?
            let target = response.url().to_string();
            let page = response.text().await.unwrap();
            let prompt = if page.contains(r#"value="login""#) { "login" } else { "consent" };
            assert!(page.contains(&format!(r#"name="prompt" value="{prompt}""#)), "{page}");
            response = visitor.post(&target, &[("prompt", prompt), ("login", login), ("password", "x")]).await;
        }
    }

    async fn tokens(&self, login: &str) -> Value {
        let response = self.sign_in(login).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn refused(&self, login: &str) -> (u16, Value) {
        let response = self.sign_in(login).await;
        (response.status().as_u16(), response.json().await.unwrap())
    }

    fn user(&self, tokens: &Value) -> Api {
        self.server.api().with_user(tokens["access_token"].as_str().unwrap(), &self.server.bootstrap.team_id)
    }
}

/// Follows nothing by itself, and keeps cookies by host and path.
struct Visitor {
    client: Client,
    cookies: BTreeMap<(String, String), String>,
}

impl Visitor {
    fn new() -> Self {
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { client, cookies: BTreeMap::new() }
    }

    async fn get(&mut self, url: &str) -> Response {
        self.send(Method::GET, url, None).await
    }

    async fn post(&mut self, url: &str, form: &[(&str, &str)]) -> Response {
        let body: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", value.replace('@', "%40"))).collect();
        self.send(Method::POST, url, Some(body.join("&"))).await
    }

    async fn send(&mut self, method: Method, url: &str, body: Option<String>) -> Response {
        let url: reqwest::Url = url.parse().unwrap();
        let origin = url.origin().ascii_serialization();
        let cookies: Vec<_> = self
            .cookies
            .iter()
            .filter(|((place, _), _)| place.strip_prefix(&origin).is_some_and(|path| url.path().starts_with(path)))
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let mut request = self.client.request(method, url.clone()).header(header::COOKIE, cookies.join("; "));
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        }
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let mut parts = cookie.split("; ");
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            let path = parts.find_map(|part| part.to_lowercase().starts_with("path=").then(|| part[5..].to_owned()));
            let place = format!("{origin}{}", path.unwrap_or_else(|| "/".to_owned()));
            self.cookies.insert((place, name.to_owned()), value.to_owned());
        }
        response
    }
}

fn redirect(response: &Response) -> Option<String> {
    let location = response.headers().get(header::LOCATION)?.to_str().unwrap();
    response.status().is_redirection().then(|| response.url().join(location).unwrap().to_string())
}

#[tokio::test]
async fn an_invited_person_signs_in_and_is_in_the_team() {
    let world = World::start(&[]).await;
    let (status, problem) = world.refused("verified.ada@example.com").await;
    assert_eq!((status, &problem["error_code"]), (403, &json!("forbidden")), "{problem}");
    assert!(problem["error_message"].as_str().unwrap().contains("invite"), "{problem}");

    let invited = json!({"email_address": "Verified.Ada@example.com", "invitation_role": "member"});
    let owner = world.server.owner().await;
    owner.post("/invitations", &invited).await.created();
    let tokens = world.tokens("verified.ada@example.com").await;
    let ada = world.user(&tokens);
    let me = ada.get("/users/me").await.expect(200);
    assert_eq!(me["email_address"], "verified.ada@example.com");
    assert_eq!(me["display_name"], "Name of verified.ada@example.com");
    assert_eq!(me["team_list"][0]["role"], "member", "{me}");
    ada.get("/containers").await.expect(200);
    let refreshed = json!({"refresh_token": tokens["refresh_token"]});
    ada.anonymous().post("/auth/refresh", &refreshed).await.expect(200);
    // The invitation is used up, the account is the same the next time, and it has no password.
    assert_eq!(owner.get("/invitations").await.expect(200)["page_meta"]["total_count"], 0);
    let again = world.user(&world.tokens("verified.ada@example.com").await);
    assert_eq!(again.get("/users/me").await.expect(200)["id"], me["id"]);
    // So far without a password: the page that devices are paired on takes the person as signed in.
    let page = world.sign_in_from("/auth/oidc/start?pair", "verified.ada@example.com").await;
    assert_eq!(
        (page.status().as_u16(), page.headers()[header::CONTENT_TYPE].as_bytes()),
        (200, &b"text/html; charset=utf-8"[..])
    );
    let page = page.text().await.unwrap();
    let (_, token) = page.split_once("data-access-token=\"").unwrap();
    let token = json!({"access_token": token.split('"').next().unwrap()});
    assert_eq!(world.user(&token).get("/users/me").await.expect(200)["id"], me["id"]);
    // What was made and each sign-in is in the log of the team; of a person who was refused there is nothing.
    let log = owner.get("/audit?per_page=100").await.expect(200);
    let by_ada = log["audit_list"].as_array().unwrap().iter().filter(|entry| entry["user_id"] == me["id"]);
    let mut entries: Vec<_> = by_ada.map(|entry| entry["action"].as_str().unwrap()).collect();
    entries.reverse();
    let sign_in = "user.sign_in";
    assert_eq!(entries, ["invitation.accept", "user.link_identity", sign_in, sign_in, sign_in], "{log:#}");
    let linked = log["audit_list"].as_array().unwrap().iter().find(|entry| entry["action"] == "user.link_identity");
    let linked = linked.unwrap();
    assert_eq!(linked["actor_name"], "verified.ada@example.com");
    assert!(linked["details"]["issuer"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{linked:#}");
    assert!(linked["address"].is_string() && linked["request_id"].is_string(), "{linked:#}");
    for password in ["", "x"] {
        let body = json!({"email_address": "verified.ada@example.com", "user_password": password});
        ada.anonymous().post("/auth/login", &body).await.problem(401, "invalid_login");
    }
}

/// In a real browser: from the page that `towline login` names to the provider, and back to the page, which still knows the code.
#[tokio::test]
async fn a_device_is_let_in_by_a_person_of_the_provider() {
    let world = World::start(&[]).await;
    let (server, ada) = (&world.server, "verified.ada@example.com");
    let owner = server.owner().await;
    owner.post("/invitations", &json!({"email_address": ada, "invitation_role": "member"})).await.created();
    let machine = Machine::new();
    let (mut login, code) = machine.begin_login(server).await;
    let mut browser = Browser::start().await;
    browser.visit(&format!("{}/pair?code={code}&name=Ada%27s%20laptop", server.bootstrap.url)).await;
    shown(&mut browser, "sign-in").await;
    browser.evaluate("document.getElementById('oidc').click()").await;
    for (prompt, fill) in [
        ("login", format!("form.elements.login.value = '{ada}', form.elements.password.value = 'x'")),
        ("consent", "true".to_owned()),
    ] {
        browser.wait_for(&format!("document.querySelector('[name=prompt]')?.value === '{prompt}'")).await;
        browser.evaluate(&format!("form = document.forms[0], {fill}, form.requestSubmit()")).await;
    }
    browser.wait_for("location.pathname === '/pair' && document.getElementById('confirm').hidden === false").await;
    let field =
        "['who', 'code', 'device-name'].map((id) => document.getElementById(id)).map((it) => it.value ?? it.innerText)";
    assert_eq!(browser.evaluate(field).await, json!([ada, code, "Ada's laptop"]));
    submit(&mut browser, "confirm", &[]).await;
    shown(&mut browser, "done").await;
    // Nothing of the sign-in stays, neither in the address nor in the browser.
    let rest = "[location.search, document.cookie, sessionStorage.length, localStorage.length]";
    assert_eq!(browser.evaluate(rest).await, json!(["", "", 0, 0]));
    login.wait_for_end(0, SOON).await;
    assert!(login.output().contains("signed in to"), "{}", login.output());
    let device = server.api().with_key(&machine.key(server, "device_key"));
    assert_eq!(device.get("/teams/current").await.expect(200)["id"], server.bootstrap.team_id.as_str());
    let list = owner.get("/credentials?kind=device").await.expect(200);
    assert_eq!(list["credentials"][0]["display_name"], "Ada's laptop", "{list:#}");
}

#[tokio::test]
async fn only_a_verified_address_says_who_somebody_is() {
    let world = World::start(&["--oidc-allowed-domain", "example.net"]).await;
    let owner = world.server.owner().await;
    for address in ["bob@example.com", "verified.eve@example.com"] {
        let invited = json!({"email_address": address, "invitation_role": "viewer"});
        let token = owner.post("/invitations", &invited).await.created()["token"].clone();
        let body = json!({"token": token, "user_password": "long enough"});
        owner.anonymous().post("/invitations/accept", &body).await.expect(200);
    }
    // An address that anybody could claim opens no account, neither one that there is nor a new one.
    for login in ["bob@example.com", "carl@example.net"] {
        let (status, problem) = world.refused(login).await;
        assert_eq!(status, 403, "{problem}");
        assert!(problem["error_message"].as_str().unwrap().contains("verified"), "{problem}");
    }
    let eve = world.user(&world.tokens("verified.eve@example.com").await);
    let me = eve.get("/users/me").await.expect(200);
    assert_eq!(me["team_list"][0]["role"], "viewer", "the account that there was: {me}");
    // An allowed domain needs no invitation, and is in no team.
    let dora = world.user(&world.tokens("verified.dora@example.net").await);
    let me = dora.get("/users/me").await.expect(200);
    assert_eq!(me["team_list"], json!([]));
    dora.get("/containers").await.problem(403, "not_in_team");
    // So what she does is in no team's log but in the server's own, which whoever runs the server reads.
    world.tokens("verified.dora@example.net").await;
    let log = own_log(&world.server);
    let by_dora = log.iter().filter(|entry| entry["user_id"] == me["id"]);
    let actions: Vec<_> = by_dora.map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["user.create", "user.link_identity", "user.sign_in", "user.sign_in"], "{log:#?}");
    // Whatever has a person behind it came by a request; the owner's account was made by the first start.
    let (by_server, by_people): (Vec<_>, Vec<_>) = log.iter().partition(|entry| entry["actor_kind"] == "system");
    assert_eq!((by_server.len(), &by_server[0]["action"]), (1, &json!("user.create")), "{log:#?}");
    for entry in by_people {
        assert!(entry["address"].is_string() && entry["request_id"].is_string(), "{entry:#}");
    }
    assert_eq!(owner.get("/audit?action=user.create").await.expect(200)["page_meta"]["total_count"], 0);
}

/// The server's own log, the oldest entry first, while the server runs.
fn own_log(server: &Server) -> Vec<Value> {
    let mut command = towline(server.directory());
    command.args(["audit", "--server-log", "--export", "--data-dir"]).arg(server.directory().join("data"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_sign_in_ends_in_the_browser_that_began_it() {
    let world = World::start(&["--oidc-allowed-domain", "example.com"]).await;
    let api = world.server.api().anonymous();
    let start = api.send(api.request(Method::GET, "/auth/oidc/start")).await;
    assert_eq!(start.status, 303, "{}", start.text());
    let target: reqwest::Url = start.header("location").parse().unwrap();
    let query: BTreeMap<_, _> = target.query_pairs().into_owned().collect();
    assert_eq!((query["response_type"].as_str(), query["code_challenge_method"].as_str()), ("code", "S256"));
    assert!(query["nonce"].len() > 16 && query["state"].len() > 16 && query["scope"].contains("openid"), "{query:?}");
    let cookie = start.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let come_back = async |state: &str, cookie: &str, more: &str| {
        let path = format!("/auth/oidc/callback?state={state}{more}");
        api.send(api.request(Method::GET, &path).header("cookie", cookie)).await
    };
    let state = query["state"].as_str();
    come_back(state, "", "&code=x").await.problem(400, "invalid_parameter");
    come_back("another", &cookie, "&code=x").await.problem(400, "invalid_parameter");
    come_back("", &cookie, "&code=x").await.problem(400, "invalid_parameter");
    come_back(state, "towline_oidc=nonsense", "&code=x").await.problem(400, "invalid_parameter");
    come_back(state, &cookie, "").await.problem(400, "invalid_parameter");
    come_back(state, &cookie, "&error=access_denied").await.problem(403, "forbidden");
    come_back(state, &cookie, "&code=x").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_server_without_a_provider_says_so() {
    let mut server = Server::start().await;
    for path in ["/auth/oidc/start", "/auth/oidc/callback?code=x&state=y"] {
        server.api().anonymous().get(path).await.problem(404, "not_found");
    }
    // One that cannot be reached is no reason not to start.
    server.kill();
    let arguments = ["--oidc-issuer", "http://127.0.0.1:9", "--oidc-client-id", "towline"].map(str::to_owned);
    server.start_again_with(arguments.to_vec()).await;
    server.api().anonymous().get("/auth/oidc/start").await.problem(502, "identity_provider_failed");
    server.owner().await.get("/users/me").await.expect(200);
}
