//! Just enough HTTP to talk to a container engine on its socket. So a task needs no `docker` command, whose versions and plugins differ.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
    /// A form of `DOCKER_HOST` that is not spoken here.
    Other(String),
}

/// What an engine answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Endpoint {
    /// Reads the value of `DOCKER_HOST`.
    pub fn parse(host: &str) -> Self {
        match host.split_once("://") {
            Some(("unix", path)) => Self::Unix(PathBuf::from(path)),
            Some(("tcp" | "http", address)) => Self::Tcp(address.trim_end_matches('/').to_owned()),
            None if host.starts_with('/') => Self::Unix(PathBuf::from(host)),
            _ => Self::Other(host.to_owned()),
        }
    }

    /// One request on a connection of its own. `deadline` holds for each read and each write.
    pub fn request(&self, method: &str, path: &str, body: &[u8], deadline: Duration) -> Result<Answer> {
        match self {
            Self::Unix(socket) => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(deadline))?;
                stream.set_write_timeout(Some(deadline))?;
                exchange(stream, method, path, body)
            }
            Self::Tcp(address) => {
                let address = address.to_socket_addrs()?.next().context("no such host")?;
                let stream = TcpStream::connect_timeout(&address, deadline)?;
                stream.set_read_timeout(Some(deadline))?;
                stream.set_write_timeout(Some(deadline))?;
                exchange(stream, method, path, body)
            }
            Self::Other(_) => bail!("only unix:// and tcp:// without TLS are spoken here"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Other(host) => f.write_str(host),
        }
    }
}

/// HTTP/1.0: the answer is never chunked, and ends with the connection.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).context("what answers there does not speak HTTP")
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status_line = std::str::from_utf8(&answer[..end]).ok()?.lines().next()?;
    let status = status_line.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_is_understood() {
        for (text, endpoint) in [
            ("unix:///run/d.sock", Endpoint::Unix("/run/d.sock".into())),
            ("/run/d.sock", Endpoint::Unix("/run/d.sock".into())),
            ("tcp://10.0.0.1:2375/", Endpoint::Tcp("10.0.0.1:2375".into())),
            ("ssh://me@host", Endpoint::Other("ssh://me@host".into())),
        ] {
            assert_eq!(Endpoint::parse(text), endpoint);
        }
    }

    #[test]
    fn answers_are_parsed() {
        let answer = parse(b"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (404, b"{}".as_slice()));
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_none());
        assert!(parse(b"").is_none());
    }
}
