//! The tunnel from outside: carriers and sessions on in-memory pipes, the multiplexer under simulation, and the fuzzers'
//! harness on random input.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod carrier;
mod carrier_end;
mod garbage;
mod harness;
mod rules;
mod session;
mod sim;
mod websocket;
mod websocket_harness;
