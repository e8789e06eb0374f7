#![no_main]

#[path = "../../crates/tunnel/tests/it/websocket_harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::websocket(data));
