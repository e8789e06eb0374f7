//! The fuzzers' harness on random input.

use proptest::{collection::vec, prelude::*};

use super::{harness, websocket_harness};

/// Something with the form of a frame: most have the payload that they announce.
fn websocket_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![4 => Just(0x82_u8), 2 => Just(0x02), 2 => Just(0x80), 1 => Just(0), 2 => Just(0x89), 1 => any::<u8>()];
    let payload = vec(any::<u8>(), 0..20);
    (first, any::<bool>(), payload).prop_map(|(first, masked, payload)| {
        let mask: &[u8] = if masked { &[1, 2, 3, 4] } else { &[] };
        let length = payload.len() as u8 | if masked { 0x80 } else { 0 };
        [&[first, length], mask, &payload].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decoder_takes_anything(data in vec(any::<u8>(), 0..400)) {
        harness::frame_decoder(&data);
    }

    #[test]
    fn a_multiplexer_takes_anything(data in vec(any::<u8>(), 0..1500)) {
        harness::mux(&data);
    }

    #[test]
    fn a_session_takes_any_message(data in prop_oneof![vec(any::<u8>(), 0..100), "\\{\"type\":\"[a-z_]{4,9}\"[ -~]{0,60}\\}".prop_map(String::into_bytes)]) {
        harness::message(&data);
    }

    #[test]
    fn a_websocket_takes_anything(
        side: u8,
        piece: u8,
        frames in vec(websocket_frame(), 0..6),
        rest in vec(any::<u8>(), 0..20),
    ) {
        let frames = frames.concat();
        websocket_harness::websocket(&[&[side, piece][..], &frames, &rest].concat());
    }
}
