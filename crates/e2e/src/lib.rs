//! What the end-to-end tests stand on: Towline's processes, a client, raw HTTP, container engines, network namespaces.
//!
//! Nothing here is a test, and nothing here knows a rule of Towline: it starts things, asks them, and takes them away
//! when it is dropped, also when a test panics. Everything waits for conditions ([`wait::wait_until`]), never for a duration
//! in the hope that it suffices. What a test needs and does not find makes it fail, with the command that provides it.
#![allow(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

pub mod acme;
pub mod acme_wire;
pub mod api;
pub mod between;
pub mod browser;
pub mod cable;
pub mod claim;
pub mod counting;
pub mod dir;
pub mod engine;
pub mod needs;
pub mod nested_engine;
pub mod netns;
pub mod postgres;
pub mod process;
pub mod raw;
pub mod registry;
pub mod sse;
pub mod system;
pub mod team;
pub mod tls_front;
pub mod wait;
