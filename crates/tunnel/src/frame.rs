//! Frames, byte by byte: what sessions and carriers are made of.
//!
//! A frame is a header of eight bytes (type, flags, payload length, stream id; big-endian) and a payload of at most
//! 16 KiB. This module knows what a single frame may look like; what may follow what is the business of
//! [`mux`](crate::mux) and [`session`](crate::session). `docs/tunnel-protocol.md` is the description for people.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::end::{ProtocolError, RefuseCode, Refused, ResetCode};

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;
/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 16 << 10;
/// The longest payload of OPEN, in bytes.
pub const MAX_OPEN: usize = 1024;
/// The longest text in REFUSED and GOAWAY, in bytes.
pub const MAX_TEXT: usize = 512;
/// The longest payload of a frame with fixed fields, in bytes: room for fields of later versions.
pub const MAX_FIXED: usize = 64;
/// The largest stream id. Ids start at 1.
pub const MAX_STREAM_ID: u32 = 0x7fff_ffff;
/// The flag that lets a peer skip a frame whose type it does not know.
pub const IGNORABLE: u8 = 0x80;
/// The flag of MESSAGE that says that the message goes on in the next frame.
pub const MORE: u8 = 0x01;
/// The flag of OPEN that says that the stream will carry one request after another.
pub const KEEP_ALIVE: u8 = 0x01;
/// The flag of FIN that says that it tells how many bytes were delivered.
pub const DELIVERED: u8 = 0x01;

mod kind {
    pub const OPEN: u8 = 0x01;
    pub const OPENED: u8 = 0x02;
    pub const REFUSED: u8 = 0x03;
    pub const DATA: u8 = 0x04;
    pub const WINDOW: u8 = 0x05;
    pub const FIN: u8 = 0x06;
    pub const RST: u8 = 0x07;
    pub const PING: u8 = 0x08;
    pub const PONG: u8 = 0x09;
    pub const GOAWAY: u8 = 0x0a;
    pub const MESSAGE: u8 = 0x10;
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The gateway opens a stream; `target` is read by [`OpenTarget`](crate::OpenTarget).
    Open {
        /// The new stream.
        stream: u32,
        /// What it is opened to, still encoded.
        target: Bytes,
        /// Whether it will carry one request after another, so that FIN should tell what was delivered.
        keep_alive: bool,
    },
    /// The agent accepts a stream.
    Opened {
        /// The stream.
        stream: u32,
    },
    /// The agent does not open a stream; nothing reached the container.
    Refused {
        /// The stream.
        stream: u32,
        /// Why.
        why: Refused,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes, at most [`MAX_PAYLOAD`].
        payload: Bytes,
    },
    /// The peer may send so many bytes more on a stream.
    Window {
        /// The stream.
        stream: u32,
        /// Bytes, at least 1.
        increment: u32,
    },
    /// The sender's direction of a stream ends here.
    Fin {
        /// The stream.
        stream: u32,
        /// Bytes received on the stream that the sender has passed on, when it passes on no more.
        delivered: Option<u64>,
    },
    /// The stream ends here, in both directions and not in order.
    Rst {
        /// The stream.
        stream: u32,
        /// Why.
        code: ResetCode,
        /// Bytes received on the stream that the sender of this frame has passed on.
        delivered: u64,
    },
    /// Asks for a PONG with the same number.
    Ping(u64),
    /// The answer to a PING.
    Pong(u64),
    /// The sender wants no new streams (code 0), or gives the connection up because of an error.
    GoAway {
        /// 0, or the number of an error.
        code: u16,
        /// A sentence for people.
        message: String,
    },
    /// A part of a session message.
    Message {
        /// Whether more parts follow.
        more: bool,
        /// The part.
        payload: Bytes,
    },
    /// A frame of an unknown type that the sender has marked as ignorable.
    Ignored,
}

