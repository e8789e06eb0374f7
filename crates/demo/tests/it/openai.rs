//! The shapes of OpenAI's API, as its SDKs read them.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

const CHAT: &str = "/v1/chat/completions";

async fn chat(body: Value) -> Answer {
    Server::start().await.send("POST", CHAT, body.to_string().as_bytes()).await
}

fn events(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events = answer.text().split_terminator("\n\n");
    events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let server = Server::start().await;
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "towline-demo");
    assert_eq!(server.get("/v1/models/towline-demo").await.json(), list["data"][0]);
    let missing = server.get("/v1/models/gpt").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.json()["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn the_last_user_message_is_answered() {
    let body = json!({ "model": "any", "temperature": 1, "messages": [
        { "role": "system", "content": "be brief" },
        { "role": "user", "content": "first" },
        { "role": "assistant", "content": null },
        { "role": "user", "content": [{ "type": "text", "text": "tow " }, { "type": "text", "text": "line" }] },
    ]});
    let answer = chat(body.clone()).await.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "any");
    assert_eq!(answer["choices"][0]["message"]["content"], "You said: tow line");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9 }));
    assert_eq!(chat(body).await.json()["id"], answer["id"], "the same question has the same id");
}

#[tokio::test]
async fn a_stream_has_the_same_words() {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "a b" }], "stream": true,
        "stream_options": { "include_usage": true } });
    let events = events(&chat(body).await);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let words = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(words.collect::<String>(), "You said: a b");
    let [.., last, usage] = chunks.as_slice() else { panic!("too few chunks") };
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["usage"], Value::Null);
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn a_stream_is_paced_and_sent_chunk_by_chunk() {
    let server = Server::start().await;
    let mut caller = server.connect().await;
    let body =
        json!({ "model": "m", "messages": [{ "role": "user", "content": "x" }], "stream": true, "delay_ms": 600_000 });
    let body = body.to_string();
    caller.write(format!("POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    caller.read_until("\"role\":\"assistant\"").await;
}

#[tokio::test]
async fn the_answer_is_cut_at_max_tokens() {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "x" }], "max_completion_tokens": 2 });
    let choice = &chat(body).await.json()["choices"][0];
    assert_eq!(choice["message"]["content"], "You said: ");
    assert_eq!(choice["finish_reason"], "length");
}

#[tokio::test]
async fn mistakes_are_named_in_openais_shape() {
    let server = Server::start().await;
    let hi = r#"[{"role":"user","content":"hi"}]"#;
    for (body, param, code) in [
        ("{".to_owned(), Value::Null, Value::Null),
        ("[]".to_owned(), Value::Null, Value::Null),
        (format!(r#"{{"messages":{hi}}}"#), "model".into(), "missing_required_parameter".into()),
        (r#"{"model":"m"}"#.to_owned(), "messages".into(), "missing_required_parameter".into()),
        (r#"{"model":"m","messages":[]}"#.to_owned(), "messages".into(), "invalid_value".into()),
        (r#"{"model":"m","messages":[{"role":1}]}"#.to_owned(), "messages[0].role".into(), "invalid_value".into()),
        (format!(r#"{{"model":"m","messages":{hi},"n":2}}"#), "n".into(), "invalid_value".into()),
        (format!(r#"{{"model":"m","messages":{hi},"delay_ms":600001}}"#), "delay_ms".into(), "invalid_value".into()),
    ] {
        let answer = server.send("POST", CHAT, body.as_bytes()).await;
        assert_eq!(answer.status(), 400, "{body}");
        let error = answer.json()["error"].clone();
        assert_eq!(error["type"], "invalid_request_error", "{body}");
        assert_eq!(error["param"], param, "{body}");
        assert_eq!(error["code"], code, "{body}");
        assert!(error["message"].as_str().unwrap().len() > 10, "{body}");
    }
    let wrong_method = server.get(CHAT).await;
    assert_eq!(wrong_method.status(), 405);
    assert_eq!(wrong_method.header("allow"), Some("POST"));
}
