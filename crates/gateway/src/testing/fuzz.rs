//! Any bytes against the parsers of HTTP/1.1. The fuzz targets and the property tests run these functions.
//!
//! What is found good here is read again by [`Reader`], a parser that was made to be simple and shares nothing with the
//! one under test: both must see the same requests.

mod fields;

use bytes::{Bytes, BytesMut};
use http::Version;

pub use self::fields::{invoke, key, request_fields};

use crate::{
    fields::Headers as _,
    h1::{
        chunked::{ChunkDecoder, ChunkFault, Piece},
        framing::{BodyReader, request_body},
        head::{HeadParser, written_request},
    },
};

/// Reads a request's head, in one piece and byte by byte.
///
/// # Panics
/// When the cuts make a difference, or what was read cannot be read again.
pub fn request_head(data: &[u8]) {
    let whole = HeadParser::request().advance(data);
    let mut parser = HeadParser::request();
    let by_bytes = (0..=data.len()).find_map(|end| parser.advance(&data[..end]).transpose()).transpose();
    assert_eq!(whole.ok(), by_bytes.ok());
    let Ok(Some(length)) = whole else { return };
    let mut parser = HeadParser::request();
    let _ = parser.advance(data);
    let Ok(head) = parser.finish_request(data, length) else { return };
    let text = written_request(&head.method, &head.target, &head.headers, 0);
    let again = HeadParser::request().advance(&text);
    assert!(matches!(again, Ok(Some(length)) if length == text.len()), "{data:?}");
}

/// Reads an answer's head, in one piece and byte by byte.
///
/// # Panics
/// When the cuts make a difference.
pub fn response_head(data: &[u8]) {
    let whole = HeadParser::response().advance(data);
    let mut parser = HeadParser::response();
    let by_bytes = (0..=data.len()).find_map(|end| parser.advance(&data[..end]).transpose()).transpose();
    assert_eq!(whole.ok(), by_bytes.ok());
    if let Ok(Some(length)) = whole {
        let mut parser = HeadParser::response();
        let _ = parser.advance(data);
        let _ = parser.finish_response(data, length);
    }
}

/// Reads a chunked body, in one piece and byte by byte.
///
/// # Panics
/// When the cuts make a difference, or an independent reader sees another body.
pub fn chunked_body(data: &[u8]) {
    let whole = body(&mut BodyReader::Chunked(ChunkDecoder::default()), data, usize::MAX);
    let by_bytes = body(&mut BodyReader::Chunked(ChunkDecoder::default()), data, 1);
    assert_eq!(whole.is_err(), by_bytes.is_err(), "{data:?}");
    if let (Ok(Some(whole)), Ok(by_bytes)) = (whole, by_bytes) {
        assert_eq!(Some(&whole), by_bytes.as_ref());
        let mut reader = Reader { text: &whole.relayed };
        assert_eq!(reader.chunks().as_ref(), Some(&whole.content), "{data:?}");
        assert!(reader.text.is_empty());
    }
}

/// A caller's connection: what would reach containers of all that it sends.
///
/// # Panics
/// When the containers' side would read other requests than the caller's side.
pub fn whole_path(data: &[u8]) {
    let (mut rest, mut sent, mut out) = (data, Vec::new(), BytesMut::new());
    loop {
        let mut parser = HeadParser::request();
        let Ok(Some(length)) = parser.advance(rest) else { break };
        let Ok(mut head) = parser.finish_request(rest, length) else { break };
        let Ok(mut framing) = request_body(&head) else { break };
        let chunked = framing.is_chunked();
        let Ok(Some(read)) = body(&mut framing, &rest[length..], usize::MAX) else { break };
        crate::headers::take_request_hops(&mut head.headers);
        if chunked {
            head.headers.insert(http::header::TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
        }
        out.extend_from_slice(&written_request(&head.method, &head.target, &head.headers, 0));
        out.extend_from_slice(&read.relayed);
        sent.push((head.target.clone(), read.content));
        rest = &rest[length + read.length..];
        assert!(head.version == Version::HTTP_11 || head.version == Version::HTTP_10);
    }
    let mut reader = Reader { text: &out };
    for (target, content) in sent {
        assert_eq!(reader.request(), Some((target, content)), "{data:?}");
    }
    assert!(reader.text.is_empty(), "{data:?}");
}

/// A body that was read to its end.
#[derive(Debug, PartialEq)]
struct Read {
    content: Vec<u8>,
    /// As a container gets it.
    relayed: Vec<u8>,
    /// Bytes of the input.
    length: usize,
}

fn body(framing: &mut BodyReader, data: &[u8], step: usize) -> Result<Option<Read>, ChunkFault> {
    let (mut at, mut end) = (0, step.min(data.len()));
    let mut read = Read { content: Vec::new(), relayed: Vec::new(), length: 0 };
    loop {
        let input = &data[at..end];
        match framing.next(input)? {
            Piece::Data(count) => {
                read.content.extend_from_slice(&input[..count]);
                read.relayed.extend_from_slice(&input[..count]);
                at += count;
            }
            Piece::Framing(count) => {
                read.relayed.extend_from_slice(&input[..count]);
                at += count;
            }
            Piece::Extension(count) => at += count,
            Piece::Trailers(count) => {
                let trailers = framing.take_trailers(&input[..count]);
                let mut text = BytesMut::new();
                trailers.write(&mut text);
                read.relayed.extend_from_slice(&text);
                at += count;
            }
            Piece::End => {
                read.length = at;
                return Ok(Some(read));
            }
            Piece::NeedMore if end == data.len() => return Ok(None),
            Piece::NeedMore => end = end.saturating_add(step).min(data.len()),
        }
    }
}

/// A reader of requests that is simple enough to be seen through.
struct Reader<'a> {
    text: &'a [u8],
}

impl Reader<'_> {
    fn request(&mut self) -> Option<(Bytes, Vec<u8>)> {
        let first = self.line()?;
        let target = first.split(|byte| *byte == b' ').nth(1)?.to_vec();
        let fields = self.fields()?;
        let values = |name: &str| fields.iter().filter(move |(known, _)| known == name).collect::<Vec<_>>();
        let content = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
            ([], []) => Vec::new(),
            ([(_, length)], []) => self.take(length.parse().ok()?)?,
            ([], [(_, coding)]) if coding == "chunked" => self.chunks()?,
            _ => return None,
        };
        Some((Bytes::from(target), content))
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let size = self.line()?;
            let size = usize::from_str_radix(std::str::from_utf8(&size).ok()?, 16).ok()?;
            if size == 0 {
                self.fields()?;
                return Some(content);
            }
            content.extend(self.take(size)?);
            if !self.line()?.is_empty() {
                return None;
            }
        }
    }

    fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(fields);
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_ascii_lowercase()));
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.text.windows(2).position(|pair| pair == b"\r\n")?;
        let line = self.take(end)?;
        self.take(2)?;
        Some(line)
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let (taken, rest) = self.text.split_at_checked(count)?;
        self.text = rest;
        Some(taken.to_vec())
    }
}