#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    flags: u8,
    length: usize,
    stream: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [kind, flags, l0, l1, s0, s1, s2, s3] = *bytes.first_chunk::<HEADER_LEN>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        Some(Self { kind, flags, length, stream: u32::from_be_bytes([s0, s1, s2, s3]) })
    }

    const fn name(self) -> &'static str {
        match self.kind {
            kind::OPEN => "OPEN",
            kind::OPENED => "OPENED",
            kind::REFUSED => "REFUSED",
            kind::DATA => "DATA",
            kind::WINDOW => "WINDOW",
            kind::FIN => "FIN",
            kind::RST => "RST",
            kind::PING => "PING",
            kind::PONG => "PONG",
            kind::GOAWAY => "GOAWAY",
            kind::MESSAGE => "MESSAGE",
            _ => "unknown",
        }
    }

    /// What can be said before the payload is there, so that no buffer grows for a frame that will be turned down.
    fn check(self) -> Result<(), ProtocolError> {
        let (least, most, of_stream) = match self.kind {
            kind::OPEN => (1, MAX_OPEN, true),
            kind::REFUSED => (2, 2 + MAX_TEXT, true),
            kind::DATA => (0, MAX_PAYLOAD, true),
            kind::OPENED | kind::FIN => (0, MAX_FIXED, true),
            kind::WINDOW => (4, MAX_FIXED, true),
            kind::RST => (10, MAX_FIXED, true),
            kind::PING | kind::PONG => (8, MAX_FIXED, false),
            kind::GOAWAY => (2, 2 + MAX_TEXT, false),
            kind::MESSAGE => (0, MAX_PAYLOAD, false),
            _ if self.flags & IGNORABLE == 0 => return Err(ProtocolError::UnknownFrame(self.kind)),
            _ if self.length > MAX_PAYLOAD => return Err(ProtocolError::FrameTooLong("unknown")),
            _ => return Ok(()),
        };
        if self.length > most {
            return Err(ProtocolError::FrameTooLong(self.name()));
        }
        let id_fits = if of_stream { (1..=MAX_STREAM_ID).contains(&self.stream) } else { self.stream == 0 };
        if self.length < least || !id_fits {
            return Err(ProtocolError::Malformed(self.name()));
        }
        Ok(())
    }
}

/// Takes the next whole frame off the front of `buffer`; `Ok(None)` when it is not all there yet.
///
/// Payloads of DATA, OPEN and MESSAGE share the buffer's memory. After an error the buffer is of no more use.
///
/// # Errors
/// When the frame breaks a rule of the protocol; this is found as soon as its header is there.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
    let Some(header) = Header::read(buffer) else { return Ok(None) };
    header.check()?;
    if buffer.len() < HEADER_LEN + header.length {
        return Ok(None);
    }
    buffer.advance(HEADER_LEN);
    let stream = header.stream;
    let frame = match header.kind {
        kind::DATA => Frame::Data { stream, payload: buffer.split_to(header.length).freeze() },
        kind::OPEN => {
            let keep_alive = header.flags & KEEP_ALIVE != 0;
            Frame::Open { stream, target: buffer.split_to(header.length).freeze(), keep_alive }
        }
        kind::MESSAGE => {
            Frame::Message { more: header.flags & MORE != 0, payload: buffer.split_to(header.length).freeze() }
        }
        _ => {
            let frame = decode_fields(header, &buffer[..header.length])?;
            buffer.advance(header.length);
            frame
        }
    };
    Ok(Some(frame))
}

/// Reads the fields of a frame that carries no bytes of others. Bytes after the known fields are from a later version.
fn decode_fields(header: Header, mut payload: &[u8]) -> Result<Frame, ProtocolError> {
    let stream = header.stream;
    let malformed = |_| ProtocolError::Malformed(header.name());
    Ok(match header.kind {
        kind::OPENED => Frame::Opened { stream },
        kind::REFUSED => {
            let code = RefuseCode::from_wire(payload.try_get_u16().map_err(malformed)?);
            Frame::Refused { stream, why: Refused { code, message: String::from_utf8_lossy(payload).into_owned() } }
        }
        kind::WINDOW => match payload.try_get_u32().map_err(malformed)? {
            0 => return Err(ProtocolError::Malformed(header.name())),
            increment => Frame::Window { stream, increment },
        },
        kind::FIN if header.flags & DELIVERED != 0 => {
            Frame::Fin { stream, delivered: Some(payload.try_get_u64().map_err(malformed)?) }
        }
        kind::FIN => Frame::Fin { stream, delivered: None },
        kind::RST => Frame::Rst {
            stream,
            code: ResetCode::from_wire(payload.try_get_u16().map_err(malformed)?),
            delivered: payload.try_get_u64().map_err(malformed)?,
        },
        kind::PING => Frame::Ping(payload.try_get_u64().map_err(malformed)?),
        kind::PONG => Frame::Pong(payload.try_get_u64().map_err(malformed)?),
        kind::GOAWAY => Frame::GoAway {
            code: payload.try_get_u16().map_err(malformed)?,
            message: String::from_utf8_lossy(payload).into_owned(),
        },
        _ => Frame::Ignored,
    })
}

