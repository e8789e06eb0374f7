//! The task of a session.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::{SessionConfig, SessionEnd, Shared};
use crate::{
    connection::Connection,
    end::ProtocolError,
    frame::{self, Frame, MAX_PAYLOAD},
    message::MAX_MESSAGE_BYTES,
    mux::{
        flood::FloodGuard,
        liveness::{Liveness, Verdict},
    },
};

/// How long the last messages may take to leave, and then the peer to close its side.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// PONGs and PINGs that wait behind each other, in bytes: a peer that makes us answer and does not read is cut off.
const MOST_UNSENT: usize = 64 << 10;
/// Bytes of one read.
const READ: usize = 4 << 10;

/// The task of a session. The owner spawns [`SessionDriver::run`]; dropped, it ends the session.
#[must_use = "a session does nothing until its driver runs"]
pub struct SessionDriver {
    connection: Option<Box<dyn Connection>>,
    state: State,
    to_send: mpsc::Receiver<Bytes>,
    received: Option<mpsc::Sender<Bytes>>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for SessionDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionDriver").field("end", &self.shared.end.get()).finish_non_exhaustive()
    }
}

/// Everything but the connection and the queues.
struct State {
    /// Read and not decoded.
    input: BytesMut,
    /// The parts of a message that have arrived.
    partial: BytesMut,
    /// A whole message that the application has no room for.
    arrived: Option<Bytes>,
    /// Encoded and not written.
    output: BytesMut,
    /// What is left of the message that is being sent.
    sending: Option<Bytes>,
    flushed: bool,
    liveness: Liveness,
    flood: FloodGuard,
}

impl State {
    /// Puts the next part of the present message behind what is written now, which is short: so a PONG waits for one
    /// part at most.
    fn continue_message(&mut self) {
        let Some(message) = &mut self.sending else { return };
        if !self.output.is_empty() {
            return;
        }
        let part = message.split_to(message.len().min(MAX_PAYLOAD));
        frame::put_message_header(&mut self.output, !message.is_empty(), part.len());
        self.output.extend_from_slice(&part);
        if message.is_empty() {
            self.sending = None;
        }
    }

    fn send(&mut self, frame: &Frame) {
        frame.encode(&mut self.output);
    }

    fn ask(&mut self, now: Instant) {
        let (number, new) = self.liveness.ask(now);
        if new {
            self.send(&Frame::Ping(number));
            self.liveness.sent(number, now);
        }
    }

    /// Decodes until a whole message is there or the input is used up.
    fn take_in(&mut self, now: Instant) -> Result<(), SessionEnd> {
        while self.arrived.is_none()
            && let Some(frame) = frame::decode(&mut self.input).map_err(SessionEnd::Protocol)?
        {
            self.handle(frame, now)?;
        }
        Ok(())
    }

