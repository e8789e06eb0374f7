//! Heads of HTTP/1.1 messages, callers' and containers': read strictly, written faithfully. No I/O.
//!
//! A head that breaks RFC 9112 is a fault and never repaired: what one parser repairs, the next one may read in another
//! way. A head that is good keeps its bytes: its [`Fields`] know how their names were spelt and in which order they stood, so
//! that [`write_fields`] gives them back like that, whatever was taken out or added in between.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::spare;
use crate::fields::Fields;

/// Bytes that a head may have unless another limit is set, and that a trailer section may have.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Fields that a request's head, or a trailer section, may have.
pub(crate) const MAX_REQUEST_FIELDS: usize = 128;
/// Fields that a container's head may have.
pub(crate) const MAX_RESPONSE_FIELDS: usize = 256;
/// Empty lines before a request that are overlooked (RFC 9112 §2.2).
const MAX_EMPTY_LINES: usize = 1;
/// Fields that are mostly added to a request before a container gets it, and to an answer before a caller does.
const ADDED_TO_REQUEST: usize = 8;
const ADDED_TO_RESPONSE: usize = 2;

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadFault {
    /// More bytes or fields than are taken.
    #[error("the head has more bytes or fields than are taken")]
    TooLarge,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("only HTTP/1.0, HTTP/1.1 and, with prior knowledge, HTTP/2 are spoken here")]
    Version,
    /// It breaks RFC 9112.
    #[error("{0}")]
    Malformed(&'static str),
}

/// What a head begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    /// With a field: a trailer section.
    Trailers,
}

/// Bytes in a head, by their places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    from: u32,
    to: u32,
}

impl Span {
    fn new(from: usize, to: usize) -> Self {
        // Nothing is longer than a head may be, or than the buffer that it is read into.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { from: place(from), to: place(to) }
    }

    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.from as usize..self.to as usize]
    }
}

/// Reads a head as it comes, each line once.
#[derive(Debug)]
pub(crate) struct HeadParser {
    kind: Kind,
    max_bytes: usize,
    max_fields: usize,
    /// Where the first line begins.
    begin: usize,
    /// Where the line that is not complete yet begins, and how much of it was looked at.
    line: usize,
    seen: usize,
    empty_lines: usize,
    start: Option<StartLine>,
    fields: Vec<(Span, Span)>,
}

#[derive(Debug, Clone, Copy)]
enum StartLine {
    Request { method: Span, target: Span, version: Version },
    Response { status: StatusCode, reason: Span, version: Version },
    None,
}

/// The head of a request.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub method: Method,
    /// As it was sent.
    pub target: Bytes,
    pub version: Version,
    pub headers: Fields,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub status: StatusCode,
    /// As it was sent; may be empty.
    pub reason: Bytes,
    pub version: Version,
    pub headers: Fields,
}

impl HeadParser {
    pub(crate) const fn request() -> Self {
        Self::new(Kind::Request, MAX_REQUEST_FIELDS, None)
    }

    /// For requests that were written here, of which nobody has to be protected.
    pub(crate) const fn written() -> Self {
        Self::new(Kind::Request, usize::MAX, None).of_at_most(usize::MAX)
    }

    pub(crate) const fn response() -> Self {
        Self::new(Kind::Response, MAX_RESPONSE_FIELDS, None)
    }

    pub(crate) const fn trailers() -> Self {
        Self::new(Kind::Trailers, MAX_REQUEST_FIELDS, Some(StartLine::None))
    }

    const fn new(kind: Kind, max_fields: usize, start: Option<StartLine>) -> Self {
        let fields = Vec::new();
        Self { kind, max_bytes: MAX_HEAD, max_fields, begin: 0, line: 0, seen: 0, empty_lines: 0, start, fields }
    }

