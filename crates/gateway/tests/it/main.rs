//! The gateway from outside: real sockets on both sides, a simulated agent that speaks the real protocol between them.
#![allow(clippy::unwrap_used, reason = "a step that fails is how a test fails")]

mod affinity;
mod agents;
mod carriers;
mod containers;
mod doors;
mod expect;
mod failure;
mod fields;
mod framing;
mod h1;
mod h2c;
mod h2c_limits;
mod h2c_websocket;
mod http2;
mod http2_client;
mod http2_frames;
mod http2_interim;
mod http2_limits;
mod http2_rules;
mod http2_websocket;
mod invoke;
mod limits;
mod proxy;
mod retry;
mod revocation;
mod status;
mod streaming;
mod tickets;
mod tls;
mod upgrade;
mod websocket;
mod workers;
