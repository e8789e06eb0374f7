//! How long the body of a message is (RFC 9112 §6), and where it ends in the bytes that come. No I/O.
//!
//! Whatever could be read in two ways is a fault: both lengths, a length twice, a coding that is not `chunked` alone.

use http::{HeaderName, Method, StatusCode, Version, header};

use super::{
    chunked::{ChunkDecoder, ChunkFault, Piece},
    head::{HeadFault, RequestHead, ResponseHead},
};
use crate::{
    fields::{Fields, Headers},
    headers::is_plain_chunked,
};

/// Takes the body of one message out of the bytes that come.
#[derive(Debug)]
pub(crate) enum BodyReader {
    /// So many bytes are left.
    Length(u64),
    Chunked(ChunkDecoder),
    /// Everything until the connection ends (only answers).
    UntilClose,
    /// It is over.
    Over,
}

impl BodyReader {
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Over | Self::Length(0))
    }

    pub(crate) const fn is_chunked(&self) -> bool {
        matches!(self, Self::Chunked(_))
    }

    /// What `input` begins with; the next call gets what is behind it.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Piece, ChunkFault> {
        match self {
            Self::Over | Self::Length(0) => Ok(Piece::End),
            Self::Chunked(decoder) => decoder.next(input),
            _ if input.is_empty() => Ok(Piece::NeedMore),
            Self::UntilClose => Ok(Piece::Data(input.len())),
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                Ok(Piece::Data(count))
            }
        }
    }

    /// Reads the trailers that [`next`](Self::next) has found, without those that do not belong there; the body is over.
    pub(crate) fn take_trailers(&mut self, text: &[u8]) -> Fields {
        let Self::Chunked(decoder) = self else { return Fields::default() };
        let parser = decoder.take_trailers();
        *self = Self::Over;
        let Some(mut parser) = parser else { return Fields::default() };
        if text == b"\r\n" {
            return Fields::default();
        }
        let mut fields = parser.finish_trailers(text);
        fields.retain(may_be_trailer);
        fields
    }
}

/// Whether a field may stand behind a body (RFC 9110 §6.5.1): nothing that says how the message is framed, routed,
/// authenticated or read, because that was decided without it. Others are dropped, as every recipient would have to.
fn may_be_trailer(name: &HeaderName) -> bool {
    const NOT: [HeaderName; 26] = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::FORWARDED,
        header::HOST,
        header::LOCATION,
        header::MAX_FORWARDS,
        header::PRAGMA,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::RANGE,
        header::RETRY_AFTER,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::VARY,
        header::VIA,
        header::WWW_AUTHENTICATE,
    ];
    let text = name.as_str();
    let kept_for_us = ["x-forwarded-", "x-towline-", "if-"].iter().any(|prefix| text.starts_with(prefix));
    !NOT.contains(name) && !kept_for_us && !matches!(text, "keep-alive" | "proxy-connection" | "x-request-id")
}

/// The body that follows a request's head (RFC 9112 §6.3).
pub(crate) fn request_body(head: &RequestHead) -> Result<BodyReader, HeadFault> {
    let coded = head.headers.contains_key(header::TRANSFER_ENCODING);
    let length = content_length(&head.headers)?;
    match length {
        Some(_) if coded => Err(HeadFault::Malformed("Content-Length and Transfer-Encoding exclude each other")),
        _ if coded && head.version == Version::HTTP_10 => {
            Err(HeadFault::Malformed("Transfer-Encoding does not exist in HTTP/1.0"))
        }
        _ if coded && !is_plain_chunked(&head.headers) => {
            Err(HeadFault::Malformed("Transfer-Encoding must be `chunked` and nothing else"))
        }
        _ if coded => Ok(BodyReader::Chunked(ChunkDecoder::default())),
        Some(length) => Ok(BodyReader::Length(length)),
        None => Ok(BodyReader::Over),
    }
}

/// The body that follows the head of an answer to a request with that method.
pub(crate) fn response_body(head: &ResponseHead, method: &Method) -> Result<BodyReader, HeadFault> {
    let coded = head.headers.contains_key(header::TRANSFER_ENCODING);
    let length = content_length(&head.headers)?;
    if coded && length.is_some() {
        return Err(HeadFault::Malformed("it has both Content-Length and Transfer-Encoding"));
    }
    if coded && !is_plain_chunked(&head.headers) {
        return Err(HeadFault::Malformed("its Transfer-Encoding is not `chunked`"));
    }
    if coded && head.version == Version::HTTP_10 {
        return Err(HeadFault::Malformed("it has a Transfer-Encoding in HTTP/1.0"));
    }
    let never = head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    Ok(match length {
        _ if never => BodyReader::Over,
        _ if coded => BodyReader::Chunked(ChunkDecoder::default()),
        Some(length) => BodyReader::Length(length),
        None => BodyReader::UntilClose,
    })
}

