//! Four ways to call a service from outside, each shown as one would type it, and its answer proved.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// The longest that one call may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The calls of one service.
#[derive(Debug)]
pub struct Calls {
    /// `http://…/api/v1`.
    api: String,
    key: String,
    slug: String,
}

impl Calls {
    /// Calls of the service with that slug, with that key.
    pub fn new(server: &str, key: &str, slug: &str) -> Self {
        let api = format!("{}/api/v1", server.trim_end_matches('/'));
        Self { api, key: key.to_owned(), slug: slug.to_owned() }
    }

    /// Says what the commands that follow stand on.
    pub fn introduce(&self) {
        println!("\nFour calls. As typed, they need:\n  URL={} KEY={}", self.api, self.key);
    }

    /// A request through the proxy: the bytes of its path and query reach the container as they were sent.
    ///
    /// # Errors
    /// When the answer is another.
    pub async fn proxy(&self) -> Result<()> {
        let target = "/echo/a%2Fb/../c?x=%zz&&y";
        let path = format!("/r/containers/{}{target}", self.slug);
        let answer = self.curl("1. A request through the proxy", &["--path-as-is"], &path).await?;
        println!("{answer}");
        let echo: Value = serde_json::from_str(&answer)?;
        ensure!(echo["method"] == "GET" && echo["target"] == target, "the container saw another request");
        ensure!(!answer.contains(&self.key), "the key reached the container");
        Ok(())
    }

    /// A streamed chat completion: each token is here before the next one is made.
    ///
    /// # Errors
    /// When the answer is another, or comes in one piece.
    pub async fn chat(&self) -> Result<()> {
        let body = json!({
            "model": "towline-demo", "stream": true, "delay_ms": 150,
            "messages": [{"role": "user", "content": "tell me what I said, please"}],
        });
        let body = body.to_string();
        let path = format!("/r/containers/{}/v1/chat/completions", self.slug);
        let arguments = ["-N", "-H", "Content-Type: application/json", "-d", &body];
        let mut child = self.start_curl("2. A streamed chat completion", &arguments, &path)?;
        let mut output = child.stdout.take().context("curl has an output")?;
        let (mut answer, mut buffer, mut pieces) = (String::new(), vec![0; 64 << 10], 0);
        loop {
            let length = timeout(LIMIT, output.read(&mut buffer)).await.context("the next piece did not come")??;
            if length == 0 {
                break;
            }
            pieces += 1;
            let piece = String::from_utf8_lossy(&buffer[..length]);
            print!("{piece}");
            answer.push_str(&piece);
        }
        ensure!(child.wait().await?.success(), "curl failed");
        let said: String = tokens(&answer)?.concat();
        println!("= {said}");
        ensure!(said == "You said: tell me what I said, please", "the model said something else");
        ensure!(pieces >= 3, "the answer came in {pieces} pieces: something holds it back");
        Ok(())
    }

