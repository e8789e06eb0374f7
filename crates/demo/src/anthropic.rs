//! `/v1/messages`: the same language model in Anthropic's shape.
//!
//! It answers the last user message, one word a token, at a pace that the caller sets (`delay_ms`, ours). It takes any model name, and keys
//! are somebody else's affair.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::{Body, Cut, json_ok, json_response, streamed};
use crate::call::{Call, Reply};
use crate::digest::hex;
use crate::query::pause;
use crate::stream::event_stream;

const MAX_BODY: usize = 16 << 20;
const MAX_DELAY_MS: u64 = 600_000;

/// The fields that matter here. All others are accepted and have no effect.
#[derive(Debug, Deserialize)]
struct MessagesRequest {
    model: String,
    max_tokens: usize,
    messages: Vec<Message>,
    stream: Option<bool>,
    delay_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Debug, Deserialize)]
struct Block {
    text: Option<String>,
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            Content::Text(text) => text.clone(),
            Content::Blocks(blocks) => blocks.iter().filter_map(|block| block.text.as_deref()).collect(),
        }
    }
}

/// `POST /v1/messages`.
pub async fn messages(call: Call) -> Reply {
    let body = call.collect(MAX_BODY).await?;
    let request = match parse(&body) {
        Ok(request) => request,
        Err(message) => return Ok(refused(&message)),
    };
    let answer = Answer::to(&request, &body);
    let delay = Duration::from_millis(request.delay_ms.unwrap_or_default());
    if request.stream == Some(true) {
        return Ok(answer.into_stream(delay));
    }
    pause(delay).await;
    Ok(json_ok(&answer.whole()))
}

fn parse(body: &[u8]) -> Result<MessagesRequest, String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let request: MessagesRequest =
        serde_path_to_error::deserialize(&mut json).map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    match &request {
        request if request.messages.is_empty() => Err("messages: at least one message is required".to_owned()),
        request if request.max_tokens == 0 => Err("max_tokens: must be at least 1".to_owned()),
        request if request.delay_ms > Some(MAX_DELAY_MS) => Err("delay_ms: at most 600000".to_owned()),
        _ => Ok(request),
    }
}

/// An error in the shape that Anthropic's SDKs print.
fn refused(message: &str) -> Response<Body> {
    let error = json!({ "type": "invalid_request_error", "message": message });
    json_response(StatusCode::BAD_REQUEST, &json!({ "type": "error", "error": error }))
}

/// All that is said, before it is put into one of the two shapes.
struct Answer {
    id: String,
    model: String,
    tokens: Vec<String>,
    stop_reason: &'static str,
    input_tokens: usize,
}

impl Answer {
    /// The same question has the same answer and the same id.
    fn to(request: &MessagesRequest, body: &[u8]) -> Self {
        let question = request.messages.iter().rfind(|message| message.role == "user").map(Message::text);
        let text = format!("You said: {}", question.unwrap_or_default());
        let mut tokens: Vec<String> = text.split_inclusive(char::is_whitespace).map(str::to_owned).collect();
        let stop_reason = if tokens.len() > request.max_tokens { "max_tokens" } else { "end_turn" };
        tokens.truncate(request.max_tokens);
        Self {
            id: format!("msg_{}", &hex(&Sha256::digest(body))[..24]),
            model: request.model.clone(),
            tokens,
            stop_reason,
            input_tokens: request.messages.iter().map(|message| message.text().split_whitespace().count()).sum(),
        }
    }

    fn message(&self, content: &Value, stop_reason: Option<&str>, output_tokens: usize) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": { "input_tokens": self.input_tokens, "output_tokens": output_tokens },
        })
    }

    fn whole(&self) -> Value {
        let content = json!([{ "type": "text", "text": self.tokens.concat() }]);
        self.message(&content, Some(self.stop_reason), self.tokens.len())
    }

    /// The message without content, its one block a token at a time, then how it ended.
    fn events(&self) -> Vec<Bytes> {
        let event = |name: &str, mut data: Value| {
            data["type"] = name.into();
            Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
        };
        let start = json!({ "message": self.message(&json!([]), None, 0) });
        let block = json!({ "index": 0, "content_block": { "type": "text", "text": "" } });
        let delta = |token: &String| {
            let delta = json!({ "type": "text_delta", "text": token });
            event("content_block_delta", json!({ "index": 0, "delta": delta }))
        };
        let end = json!({
            "delta": { "stop_reason": self.stop_reason, "stop_sequence": null },
            "usage": { "output_tokens": self.tokens.len() },
        });
        let mut events = vec![event("message_start", start), event("content_block_start", block)];
        events.push(event("ping", json!({})));
        events.extend(self.tokens.iter().map(delta));
        events.push(event("content_block_stop", json!({ "index": 0 })));
        events.push(event("message_delta", end));
        events.push(event("message_stop", json!({})));
        events
    }

    fn into_stream(self, delay: Duration) -> Response<Body> {
        let events = self.events().into_iter().enumerate();
        let frames = stream::unfold(events, move |mut events| async move {
            let (index, event) = events.next()?;
            if index > 0 {
                pause(delay).await;
            }
            Some((Ok::<_, Cut>(Frame::data(event)), events))
        });
        event_stream(streamed(frames))
    }
}
