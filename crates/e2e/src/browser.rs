//! A real browser: Chromium without a window, driven over its DevTools protocol.

use std::{fs, path::Path, process::Command};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::{
    dir::test_dir,
    needs,
    process::Process,
    wait::{SOON, wait_until},
};

/// No window, no background traffic, no sandbox (a container's root has none), and loopback only by what a test opens.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// A browser with one page. It is gone when this is dropped.
#[derive(Debug)]
pub struct Browser {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    last_id: u64,
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with a profile of its own and opens an empty page.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        let profile = test_dir();
        let mut command = Command::new(needs::chromium());
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.env("HOME", profile.path()).current_dir(profile.path());
        let mut process = Process::start("chromium", &mut command, &profile.path().join("chromium.log"));
        let url = wait_until("the browser listens", SOON * 2, async || {
            process.assert_runs();
            debugging_url(profile.path()).ok_or_else(|| process.output())
        })
        .await;
        let (socket, _) = connect_async(url).await.expect("the browser takes a DevTools connection");
        let mut browser = Self { socket, session: String::new(), last_id: 0, _process: process, _profile: profile };
        let target = browser.command("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.command("Target.attachToTarget", attach).await;
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser.command("Network.enable", json!({})).await;
        browser.command("Page.enable", json!({})).await;
        browser
    }

    /// Goes to a page.
    ///
    /// # Panics
    /// When it does not load.
    pub async fn visit(&mut self, url: &str) {
        let opened = self.command("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.wait_for(&format!("document.readyState === 'complete' && location.href === {}", json!(url))).await;
    }

    /// Waits until an expression is true in the page, which may be on its way to another one.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub async fn wait_for(&mut self, expression: &str) {
        wait_until(expression, SOON, async || {
            if self.try_evaluate(expression).await? == true {
                return Ok(());
            }
            let seen = self.try_evaluate("location.href + ': ' + document.documentElement.innerText").await?;
            Err(seen.to_string())
        })
        .await;
    }

    /// Goes to a page with this `Authorization`, and sends none from then on.
    ///
    /// # Panics
    /// When the page does not load.
    pub async fn open(&mut self, url: &str, authorization: &str) {
        self.command("Network.setExtraHTTPHeaders", json!({"headers": {"Authorization": authorization}})).await;
        self.visit(url).await;
        self.command("Network.setExtraHTTPHeaders", json!({"headers": {}})).await;
    }

    /// What an expression gives in the page; a promise is waited for.
    ///
    /// # Panics
    /// When it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The same; it throws, too, when the page goes away meanwhile.
    async fn try_evaluate(&mut self, expression: &str) -> Result<Value, String> {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.exchange("Runtime.evaluate", parameters).await?;
        match answer.get("exceptionDetails") {
            None => Ok(answer["result"]["value"].clone()),
            Some(thrown) => Err(format!("{thrown:#}")),
        }
    }

    /// The value of a cookie that the page itself may not see.
    pub async fn cookie(&mut self, url: &str, name: &str) -> Option<String> {
        let cookies = self.command("Network.getCookies", json!({"urls": [url]})).await;
        let mut cookies = cookies["cookies"].as_array().into_iter().flatten();
        let cookie = cookies.find(|cookie| cookie["name"] == name)?;
        cookie["value"].as_str().map(str::to_owned)
    }

    async fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.exchange(method, parameters).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// What the browser answers to a command, or the error that it names.
    async fn exchange(&mut self, method: &str, parameters: Value) -> Result<Value, String> {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let exchange = async {
            self.socket.send(Message::text(command.to_string())).await.expect("the browser is there");
            loop {
                let message = self.socket.next().await.expect("the browser answers").expect("the browser is there");
                let Ok(text) = message.to_text() else { continue };
                let answer: Value = serde_json::from_str(text).unwrap_or_default();
                if answer["id"] == id {
                    return answer;
                }
            }
        };
        let answer = timeout(SOON, exchange).await.unwrap_or_else(|_| panic!("{method} was not answered"));
        match answer.get("error") {
            None => Ok(answer["result"].clone()),
            Some(error) => Err(error.to_string()),
        }
    }
}

/// The browser writes its port and the path of its socket when it listens.
fn debugging_url(profile: &Path) -> Option<String> {
    let text = fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
    let (port, path) = text.trim().split_once('\n')?;
    Some(format!("ws://127.0.0.1:{port}{path}"))
}
