//! Bytes that have come and are not used yet. The buffer grows when they come fast and is small otherwise.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Bytes of a first read. An idle connection holds no more than this.
const SMALLEST_READ: usize = 4 << 10;
/// Bytes of a read when they come in fast.
const LARGEST_READ: usize = 64 << 10;

/// What was read and is not used yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub bytes: BytesMut,
    read_size: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: BytesMut::new(), read_size: SMALLEST_READ }
    }

    /// Reads more; 0 at the end.
    pub(crate) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let spare = self.bytes.capacity() - self.bytes.len();
        // A read into the last few bytes of a buffer would be a system call for nothing.
        if spare < self.read_size / 2 {
            self.bytes.reserve(self.read_size);
        }
        let count = ready!(poll_read_buf(Pin::new(reader), cx, &mut self.bytes))?;
        if self.bytes.len() == self.bytes.capacity() {
            self.read_size = (self.read_size * 4).min(LARGEST_READ);
        }
        Poll::Ready(Ok(count))
    }

    /// Gives memory back while nothing goes on.
    pub(crate) fn rest(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > SMALLEST_READ {
            *self = Self::new();
        }
    }
}
