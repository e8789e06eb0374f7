//! The tunnel: how a gateway and an agent talk. The wire protocol is written down in `docs/tunnel-protocol.md`.
//!
//! * [`message`]: what they tell each other on a session; [`session`]: the connection that carries it.
//! * [`frame`]: the frames of sessions and carriers, byte by byte.
//! * [`mux`]: streams inside one carrier, without any I/O; [`carrier`]: the same on a socket.
//! * [`placement`]: which carrier a stream goes on, when to ask for more carriers, which ones to give up.
//! * [`upgrade`]: what both are called in the HTTP requests that open them.
//! * [`websocket`]: the same frames inside a WebSocket.
//! * [`tcp`]: options of the TCP connection below.
//! * [`workers`]: the threads that carry bytes; [`wait`]: how their tasks wait for several things.
//! * [`end`]: how streams and carriers end, and who ended them.
//!
//! This crate knows nothing of HTTP beyond the names in the upgrade requests, and nothing of containers.

pub mod budget;
pub mod carrier;
mod connection;
pub mod end;
pub mod frame;
pub mod message;
pub mod mux;
pub mod placement;
pub mod session;
pub mod target;
pub mod tcp;
pub mod upgrade;
pub mod wait;
pub mod websocket;
pub mod workers;

pub use budget::Budget;
pub use carrier::{
    Carrier, CarrierConfig, CarrierDriver, Incoming, IncomingStream, OpenError, StreamMonitor, TunnelStream,
    agent_carrier, gateway_carrier,
};
pub use end::{CarrierEnd, ProtocolError, RefuseCode, Refused, ResetCode, StreamEnd};
pub use session::{
    SessionConfig, SessionDriver, SessionEnd, SessionReceiver, SessionSender, agent_session, ping, server_session,
};
pub use target::{LogsRequest, OpenTarget};
pub use workers::{RequestCount, Workers};
