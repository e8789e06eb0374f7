//! The control plane: knows what should run and what does, and lets people say the first.
//!
//! Three layers, never skipped: [`http`] parses, authorises and answers; [`app`] holds the rules; the store below holds
//! the state. Beside them [`reconcile`] joins wish and observation, [`agent_events`] writes down what agents say, and
//! [`snapshot`] keeps the gateway's routes and credentials true. [`server`] puts it all together.
//!
//! Deliberately not here: SQL (in the store) and anything about a proxied request (in the gateway).

pub mod acme;
pub mod agent_events;
pub mod app;
pub mod bootstrap;
pub mod documents;
pub mod event;
pub mod http;
pub mod last_used;
pub mod mail;
pub mod oidc;
mod private_file;
pub mod rate_limit;
pub mod reconcile;
pub mod rollout;
pub mod routes;
pub mod secrets;
pub mod server;
pub mod signing_key;
pub mod snapshot;

pub use bootstrap::Bootstrap;
pub use http::openapi::openapi_json;
pub use reconcile::Limits;
pub use server::{Server, ServerConfig, StartError};
