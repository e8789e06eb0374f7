//! The session: the control connection between an agent and the server. (Outline: signatures only.)

use std::{marker::PhantomData, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    end::CarrierEnd,
    message::{AgentMessage, ServerMessage},
};

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// A PING is sent this often.
    pub ping_interval: Duration,
    /// A peer that was silent for so long is dead.
    pub dead_after: Duration,
    /// Messages that may wait in each direction.
    pub queue: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { ping_interval: Duration::from_secs(10), dead_after: Duration::from_secs(25), queue: 16 }
    }
}

/// How a session ended: the same ways as a carrier.
pub type SessionEnd = CarrierEnd;

/// Sends messages. Dropping the last one, or the receiver, closes the session after what was sent has been written.
#[derive(Debug)]
pub struct SessionSender<M>(PhantomData<fn(M)>);

impl<M> Clone for SessionSender<M> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<M> SessionSender<M> {
    /// Queues a message; waits while the queue is full.
    ///
    /// # Errors
    /// How the session ended.
    pub async fn send(&self, _message: &M) -> Result<(), SessionEnd> {
        Err(SessionEnd::Closed)
    }

    /// Closes the session after what was sent has been written.
    pub fn close(&self) {}

    /// Waits until the session has ended and says how.
    pub async fn closed(&self) -> SessionEnd {
        SessionEnd::Closed
    }
}

/// Receives messages.
#[derive(Debug)]
pub struct SessionReceiver<M>(PhantomData<fn() -> M>);

impl<M> SessionReceiver<M> {
    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// How the session ended.
    pub async fn next(&mut self) -> Result<M, SessionEnd> {
        Err(SessionEnd::Closed)
    }
}

/// The task of a session.
#[derive(Debug)]
pub struct SessionDriver {}

impl SessionDriver {
    /// Drives the session until it ends.
    pub async fn run(self) -> SessionEnd {
        SessionEnd::Closed
    }
}

/// The agent's side of a session.
pub fn agent_session<T>(
    _io: T,
    _config: SessionConfig,
) -> (SessionSender<AgentMessage>, SessionReceiver<ServerMessage>, SessionDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    (SessionSender(PhantomData), SessionReceiver(PhantomData), SessionDriver {})
}

/// The server's side of a session.
pub fn server_session<T>(
    _io: T,
    _config: SessionConfig,
) -> (SessionSender<ServerMessage>, SessionReceiver<AgentMessage>, SessionDriver)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    (SessionSender(PhantomData), SessionReceiver(PhantomData), SessionDriver {})
}
