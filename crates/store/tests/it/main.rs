//! Every promise of the store, tried on both engines: each test exists as `…::sqlite::…` and as `…::postgres::…`.

#![expect(clippy::unwrap_used, reason = "in a test, the line that fails is the best message")]

mod agents;
mod audit;
mod connect;
mod credentials;
mod device_pairings;
mod events;
mod fixtures;
mod harness;
mod idempotency;
mod instances;
mod invitations;
mod pages;
mod people;
mod refresh_tokens;
mod schema;
mod secrets;
mod services;
mod teams;
mod transactions;
