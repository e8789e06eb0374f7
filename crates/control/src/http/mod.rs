//! The management API: parses, asks the application, answers. No rules and no SQL.
//!
//! [`router`] holds the whole URL table. One file for each noun holds the request and response types, their description
//! and the handlers. What a route needs of its caller is checked in [`access`] and nowhere else.

pub mod access;
mod agents;
pub mod audit;
mod auth;
mod calls;
mod conditional;
mod constraints;
mod credentials;
mod events;
mod examples;
mod extract;
mod finish;
mod health;
mod idempotency;
mod instances;
mod invitations;
mod logs;
mod members;
mod oidc;
pub mod openapi;
mod page;
mod pair_page;
mod pairing;
pub mod permissions;
mod problem;
pub mod router;
mod runtime;
mod secrets;
mod services;
mod teams;
mod users;

use serde::Serialize;

/// The answer to an action that was carried out.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct Success {
    /// Always true.
    #[schema(example = true)]
    pub is_success: bool,
}

/// The one answer of actions.
const SUCCESS: axum::Json<Success> = axum::Json(Success { is_success: true });
