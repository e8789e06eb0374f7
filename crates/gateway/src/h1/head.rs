//! Heads of HTTP/1.1 messages, callers' and containers': read strictly, written faithfully. No I/O.
//!
//! A head that breaks RFC 9112 is a fault and never repaired: what one parser repairs, the next one may read in another
//! way. A head that is good keeps its bytes: its [`Fields`] know how their names were spelt and in which order they stood, so
//! that [`Fields::write`] gives them back like that, whatever was taken out or added in between.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Version};

use super::spare;
use crate::fields::{Fields, Span, write_line};

/// Bytes that a head may have unless another limit is set, and that a trailer section may have.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Fields that a request's head, or a trailer section, may have.
pub(crate) const MAX_REQUEST_FIELDS: usize = 128;
/// Fields that a container's head may have.
pub(crate) const MAX_RESPONSE_FIELDS: usize = 256;
/// Bytes of a field's name, which `http` has no room for more of.
const MAX_NAME: usize = u16::MAX as usize;
/// Empty lines before a request that are overlooked (RFC 9112 §2.2).
const MAX_EMPTY_LINES: usize = 1;

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

/// Reads a head as it comes, each line once.
#[derive(Debug)]
pub(crate) struct HeadParser {
    kind: Kind,
    max_bytes: usize,
    max_fields: usize,
    /// Where the line that is not complete yet begins, and how much of it was looked at.
    line: usize,
    seen: usize,
    empty_lines: usize,
    start: Option<StartLine>,
    fields: Fields,
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
        let fields = Fields::new();
        Self { kind, max_bytes: MAX_HEAD, max_fields, line: 0, seen: 0, empty_lines: 0, start, fields }
    }

    /// With another limit of bytes.
    pub(crate) const fn of_at_most(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Forgets what was read, for the next head.
    fn restart(&mut self) {
        (self.line, self.seen, self.empty_lines) = (0, 0, 0);
        self.start = if self.kind == Kind::Trailers { Some(StartLine::None) } else { None };
    }

    /// Looks at the bytes that have come since the last time; `text` is all of them, from the first on. `Some` is the
    /// length of the whole head.
    pub(crate) fn advance(&mut self, text: &[u8]) -> Result<Option<usize>, HeadFault> {
        while let Some(found) = first_control(&text[self.seen..]) {
            let end = self.seen + found;
            if end >= self.max_bytes {
                return Err(HeadFault::TooLarge);
            }
            // RFC 9112 §2.2: no other may stand in a head, and neither of the two alone (RFC 9110 §5.5).
            match (text[end], text.get(end + 1)) {
                (b'\r', Some(b'\n')) => {}
                // The other is still to come.
                (b'\r', None) => {
                    self.seen = end;
                    return Ok(None);
                }
                (b'\n', _) => return Err(HeadFault::Malformed("a line does not end with CR and LF")),
                _ => return Err(HeadFault::Malformed("the head has a control byte in it")),
            }
            let from = std::mem::replace(&mut self.line, end + 2);
            self.seen = end + 2;
            if self.take_line(text, from, end)? {
                return Ok(Some(end + 2));
            }
        }
        self.seen = text.len();
        if self.seen > self.max_bytes {
            return Err(HeadFault::TooLarge);
        }
        Ok(None)
    }

    /// Takes one line; says whether it was the last.
    fn take_line(&mut self, text: &[u8], from: usize, to: usize) -> Result<bool, HeadFault> {
        let line = &text[from..to];
        match self.start {
            None if line.is_empty() && self.kind == Kind::Request => {
                self.empty_lines += 1;
                if self.empty_lines > MAX_EMPTY_LINES {
                    return Err(HeadFault::Malformed("there are empty lines before the request"));
                }
            }
            None => {
                let is_request = self.kind == Kind::Request;
                self.start = Some(if is_request { request_line(line, from)? } else { status_line(line, from)? });
                self.fields = spare::fields();
            }
            Some(_) if line.is_empty() => return Ok(true),
            Some(_) => {
                if self.fields.noted() == self.max_fields {
                    return Err(HeadFault::TooLarge);
                }
                field_line(line, from, &mut self.fields)?;
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
        let target = spare::text(target.of(text));
        let headers = self.finish(&text[..length]);
        Ok(RequestHead { method, target, version, headers })
    }

    /// The answer whose head has been read whole, and is the beginning of `text`.
    pub(crate) fn finish_response(&mut self, text: &[u8], length: usize) -> Result<ResponseHead, HeadFault> {
        let Some(StartLine::Response { status, reason, version }) = self.start else {
            return Err(HeadFault::Malformed("there is no status line"));
        };
        let reason = reason.of(text);
        let usual = status.canonical_reason().unwrap_or_default().as_bytes();
        let reason = if reason == usual { Bytes::from_static(usual) } else { spare::text(reason) };
        let headers = self.finish(&text[..length]);
        Ok(ResponseHead { status, reason, version, headers })
    }

    /// The trailer section that has been read whole.
    pub(crate) fn finish_trailers(&mut self, text: &[u8]) -> Fields {
        self.finish(text)
    }

    /// The fields of a whole head.
    fn finish(&mut self, head: &[u8]) -> Fields {
        let mut fields = std::mem::take(&mut self.fields);
        fields.set_text(head);
        self.restart();
        fields
    }
}

/// Where the first control byte is. A tab is none: it may stand in values and in reasons.
fn first_control(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let is_control = |byte: &u8| !is_value_byte(*byte);
    let (words, rest) = text.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        // The highest bit of each byte says whether it is less than a space, or a DEL; behind the first that is, it may be wrong.
        let bytes = u64::from_le_bytes(*word);
        let low = bytes.wrapping_sub(ONES * 0x20) & !bytes;
        let not_del = bytes ^ (ONES * 0x7f);
        let del = not_del.wrapping_sub(ONES) & !not_del;
        let found = (low | del) & (ONES * 0x80);
        if found == 0 {
            continue;
        }
        let first = found.trailing_zeros() as usize / 8;
        // It may be a tab.
        if let Some(behind) = word[first..].iter().position(is_control) {
            return Some(number * 8 + first + behind);
        }
    }
    rest.iter().position(is_control).map(|at| text.len() - rest.len() + at)
}

/// `method SP target SP version` (RFC 9112 §3).
fn request_line(line: &[u8], at: usize) -> Result<StartLine, HeadFault> {
    const SHAPE: HeadFault = HeadFault::Malformed("the request line is not a method, a target and a version");
    let space = |text: &[u8]| memchr::memchr(b' ', text);
    let method_to = space(line).ok_or(SHAPE)?;
    let target_to = method_to + 1 + space(&line[method_to + 1..]).ok_or(SHAPE)?;
    let (method, target, version) = (&line[..method_to], &line[method_to + 1..target_to], &line[target_to + 1..]);
    if method.is_empty() || !method.iter().all(|&byte| is_token_byte(byte)) {
        return Err(HeadFault::Malformed("the method is no token"));
    }
    if target.is_empty() || memchr::memchr(b'\t', target).is_some() {
        return Err(HeadFault::Malformed("the request's target is empty, or has a tab in it"));
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(HeadFault::Version);
        }
        _ => return Err(SHAPE),
    };
    let target = Span::new(at + method_to + 1, at + target_to);
    Ok(StartLine::Request { method: Span::new(at, at + method_to), target, version })
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
        Some(b' ') => Span::new(at + 13, at + line.len()),
        Some(_) => return Err(SHAPE),
    };
    Ok(StartLine::Response { status, reason, version })
}

