//! The demo service: a small HTTP server that shows what a container behind Towline can do, and stands in for one in tests.
//!
//! It answers HTTP/1.1 and HTTP/2 (prior knowledge) on one port, without TLS. Everything that it does can be asked for by a plain
//! request (`GET /` lists the endpoints), including what a real container should never do: a cut answer, broken framing, a late
//! health probe, a crash. It is exact about what it received: `/echo` shows an HTTP/1 request as the bytes that came in, not as a
//! parser understood them.
//!
//! It is not an example of a hardened server, and it trusts its caller with its own life (`POST /exit`).

mod about;
mod anthropic;
mod body;
mod call;
mod config;
mod digest;
mod early;
mod echo;
mod endpoints;
mod exchange;
mod faults;
mod heads;
mod openai;
mod query;
mod server;
mod state;
mod stream;
mod tap;
mod upgrade;
mod ws;

pub use config::{Config, ConfigError};
pub use server::{Ended, serve};
