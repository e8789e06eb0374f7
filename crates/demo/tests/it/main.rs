//! The demo service over real sockets on loopback: raw bytes where it matters, the program itself where its end matters.
#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod anthropic;
mod echo;
mod faults;
mod http2;
mod lifecycle;
mod openai;
mod stream;
mod support;
mod upgrades;