/// The only `Content-Length`: digits and nothing else (RFC 9110 §8.6).
pub(crate) fn content_length(headers: &impl Headers) -> Result<Option<u64>, HeadFault> {
    let mut values = headers.get_all(header::CONTENT_LENGTH);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(HeadFault::Malformed("Content-Length was sent more than once"));
    }
    let digits = value.as_bytes();
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HeadFault::Malformed("Content-Length must be one number, written in digits"));
    }
    Ok(Some(digits.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::head::HeadParser;

    fn request(version: &str, fields: &str) -> Result<BodyReader, HeadFault> {
        let text = format!("POST / {version}\r\n{fields}\r\n");
        let mut parser = HeadParser::request();
        let length = parser.advance(text.as_bytes()).unwrap().unwrap();
        request_body(&parser.finish_request(text.as_bytes(), length).unwrap())
    }

    fn answer(method: &Method, text: &str) -> Result<BodyReader, HeadFault> {
        let mut parser = HeadParser::response();
        let length = parser.advance(text.as_bytes()).unwrap().unwrap();
        response_body(&parser.finish_response(text.as_bytes(), length).unwrap(), method)
    }

    #[test]
    fn requests_have_one_length_or_are_refused() {
        for (section, version, fields) in [
            ("9112 §6.3", "HTTP/1.1", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            ("9112 §6.3", "HTTP/1.1", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
            ("9112 §6.3", "HTTP/1.1", "Content-Length: 1\r\nContent-Length: 2\r\n"),
            ("9112 §6.3", "HTTP/1.1", "Content-Length: 1\r\nContent-Length: 1\r\n"),
            ("9112 §6.3", "HTTP/1.1", "Content-Length: 1, 1\r\n"),
            ("9110 §8.6", "HTTP/1.1", "Content-Length: +1\r\n"),
            ("9110 §8.6", "HTTP/1.1", "Content-Length: -1\r\n"),
            ("9110 §8.6", "HTTP/1.1", "Content-Length: 0x1\r\n"),
            ("9110 §8.6", "HTTP/1.1", "Content-Length: 1 0\r\n"),
            ("9110 §8.6", "HTTP/1.1", "Content-Length: 1.0\r\n"),
            ("9110 §8.6", "HTTP/1.1", "Content-Length:\r\n"),
            ("9110 §8.6", "HTTP/1.1", "Content-Length: 99999999999999999999\r\n"),
            ("9112 §6.1", "HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding: gzip\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding: gzip, chunked\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding: chunked, chunked\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding: identity\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding: xchunked\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding: chunked;x\r\n"),
            ("9112 §6.1", "HTTP/1.1", "Transfer-Encoding:\r\n"),
        ] {
            assert!(matches!(request(version, fields), Err(HeadFault::Malformed(_))), "RFC {section}: {fields:?}");
        }
        assert!(matches!(request("HTTP/1.1", "Content-Length: 0012\r\n"), Ok(BodyReader::Length(12))));
        assert!(matches!(request("HTTP/1.1", "Transfer-Encoding: Chunked\r\n"), Ok(BodyReader::Chunked(_))));
        assert!(matches!(request("HTTP/1.1", ""), Ok(BodyReader::Over)));
    }

    #[test]
    fn the_length_of_an_answer_depends_on_the_request_and_the_status() {
        let chunked = "Transfer-Encoding: chunked\r\n\r\n";
        for (method, status) in
            [(Method::HEAD, "200"), (Method::GET, "204"), (Method::GET, "304"), (Method::GET, "103")]
        {
            for rest in [chunked, "Content-Length: 5\r\n\r\n", "\r\n"] {
                let text = format!("HTTP/1.1 {status} x\r\n{rest}");
                assert!(answer(&method, &text).unwrap().is_over(), "{method} {text}");
            }
        }
        let get = |fields: &str| answer(&Method::GET, &format!("HTTP/1.1 200 OK\r\n{fields}"));
        assert!(get(chunked).unwrap().is_chunked());
        assert!(matches!(get("Content-Length: 5\r\n\r\n"), Ok(BodyReader::Length(5))));
        assert!(matches!(get("\r\n"), Ok(BodyReader::UntilClose)));
        assert!(get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(get("Transfer-Encoding: gzip\r\n\r\n").is_err());
        assert!(answer(&Method::GET, &format!("HTTP/1.0 200 OK\r\n{chunked}")).is_err());
    }

    #[test]
    fn what_says_how_a_message_is_read_is_no_trailer() {
        for (name, may) in [
            ("x-checksum", true),
            ("grpc-status", true),
            ("etag", true),
            ("content-length", false),
            ("transfer-encoding", false),
            ("host", false),
            ("authorization", false),
            ("set-cookie", false),
            ("x-forwarded-for", false),
            ("if-match", false),
        ] {
            assert_eq!(may_be_trailer(&HeaderName::from_static(name)), may, "{name}");
        }
    }
}
