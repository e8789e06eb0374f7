//! The data plane: takes callers' requests, finds out who asks, picks an instance, and speaks HTTP with it through the
//! tunnel; and owns the agents' connections.
//!
//! The life of a proxied request, in the order of its steps:
//!
//! 1. `listener` accepts the connection (`caller` is what is known of it, `caller_stream` its socket). `h1` reads HTTP/1.1,
//!    `caller_http2` HTTP/2; each request gets its [`request_id`].
//! 2. The raw `path` says whom it is for: an agent's socket, a call of a service, or the control plane's business (`route`).
//! 3. `presented` finds the credential and [`authenticate`] turns it into a principal; `state`, made from the current
//!    [`snapshot`], knows what service the slug means, and [`standing`] is what the request lives by from then on. (A
//!    browser's WebSocket brings one of the `tickets` instead, by the `ticket_door`.)
//! 4. `proxy` makes the request that the container gets: `headers` and [`forwarded`] change what must be changed, and
//!    nothing else. (`invoke` makes one from a description.)
//! 5. `dispatch` sends it as `outgoing` bytes, when it is its turn in the [`line`] and with `patience`: `balance` picks an
//!    instance by load and `health`, with `affinity` where the caller wants it,
//!    `connect` finds a connection in the instance's `pool` or a new stream on one of the agent's carriers (with TLS inside
//!    for an [`external`] service), `upstream` is that connection (with `http2`, one request on it), `retry` judges what failed.
//! 6. The answer passes as it comes: to HTTP/1.1 callers in `h1`, byte for byte; to all others as a `body`; and behind a
//!    `101` whatever the bytes are (`switch`). Letting go of it before its end cancels everything behind it.
//!
//! Deliberately not here: SQL, the management API, and any state that has to outlive the process. What is known of
//! services and credentials is a [`Snapshot`] that the control plane swaps whole; what agents tell goes to the control
//! plane as [`AgentEvent`]s. No step of a request waits for a database.

pub mod access_token;
mod affinity;
pub mod agents;
mod alarm;
pub mod authenticate;
mod balance;
pub mod body;
mod caller;
pub mod caller_body;
mod caller_http2;
mod caller_stream;
pub mod certificate;
mod challenge;
mod connect;
mod dispatch;
pub mod error;
pub mod error_answer;
pub mod external;
mod fields;
pub mod forwarded;
pub mod gateway;
mod grpc;
mod h1;
mod headers;
mod health;
mod http2;
mod inbox;
pub mod invoke;
mod last_use;
mod lifetime;
pub mod line;
mod listener;
mod logs;
mod metrics;
mod on_runtime;
mod outgoing;
mod path;
mod patience;
mod pool;
mod presented;
mod proxy;
pub mod request_id;
mod retry;
mod rewound;
mod route;
mod seen_keys;
pub mod server_tls;
mod service;
pub mod snapshot;
pub mod standing;
mod state;
mod stream_io;
mod switch;
#[cfg(feature = "testing")]
pub mod testing;
mod ticket_door;
mod tickets;
mod upstream;

pub use access_token::AccessTokens;
pub use agents::{AgentEvent, AgentSession};
pub use authenticate::{AuthError, Authenticated};
pub use caller_body::CallerBody;
pub use error::GatewayError;
pub use gateway::{CallerAddr, Gateway, GatewayConfig};
pub use last_use::LastUse;
pub use presented::Doors;
pub use request_id::RequestIdText;
pub use snapshot::{Credential, CredentialTable, InstanceRoute, RouteTable, ServiceRoute, Snapshot};
pub use standing::Standing;
pub use tickets::TICKET_LIFETIME;
