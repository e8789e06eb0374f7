#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| towline_gateway::testing::fuzz::request_fields(data));
