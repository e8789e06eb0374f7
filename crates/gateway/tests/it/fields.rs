//! The fuzzers' harness for paths, fields and descriptions on random input.

use proptest::{collection::vec, prelude::*};
use towline_gateway::testing::fuzz::{invoke, key, request_fields};

/// Lines that mean something here, in any order and number.
fn head() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        Just("/api/v1/r/containers/hello/x?a&towline_ticket=T&b".to_owned()),
        Just("/api/v1/agent/session?x".to_owned()),
        "(/api/v1/r/(containers|invoke)/)?[a-z/?&=]{0,12}(towline_ticket=)?[a-z&]{0,4}",
    ];
    let key = || Just(key().to_owned());
    let line = prop_oneof![
        key().prop_map(|key| format!("Authorization: Bearer {key}")),
        key().prop_map(|key| format!("Authorization: bearer  {key} ")),
        (key(), prop_oneof![Just("X-Towline-Key"), Just("X-Api-Key"), Just("api-key"), Just("x-goog-api-key")])
            .prop_map(|(key, name)| format!("{name}: {key}")),
        "Cookie: ([a-z]{0,3}(=|; |;)){0,3}(towline_affinity=(soft|strict|x))?;? ?(towline_instance ?=x)?(; b=c)?",
        "X-Forwarded-For: ((10\\.0\\.0\\.1|\\[::1\\]|192\\.0\\.2\\.1(:80)?|x)(, ?)?){0,3}",
        "Forwarded: [ -~]{0,12}",
        "Host: [ -~]{0,12}",
        "X-Forwarded-(Host|Proto|Prefix): [ -~]{0,6}",
        Just("Connection: Upgrade".to_owned()),
        Just("Upgrade: websocket".to_owned()),
        Just("Sec-WebSocket-Version: 13".to_owned()),
        Just("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
        "Sec-WebSocket-Protocol: ([a-z]{0,3}, ?)?(towline-session\\.1|towline\\.ticket\\.T)?(, ?[a-z]{1,3})?",
    ];
    (target, vec(line, 0..9)).prop_map(|(target, lines)| {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!("GET {target} HTTP/1.1\r\n{lines}\r\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn only_what_is_ours_is_taken_out_of_a_request(origin in 0..4_u8, head in head()) {
        request_fields(&[&[origin], head.as_bytes()].concat());
    }

    #[test]
    fn what_is_described_is_what_is_sent(
        method in "GET|POST|X", path in "/{1,2}[ -~]{0,9}", name in "[ -~]{1,9}", value in "[ -~\u{80}-\u{ff}\\\\]{0,9}", body in "[a-zA-Z=]{0,9}",
    ) {
        let description = serde_json::json!({
            "method": method, "path": path, "headers": {name: value, "connection": "x"}, "body_base64": body,
        });
        invoke(description.to_string().as_bytes());
    }
}

#[test]
fn the_fuzzers_words_hold_the_key_that_is_known() {
    let words = include_str!("../../../../fuzz/http.dict");
    assert!(words.contains(&format!("\"Authorization: Bearer {}\"", key())), "the key is {} now", key());
}
