//! Callers that see every byte.

use std::{io, net::SocketAddr};

use bytes::BytesMut;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

/// A caller's HTTP/1.1 connection.
#[derive(Debug)]
pub struct RawCaller {
    /// The socket; bytes that were read too far are in `buffer`.
    pub socket: TcpStream,
    /// Bytes that were read and not used yet.
    pub buffer: BytesMut,
}

/// An answer as a caller sees it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, line by line, word for word.
    pub lines: Vec<String>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The lines of the trailers.
    pub trailers: Vec<String>,
}

impl Answer {
    /// The values of a header field, in order.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let field = |line: &'_ String| {
            let (found, _) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(found.len() + 1)
        };
        self.lines.iter().filter_map(|line| field(line).map(|at| line[at..].trim())).collect()
    }

    /// The only value of a header field.
    ///
    /// # Panics
    /// When there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times", all.len());
        all.first().copied()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            let text: String = self.text().chars().take(2000).collect();
            panic!("{error}: {text}")
        })
    }
}

impl RawCaller {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = within("connecting", TcpStream::connect(address)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, buffer: BytesMut::new() }
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("sending", self.socket.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads a whole answer to a request that is not a HEAD.
    ///
    /// # Panics
    /// When it is cut off.
    pub async fn answer(&mut self) -> Answer {
        within("an answer", self.try_answer(false)).await.unwrap()
    }

    /// Reads an answer to a HEAD request.
    pub async fn answer_to_head(&mut self) -> Answer {
        within("an answer", self.try_answer(true)).await.unwrap()
    }

    /// Reads a whole answer, or how the connection ended instead.
    pub async fn try_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let mut answer = self.head().await?;
        if to_head || matches!(answer.status, 101 | 204 | 304) {
            return Ok(answer);
        }
        if let Some(length) = answer.header("content-length").map(|text| text.parse().unwrap()) {
            answer.body = self.exactly(length).await?;
        } else if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await? {
                answer.body.extend(chunk);
            }
            answer.trailers = self.lines().await?;
        } else {
            while self.more().await? {}
            answer.body = self.buffer.split().to_vec();
        }
        Ok(answer)
    }

    /// Reads the head of an answer.
    pub async fn head(&mut self) -> io::Result<Answer> {
        let lines = self.lines().await?;
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        Ok(Answer { status, lines: lines[1..].to_vec(), body: Vec::new(), trailers: Vec::new() })
    }

    /// Reads the next chunk of a chunked body; `None` after the last.
    pub async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = self.line().await?;
        let size = usize::from_str_radix(&size, 16).unwrap();
        if size == 0 {
            return Ok(None);
        }
        let chunk = self.exactly(size).await?;
        assert_eq!(self.line().await?, "");
        Ok(Some(chunk))
    }

    /// Reads that many bytes.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.need().await?;
        }
        Ok(self.buffer.split_to(count).to_vec())
    }

    /// Waits until the gateway ends the connection: `Ok` for an orderly end, an error for a reset.
    pub async fn ended(&mut self) -> io::Result<()> {
        while self.more().await? {}
        Ok(())
    }

    async fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = self.buffer.split_to(at + 2);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.need().await?;
        }
    }

    async fn need(&mut self) -> io::Result<()> {
        if self.more().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.socket.read_buf(&mut self.buffer).await? > 0)
    }
}
