//! The connection under a carrier: reads into a buffer that grows with use, writes from the outbox.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::{connection::Connection, end::ProtocolError, frame, mux::outbox::Outbox, workers::bytes_moved};

/// Bytes of the first read. An idle carrier holds no more than this.
const SMALLEST_READ: usize = 1 << 10;
/// Bytes of a read when they come in fast.
const LARGEST_READ: usize = 64 << 10;
/// Pieces in one system call.
const PIECES: usize = 32;

/// A connection with what was read and not decoded, and what was encoded and not written.
pub struct Socket {
    io: Box<dyn Connection>,
    pub outbox: Outbox,
    buffer: BytesMut,
    read_size: usize,
    /// Wakes the driver, whoever polls.
    waker: Waker,
    blocked: bool,
    flushed: bool,
    failure: Option<io::Error>,
}

impl Socket {
    pub fn new(io: Box<dyn Connection>, waker: Waker) -> Self {
        let outbox = Outbox::new(io.is_write_vectored());
        Self {
            io,
            outbox,
            buffer: BytesMut::new(),
            read_size: SMALLEST_READ,
            waker,
            blocked: false,
            flushed: true,
            failure: None,
        }
    }

    /// Whether the connection took no more bytes; the driver is woken when it does.
    pub const fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub const fn unblock(&mut self) {
        self.blocked = false;
    }

    pub const fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    pub const fn wants_to_write(&self) -> bool {
        !self.outbox.is_empty() || !self.flushed
    }

    /// Writes until the outbox is empty and flushed, the connection takes no more, or it fails.
    pub fn write(&mut self) {
        match self.poll_write() {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => self.failure = Some(error),
            Poll::Pending => self.blocked = true,
        }
    }

    fn poll_write(&mut self) -> Poll<io::Result<()>> {
        let mut cx = Context::from_waker(&self.waker);
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let written = {
                let io = Pin::new(&mut self.io);
                match self.outbox.slices(&mut slices) {
                    1 => io.poll_write(&mut cx, &slices[0]),
                    used => io.poll_write_vectored(&mut cx, &slices[..used]),
                }
            };
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.outbox.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            self.flushed = false;
            bytes_moved();
        }
        if !self.flushed {
            std::task::ready!(Pin::new(&mut self.io).poll_flush(&mut cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more bytes into the buffer; 0 at the end of the connection.
    pub fn poll_read(&mut self) -> Poll<io::Result<usize>> {
        let missing = frame::missing(&self.buffer);
        let spare = self.buffer.capacity() - self.buffer.len();
        // A read into the last few bytes of a buffer would be a system call for nothing.
        if spare < missing.max(self.read_size / 2) {
            self.buffer.reserve(self.read_size.max(missing));
        }
        let mut cx = Context::from_waker(&self.waker);
        let read = std::task::ready!(pin!(self.io.read_buf(&mut self.buffer)).poll(&mut cx))?;
        bytes_moved();
        if self.buffer.len() == self.buffer.capacity() {
            self.read_size = (self.read_size * 4).min(LARGEST_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// The next whole frame of those that were read.
    pub fn next_frame(&mut self) -> Result<Option<frame::Frame>, ProtocolError> {
        frame::decode(&mut self.buffer)
    }

    /// Gives memory back while nothing goes on.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() && self.read_size > SMALLEST_READ {
            self.buffer = BytesMut::new();
            self.read_size = SMALLEST_READ;
        }
    }

    /// Closes this side's direction of the connection.
    pub fn poll_shutdown(&mut self) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(&mut Context::from_waker(&self.waker))
    }

    /// Reads and throws away; ready at the end of the connection.
    pub fn poll_drain(&mut self) -> Poll<()> {
        loop {
            self.buffer.clear();
            match std::task::ready!(self.poll_read()) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}