/// How many bytes must follow those in `buffer` before [`decode`] can get further; 0 when a frame is there.
#[must_use]
pub fn missing(buffer: &[u8]) -> usize {
    let whole = Header::read(buffer).map_or(HEADER_LEN, |header| HEADER_LEN + header.length);
    whole.saturating_sub(buffer.len())
}

fn put_header(out: &mut BytesMut, kind: u8, flags: u8, length: usize, stream: u32) {
    debug_assert!(length <= MAX_PAYLOAD, "a frame longer than any peer takes");
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    out.reserve(HEADER_LEN + usize::from(length));
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16(length);
    out.put_u32(stream);
}

/// Appends the header of a DATA frame; the payload of `length` bytes follows by other means.
pub(crate) fn put_data_header(out: &mut BytesMut, stream: u32, length: usize) {
    put_header(out, kind::DATA, 0, length, stream);
}

/// Appends the header of a MESSAGE frame; the payload of `length` bytes follows by other means.
pub(crate) fn put_message_header(out: &mut BytesMut, more: bool, length: usize) {
    put_header(out, kind::MESSAGE, if more { MORE } else { 0 }, length, 0);
}

/// Cuts a text to what fits into a frame, between characters.
fn fitting(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)]
}

impl Frame {
    /// Appends the frame to `out`. Texts are cut at [`MAX_TEXT`] bytes; [`Frame::Ignored`] becomes an empty frame of an
    /// unknown type.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Open { stream, target, keep_alive } => {
                put_bytes(out, kind::OPEN, if *keep_alive { KEEP_ALIVE } else { 0 }, *stream, target);
            }
            Self::Opened { stream } => put_header(out, kind::OPENED, 0, 0, *stream),
            Self::Refused { stream, why } => put_code(out, kind::REFUSED, *stream, why.code.to_wire(), &why.message),
            Self::Data { stream, payload } => put_bytes(out, kind::DATA, 0, *stream, payload),
            Self::Window { stream, increment } => {
                put_header(out, kind::WINDOW, 0, 4, *stream);
                out.put_u32(*increment);
            }
            Self::Fin { stream, delivered: None } => put_header(out, kind::FIN, 0, 0, *stream),
            Self::Fin { stream, delivered: Some(bytes) } => {
                put_header(out, kind::FIN, DELIVERED, 8, *stream);
                out.put_u64(*bytes);
            }
            Self::Rst { stream, code, delivered } => {
                put_header(out, kind::RST, 0, 10, *stream);
                out.put_u16(code.to_wire());
                out.put_u64(*delivered);
            }
            Self::Ping(number) => {
                put_header(out, kind::PING, 0, 8, 0);
                out.put_u64(*number);
            }
            Self::Pong(number) => {
                put_header(out, kind::PONG, 0, 8, 0);
                out.put_u64(*number);
            }
            Self::GoAway { code, message } => put_code(out, kind::GOAWAY, 0, *code, message),
            Self::Message { more, payload } => {
                put_message_header(out, *more, payload.len());
                out.put_slice(payload);
            }
            Self::Ignored => put_header(out, 0xff, IGNORABLE, 0, 0),
        }
    }
}

fn put_bytes(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    put_header(out, kind, flags, payload.len(), stream);
    out.put_slice(payload);
}