/// `name ":" OWS value OWS` (RFC 9112 §5).
fn field_line(line: &[u8], at: usize, fields: &mut Fields) -> Result<(), HeadFault> {
    let colon = line.iter().position(|&byte| !is_token_byte(byte)).filter(|&end| end > 0 && line[end] == b':');
    let colon = colon.ok_or_else(|| no_field(line))?;
    if colon > MAX_NAME {
        return Err(HeadFault::TooLarge);
    }
    // There is no control byte in the line.
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let before = line[colon + 1..].iter().take_while(is_space).count();
    let value = &line[colon + 1 + before..];
    let after = value.iter().rev().take_while(is_space).count();
    let spans = (Span::new(at, at + colon), Span::new(at + colon + 1 + before, at + line.len() - after));
    fields.note(&line[..colon], spans, before == 1 && after == 0 && line[colon + 1] == b' ');
    Ok(())
}

/// What is wrong with a line that is no field. One that begins with a space would continue the one before (RFC 9112 §5.2).
const fn no_field(line: &[u8]) -> HeadFault {
    match line.first() {
        Some(b' ' | b'\t') => HeadFault::Malformed("a header field is folded over several lines"),
        _ => HeadFault::Malformed("a header field is not a name, a colon and a value"),
    }
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

/// The head of a request, with room for so many bytes behind it.
pub(crate) fn written_request(method: &Method, target: &[u8], fields: &Fields, room: usize) -> BytesMut {
    let method = method.as_str().as_bytes();
    let mut out = BytesMut::with_capacity(method.len() + target.len() + 12 + fields.most_bytes() + room);
    out.put_slice(method);
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
    fields.write(&mut out);
    out
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

/// Writes fields that were made here, with the empty line behind them.
pub(crate) fn write_map(out: &mut BytesMut, fields: &HeaderMap) {
    // Of most heads all of it.
    out.reserve(1 << 10);
    for (name, value) in fields {
        write_line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, header};
    use proptest::prelude::*;

    use super::*;
    use crate::fields::{Headers as _, Value};

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
            head.headers.get_all(name).map(Value::as_bytes).collect::<Vec<_>>()
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
        let named = |length: usize| {
            let text = format!("GET / HTTP/1.1\r\n{}: 1\r\n\r\n", "a".repeat(length));
            let mut parser = HeadParser::request().of_at_most(1 << 20);
            let length = parser.advance(text.as_bytes())?.unwrap();
            parser.finish_request(text.as_bytes(), length)
        };
        assert_eq!(named(MAX_NAME).unwrap().headers.into_map().len(), 1);
        assert_eq!(named(MAX_NAME + 1).unwrap_err(), HeadFault::TooLarge);
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
        head.headers.write(&mut out);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "Host: localhost\r\nX-B: 1\r\nx-a: 2\r\nX-b: 3\r\nVia: 1.0 x\r\nvia: 1.1 towline\r\nx-new: 5\r\n\r\n"
        );
    }

    proptest! {
        #[test]
        fn the_first_control_byte_is_found(
            text in proptest::collection::vec(prop_oneof![
                8 => any::<u8>(), 8 => b' '..=b'~', 2 => Just(b'\t'), 1 => Just(0x7f), 1 => Just(0x1f), 1 => Just(0x80),
            ], 0..40),
        ) {
            let first = text.iter().position(|&byte| !is_value_byte(byte));
            prop_assert_eq!(first_control(&text), first);
        }

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
