//! Finds the heads of HTTP/1 requests in the bytes of a connection, and keeps them as they came in.
//!
//! This is not a second HTTP parser: hyper decides what is valid. It only follows the framing of valid requests, to know where the
//! next head begins. On anything that it cannot follow it stops for good, and hyper has refused that connection anyway.

use std::collections::VecDeque;

/// Longest head and longest chunk-size line that is followed, in bytes. hyper's own limit is lower.
const MAX_HELD: usize = 1 << 20;

/// One request head, byte for byte, without the line ends and the blanks around field values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawHead {
    /// The method.
    pub method: Vec<u8>,
    /// What stands between the method and the version.
    pub target: Vec<u8>,
    /// Names and values in the order in which they came.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
enum Phase {
    /// Within a head, or between two requests.
    Head,
    /// Within a body of known length: the bytes still to come.
    Body(u64),
    /// Before or within a chunk-size line.
    ChunkSize,
    /// Within a chunk: the bytes still to come, with the line end that closes it.
    Chunk(u64),
    /// Within the trailers of a chunked body.
    Trailers,
    /// Not HTTP/1 (any more).
    Off,
}

/// The reader of one connection.
#[derive(Debug)]
pub struct HeadReader {
    phase: Phase,
    /// The bytes of the line that is not yet complete.
    line: Vec<u8>,
    /// The complete lines of the head that is not yet complete.
    lines: Vec<Vec<u8>>,
    held: usize,
    heads: VecDeque<RawHead>,
}

impl HeadReader {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self { phase: Phase::Head, line: Vec::new(), lines: Vec::new(), held: 0, heads: VecDeque::new() }
    }

    /// Takes the oldest head that nobody has taken.
    pub fn next_head(&mut self) -> Option<RawHead> {
        self.heads.pop_front()
    }

    /// What follows is not HTTP/1: an upgraded connection.
    pub fn stop(&mut self) {
        self.phase = Phase::Off;
        self.line = Vec::new();
        self.lines = Vec::new();
    }

    /// The next bytes of the connection, split anywhere.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.phase {
                Phase::Off => return,
                Phase::Body(left) | Phase::Chunk(left) => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[skipped..];
                    *left -= skipped as u64;
                    if *left == 0 {
                        self.phase = if matches!(self.phase, Phase::Body(_)) { Phase::Head } else { Phase::ChunkSize };
                    }
                }
                Phase::Head | Phase::ChunkSize | Phase::Trailers => bytes = self.feed_line(bytes),
            }
        }
    }

    /// Takes one line, or all there is of it. Returns the rest.
    fn feed_line<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, complete) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (bytes.len(), false),
        };
        self.line.extend_from_slice(&bytes[..taken]);
        self.held += taken;
        if self.held > MAX_HELD {
            self.stop();
        } else if complete {
            let mut line = std::mem::take(&mut self.line);
            line.pop();
            line.pop_if(|byte| *byte == b'\r');
            self.end_line(line);
        }
        &bytes[taken..]
    }

    fn end_line(&mut self, line: Vec<u8>) {
        match self.phase {
            Phase::Head if !line.is_empty() => self.lines.push(line),
            // Empty lines before a request line are allowed, and ignored.
            Phase::Head if self.lines.is_empty() => self.held = 0,
            Phase::Head => self.end_head(),
            Phase::ChunkSize => match chunk_size(&line) {
                Some(0) => self.phase = Phase::Trailers,
                Some(size) => {
                    self.held = 0;
                    self.phase = Phase::Chunk(size.saturating_add(2));
                }
                None => self.stop(),
            },
            Phase::Trailers if line.is_empty() => {
                self.held = 0;
                self.phase = Phase::Head;
            }
            Phase::Trailers | Phase::Body(_) | Phase::Chunk(_) | Phase::Off => {}
        }
    }

    fn end_head(&mut self) {
        self.held = 0;
        let Some(head) = parse_head(&std::mem::take(&mut self.lines)) else { return self.stop() };
        let Some(phase) = phase_after(&head) else { return self.stop() };
        self.phase = phase;
        self.heads.push_back(head);
    }
}

