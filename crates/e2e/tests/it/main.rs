//! The one integration binary: Towline as its users meet it.
//!
//! Everything here but `browser` runs `towline` as processes and talks to it over its sockets. `cargo xtask test` provides what that needs; a
//! test that misses something fails and says so. One module alone: `cargo nextest run -p towline-e2e docker::`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod acme;
mod api;
mod attached;
mod backpressure;
mod browser;
mod chaos;
mod deploy_sim;
mod docker;
mod drain;
mod external;
mod keep_alive_races;
mod ladder;
mod mail;
mod metrics;
mod netns;
mod oidc;
mod pairing;
mod registry;
mod sdk;
mod stalled_readers;
mod tls;
mod versions;
