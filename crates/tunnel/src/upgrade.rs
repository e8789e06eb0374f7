//! How a session or a carrier is asked for over HTTP: paths, `Upgrade` tokens, subprotocols. Only names; who asks and who
//! answers know the rest of HTTP.

use std::fmt;

/// The path on which an agent opens its session.
pub const SESSION_PATH: &str = "/api/v1/agent/session";
/// The `Upgrade` token of a session (RFC 9110 §7.8).
pub const SESSION_UPGRADE: &str = "towline-session/1";
/// The path on which an agent opens a carrier.
pub const CARRIER_PATH: &str = "/api/v1/agent/carrier";
/// The `Upgrade` token of a carrier.
pub const CARRIER_UPGRADE: &str = "towline-carrier/1";

/// The field of a request for a carrier that says which of the agent's worker threads reads it, as a number from 0 to 65535.
/// It is a hint, and need not be there ([`Workers::is_paired_with`](crate::Workers::is_paired_with)).
pub const WORKER_FIELD: &str = "towline-worker";

/// What a session is called inside a WebSocket (`Sec-WebSocket-Protocol`, RFC 6455 §1.9).
pub const SESSION_SUBPROTOCOL: &str = "towline-session.1";
/// What a carrier is called inside a WebSocket.
pub const CARRIER_SUBPROTOCOL: &str = "towline-carrier.1";

/// The two kinds of connection that an agent opens, and their names in HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// The control connection.
    Session,
    /// A connection for streams.
    Carrier,
}

impl ConnectionKind {
    /// The path below the server's URL.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Session => SESSION_PATH,
            Self::Carrier => CARRIER_PATH,
        }
    }

    /// The `Upgrade` token of bare frames.
    #[must_use]
    pub const fn upgrade(self) -> &'static str {
        match self {
            Self::Session => SESSION_UPGRADE,
            Self::Carrier => CARRIER_UPGRADE,
        }
    }

    /// The subprotocol of frames inside a WebSocket.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Session => SESSION_SUBPROTOCOL,
            Self::Carrier => CARRIER_SUBPROTOCOL,
        }
    }
}

/// What the frames of a connection are wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Nothing: `Upgrade` to the protocol itself.
    Bare,
    /// The binary messages of a WebSocket.
    WebSocket,
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "upgrade",
            Self::WebSocket => "websocket",
        })
    }
}
