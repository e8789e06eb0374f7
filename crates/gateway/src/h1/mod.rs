//! HTTP/1.1 as callers speak it, from the first byte of a connection to the last.
//!
//! * [`head`], [`framing`] and [`chunked`] read messages strictly and without I/O; containers' answers are read by them too.
//! * [`conn`] is a caller's connection, [`serve`] its loop.
//! * [`forward`] passes requests on to services and [`relay`] their answers back, byte for byte where that is possible.
//! * [`spare`] is memory for all of them.
//! * [`respond`] is for everything else: it hands requests to whom they are for as [`http`] types, and writes the answers.

pub(crate) mod chunked;
pub(crate) mod conn;
mod forward;
pub(crate) mod framing;
pub(crate) mod head;
mod relay;
mod respond;
pub(crate) mod serve;
pub(crate) mod spare;
