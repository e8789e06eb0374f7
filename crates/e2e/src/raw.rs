//! HTTP/1.1 as bytes on a socket: for what a client library would tidy up before it sends, or hide after it came.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::wait::SOON;

/// An answer, as it came.
#[derive(Debug)]
pub struct RawResponse {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// The header fields, in order, with their case.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The trailer fields of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its end as the framing announced.
    pub is_complete: bool,
    /// The heads of 1xx answers that came before.
    pub informational: Vec<u16>,
}

impl RawResponse {
    /// The values of a header, in order.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Sends bytes on a connection of their own and reads until the server closes it, so the request should say
/// `Connection: close`.
///
/// # Panics
/// When there is no answer, or one that is not HTTP/1.1.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> RawResponse {
    try_exchange(address, request).await.expect("the server answers before it closes the connection")
}

/// The same; `None` when the server closes the connection without a word.
///
/// # Panics
/// When the answer is not HTTP/1.1.
pub async fn try_exchange(address: SocketAddr, request: &[u8]) -> Option<RawResponse> {
    let mut socket = TcpStream::connect(address).await.expect("the server accepts connections");
    socket.write_all(request).await.expect("the server reads the request");
    let mut bytes = Vec::new();
    // A reset after the answer is an answer all the same.
    let read = tokio::time::timeout(SOON, socket.read_to_end(&mut bytes)).await;
    let read = read.unwrap_or_else(|_| panic!("the server keeps the connection: {}", String::from_utf8_lossy(&bytes)));
    if let Err(error) = read {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
    (!bytes.is_empty()).then(|| parse(&bytes))
}

/// Takes an answer apart.
///
/// # Panics
/// When it is not HTTP/1.1.
#[must_use]
pub fn parse(bytes: &[u8]) -> RawResponse {
    let mut informational = Vec::new();
    let mut rest = bytes;
    loop {
        let head_end = find(rest, b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(rest)));
        let (status, reason, headers) = parse_head(&rest[..head_end]);
        rest = &rest[head_end + 4..];
        if (100..200).contains(&status) && status != 101 {
            informational.push(status);
            continue;
        }
        let has = |name: &str, value: &str| {
            headers.iter().any(|field| field.0.eq_ignore_ascii_case(name) && field.1.eq_ignore_ascii_case(value))
        };
        let length = headers.iter().find(|field| field.0.eq_ignore_ascii_case("content-length"));
        let length = length.map(|field| field.1.parse::<usize>().expect("a length is a number"));
        let (body, trailers, is_complete) = if has("transfer-encoding", "chunked") {
            unchunk(rest)
        } else {
            (rest.to_vec(), Vec::new(), length.is_none_or(|length| length == rest.len()))
        };
        return RawResponse { status, reason, headers, body, trailers, is_complete, informational };
    }
}

fn parse_head(head: &[u8]) -> (u16, String, Vec<(String, String)>) {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut parts = status_line.splitn(3, ' ');
    assert_eq!(parts.next(), Some("HTTP/1.1"), "{status_line}");
    let status = parts.next().and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {status_line}"));
    let reason = parts.next().unwrap_or_default().to_owned();
    (status, reason, lines.map(parse_field).collect())
}

fn parse_field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a field: {line}"));
    (name.to_owned(), value.trim().to_owned())
}

/// The data, the trailers, and whether the last chunk came.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, Vec<(String, String)>, bool) {
    let mut body = Vec::new();
    while let Some(line_end) = find(rest, b"\r\n") {
        let line = String::from_utf8_lossy(&rest[..line_end]);
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
        rest = &rest[line_end + 2..];
        if size == 0 {
            let text = String::from_utf8_lossy(rest);
            let is_complete = rest == b"\r\n" || rest.ends_with(b"\r\n\r\n");
            let fields = text.split("\r\n").filter(|line| !line.is_empty()).map(parse_field).collect();
            return (body, fields, is_complete);
        }
        if rest.len() < size + 2 {
            body.extend_from_slice(&rest[..rest.len().min(size)]);
            break;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    (body, Vec::new(), false)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_is_taken_apart() {
        let response = parse(
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 Fine\r\nA: 1\r\na: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: x\r\n\r\n",
        );
        assert_eq!((response.status, response.reason.as_str(), &response.body[..]), (200, "Fine", &b"abc"[..]));
        assert_eq!(response.all("a"), ["1", "2"]);
        assert_eq!(response.trailers, [("T".to_owned(), "x".to_owned())]);
        assert_eq!(response.informational, [103]);
        assert!(response.is_complete);
    }

    #[test]
    fn a_cut_answer_is_not_complete() {
        for cut in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        ] {
            let response = parse(cut);
            assert!(!response.is_complete);
            assert_eq!(response.body, b"abc");
        }
    }
}
