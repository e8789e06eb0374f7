//! The tunnel: how a gateway and an agent talk.
//!
//! * [`message`]: what they tell each other on a session.
//!
//! This crate knows nothing of HTTP beyond the names of the two upgrade requests, and nothing of containers.

pub mod message;
