//! Bodies of a gibibyte, in bounded memory.

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use ring::digest::{Context, SHA256};
use serde_json::json;
use towline_e2e::process::Process;

use super::Running;

const GIBIBYTE: u64 = 1 << 30;

/// What server and agent may need on top of what they had before the body came. A body that was kept would need a gibibyte; a
/// stream may have its window (8 MiB) at each end, and buffers of sockets and frames.
const BOUND: u64 = 64 << 20;

/// The demo service's bytes: byte `i` is `i % 251`.
const PERIOD: usize = 251;

fn pattern(length: usize) -> Bytes {
    (0..length).map(|index| (index % PERIOD) as u8).collect()
}

struct Growth<'p> {
    name: &'static str,
    process: &'p Process,
    before: u64,
}

impl<'p> Growth<'p> {
    fn of(name: &'static str, process: &'p Process) -> Self {
        Self { name, process, before: process.memory().peak }
    }

    fn assert_bounded(&self) {
        let peak = self.process.memory().peak;
        let grown = peak - self.before;
        assert!(grown < BOUND, "the {} grew by {} MiB to {} MiB", self.name, grown >> 20, peak >> 20);
    }
}

#[tokio::test]
async fn a_gibibyte_comes_down_whole_and_in_bounded_memory() {
    let running = Running::start(1).await;
    running.api.get("/r/containers/hello/bytes?n=1000000").await;
    let growth = [Growth::of("server", &running.server.process), Growth::of("agent", &running.agent.process)];
    let path = format!("/r/containers/hello/bytes?n={GIBIBYTE}&chunk=1048576");
    let mut response = running.api.request(Method::GET, &path).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.content_length()), (200, Some(GIBIBYTE)));
    // Pieces are at most as long as the largest read of the client.
    let expected = pattern((16 << 20) + PERIOD);
    let mut received = 0u64;
    while let Some(piece) = response.chunk().await.unwrap() {
        let offset = (received % PERIOD as u64) as usize;
        assert!(piece == expected[offset..offset + piece.len()], "other bytes at {received}");
        received += piece.len() as u64;
    }
    assert_eq!(received, GIBIBYTE);
    growth.iter().for_each(Growth::assert_bounded);
}

#[tokio::test]
async fn a_gibibyte_goes_up_whole_and_in_bounded_memory() {
    let running = Running::start(1).await;
    running.api.get("/r/containers/hello/bytes?n=1000000").await;
    let growth = [Growth::of("server", &running.server.process), Growth::of("agent", &running.agent.process)];
    let piece = pattern(1 << 20);
    let mut digest = Context::new(&SHA256);
    let pieces = GIBIBYTE / piece.len() as u64;
    for _ in 0..pieces {
        digest.update(&piece);
    }
    let expected: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let body = stream::iter((0..pieces).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    let request = running.api.request(Method::PUT, "/r/containers/hello/upload");
    let answer = running.api.send(request.body(reqwest::Body::wrap_stream(body))).await.expect(200);
    assert_eq!((&answer["body_length"], &answer["body_sha256"]), (&json!(GIBIBYTE), &json!(expected)));
    growth.iter().for_each(Growth::assert_bounded);
}
