//! The fuzzers' harness on random input.

use proptest::{collection::vec, prelude::*};

use super::harness;

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
}
