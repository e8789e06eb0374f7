//! The session: the control connection between an agent and the server.
//!
//! Messages are JSON, cut into MESSAGE frames of at most 16 KiB, so that a PONG never waits behind a long one. Both sides
//! ask for a sign of life when they have heard nothing for a while. A session has one driver task; senders and the receiver
//! are queues with a bound. What the messages mean is not known here: see [`message`](crate::message).

mod driver;

use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, mpsc},
};

pub use self::driver::SessionDriver;
use crate::{
    end::{CarrierEnd, ProtocolError},
    frame::{self, Frame},
    message::{AgentMessage, MAX_MESSAGE_BYTES, ServerMessage},
};

/// Messages that may wait for the application. Each may be 4 MiB long, hence few.
const RECEIVE_QUEUE: usize = 4;

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// A peer that was silent for so long is asked for a sign of life.
    pub ping_interval: Duration,
    /// A peer that was silent for so long is dead.
    pub dead_after: Duration,
    /// Messages that may wait to be sent.
    pub queue: usize,
}

impl Default for SessionConfig {
    /// Two missed PINGs of ten seconds, and five more for the network.
    fn default() -> Self {
        Self { ping_interval: Duration::from_secs(10), dead_after: Duration::from_secs(25), queue: 16 }
    }
}

/// How a session ended: the same ways as a carrier.
pub type SessionEnd = CarrierEnd;

/// What senders, the receiver and the driver share.
#[derive(Debug, Default)]
struct Shared {
    end: OnceLock<SessionEnd>,
    ended: Notify,
    close: Notify,
}

impl Shared {
    /// The first end stays.
    fn set_end(&self, end: SessionEnd) -> SessionEnd {
        let end = self.end.get_or_init(|| end).clone();
        self.ended.notify_waiters();
        end
    }

    async fn ended(&self) -> SessionEnd {
        loop {
            let ended = self.ended.notified();
            if let Some(end) = self.end.get() {
                return end.clone();
            }
            ended.await;
        }
    }
}

/// Sends messages. When the last one is dropped, or the receiver is, the session is closed after what was sent has been
/// written.
pub struct SessionSender<M> {
    queue: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    message: PhantomData<fn(M)>,
}

impl<M> Clone for SessionSender<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), shared: Arc::clone(&self.shared), message: PhantomData }
    }
}

impl<M> fmt::Debug for SessionSender<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSender").field("end", &self.shared.end.get()).finish_non_exhaustive()
    }
}

impl<M: Serialize> SessionSender<M> {
    /// Queues a message; waits while the queue is full.
    ///
    /// # Errors
    /// How the session ended; [`ProtocolError::MessageTooLong`] for a message that no peer would take (the session goes on).
    pub async fn send(&self, message: &M) -> Result<(), SessionEnd> {
        let text = serde_json::to_vec(message).map_err(|_| SessionEnd::Protocol(ProtocolError::BadMessage))?;
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(SessionEnd::Protocol(ProtocolError::MessageTooLong));
        }
        match self.queue.send(text.into()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.shared.ended().await),
        }
    }
}

impl<M> SessionSender<M> {
    /// Closes the session after what was sent has been written.
    pub fn close(&self) {
        self.shared.close.notify_one();
    }

    /// How the session ended; `None` while it lives.
    #[must_use]
    pub fn end(&self) -> Option<SessionEnd> {
        self.shared.end.get().cloned()
    }

    /// Waits until the session has ended and says how. Needs the driver to run.
    pub async fn closed(&self) -> SessionEnd {
        self.shared.ended().await
    }
}

/// Receives messages.
pub struct SessionReceiver<M> {
    queue: mpsc::Receiver<Bytes>,
    shared: Arc<Shared>,
    knows: fn(&str) -> bool,
    message: PhantomData<fn() -> M>,
}

impl<M> fmt::Debug for SessionReceiver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionReceiver").field("end", &self.shared.end.get()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "type")]
    kind: String,
}

