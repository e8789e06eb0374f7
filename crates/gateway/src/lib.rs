//! The data plane: takes callers' requests, finds out who asks, picks an instance, and speaks HTTP with it through the
//! tunnel; and owns the agents' connections.
//!
//! The whole life of a proxied request, in the order of its steps:
//!
//! 1. [`listener`] accepts the connection; hyper parses the request; it gets its [`request_id`].
//! 2. [`path`] looks at the raw path: an agent's socket, a call of a service, or the control plane's business.
//! 3. [`authenticate`] turns headers into a principal; [`snapshot`] says which service the slug means.
//! 4. [`headers`] and [`forwarded`] change what must be changed, and nothing else.
//! 5. [`balance`] picks an instance, [`pool`] a connection to it; [`upstream`] exchanges request and response.
//! 6. [`body`] passes the response on as it comes; dropping it before its end cancels everything behind it.
//!
//! Deliberately not here: SQL, the management API, and any state that has to outlive the process. What is known of
//! services and credentials is a [`snapshot::Snapshot`] that the control plane swaps whole; what agents tell goes to the
//! control plane as [`agents::AgentEvent`]s. No step of a request waits for a database.

pub mod access_token;
pub mod agents;
pub mod authenticate;
pub mod error;
pub mod gateway;
pub mod request_id;
pub mod snapshot;

pub use access_token::AccessTokens;
pub use agents::{AgentEvent, AgentSession};
pub use authenticate::{AuthError, Authenticated};
pub use error::GatewayError;
pub use gateway::{Gateway, GatewayConfig};
pub use request_id::RequestIdText;
pub use snapshot::{Credential, CredentialTable, InstanceRoute, RouteTable, ServiceRoute, Snapshot};