    /// With another limit of bytes.
    pub(crate) const fn of_at_most(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Forgets what was read, for the next head.
    fn restart(&mut self) {
        (self.begin, self.line, self.seen, self.empty_lines) = (0, 0, 0, 0);
        self.start = if self.kind == Kind::Trailers { Some(StartLine::None) } else { None };
        self.fields.clear();
    }

    /// Looks at the bytes that have come since the last time; `text` is all of them, from the first on. `Some` is the
    /// length of the whole head.
    pub(crate) fn advance(&mut self, text: &[u8]) -> Result<Option<usize>, HeadFault> {
        while let Some(found) = memchr::memchr(b'\n', &text[self.seen..]) {
            let end = self.seen + found;
            if end > self.max_bytes {
                return Err(HeadFault::TooLarge);
            }
            if end == self.line || text[end - 1] != b'\r' {
                return Err(HeadFault::Malformed("a line does not end with CR and LF"));
            }
            let (from, to) = (self.line, end - 1);
            self.line = end + 1;
            self.seen = end + 1;
            if self.take_line(text, from, to)? {
                return Ok(Some(end + 1));
            }
        }
        self.seen = text.len();
        if self.seen > self.max_bytes {
            return Err(HeadFault::TooLarge);
        }
        // Another protocol may never send an end of line. A tab may stand in a reason (RFC 9112 §4).
        if self.start.is_none() && text[self.line..].iter().any(|&byte| byte < b' ' && !matches!(byte, b'\r' | b'\t')) {
            return Err(HeadFault::Malformed("the first line has a control byte in it"));
        }
        Ok(None)
    }

    /// Takes one line; says whether it was the last.
    fn take_line(&mut self, text: &[u8], from: usize, to: usize) -> Result<bool, HeadFault> {
        let line = &text[from..to];
        match self.start {
            None if line.is_empty() && self.kind == Kind::Request => {
                self.empty_lines += 1;
                self.begin = self.line;
                if self.empty_lines > MAX_EMPTY_LINES {
                    return Err(HeadFault::Malformed("there are empty lines before the request"));
                }
            }
            None if self.kind == Kind::Request => self.start = Some(request_line(line, from)?),
            None => self.start = Some(status_line(line, from)?),
            Some(_) if line.is_empty() => return Ok(true),
            Some(_) => {
                if self.fields.len() == self.max_fields {
                    return Err(HeadFault::TooLarge);
                }
                self.fields.push(field_line(line, from)?);
            }
        }
        Ok(false)
    }

    /// The request whose head has been read whole, and is the beginning of `text`.
    pub(crate) fn finish_request(&mut self, text: &[u8], length: usize) -> Result<RequestHead, HeadFault> {
        let Some(StartLine::Request { method, target, version }) = self.start else {
            return Err(HeadFault::Malformed("there is no request line"));
        };
        let method = Method::from_bytes(method.of(text)).map_err(|_| HeadFault::Malformed("the method is no token"))?;
        let text = spare::text(&text[..length]);
        let target = text.slice(target.from as usize..target.to as usize);
        let headers = self.fields(text, ADDED_TO_REQUEST)?;
        Ok(RequestHead { method, target, version, headers })
    }

    /// The answer whose head has been read whole, and is the beginning of `text`.
    pub(crate) fn finish_response(&mut self, text: &[u8], length: usize) -> Result<ResponseHead, HeadFault> {
        let Some(StartLine::Response { status, reason, version }) = self.start else {
            return Err(HeadFault::Malformed("there is no status line"));
        };
        let text = spare::text(&text[..length]);
        let reason = text.slice(reason.from as usize..reason.to as usize);
        let headers = self.fields(text, ADDED_TO_RESPONSE)?;
        Ok(ResponseHead { status, reason, version, headers })
    }

    /// The trailer section that has been read whole, and is the beginning of `text`.
    pub(crate) fn finish_trailers(&mut self, text: &[u8], length: usize) -> Result<Fields, HeadFault> {
        self.fields(Bytes::copy_from_slice(&text[..length]), 0)
    }

    /// The fields, with room for more.
    fn fields(&mut self, text: Bytes, more: usize) -> Result<Fields, HeadFault> {
        let mut headers = Fields::of(text, self.fields.len() + more);
        for &(spelling, value) in &self.fields {
            let text = headers.text();
            let name = HeaderName::from_bytes(spelling.of(text))
                .map_err(|_| HeadFault::Malformed("the name of a field is no token"))?;
            let value = HeaderValue::from_maybe_shared(text.slice(value.from as usize..value.to as usize))
                .map_err(|_| HeadFault::Malformed("a field has a control byte in its value"))?;
            headers.push(name, value, spelling);
        }
        self.restart();
        Ok(headers)
    }
}

/// `method SP target SP version` (RFC 9112 §3).
fn request_line(line: &[u8], at: usize) -> Result<StartLine, HeadFault> {
    const SHAPE: HeadFault = HeadFault::Malformed("the request line is not a method, a target and a version");
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(SHAPE);
    };
    if method.is_empty() || !method.iter().all(|&byte| is_token_byte(byte)) {
        return Err(HeadFault::Malformed("the method is no token"));
    }
    if target.is_empty() || !target.iter().all(|&byte| byte > b' ' && byte != 0x7f) {
        return Err(HeadFault::Malformed("the request's target has a control byte in it"));
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(HeadFault::Version);
        }
        _ => return Err(SHAPE),
    };
    let after = method.len() + 1;
    let target = Span::new(at + after, at + after + target.len());
    Ok(StartLine::Request { method: Span::new(at, at + method.len()), target, version })
}