    fn handle(&mut self, frame: Frame, now: Instant) -> Result<(), SessionEnd> {
        match frame {
            Frame::Message { more, payload } => {
                if self.partial.len() + payload.len() > MAX_MESSAGE_BYTES {
                    return Err(SessionEnd::Protocol(ProtocolError::MessageTooLong));
                }
                if payload.is_empty() {
                    self.flood.spend(now).map_err(SessionEnd::Protocol)?;
                }
                self.partial.extend_from_slice(&payload);
                if !more {
                    self.arrived = Some(std::mem::take(&mut self.partial).freeze());
                }
            }
            Frame::Ping(number) => {
                self.flood.spend(now).map_err(SessionEnd::Protocol)?;
                if self.output.len() > MOST_UNSENT {
                    return Err(SessionEnd::Protocol(ProtocolError::Flood));
                }
                self.send(&Frame::Pong(number));
            }
            Frame::Pong(number) if self.liveness.answered(number, now).is_some() => {}
            Frame::Pong(_) | Frame::Ignored | Frame::GoAway { code: 0, .. } => {
                self.flood.spend(now).map_err(SessionEnd::Protocol)?;
            }
            Frame::GoAway { code, message } => return Err(SessionEnd::PeerError { code, message }),
            _ => return Err(SessionEnd::Protocol(ProtocolError::Unexpected("carrier's"))),
        }
        Ok(())
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Writes some of `output`, or flushes when there is nothing to write. Cancel safe.
async fn write_some<W: AsyncWrite + Unpin>(writer: &mut W, output: &[u8]) -> io::Result<usize> {
    if output.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    match writer.write(output).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

fn failed(error: io::Error) -> SessionEnd {
    SessionEnd::Io(Arc::new(error))
}

impl SessionDriver {
    pub(super) fn new(
        io: Box<dyn Connection>,
        config: &SessionConfig,
        to_send: mpsc::Receiver<Bytes>,
        received: mpsc::Sender<Bytes>,
        shared: Arc<Shared>,
    ) -> Self {
        let patience = config.dead_after.saturating_sub(config.ping_interval);
        let state = State {
            input: BytesMut::new(),
            partial: BytesMut::new(),
            arrived: None,
            output: BytesMut::new(),
            sending: None,
            flushed: true,
            liveness: Liveness::new(config.ping_interval, patience, now()),
            flood: FloodGuard::new(now()),
        };
        Self { connection: Some(io), state, to_send, received: Some(received), shared }
    }

    /// Drives the session until it ends, and says how it ended.
    pub async fn run(mut self) -> SessionEnd {
        let Some(connection) = self.connection.take() else { return self.shared.ended().await };
        let (mut reader, mut writer) = tokio::io::split(connection);
        let end = self.drive(&mut reader, &mut writer).await;
        let end = self.shared.set_end(end);
        self.received = None;
        // The last words get a short while; a peer that does not take them loses them.
        let _ = timeout(CLOSE_GRACE, self.say_goodbye(&end, &mut reader, &mut writer)).await;
        end
    }

    async fn drive<R, W>(&mut self, reader: &mut R, writer: &mut W) -> SessionEnd
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut close_by = None;
        loop {
            match self.step(reader, writer, &mut close_by).await {
                Ok(true) => {}
                Ok(false) => return SessionEnd::Closed,
                Err(end) => return end,
            }
        }
    }

    /// One thing that happens; `Ok(false)` when the session was closed from this side and all is sent.
    async fn step<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        close_by: &mut Option<Instant>,
    ) -> Result<bool, SessionEnd>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let Some(received) = &self.received else { return Ok(false) };
        let state = &mut self.state;
        state.continue_message();
        state.input.reserve(READ.max(frame::missing(&state.input)));
        let is_unsent = !state.output.is_empty();
        let wake_at = close_by.unwrap_or_else(|| state.liveness.deadline());
        tokio::select! {
            read = reader.read_buf(&mut state.input), if state.arrived.is_none() => {
                if read.map_err(failed)? == 0 {
                    return Err(SessionEnd::PeerClosed);
                }
                state.liveness.received(now());
                state.take_in(now())?;
            }
            Ok(room) = received.reserve(), if state.arrived.is_some() => {
                if let Some(message) = state.arrived.take() {
                    room.send(message);
                }
                state.take_in(now())?;
            }
            written = write_some(writer, &state.output), if is_unsent || !state.flushed => {
                state.output.advance(written.map_err(failed)?);
                state.flushed = !is_unsent;
            }
            message = self.to_send.recv(), if !is_unsent && state.flushed => match message {
                Some(message) => state.sending = Some(message),
                None => return Ok(false),
            },
            () = received.closed(), if close_by.is_none() => {
                self.to_send.close();
                *close_by = Some(now() + CLOSE_GRACE);
            }
            () = self.shared.close.notified(), if close_by.is_none() => {
                self.to_send.close();
                *close_by = Some(now() + CLOSE_GRACE);
            }
            () = sleep_until(wake_at.into()) => {
                if close_by.is_some() {
                    return Ok(false);
                }
                match state.liveness.check(now()) {
                    Verdict::Alive => {}
                    Verdict::Ask => state.ask(now()),
                    Verdict::Dead => return Err(SessionEnd::PingTimeout),
                }
            }
        }
        Ok(true)
    }

    /// Sends what is left, closes this side, and waits for the peer to close its own, so that what was sent last is not
    /// lost to a reset of the connection.
    async fn say_goodbye<R, W>(&mut self, end: &SessionEnd, reader: &mut R, writer: &mut W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match end {
            SessionEnd::Protocol(error) => {
                self.state.send(&Frame::GoAway { code: error.to_wire(), message: error.to_string() });
            }
            SessionEnd::Closed => {}
            _ => return Ok(()),
        }
        writer.write_all(&self.state.output).await?;
        writer.shutdown().await?;
        let mut rest = [0; 1024];
        while reader.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

impl Drop for SessionDriver {
    fn drop(&mut self) {
        self.shared.set_end(SessionEnd::Stopped);
    }
}