impl<M: DeserializeOwned> SessionReceiver<M> {
    /// The next message. Cancel safe. Messages of a type that this build does not know are skipped.
    ///
    /// # Errors
    /// How the session ended. A message that cannot be read closes it.
    pub async fn next(&mut self) -> Result<M, SessionEnd> {
        while let Some(text) = self.queue.recv().await {
            match serde_json::from_slice(&text) {
                Ok(message) => return Ok(message),
                Err(error) => self.skip_or_fail(&text, &error)?,
            }
        }
        Err(self.shared.ended().await)
    }

    fn skip_or_fail(&self, text: &[u8], error: &serde_json::Error) -> Result<(), SessionEnd> {
        match serde_json::from_slice::<Tag>(text) {
            Ok(tag) if !(self.knows)(&tag.kind) => {
                tracing::warn!(kind = tag.kind.get(..64).unwrap_or(&tag.kind), "skipped a message of an unknown type");
                Ok(())
            }
            _ => {
                // The error names the field, never a value of an unknown shape; values may be secret.
                tracing::warn!(line = error.line(), column = error.column(), "a message cannot be read");
                self.shared.close.notify_one();
                Err(self.shared.set_end(SessionEnd::Protocol(ProtocolError::BadMessage)))
            }
        }
    }
}

/// The agent's side of a session. Nothing happens until the driver runs.
pub fn agent_session<T>(
    io: T,
    config: SessionConfig,
) -> (SessionSender<AgentMessage>, SessionReceiver<ServerMessage>, SessionDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    make(io, config, ServerMessage::knows)
}

/// The server's side of a session. Nothing happens until the driver runs.
pub fn server_session<T>(
    io: T,
    config: SessionConfig,
) -> (SessionSender<ServerMessage>, SessionReceiver<AgentMessage>, SessionDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    make(io, config, AgentMessage::knows)
}

fn make<T, Out, In>(
    io: T,
    config: SessionConfig,
    knows: fn(&str) -> bool,
) -> (SessionSender<Out>, SessionReceiver<In>, SessionDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let shared = Arc::new(Shared::default());
    let (send, to_send) = mpsc::channel(config.queue.max(1));
    let (received, receive) = mpsc::channel(RECEIVE_QUEUE);
    let driver = SessionDriver::new(Box::new(io), &config, to_send, received, Arc::clone(&shared));
    let sender = SessionSender { queue: send, shared: Arc::clone(&shared), message: PhantomData };
    (sender, SessionReceiver { queue: receive, shared, knows, message: PhantomData }, driver)
}

/// Asks a server for a sign of life on a connection that nothing else is said on, and closes it: shows that frames pass in both
/// directions. Takes as long as the server does.
///
/// # Errors
/// When the connection ends before the answer, or something else than the answer comes.
pub async fn ping<T: AsyncRead + AsyncWrite + Unpin>(mut io: T) -> Result<(), SessionEnd> {
    const NUMBER: u64 = 1;
    let failed = |error: std::io::Error| SessionEnd::Io(Arc::new(error));
    let mut bytes = BytesMut::new();
    Frame::Ping(NUMBER).encode(&mut bytes);
    io.write_all(&bytes).await.map_err(failed)?;
    io.flush().await.map_err(failed)?;
    bytes.clear();
    loop {
        match frame::decode(&mut bytes).map_err(SessionEnd::Protocol)? {
            Some(Frame::Pong(NUMBER)) => break,
            // The server may be curious as well.
            Some(Frame::Ping(_) | Frame::Ignored) => {}
            Some(_) => return Err(SessionEnd::Protocol(ProtocolError::Unexpected("session's"))),
            None if io.read_buf(&mut bytes).await.map_err(failed)? == 0 => return Err(SessionEnd::PeerClosed),
            None => {}
        }
    }
    // The answer is there; how the connection ends tells nothing more.
    let _ = io.shutdown().await;
    Ok(())
}