fn put_code(out: &mut BytesMut, kind: u8, stream: u32, code: u16, text: &str) {
    let text = fitting(text);
    put_header(out, kind, 0, 2 + text.len(), stream);
    out.put_u16(code);
    out.put_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream() -> impl Strategy<Value = u32> {
        prop_oneof![1..=MAX_STREAM_ID, 1..10u32, Just(MAX_STREAM_ID)]
    }

    fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..=most).prop_map(Bytes::from)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let code = any::<u16>();
        prop_oneof![
            (stream(), proptest::collection::vec(any::<u8>(), 1..100), any::<bool>())
                .prop_map(|(stream, target, keep_alive)| Frame::Open { stream, target: target.into(), keep_alive }),
            stream().prop_map(|stream| Frame::Opened { stream }),
            (stream(), code, "\\PC{0,100}").prop_map(|(stream, code, text)| Frame::Refused {
                stream,
                why: Refused::new(RefuseCode::from_wire(code), text)
            }),
            (stream(), bytes(300)).prop_map(|(stream, payload)| Frame::Data { stream, payload }),
            (stream(), 1..=u32::MAX).prop_map(|(stream, increment)| Frame::Window { stream, increment }),
            (stream(), any::<Option<u64>>()).prop_map(|(stream, delivered)| Frame::Fin { stream, delivered }),
            (stream(), code, any::<u64>()).prop_map(|(stream, code, delivered)| Frame::Rst {
                stream,
                code: ResetCode::from_wire(code),
                delivered
            }),
            any::<u64>().prop_map(Frame::Ping),
            any::<u64>().prop_map(Frame::Pong),
            (code, "\\PC{0,100}").prop_map(|(code, message)| Frame::GoAway { code, message }),
            (any::<bool>(), bytes(300)).prop_map(|(more, payload)| Frame::Message { more, payload }),
            Just(Frame::Ignored),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn frames_survive_any_cut(frames in proptest::collection::vec(frame(), 0..12), cuts in any::<[u8; 8]>()) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut wire);
            }
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !wire.is_empty() {
                let piece = usize::from(*cuts.next().unwrap()).clamp(1, wire.len());
                buffer.extend_from_slice(&wire.split_to(piece));
                while let Some(frame) = decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
                prop_assert!(missing(&buffer) > 0);
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_is_an_error_or_incomplete(garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&garbage[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }

    fn decode_one(bytes: &[u8]) -> Result<Option<Frame>, ProtocolError> {
        decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_bad_header_is_found_before_its_payload() {
        assert_eq!(decode_one(&[4, 0, 0x40, 1, 0, 0, 0, 1]), Err(ProtocolError::FrameTooLong("DATA")));
        assert_eq!(decode_one(&[4, 0, 0, 1, 0, 0, 0, 0]), Err(ProtocolError::Malformed("DATA")));
        assert_eq!(decode_one(&[4, 0, 0, 1, 0x80, 0, 0, 0]), Err(ProtocolError::Malformed("DATA")));
        assert_eq!(decode_one(&[8, 0, 0, 8, 0, 0, 0, 1]), Err(ProtocolError::Malformed("PING")));
        assert_eq!(decode_one(&[7, 0, 0, 9, 0, 0, 0, 1]), Err(ProtocolError::Malformed("RST")));
        assert_eq!(decode_one(&[6, DELIVERED, 0, 2, 0, 0, 0, 1, 8, 8]), Err(ProtocolError::Malformed("FIN")));
        assert_eq!(decode_one(&[5, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0]), Err(ProtocolError::Malformed("WINDOW")));
    }

    #[test]
    fn unknown_frames_are_skipped_only_when_marked() {
        assert_eq!(decode_one(&[0x33, 0, 0, 0, 0, 0, 0, 0]), Err(ProtocolError::UnknownFrame(0x33)));
        assert_eq!(decode_one(&[0x33, IGNORABLE, 0, 1, 9, 9, 9, 9, 7]), Ok(Some(Frame::Ignored)));
        assert_eq!(decode_one(&[0x33, IGNORABLE, 0xff, 0xff, 0, 0, 0, 0]), Err(ProtocolError::FrameTooLong("unknown")));
    }

    #[test]
    fn later_fields_and_unknown_flags_are_ignored() {
        assert_eq!(decode_one(&[6, 0x7e, 0, 2, 0, 0, 0, 1, 8, 8]), Ok(Some(Frame::Fin { stream: 1, delivered: None })));
        let ping = [8, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 77];
        assert_eq!(decode_one(&ping), Ok(Some(Frame::Ping(5))));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut out = BytesMut::new();
        Frame::GoAway { code: 1, message: "ä".repeat(400) + "x" }.encode(&mut out);
        let Ok(Some(Frame::GoAway { message, .. })) = decode(&mut out) else { panic!("no GOAWAY") };
        assert_eq!(message, "ä".repeat(256));
    }
}
