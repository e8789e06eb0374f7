//! A request on its way to a container: one run of bytes, head and body, that leaves in as few writes as can be.
//!
//! What was sent is kept until the container answers, the body up to 64 KiB of it, so that a request whose stream was
//! refused can be sent again elsewhere. Where the body comes from is its [`Source`]'s business.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use crate::{
    external::Socket,
    h1::head::{ResponseHead, write_map},
};

/// Bytes of a body that are kept.
const REPLAY_LIMIT: usize = 64 << 10;
/// Bytes that are gathered before they are written.
const GATHER: usize = 16 << 10;

/// What a source has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    Some,
    /// There is nothing more.
    End,
}

/// The caller went away in the middle of the body, or broke its framing.
#[derive(Debug)]
pub(crate) struct SourceFault;

/// Why nobody waits for an answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The caller has gone, or its connection is to end.
    Gone,
    /// The caller's key, membership or sign-in ended.
    Revoked,
}

/// The caller's side of a request.
pub(crate) trait Source {
    /// Adds more of the body to `out`, framed as the head says.
    fn poll_more(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<More, SourceFault>>;

    /// Looks after the caller while its answer is waited for. Ready when it is waited for in vain.
    fn poll_interrupt(&mut self, _cx: &mut Context<'_>) -> Poll<Interrupt> {
        Poll::Pending
    }

    /// Whether an interim answer can be taken now.
    fn takes_interim(&self) -> bool {
        true
    }

    /// Takes an interim answer other than `101`.
    fn interim(&mut self, _head: ResponseHead) {}
}

/// A request, and how far it has come.
#[derive(Debug)]
pub(crate) struct Outgoing<S> {
    text: BytesMut,
    sent: usize,
    /// Bytes that the socket took, in all attempts.
    written: u64,
    /// What `text` may hold at most and still be kept whole.
    limit: usize,
    /// Whether `text` still begins with the first byte of the request.
    whole: bool,
    /// Whether everything has been read from the source.
    ended: bool,
    failed: bool,
    /// Something may wait in the socket.
    unflushed: bool,
    /// The socket takes no more; its other direction says why.
    blocked: bool,
    pub source: S,
}

impl<S: Source> Outgoing<S> {
    /// A request with this head, whose body comes from `source`.
    pub(crate) fn new(head: BytesMut, source: S) -> Self {
        let limit = head.len() + REPLAY_LIMIT;
        Self {
            text: head,
            sent: 0,
            written: 0,
            limit,
            whole: true,
            ended: false,
            failed: false,
            unflushed: false,
            blocked: false,
            source,
        }
    }

    /// A request of which everything is here.
    pub(crate) fn complete(text: BytesMut, source: S) -> Self {
        Self { ended: true, ..Self::new(text, source) }
    }

    /// Sends as much as can be sent now. Ready when all of it is sent.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<Result<(), SourceFault>> {
        while !self.blocked {
            self.gather(cx)?;
            if self.sent == self.text.len() {
                if self.unflushed {
                    // A failure is seen by whoever reads.
                    let _ = ready!(Pin::new(&mut &*socket).poll_flush(cx));
                    self.unflushed = false;
                }
                return if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            match Pin::new(&mut &*socket).poll_write(cx, &self.text[self.sent..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.sent += count;
                    self.written += count as u64;
                    self.unflushed = true;
                }
                // What came back before that is still to be read, and says more.
                Poll::Ready(_) => self.blocked = true,
            }
        }
        Poll::Pending
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), SourceFault> {
        if !self.whole {
            self.text.advance(self.sent);
            self.sent = 0;
        }
        while !self.ended && self.text.len() - self.sent < GATHER {
            match self.source.poll_more(cx, &mut self.text) {
                Poll::Ready(Ok(More::Some)) => {}
                Poll::Ready(Ok(More::End)) => self.ended = true,
                Poll::Ready(Err(fault)) => {
                    self.failed = true;
                    return Err(fault);
                }
                Poll::Pending => break,
            }
            if self.text.len() > self.limit {
                self.forget();
            }
        }
        Ok(())
    }

    /// Begins again, for another attempt.
    pub(crate) const fn rewind(&mut self) {
        self.sent = 0;
        self.unflushed = false;
        self.blocked = false;
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) const fn can_replay(&self) -> bool {
        self.whole && !self.failed
    }

    /// There will be no other attempt: nothing needs to be kept any more.
    pub(crate) fn forget(&mut self) {
        self.whole = false;
        self.text.advance(self.sent);
        self.sent = 0;
    }