    /// The same service without HTTP of one's own: request and answer as JSON.
    ///
    /// # Errors
    /// When the answer is another.
    pub async fn invoke(&self) -> Result<()> {
        let body =
            json!({"method": "POST", "path": "/echo?invoked=1", "body_base64": BASE64.encode("hello")}).to_string();
        let arguments = ["-H", "Content-Type: application/json", "-d", &body];
        let answer = self.curl("3. An invoke", &arguments, &format!("/r/invoke/{}", self.slug)).await?;
        println!("{answer}");
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["status_code"] == 200, "the container did not answer 200");
        let inner = BASE64.decode(answer["body_base64"].as_str().unwrap_or_default())?;
        let echo: Value = serde_json::from_slice(&inner)?;
        println!("= {echo}");
        ensure!(echo["method"] == "POST" && echo["target"] == "/echo?invoked=1", "the container saw another request");
        ensure!(
            echo["body_sha256"] == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "the container saw another body"
        );
        Ok(())
    }

    /// A WebSocket: messages of both kinds there and back, and a proper end.
    ///
    /// # Errors
    /// When a message does not come back as it was sent.
    pub async fn websocket(&self) -> Result<()> {
        let url = format!("{}/r/containers/{}/ws", self.api.replacen("http", "ws", 1), self.slug);
        println!("\n4. A WebSocket\n  {url}");
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {}", self.key).parse()?);
        let (mut socket, _) = timeout(LIMIT, connect_async(request)).await??;
        for message in [Message::text("hello, towline"), Message::binary(vec![0, 1, 254, 255])] {
            println!("> {}", shown(&message));
            socket.send(message.clone()).await?;
            let echo = timeout(LIMIT, socket.next()).await?.context("the WebSocket ended")??;
            println!("< {}", shown(&echo));
            ensure!(echo == message, "another message came back");
        }
        socket.close(None).await?;
        while let Some(rest) = timeout(LIMIT, socket.next()).await? {
            ensure!(rest?.is_close(), "a message came after the close");
        }
        Ok(())
    }

    /// Asks who answers, until every replica has.
    ///
    /// # Errors
    /// When that does not happen in as many calls as make chance impossible.
    pub async fn every_replica(&self, replicas: u64) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        let path = format!("/r/containers/{}/instance", self.slug);
        for _ in 0..100 {
            let answer: Value = serde_json::from_str(&finish(self.quiet_curl(&[], &path)?).await?)?;
            seen.insert(answer["hostname"].as_str().unwrap_or_default().to_owned());
            if seen.len() as u64 == replicas {
                println!("\nAll {replicas} replicas have answered.");
                return Ok(());
            }
        }
        bail!("only {seen:?} ever answered")
    }

    async fn curl(&self, title: &str, arguments: &[&str], path: &str) -> Result<String> {
        finish(self.start_curl(title, arguments, path)?).await
    }

    fn start_curl(&self, title: &str, arguments: &[&str], path: &str) -> Result<Child> {
        let words: Vec<_> = arguments.iter().map(|word| quoted(word)).collect();
        let more = if words.is_empty() { String::new() } else { format!(" {}", words.join(" ")) };
        println!("\n{title}\n$ curl{more} -H \"Authorization: Bearer $KEY\" \"$URL{path}\"");
        self.quiet_curl(arguments, path)
    }

    fn quiet_curl(&self, arguments: &[&str], path: &str) -> Result<Child> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "--noproxy", "*", "--max-time", "30"]).args(arguments);
        command.args(["-H", &format!("Authorization: Bearer {}", self.key), &format!("{}{path}", self.api)]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().context("cannot start curl")
    }
}

async fn finish(child: Child) -> Result<String> {
    let output = child.wait_with_output().await?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "curl ended with {}: {answer}", output.status);
    Ok(answer)
}

/// The tokens of a streamed answer.
fn tokens(events: &str) -> Result<Vec<String>> {
    let mut data: Vec<_> = events.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    ensure!(data.pop() == Some("[DONE]"), "the stream has no proper end");
    let token = |event: &str| -> Result<String> {
        let chunk: Value = serde_json::from_str(event)?;
        Ok(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
    };
    data.into_iter().map(token).collect()
}

/// A message for people.
fn shown(message: &Message) -> String {
    match message {
        Message::Text(text) => text.to_string(),
        Message::Binary(bytes) => format!("{} bytes: {:?}", bytes.len(), &bytes[..]),
        other => format!("{other:?}"),
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    if word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("-N"), "-N");
        let word = r#"{"a": "it's"}"#;
        let said =
            crate::tools::output(std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]));
        assert_eq!(said.unwrap(), word);
    }

    #[test]
    fn a_stream_without_its_end_is_refused() {
        let event = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
        assert_eq!(tokens(&format!("{event}\n\ndata: [DONE]\n\n")).unwrap(), ["a"]);
        assert!(tokens(event).is_err());
    }
}
