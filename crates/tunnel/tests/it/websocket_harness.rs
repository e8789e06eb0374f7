//! What the fuzzers do with their bytes where frames come inside a WebSocket, and a second reader of its frames.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use towline_tunnel::websocket::WebSocketIo;

/// The longest message that is taken.
const LONGEST: usize = 64 << 10;

/// Takes the bytes in pieces as either side of a WebSocket. What comes out must be what a simple reader of RFC 6455 sees.
pub fn websocket(data: &[u8]) {
    let [side, piece, data @ ..] = data else { return };
    let is_server = side & 1 == 0;
    let io = Scripted { rest: data, piece: usize::from(*piece) + 1 };
    let mut cx = Context::from_waker(Waker::noop());
    let mut made =
        Box::pin(async move { if is_server { WebSocketIo::server(io).await } else { WebSocketIo::client(io).await } });
    let Poll::Ready(mut socket) = made.as_mut().poll(&mut cx) else { panic!("there is nothing to wait for") };
    let mut read = Vec::new();
    let mut buffer = [0; 1000];
    // A peer that only talks gives others a turn now and then, and is asked again.
    for _ in 0..=data.len() {
        let mut buf = ReadBuf::new(&mut buffer);
        match Pin::new(&mut socket).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => break,
            Poll::Ready(Ok(())) => read.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => break,
            Poll::Pending => {}
        }
    }
    assert_eq!(read, Reader { rest: data, is_server }.messages(), "{data:?}");
}

/// A connection on which the bytes come in pieces, and which takes everything.
#[derive(Debug)]
struct Scripted<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl AsyncRead for Scripted<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.rest.split_at(self.piece.min(self.rest.len()).min(buf.remaining()));
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads frames up to the first that breaks a rule.
struct Reader<'a> {
    rest: &'a [u8],
    is_server: bool,
}

/// RFC 6455 §5.2.
struct Frame {
    fin: bool,
    opcode: u8,
    payload: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// What all binary messages held.
    fn messages(mut self) -> Vec<u8> {
        let (mut all, mut message) = (Vec::new(), None::<Vec<u8>>);
        while let Some(Frame { fin, opcode, payload }) = self.frame() {
            match (opcode, &mut message) {
                (0, Some(begun)) => begun.extend(payload),
                (2, None) => message = Some(payload),
                (9 | 10, _) if fin && payload.len() <= 125 => continue,
                // An end, a text, or an error.
                _ => break,
            }
            if message.as_ref().is_some_and(|message| message.len() > LONGEST) {
                break;
            }
            if fin {
                all.extend(message.take().unwrap());
            }
        }
        all
    }

    fn frame(&mut self) -> Option<Frame> {
        let [first, second] = *self.take(2)? else { return None };
        let length = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.take(2)?.try_into().ok()?)),
            127 => u64::from_be_bytes(self.take(8)?.try_into().ok()?),
            length => length.into(),
        };
        let is_masked = second & 0x80 != 0;
        if first & 0x70 != 0 || is_masked != self.is_server || length > LONGEST as u64 {
            return None;
        }
        let mask = if is_masked { self.take(4)? } else { &[0; 4] };
        let payload = self.take(usize::try_from(length).ok()?)?;
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        Some(Frame { fin: first & 0x80 != 0, opcode: first & 0x0f, payload })
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }
}
