//! A caller of HTTP/2 that writes and reads frames itself, to break rules and to see what comes back, word for word.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use towline_gateway::testing::World;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
/// In frames that can be an answer to one of their kind.
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// RFC 9113 §7.
pub(super) const NO_ERROR: u32 = 0;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Bytes,
}

impl Frame {
    /// The four bytes of a payload from there on.
    pub fn number(&self, at: usize) -> u32 {
        (&self.payload[at..]).get_u32()
    }

    /// The status of an answer, of which `:status` comes first: 8 to 14 are HPACK's static table (RFC 7541 Appendix A), any other is
    /// a literal whose name is that of 8. 0 for what was in another answer before.
    pub fn status(&self) -> u16 {
        match self.payload[0] {
            0x88 => 200,
            0x8c => 400,
            0x8d => 404,
            // In Huffman's code, 3 digits of 5 or 6 bits are 2 or 3 bytes; without it they are 3.
            0x48 if self.payload[1] == 3 => std::str::from_utf8(&self.payload[2..5]).unwrap().parse().unwrap(),
            0x48 => digits(&self.payload[2..2 + usize::from(self.payload[1] & 0x7f)]),
            _ => 0,
        }
    }
}

/// Three digits in Huffman's code (RFC 7541 Appendix B): `0` to `2` are 5 bits of that value, `3` to `9` are 6 bits from 0x19 on.
fn digits(code: &[u8]) -> u16 {
    let bits = code.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (32 - 8 * code.len());
    let (number, _) = (0..3).fold((0, bits), |(number, bits), _| match bits >> 27 {
        digit @ 0..3 => (number * 10 + digit, bits << 5),
        _ => (number * 10 + (bits >> 26) - 0x19 + 3, bits << 6),
    });
    u16::try_from(number).unwrap()
}

/// What comes back for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer with this status; see [`Frame::status`].
    Answered(u16),
    /// The request was reset, with this code.
    Reset(u32),
    /// The connection is over, with this code when it was said.
    Over(Option<u32>),
}

/// The connection.
pub(super) struct Frames {
    pub socket: TcpStream,
    input: BytesMut,
}

impl Frames {
    pub async fn connect(world: &World) -> Self {
        Self::speak(TcpStream::connect(world.address).await.unwrap()).await
    }

    /// Begins to speak HTTP/2.
    pub async fn speak(mut socket: TcpStream) -> Self {
        socket.write_all(PREFACE).await.unwrap();
        let mut frames = Self { socket, input: BytesMut::new() };
        frames.frame(SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Sends a frame.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&frame(kind, flags, stream, payload)).await;
    }

    /// Sends a request's fields.
    pub async fn headers(&mut self, stream: u32, ends: bool, fields: &[(&str, &str)]) {
        self.send(&headers(stream, ends, &block(fields))).await;
    }

    /// Sends bytes in one write.
    pub async fn send(&mut self, bytes: &[u8]) {
        // It may be over already; what comes back tells.
        let _ = self.socket.write_all(bytes).await;
    }

    /// The next frame that comes; `None` at the end. SETTINGS are acknowledged.
    pub async fn next(&mut self) -> Option<Frame> {
        self.fill(9).await?;
        let length = self.input.get_uint(3) as usize;
        let (kind, flags, stream) = (self.input.get_u8(), self.input.get_u8(), self.input.get_u32());
        self.fill(length).await?;
        if kind == SETTINGS && flags & ACK == 0 {
            // RFC 9113 §6.5.3: they hold from then on.
            self.frame(SETTINGS, ACK, 0, &[]).await;
        }
        Some(Frame { kind, flags, stream, payload: self.input.split_to(length).freeze() })
    }

    async fn fill(&mut self, count: usize) -> Option<()> {
        while self.input.len() < count {
            if !matches!(self.socket.read_buf(&mut self.input).await, Ok(1..)) {
                return None;
            }
        }
        Some(())
    }

    /// The next frame of that kind; `None` when the end comes before.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// What comes back for that request.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY => return Outcome::Over(Some(frame.number(4))),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                HEADERS if frame.stream == stream => return Outcome::Answered(frame.status()),
                _ => {}
            }
        }
        Outcome::Over(None)
    }

    /// Waits until everything that was sent before was read.
    pub async fn round_trip(&mut self) {
        self.frame(PING, 0, 0, b"are read").await;
        while self.next_of(PING).await.unwrap().flags & ACK == 0 {}
    }
}

/// A frame's bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.put_slice(payload);
    out
}

/// A request whose fields fit into one frame.
pub(super) fn headers(stream: u32, ends: bool, block: &[u8]) -> BytesMut {
    frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, block)
}

/// Fields as literals that are not indexed, with names of their own, neither in Huffman's code (RFC 7541 §6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> BytesMut {
    let mut block = BytesMut::new();
    for (name, value) in fields {
        block.put_u8(0);
        for text in [name, value] {
            put_length(&mut block, text.len());
            block.put_slice(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of 7 bits (RFC 7541 §5.1).
fn put_length(block: &mut BytesMut, length: usize) {
    if length < 127 {
        return block.put_u8(length as u8);
    }
    block.put_u8(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.put_u8((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.put_u8(rest as u8);
}

/// A good request, changed by whoever uses it.
pub(super) fn good<'a>(key: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway.test"),
        ("x-towline-key", key),
    ]
}