fn parse_head(lines: &[Vec<u8>]) -> Option<RawHead> {
    let (request_line, fields) = lines.split_first()?;
    let first = request_line.iter().position(|byte| *byte == b' ')?;
    let last = request_line.iter().rposition(|byte| *byte == b' ')?;
    let version = &request_line[last + 1..];
    if first == last || !version.starts_with(b"HTTP/1.") {
        return None;
    }
    Some(RawHead {
        method: request_line[..first].to_vec(),
        target: request_line[first + 1..last].to_vec(),
        fields: fields.iter().map(|line| parse_field(line)).collect::<Option<_>>()?,
    })
}

fn parse_field(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((line[..colon].to_vec(), line[colon + 1..].trim_ascii().to_vec()))
}

/// What follows a head: a body, or the next head. `None` when the framing cannot be told.
fn phase_after(head: &RawHead) -> Option<Phase> {
    let values = |name: &'static str| {
        head.fields.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    };
    if let Some(codings) = values("transfer-encoding").next_back() {
        let last = codings.rsplit(|byte| *byte == b',').next()?.trim_ascii();
        return last.eq_ignore_ascii_case(b"chunked").then_some(Phase::ChunkSize);
    }
    match values("content-length").next() {
        None => Some(Phase::Head),
        Some(value) => match std::str::from_utf8(value).ok()?.parse().ok()? {
            0 => Some(Phase::Head),
            length => Some(Phase::Body(length)),
        },
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Bytes as JSON text: as they are when they are UTF-8, else one character a byte (Latin-1).
pub fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINED: &[u8] = b"\r\nGET /a%2Fb/../c//?x=%zz&&y#f HTTP/1.1\r\nHost: x\r\nX-One:  1 \r\nx-two: 2\r\nX-ONE:3\r\n\r\n\
        POST /body HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /POST /chunks HTTP/1.1\r\ntransfer-encoding: gzip, Chunked\r\n\r\n\
        a;ext=1\r\nGET / HTTP\r\n0\r\nX-Trailer: 1\r\n\r\nGET /last HTTP/1.0\n\n";

    fn targets(reader: &mut HeadReader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_head()).map(|head| text(&head.target)).collect()
    }

    #[test]
    fn finds_every_head_of_a_pipeline_however_it_is_split() {
        for size in 1..=PIPELINED.len() {
            let mut reader = HeadReader::new();
            PIPELINED.chunks(size).for_each(|bytes| reader.feed(bytes));
            let expected = ["/a%2Fb/../c//?x=%zz&&y#f", "/body", "/chunks", "/last"];
            assert_eq!(targets(&mut reader), expected, "in pieces of {size} bytes");
        }
    }

    #[test]
    fn keeps_case_order_and_repeats_of_the_fields() {
        let mut reader = HeadReader::new();
        reader.feed(PIPELINED);
        let head = reader.next_head().unwrap();
        let fields: Vec<_> = head.fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        let expected = [("Host", "x"), ("X-One", "1"), ("x-two", "2"), ("X-ONE", "3")];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn stops_at_what_is_not_http_1() {
        for bytes in [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            let mut reader = HeadReader::new();
            reader.feed(bytes);
            reader.feed(b"GET /never HTTP/1.1\r\n\r\n");
            assert_eq!(targets(&mut reader), Vec::<String>::new());
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut reader = HeadReader::new();
        (0..2000).for_each(|_| reader.feed(&[b'a'; 1024]));
        assert!(matches!(reader.phase, Phase::Off));
        assert!(reader.line.is_empty());
    }

    #[test]
    fn bytes_that_are_not_utf_8_become_one_character_each() {
        assert_eq!(text("/é".as_bytes()), "/é");
        assert_eq!(text(b"/\xe9"), "/\u{e9}");
    }
}
