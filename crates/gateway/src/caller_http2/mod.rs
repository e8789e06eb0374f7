//! HTTP/2 as callers speak it (RFC 9113). Frames, HPACK and flow control are the `h2` crate's, and so is the refusal of
//! what breaks their rules; what is here is what a server makes of them.
//!
//! * [`serve`] is a caller's connection, from its preface to its last frame. Each of its requests has a task of its own.
//! * [`keep_alive`] finds out whether anybody is still there, by the [`signs`] that the connection gives.
//! * [`respond`] is one request and its answer, [`reply`] the way back, which interim answers take too.
//! * [`websocket`] is a request that becomes a WebSocket (RFC 8441).
//!
//! Requests are looked at and passed on as those of HTTP/1.1 are: `route` and `proxy` are for both.

mod keep_alive;
pub(crate) mod reply;
mod respond;
pub(crate) mod serve;
mod signs;
mod websocket;
