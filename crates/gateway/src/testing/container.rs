//! Containers: TCP servers on loopback that do exactly what a test says.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A container. It is gone when this is dropped.
#[derive(Debug)]
pub struct Container {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    gone: CancellationToken,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Container {
    /// A container that does this with each connection. The number counts the connections from 0.
    pub async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Exchange, usize) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gone = CancellationToken::new();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (token, count) = (gone.clone(), Arc::clone(&accepted));
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        tasks.spawn(async move {
            token
                .run_until_cancelled(async {
                    loop {
                        let (socket, _) = listener.accept().await.unwrap();
                        let _ = socket.set_nodelay(true);
                        let exchange = Exchange { socket, buffer: BytesMut::new() };
                        let work = handler(exchange, count.fetch_add(1, Ordering::SeqCst));
                        let token = token.clone();
                        connections.spawn(async move { token.run_until_cancelled(work).await.map(drop) });
                    }
                })
                .await
        });
        Self { address, accepted, gone }
    }

    /// A container that answers every request with the same bytes, on connections that it keeps open.
    pub async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut exchange, _| async move {
            while exchange.request().await?.is_some() {
                exchange.write(answer).await?;
            }
            Ok(())
        })
        .await
    }

    /// A container that answers every request with what it got: the head and the body, word for word.
    pub async fn echo() -> Self {
        Self::start(|mut exchange, _| async move {
            while let Some((head, body)) = exchange.request().await? {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len() + body.len());
                exchange.write(answer).await?;
                exchange.write(head).await?;
                exchange.write(body).await?;
            }
            Ok(())
        })
        .await
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// One connection of a container, with a reader for requests that is just good enough for tests.
#[derive(Debug)]
pub struct Exchange {
    /// The socket; bytes that were read too far are in `buffer`.
    pub socket: TcpStream,
    /// Bytes that were read and not used yet.
    pub buffer: BytesMut,
}

impl Exchange {
    /// Reads a request with its body (by `Content-Length`, or chunked and then word for word). `None` at the end.
    pub async fn request(&mut self) -> io::Result<Option<(String, Vec<u8>)>> {
        let Some(head) = self.head().await? else { return Ok(None) };
        let lower = head.to_ascii_lowercase();
        let body = if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
            // Without trailers, the end of the body is the first line `0` and an empty one.
            self.until(b"0\r\n\r\n").await?
        } else {
            let length = lower.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            self.exactly(length.map_or(0, |text| text.parse().unwrap())).await?
        };
        Ok(Some((head, body)))
    }

    /// Reads the head of a request. `None` when the connection ended instead.
    pub async fn head(&mut self) -> io::Result<Option<String>> {
        match self.until(b"\r\n\r\n").await {
            Ok(head) => Ok(Some(String::from_utf8(head).unwrap())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads up to and including these bytes.
    pub async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.split_to(at + end.len()).to_vec());
            }
            self.more().await?;
        }
    }

    /// Reads that many bytes.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Ok(self.buffer.split_to(count).to_vec())
    }

    /// Writes bytes at once.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref()).await
    }

    /// Waits until the other side ends the connection: `Ok` for an orderly end, an error for a reset.
    pub async fn ended(&mut self) -> io::Result<()> {
        while self.socket.read_buf(&mut self.buffer).await? > 0 {}
        Ok(())
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.socket.set_zero_linger().unwrap();
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.socket.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}
