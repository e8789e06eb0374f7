#![no_main]

#[path = "../../crates/tunnel/tests/it/harness.rs"]
#[allow(dead_code, reason = "each target uses its own part")]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::message(data));
