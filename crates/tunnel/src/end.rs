//! How streams and carriers end: errors by *who ended it*, so that the gateway can decide what may be tried again.

use std::{error::Error, fmt, io, sync::Arc};

/// Why the agent did not open a stream. Nothing of the caller's reached a container, so trying again is always safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused ({code}): {message}")]
pub struct Refused {
    /// The kind of refusal.
    pub code: RefuseCode,
    /// A sentence for people, at most 512 bytes; longer ones are cut on the wire.
    pub message: String,
}

impl Refused {
    /// A refusal with its reason.
    #[must_use]
    pub fn new(code: RefuseCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

macro_rules! wire_codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A code that this build does not know.
            Other(u16),
        }

        impl $name {
            /// The number on the wire.
            #[must_use]
            pub const fn to_wire(self) -> u16 {
                match self {
                    $(Self::$variant => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// The code of a number on the wire.
            #[must_use]
            pub const fn from_wire(number: u16) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    Self::Other(number) => write!(f, "code {number}"),
                }
            }
        }
    };
}

wire_codes! {
    /// The kinds of refusal.
    RefuseCode {
        /// The agent has no such instance.
        UnknownInstance = 1 "unknown instance",
        /// The instance is there and not ready for connections.
        NotReady = 2 "not ready",
        /// Connecting to the instance failed.
        ConnectFailed = 3 "connect failed",
        /// The agent or the carrier takes no new streams.
        Draining = 4 "draining",
        /// A limit is reached.
        Limit = 5 "limit reached",
        /// The agent does not know this kind of target.
        Unsupported = 6 "unsupported",
        /// The agent may not connect to that place.
        Denied = 7 "denied",
        /// The place's name has no address.
        Unresolved = 8 "unresolved",
    }
}

wire_codes! {
    /// Why a stream was reset.
    ResetCode {
        /// The other side does not want the stream any more: the caller went away, or the stream was dropped.
        Cancelled = 1 "cancelled",
        /// The container reset its connection.
        ConnectionReset = 2 "connection reset by the container",
        /// The connection to the container was lost in another way.
        ConnectFailed = 3 "connection to the container failed",
        /// Something went wrong inside the peer.
        Internal = 4 "internal error",
        /// The stream's bytes made no sense to the peer.
        Protocol = 5 "protocol error",
        /// A deadline passed.
        Timeout = 6 "timeout",
        /// The peer is about to end and waits no longer.
        Draining = 7 "draining",
    }
}

/// How a stream ended. Errors of a stream's reads and writes carry it: see [`StreamEnd::of`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// Both directions were closed in order.
    #[error("the stream is finished")]
    Finished,
    /// The agent did not open it; no byte reached the container.
    #[error("the agent refused the stream: {0}")]
    Refused(Refused),
    /// The peer gave it up.
    #[error("the stream was reset: {code}")]
    Reset {
        /// Why.
        code: ResetCode,
        /// Bytes from this side that the peer is sure to have passed on (agent: written to the container).
        delivered: u64,
    },
    /// The carrier under it is gone.
    #[error("the carrier was lost: {0}")]
    CarrierLost(CarrierEnd),
    /// This side gave it up.
    #[error("the stream was reset here: {0}")]
    LocalReset(ResetCode),
}

impl StreamEnd {
    /// Finds the end of a stream in an error: the error itself, the inside of an [`io::Error`], or any of its sources.
    #[must_use]
    pub fn of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(end) = error.downcast_ref::<Self>() {
                return Some(end);
            }
            // An io::Error answers source() with the source of what is inside it, which would skip the inside.
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inside) => Some(inside),
                None => error.source(),
            };
        }
        None
    }

    /// The error that a stream's reads and writes return.
    #[must_use]
    pub fn to_io_error(&self) -> io::Error {
        let kind = match self {
            Self::Finished | Self::LocalReset(_) => io::ErrorKind::BrokenPipe,
            Self::Refused(_) => io::ErrorKind::ConnectionRefused,
            Self::Reset { .. } => io::ErrorKind::ConnectionReset,
            Self::CarrierLost(_) => io::ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, self.clone())
    }
}

/// How a carrier ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CarrierEnd {
    /// This side closed it, or dropped every handle to it.
    #[error("closed")]
    Closed,
    /// Both sides said GOAWAY and the last stream ended.
    #[error("drained")]
    Drained,
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(Arc<io::Error>),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(ProtocolError),
    /// The peer says that this side broke the protocol.
    #[error("the peer gave up (code {code}): {message}")]
    PeerError {
        /// The peer's code; see `docs/tunnel-protocol.md`.
        code: u16,
        /// The peer's words.
        message: String,
    },
    /// The peer did not answer in time.
    #[error("the peer does not answer")]
    PingTimeout,
    /// The task that drives the carrier was dropped.
    #[error("the carrier's task was stopped")]
    Stopped,
}

impl PartialEq for CarrierEnd {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Io(a), Self::Io(b)) => a.kind() == b.kind(),
            (Self::Protocol(a), Self::Protocol(b)) => a == b,
            (Self::PeerError { code: a, .. }, Self::PeerError { code: b, .. }) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Eq for CarrierEnd {}

/// What a peer did that the protocol does not allow. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A payload longer than the frame's type allows.
    #[error("a {0} frame is too long")]
    FrameTooLong(&'static str),
    /// A payload shorter than the frame's fields, or with fields that are not allowed.
    #[error("a {0} frame is malformed")]
    Malformed(&'static str),
    /// A frame of an unknown type that is not marked as ignorable.
    #[error("frame type {0:#04x} is unknown")]
    UnknownFrame(u8),
    /// A frame that does not belong here: of the other kind of connection, of the other side, on the wrong stream id.
    #[error("a {0} frame is not allowed here")]
    Unexpected(&'static str),
    /// More data than the stream's window allowed.
    #[error("more data was sent than the window allowed")]
    WindowOverrun,
    /// Window updates beyond the largest window.
    #[error("the window was raised beyond its limit")]
    WindowOverflow,
    /// Too many frames that cost work and move nothing.
    #[error("too many frames without effect")]
    Flood,
    /// A session message longer than 4 MiB.
    #[error("a message is too long")]
    MessageTooLong,
    /// A session message that is not what it should be.
    #[error("a message cannot be read")]
    BadMessage,
}

impl ProtocolError {
    /// The code that is told to the peer in GOAWAY.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        match self {
            Self::FrameTooLong(_) | Self::Malformed(_) => 1,
            Self::UnknownFrame(_) => 2,
            Self::Unexpected(_) => 3,
            Self::WindowOverrun | Self::WindowOverflow => 4,
            Self::Flood => 5,
            Self::MessageTooLong | Self::BadMessage => 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_end_is_found_inside_other_errors() {
        let end = StreamEnd::Reset { code: ResetCode::ConnectionReset, delivered: 7 };
        assert_eq!(StreamEnd::of(&end.to_io_error()), Some(&end));
        assert_eq!(StreamEnd::of(&Outer(end.to_io_error())), Some(&end));
        assert_eq!(StreamEnd::of(&io::Error::other("something else")), None);
    }

    #[test]
    fn codes_survive_the_wire() {
        for number in 0..20 {
            assert_eq!(RefuseCode::from_wire(number).to_wire(), number);
            assert_eq!(ResetCode::from_wire(number).to_wire(), number);
        }
    }
}
