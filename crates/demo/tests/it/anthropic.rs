//! The shapes of Anthropic's API, as its SDKs read them.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

async fn messages(body: Value) -> Answer {
    Server::start().await.send("POST", "/v1/messages", body.to_string().as_bytes()).await
}

#[tokio::test]
async fn the_last_user_message_is_answered() {
    let body = json!({ "model": "any", "max_tokens": 100, "system": "be brief", "messages": [
        { "role": "user", "content": "first" },
        { "role": "assistant", "content": "yes" },
        { "role": "user", "content": [{ "type": "text", "text": "tow " }, { "type": "text", "text": "line" }] },
    ]});
    let answer = messages(body.clone()).await.json();
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["model"]),
        (&json!("message"), &json!("assistant"), &json!("any"))
    );
    assert_eq!(answer["content"], json!([{ "type": "text", "text": "You said: tow line" }]));
    assert_eq!(answer["stop_reason"], "end_turn");
    assert_eq!(answer["usage"], json!({ "input_tokens": 4, "output_tokens": 4 }));
    assert_eq!(messages(body).await.json()["id"], answer["id"], "the same question has the same id");
}

#[tokio::test]
async fn a_stream_has_the_same_words() {
    let body =
        json!({ "model": "m", "max_tokens": 3, "stream": true, "messages": [{ "role": "user", "content": "a b" }] });
    let answer = messages(body).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events: Vec<(&str, Value)> = answer
        .text()
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap())
        .map(|(name, data)| (name, serde_json::from_str(data).unwrap()))
        .collect();
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    let names: Vec<_> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(names[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(names[6..], ["content_block_stop", "message_delta", "message_stop"]);
    let words = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str());
    assert_eq!(words.collect::<String>(), "You said: a ");
    assert_eq!(events[7].1["delta"]["stop_reason"], "max_tokens");
    assert_eq!(events[7].1["usage"]["output_tokens"], 3);
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_the_shape_that_sdks_print() {
    for (body, at) in [
        (json!({ "model": "m", "messages": [{ "role": "user", "content": "a" }] }), "max_tokens"),
        (json!({ "model": "m", "max_tokens": 1, "messages": [] }), "messages"),
        (json!({ "model": "m", "max_tokens": 0, "messages": [{ "role": "user", "content": "a" }] }), "max_tokens"),
        (json!({ "model": "m", "max_tokens": 1, "messages": [{ "role": "user", "content": 1 }] }), "messages[0]"),
    ] {
        let answer = messages(body).await;
        assert_eq!(answer.status(), 400);
        let error = answer.json();
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("invalid_request_error")));
        assert!(error["error"]["message"].as_str().unwrap().contains(at), "{error}");
    }
}
