//! The load that wrk cannot make, on raw sockets: streams of events, WebSockets, large bodies, idle connections.

pub mod body;
pub mod idle;
pub mod sse;
pub mod websocket;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::subject::Target;

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that are opened at the same time.
const OPENING: usize = 64;

/// The head of an answer, and what has come of its body.
#[derive(Debug)]
struct Answer {
    status: u16,
    length: Option<usize>,
    body: Vec<u8>,
}

/// Connects and sends a request without a body, or its head.
async fn send(target: &Target, method: &str, path: &str, headers: &str) -> Result<TcpStream> {
    let mut socket = timeout(PATIENCE, TcpStream::connect((target.host, target.port))).await??;
    socket.set_nodelay(true)?;
    let key = target.key.as_ref().map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    let head = format!("{method} {}{path} HTTP/1.1\r\nHost: {}\r\n{key}{headers}\r\n", target.prefix, target.host);
    socket.write_all(head.as_bytes()).await?;
    Ok(socket)
}

/// Reads to the end of the head.
async fn answer(socket: &mut TcpStream) -> Result<Answer> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(answer) = parse(&bytes) {
            return Ok(answer);
        }
        if timeout(PATIENCE, socket.read_buf(&mut bytes)).await.context("no answer came")?? == 0 {
            bail!("the connection was closed within the answer's head: {}", String::from_utf8_lossy(&bytes));
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Some(Answer { status, length, body: bytes[end..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let answer = parse(b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 12\r\n\r\nab").unwrap();
        assert_eq!((answer.status, answer.length, answer.body.as_slice()), (200, Some(12), b"ab".as_slice()));
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().length, None);
        assert!(parse(b"HTTP/1.1 200 OK\r\nX: y\r\n").is_none());
    }
}