/// `version SP status [SP reason]` (RFC 9112 §4). Many servers leave out the space when they have no reason.
fn status_line(line: &[u8], at: usize) -> Result<StartLine, HeadFault> {
    const SHAPE: HeadFault = HeadFault::Malformed("its first line is not a version, a status and a reason");
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::HTTP_11,
        Some(b"HTTP/1.0 ") => Version::HTTP_10,
        _ => return Err(SHAPE),
    };
    let digits = line.get(9..12).filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or(SHAPE)?;
    let status = StatusCode::from_bytes(digits).map_err(|_| SHAPE)?;
    let reason = match line.get(12) {
        None => Span::new(at + 12, at + 12),
        Some(b' ') if line[13..].iter().all(|&byte| is_value_byte(byte)) => Span::new(at + 13, at + line.len()),
        Some(_) => return Err(SHAPE),
    };
    Ok(StartLine::Response { status, reason, version })
}

/// `name ":" OWS value OWS` (RFC 9112 §5). A line that begins with a space would continue the one before (§5.2).
fn field_line(line: &[u8], at: usize) -> Result<(Span, Span), HeadFault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(HeadFault::Malformed("a header field is folded over several lines"));
    }
    let colon = line
        .iter()
        .position(|&byte| !is_token_byte(byte))
        .filter(|&end| end > 0 && line[end] == b':')
        .ok_or(HeadFault::Malformed("a header field is not a name, a colon and a value"))?;
    // What the value may consist of is looked at when it is made into one.
    let value = &line[colon + 1..];
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let before = value.iter().take_while(is_space).count();
    let after = value[before..].iter().rev().take_while(is_space).count();
    let name = Span::new(at, at + colon);
    Ok((name, Span::new(at + colon + 1 + before, at + line.len() - after)))
}

/// RFC 9110 §5.6.2.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    /// Looked up for every byte of every name.
    const TOKEN: [bool; 256] = {
        let others = b"!#$%&'*+-.^_`|~";
        let (mut table, mut at) = ([false; 256], 0);
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        let mut byte: u8 = 0;
        while byte < 0x80 {
            table[byte as usize] |= byte.is_ascii_alphanumeric();
            byte += 1;
        }
        table
    };
    TOKEN[byte as usize]
}

/// RFC 9110 §5.5: visible, space, tab, or beyond ASCII.
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// Writes a request line.
pub(crate) fn write_request_line(out: &mut BytesMut, method: &Method, target: &[u8]) {
    out.reserve(method.as_str().len() + target.len() + 12);
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
}

/// Writes a status line, with the reason as it was sent.
pub(crate) fn write_status_line(out: &mut BytesMut, status: StatusCode, reason: &[u8]) {
    out.reserve(reason.len() + 16);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(reason);
    out.put_slice(b"\r\n");
}

/// Writes fields and the empty line behind them, spelt as they were read and in their order.
pub(crate) fn write_fields(out: &mut BytesMut, fields: &Fields) {
    write_all(out, fields.written());
}

/// The same for fields that were made here.
pub(crate) fn write_map(out: &mut BytesMut, fields: &HeaderMap) {
    write_all(out, fields.iter().map(|(name, value)| (name.as_str().as_bytes(), value)));
}

fn write_all<'a>(out: &mut BytesMut, fields: impl Iterator<Item = (&'a [u8], &'a HeaderValue)>) {
    // Of most heads all of it.
    out.reserve(1 << 10);
    for (name, value) in fields {
        write_field(out, name, value);
    }
    out.put_slice(b"\r\n");
}

