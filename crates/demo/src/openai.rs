//! `/v1`: a language model in OpenAI's shape that always says what it was told.
//!
//! It answers the last user message, one word a token, at a pace that the caller sets (`delay_ms`, ours). It takes any model name.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::{Body, Cut, ErrorBody, json_ok, streamed};
use crate::call::{Call, Reply};
use crate::digest::hex;
use crate::query::pause;
use crate::state::unix_micros;
use crate::stream::event_stream;

const MODEL: &str = "towline-demo";
const MAX_BODY: usize = 16 << 20;
const MAX_DELAY_MS: u64 = 600_000;
const FINGERPRINT: &str = "fp_towline_demo";

/// `GET /v1/models`.
pub async fn models(_: Call) -> Reply {
    Ok(json_ok(&json!({ "object": "list", "data": [model()] })))
}

/// `GET /v1/models/{model}`.
pub async fn retrieve_model(call: Call) -> Reply {
    if call.rest == MODEL {
        return Ok(json_ok(&model()));
    }
    let message = format!("The model '{}' does not exist; there is only '{MODEL}'.", call.rest);
    let error = ErrorBody::new(StatusCode::NOT_FOUND, message);
    Err(ErrorBody { param: Some("model".to_owned()), code: Some("model_not_found"), ..error }.into())
}

fn model() -> Value {
    json!({ "id": MODEL, "object": "model", "created": 1_767_225_600, "owned_by": "towline" })
}

/// The fields that matter here. All others are accepted and have no effect.
#[derive(Debug, Deserialize)]
struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    n: Option<u64>,
    delay_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    text: Option<String>,
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().filter_map(|part| part.text.as_deref()).collect(),
        }
    }
}

/// `POST /v1/chat/completions`.
pub async fn chat(call: Call) -> Reply {
    let body = call.collect(MAX_BODY).await?;
    let request = parse(&body)?;
    let answer = Answer::to(&request, &body);
    let delay = Duration::from_millis(request.delay_ms.unwrap_or_default());
    if request.stream == Some(true) {
        let with_usage = request.stream_options.and_then(|options| options.include_usage) == Some(true);
        return Ok(answer.into_stream(delay, with_usage));
    }
    pause(delay).await;
    Ok(json_ok(&answer.whole()))
}

fn parse(body: &[u8]) -> Result<ChatRequest, ErrorBody> {
    let refuse = |message: String, param: Option<&str>, code| ErrorBody {
        param: param.map(str::to_owned),
        code,
        ..ErrorBody::new(StatusCode::BAD_REQUEST, message)
    };
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| refuse(format!("We could not parse the JSON body of your request: {error}."), None, None))?;
    if !value.is_object() {
        return Err(refuse("The body of the request must be a JSON object.".to_owned(), None, None));
    }
    for name in ["model", "messages"] {
        if value.get(name).is_none() {
            let message = format!("Missing required parameter: '{name}'.");
            return Err(refuse(message, Some(name), Some("missing_required_parameter")));
        }
    }
    let request: ChatRequest = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        refuse(format!("Invalid value for '{path}': {}.", error.inner()), Some(&path), Some("invalid_value"))
    })?;
    let invalid = |name: &str, rule: &str| {
        Err(refuse(format!("Invalid value for '{name}': {rule}."), Some(name), Some("invalid_value")))
    };
    match &request {
        request if request.messages.is_empty() => invalid("messages", "at least one message is needed"),
        request if request.n.is_some_and(|n| n != 1) => invalid("n", "this model gives one choice"),
        request if request.delay_ms > Some(MAX_DELAY_MS) => invalid("delay_ms", "at most 600000"),
        _ => Ok(request),
    }
}

/// All that is said, before it is put into one of the two shapes.
struct Answer {
    id: String,
    created: u64,
    model: String,
    tokens: Vec<String>,
    finish_reason: &'static str,
    prompt_tokens: usize,
}

impl Answer {
    /// The same question has the same answer and the same id.
    fn to(request: &ChatRequest, body: &[u8]) -> Self {
        let question = request.messages.iter().rfind(|message| message.role == "user").map(Message::text);
        let text = format!("You said: {}", question.unwrap_or_default());
        let mut tokens: Vec<String> = text.split_inclusive(char::is_whitespace).map(str::to_owned).collect();
        let limit = request.max_completion_tokens.or(request.max_tokens).unwrap_or(usize::MAX);
        let finish_reason = if tokens.len() > limit { "length" } else { "stop" };
        tokens.truncate(limit);
        Self {
            id: format!("chatcmpl-{}", &hex(&Sha256::digest(body))[..24]),
            created: unix_micros() / 1_000_000,
            model: request.model.clone(),
            tokens,
            finish_reason,
            prompt_tokens: request.messages.iter().map(|message| message.text().split_whitespace().count()).sum(),
        }
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens.len(),
            "total_tokens": self.prompt_tokens + self.tokens.len(),
        })
    }

    fn whole(&self) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": self.tokens.concat(), "refusal": null, "annotations": [] },
                "logprobs": null,
                "finish_reason": self.finish_reason,
            }],
            "usage": self.usage(),
        })
    }

    /// The role, then a chunk a token, then the reason for the end, then the usage when it was asked for, then `[DONE]`.
    fn chunks(&self, with_usage: bool) -> Vec<Bytes> {
        let chunk = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "system_fingerprint": FINGERPRINT,
                "choices": choices,
            });
            if with_usage {
                chunk["usage"] = usage.into();
            }
            Bytes::from(format!("data: {chunk}\n\n"))
        };
        let choice = |delta: Value, finish_reason: Option<&str>| json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason }]);
        let role = json!({ "role": "assistant", "content": "", "refusal": null });
        let mut chunks = vec![chunk(choice(role, None), None)];
        chunks.extend(self.tokens.iter().map(|token| chunk(choice(json!({ "content": token }), None), None)));
        chunks.push(chunk(choice(json!({}), Some(self.finish_reason)), None));
        if with_usage {
            chunks.push(chunk(json!([]), Some(self.usage())));
        }
        chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
        chunks
    }

    fn into_stream(self, delay: Duration, with_usage: bool) -> Response<Body> {
        let chunks = self.chunks(with_usage).into_iter().enumerate();
        let frames = stream::unfold(chunks, move |mut chunks| async move {
            let (index, chunk) = chunks.next()?;
            if index > 0 {
                pause(delay).await;
            }
            Some((Ok::<_, Cut>(Frame::data(chunk)), chunks))
        });
        event_stream(streamed(frames))
    }
}
