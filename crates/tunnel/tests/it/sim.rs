//! Two multiplexers under simulation: seeded, without I/O and in virtual time.
//!
//! A seed decides everything: how many streams, what each end does with them, how the wire cuts, delays and blocks bytes, in
//! which order what is ready runs. Ends of streams run only when they were woken, so that a lost wake-up is a deadlock.
//! In a second set of runs the connection dies after each frame in turn.
//!
//! A failure prints its seed; `SEED=n cargo nextest run -p towline-tunnel sim` runs that one alone, `SEEDS=n` runs more.

mod endpoint;
mod random;
mod wire;
mod world;

use self::world::{Outcome, World};

/// Runs a seed and says how many frames were delivered.
fn run(seed: u64, dies_after: Option<usize>) -> Outcome {
    let outcome = std::panic::catch_unwind(|| World::new(seed, dies_after).run());
    match outcome {
        Ok(outcome) => outcome,
        Err(panic) => {
            let why = panic.downcast_ref::<String>().map_or("", String::as_str);
            panic!("seed {seed}, dies after {dies_after:?}: {why}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "to look at one failure, or for longer")]
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(count),
    }
}

#[test]
fn bytes_arrive_and_nothing_is_left() {
    let finished: usize = seeds(1500).map(|seed| run(seed, None).finished_streams).sum();
    assert!(finished > 0, "no stream finished in order: the plans are all abort and refusal");
}

#[test]
fn death_at_every_frame_ends_every_stream() {
    for seed in seeds(40) {
        let frames = run(seed, None).frames;
        // Long runs repeat themselves.
        for dies_after in 0..frames.min(100) {
            run(seed, Some(dies_after));
        }
    }
}
