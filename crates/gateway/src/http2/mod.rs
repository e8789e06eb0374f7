//! HTTP/2 with containers that speak it, with prior knowledge (RFC 9113 §3.3).
//!
//! * [`connection`] keeps one connection for each instance, and further ones when that has as many requests as the
//!   container takes on one. Each runs over one stream of the tunnel, and has a task of its own.
//! * [`exchange`] is one request on such a connection. To everything else it looks like a connection to a container of
//!   HTTP/1.1: what is written to it is a request as text, what is read from it a body as it is framed there. So lines,
//!   time limits, retries, affinity and what a revoked key ends work alike for both.
//! * [`websocket`] makes the opening handshake of a WebSocket what it is in HTTP/2. From then on a request is a connection
//!   that carries bytes.

pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod websocket;
