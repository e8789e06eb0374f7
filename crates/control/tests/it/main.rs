//! The control plane from outside: the API called in-process, agents that speak the real protocol over loopback.

#![allow(clippy::unwrap_used, reason = "a step that fails is how a test fails")]

mod access;
mod agents;
mod audit;
mod bodies;
mod creating;
mod credentials;
mod doors;
mod first_start;
mod invitations;
mod isolation;
mod last_used;
mod members;
mod openapi;
mod pages;
mod pairing;
mod parameters;
mod rate_limits;
mod resend;
mod rollouts;
mod secrets;
mod secrets_key;
mod services;
mod sign_in;
mod support;
mod team_end;
mod teams;
mod unreadable;
mod users;