fn write_field(out: &mut BytesMut, name: &[u8], value: &HeaderValue) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::*;
    use crate::fields::Headers as _;

    fn request(text: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadFault> {
        let mut parser = HeadParser::request();
        let Some(length) = parser.advance(text)? else { return Ok(None) };
        parser.finish_request(text, length).map(|head| Some((head, length)))
    }

    fn answer(text: &[u8]) -> Result<Option<ResponseHead>, HeadFault> {
        let mut parser = HeadParser::response();
        let Some(length) = parser.advance(text)? else { return Ok(None) };
        parser.finish_response(text, length).map(Some)
    }

    #[test]
    fn what_breaks_the_rules_is_a_fault() {
        for (section, text) in [
            ("9112 §2.2", "GET / HTTP/1.1\nHost: a\r\n\r\n"),
            ("9112 §2.2", "GET / HTTP/1.1\r\nHost: a\n\r\n"),
            ("9112 §2.2", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
            ("9112 §2.2", "\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            ("9112 §2.2", "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n"),
            ("9112 §2.2", "GET / HTTP/1.1\r\nX: a\r\r\n\r\n"),
            ("9112 §2.2", "GET / HTTP/1.1\r\n X: a\r\n\r\n"),
            ("9112 §3", "GET  / HTTP/1.1\r\n\r\n"),
            ("9112 §3", "GET\t/ HTTP/1.1\r\n\r\n"),
            ("9112 §3", "GET / HTTP/1.1 \r\n\r\n"),
            ("9112 §3", " GET / HTTP/1.1\r\n\r\n"),
            ("9112 §3", "GET /\r\n\r\n"),
            ("9112 §3", "GET / a HTTP/1.1\r\n\r\n"),
            ("9112 §3", "GET / http/1.1\r\n\r\n"),
            ("9112 §3", "GET / HTTP/1.1x\r\n\r\n"),
            ("9112 §3", "GET / HTTP/11\r\n\r\n"),
            ("9112 §3.1", "G(T / HTTP/1.1\r\n\r\n"),
            ("9112 §3.1", "G\0T / HTTP/1.1\r\n\r\n"),
            ("9112 §3.2", "GET /\x01 HTTP/1.1\r\n\r\n"),
            ("9112 §3.2", "GET /\x7f HTTP/1.1\r\n\r\n"),
            ("9112 §5.1", "GET / HTTP/1.1\r\nX : a\r\n\r\n"),
            ("9112 §5.1", "GET / HTTP/1.1\r\nX\t: a\r\n\r\n"),
            ("9112 §5.1", "GET / HTTP/1.1\r\n: a\r\n\r\n"),
            ("9112 §5.1", "GET / HTTP/1.1\r\nX Y: a\r\n\r\n"),
            ("9112 §5.1", "GET / HTTP/1.1\r\nX\0: a\r\n\r\n"),
            ("9112 §5.1", "GET / HTTP/1.1\r\nX(: a\r\n\r\n"),
            ("9112 §5.1", "GET / HTTP/1.1\r\nX\u{e9}: a\r\n\r\n"),
            ("9112 §5", "GET / HTTP/1.1\r\nno colon\r\n\r\n"),
            ("9112 §5.2", "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n"),
            ("9112 §5.2", "GET / HTTP/1.1\r\nX: a\r\n\tb\r\n\r\n"),
            ("9110 §5.5", "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n"),
            ("9110 §5.5", "GET / HTTP/1.1\r\nX: a\x0bb\r\n\r\n"),
            ("9110 §5.5", "GET / HTTP/1.1\r\nX: a\x7fb\r\n\r\n"),
        ] {
            assert!(matches!(request(text.as_bytes()), Err(HeadFault::Malformed(_))), "RFC {section}: {text:?}");
        }
        for text in ["GET / HTTP/2.0\r\n\r\n", "GET / HTTP/1.2\r\n\r\n", "GET / HTTP/0.9\r\n\r\n"] {
            assert_eq!(request(text.as_bytes()).unwrap_err(), HeadFault::Version, "RFC 9110 §15.6.6: {text:?}");
        }
        // What will never become a request is not waited for.
        for text in [&b"\x16\x03\x01\x02\x00"[..], b"SSH\0", b"GET / HT\x01"] {
            assert!(request(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_keeps_the_rules_is_kept() {
        let text = b"\r\nX-MINE /a?b#!\xff HTTP/1.0\r\nHOST:  a \t\r\nx-a:1\r\nX-A: \xe9,\t2\r\nEmpty:\r\n\r\nrest";
        let (head, length) = request(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"rest");
        assert_eq!((head.method.as_str(), &head.target[..]), ("X-MINE", &b"/a?b#!\xff"[..]));
        assert_eq!(head.version, Version::HTTP_10);
        let values = |name| {
            let name = HeaderName::from_static(name);
            head.headers.get_all(name).map(HeaderValue::as_bytes).collect::<Vec<_>>()
        };
        assert_eq!(values("host"), [b"a"]);
        assert_eq!(values("x-a"), [&b"1"[..], b"\xe9,\t2"]);
        assert_eq!(values("empty"), [b""]);
    }

    #[test]
    fn heads_have_limits() {
        let head = |fields: usize, length: usize| {
            format!("GET / HTTP/1.1\r\n{}X: {}\r\n\r\n", "A: 1\r\n".repeat(fields), "x".repeat(length))
        };
        assert!(request(head(127, 1).as_bytes()).unwrap().is_some());
        assert_eq!(request(head(128, 1).as_bytes()).unwrap_err(), HeadFault::TooLarge);
        assert!(request(head(1, 65_000).as_bytes()).unwrap().is_some());
        assert_eq!(request(head(1, 66_000).as_bytes()).unwrap_err(), HeadFault::TooLarge);
        assert_eq!(request(&vec![b'x'; MAX_HEAD + 1]).unwrap_err(), HeadFault::TooLarge);
    }

    #[test]
    fn status_lines() {
        for (text, status, reason) in [
            ("HTTP/1.1 200 OK\r\n\r\n", 200, "OK"),
            ("HTTP/1.0 999  Two  Spaces \r\n\r\n", 999, " Two  Spaces "),
            ("HTTP/1.1 204 \r\n\r\n", 204, ""),
            ("HTTP/1.1 204\r\n\r\n", 204, ""),
            ("HTTP/1.1 200 Not\tquite\r\n\r\n", 200, "Not\tquite"),
        ] {
            let mut in_pieces = HeadParser::response();
            assert!((0..text.len()).all(|end| in_pieces.advance(&text.as_bytes()[..end]) == Ok(None)), "{text:?}");
            let head = answer(text.as_bytes()).unwrap().unwrap();
            assert_eq!((head.status.as_u16(), &head.reason[..]), (status, reason.as_bytes()), "{text:?}");
        }
        for text in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "http/1.1 200 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1 2x0 x\r\n\r\n",
            "HTTP/1.1 200 a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            assert!(answer(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fields_are_written_as_they_were_read() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-a: 2\r\nX-b: 3\r\nGone: 4\r\nVia: 1.0 x\r\n\r\n";
        let (mut head, _) = request(text).unwrap().unwrap();
        let (gone, new) = (HeaderName::from_static("gone"), HeaderName::from_static("x-new"));
        head.headers.remove(gone);
        head.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        head.headers.append(header::VIA, HeaderValue::from_static("1.1 towline"));
        head.headers.insert(new, HeaderValue::from_static("5"));
        let mut out = BytesMut::new();
        write_fields(&mut out, &head.headers);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "Host: localhost\r\nX-B: 1\r\nx-a: 2\r\nX-b: 3\r\nVia: 1.0 x\r\nvia: 1.1 towline\r\nx-new: 5\r\n\r\n"
        );
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_head(
            text in proptest::collection::vec(prop_oneof![
                8 => Just(b"GET / HTTP/1.1\r\n".to_vec()), 4 => Just(b"A: b\r\n".to_vec()), 4 => Just(b"\r\n".to_vec()),
                1 => Just(b"\n".to_vec()), 1 => Just(b" \t".to_vec()), 2 => proptest::collection::vec(any::<u8>(), 0..4),
            ], 0..8),
            cut in 0_usize..64,
        ) {
            let text = text.concat();
            let whole = HeadParser::request().advance(&text);
            let mut parser = HeadParser::request();
            let cut = cut.min(text.len());
            let pieces = match parser.advance(&text[..cut]) {
                Ok(None) => parser.advance(&text),
                other => other,
            };
            // Which fault is found first may depend on the cut, but not that there is one.
            prop_assert_eq!(whole.ok(), pieces.ok());
        }
    }
}