    /// Whether all of it has been handed to the socket.
    pub(crate) fn is_sent(&self) -> bool {
        self.ended && self.sent == self.text.len() && !self.unflushed
    }

    /// Bytes that the socket took, in all attempts.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Whether there is something to send that the socket does not take.
    pub(crate) fn waits_for_socket(&self) -> bool {
        !self.blocked && (self.sent < self.text.len() || self.unflushed)
    }

    /// Whether the caller broke it off.
    pub(crate) const fn has_failed(&self) -> bool {
        self.failed
    }
}

/// No more than what is here already, and nobody who has to be looked after.
#[derive(Debug)]
pub(crate) struct NoSource;

impl Source for NoSource {
    fn poll_more(&mut self, _: &mut Context<'_>, _: &mut BytesMut) -> Poll<Result<More, SourceFault>> {
        Poll::Ready(Ok(More::End))
    }
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framed {
    /// By a `Content-Length` of so many bytes that are still to come.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A body of frames as a source.
#[derive(Debug)]
pub(crate) struct BodySource<B> {
    body: B,
    framed: Framed,
}

impl<B> BodySource<B> {
    pub(crate) const fn new(body: B, framed: Framed) -> Self {
        Self { body, framed }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Source for BodySource<B> {
    fn poll_more(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<More, SourceFault>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
            return Poll::Ready(match self.framed {
                Framed::Length(0) => Ok(More::End),
                Framed::Length(_) => Err(SourceFault),
                Framed::Chunked => {
                    out.put_slice(b"0\r\n\r\n");
                    Ok(More::End)
                }
            });
        };
        Poll::Ready(frame.map_err(|_| SourceFault).and_then(|frame| self.framed.write(frame, out)))
    }
}

impl Framed {
    /// Writes a frame as this framing wants it.
    fn write(&mut self, frame: Frame<Bytes>, out: &mut BytesMut) -> Result<More, SourceFault> {
        match (frame.into_data(), &mut *self) {
            (Ok(data), Self::Chunked) => {
                write_chunk(out, &data);
                Ok(More::Some)
            }
            (Ok(data), Self::Length(left)) => {
                *left = left.checked_sub(data.len() as u64).ok_or(SourceFault)?;
                out.put_slice(&data);
                Ok(More::Some)
            }
            (Err(frame), Self::Chunked) => {
                write_last_chunk(out, &frame.into_trailers().unwrap_or_default());
                Ok(More::End)
            }
            // Without chunks there is no place for trailers.
            (Err(_), Self::Length(0)) => Ok(More::End),
            (Err(_), Self::Length(_)) => Err(SourceFault),
        }
    }
}

/// Writes one chunk; nothing for no bytes, because that would be the last one.
pub(crate) fn write_chunk(out: &mut BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    out.reserve(data.len() + 20);
    write_chunk_size(out, data.len());
    out.put_slice(data);
    out.put_slice(b"\r\n");
}

/// Writes the line before a chunk.
pub(crate) fn write_chunk_size(out: &mut BytesMut, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.reserve(digits as usize + 2);
    for place in (0..digits).rev() {
        let digit = (size >> (place * 4)) & 0xf;
        out.put_u8(b"0123456789abcdef"[digit]);
    }
    out.put_slice(b"\r\n");
}

/// Writes the last chunk with its trailers.
pub(crate) fn write_last_chunk(out: &mut BytesMut, trailers: &HeaderMap) {
    out.put_slice(b"0\r\n");
    write_map(out, trailers);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for size in [0, 1, 15, 16, 255, 256, 4096, 65_535, 1 << 20] {
            let mut out = BytesMut::new();
            write_chunk_size(&mut out, size);
            assert_eq!(out, format!("{size:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        let mut out = BytesMut::new();
        let mut framed = Framed::Length(3);
        assert_eq!(framed.write(data("ab"), &mut out).unwrap(), More::Some);
        assert!(framed.write(data("cd"), &mut out).is_err(), "more than was said");
        assert!(framed.write(Frame::trailers(HeaderMap::new()), &mut out).is_err(), "less than was said");
        out.clear();
        let mut framed = Framed::Chunked;
        for text in ["ab", "", "cde"] {
            assert_eq!(framed.write(data(text), &mut out).unwrap(), More::Some);
        }
        let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
        assert_eq!(framed.write(Frame::trailers(trailers), &mut out).unwrap(), More::End);
        assert_eq!(out, "2\r\nab\r\n3\r\ncde\r\n0\r\netag: x\r\n\r\n");
    }
}
