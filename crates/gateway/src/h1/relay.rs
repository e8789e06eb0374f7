//! A container's answer on its way to an HTTP/1.1 caller: its body passes as it is framed, unless the caller cannot read
//! that framing. One write sends whatever one read has brought.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::time::Instant;

use super::{
    chunked::Piece,
    conn::{CallerConn, CallerSource},
    framing::BodyReader,
};
use crate::{
    alarm::Alarm,
    body::{Cut, LONG_LIVED, Terms},
    error::ExchangeFailure,
    outgoing::{Interrupt, Outgoing, Source, write_chunk_size},
    patience::Patience,
    upstream::Connection,
};

/// Bytes that are moved at most to close a gap between them.
const GAP_LIMIT: usize = 4 << 10;

/// How an answer's body reaches the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As the container has framed it.
    AsIs,
    /// Without its chunks, until the connection ends: the caller speaks HTTP/1.0.
    Bare,
    /// In chunks, because the container only ends its connection.
    Chunked,
}

/// How an answer ended for the caller.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All of it has come; what is not written yet waits with the caller's connection.
    Complete,
    /// It broke off; the caller's connection has to show that.
    Cut(Cut),
    /// Nobody is there any more.
    Gone,
}

/// An answer on its way.
pub(super) struct Relay {
    mode: Mode,
    /// Bytes at the beginning of the container's inbox that are to be written next.
    direct: usize,
    /// What is written behind them.
    suffix: &'static [u8],
    ended: bool,
    /// Known, but to be told only after what came before it.
    cut: Option<Cut>,
    deadline: Option<(Instant, Duration)>,
    patience: Patience,
    /// When more of it than came with its head was first waited for.
    began: Option<Instant>,
}

impl Relay {
    pub(super) fn new(mode: Mode, terms: &Terms) -> Self {
        let patience = Patience::new(terms.idle);
        let deadline = terms.deadline;
        Self { mode, direct: 0, suffix: b"", ended: false, cut: None, deadline, patience, began: None }
    }

    /// Whether nothing waits to be written.
    pub(super) const fn is_flushed(&self) -> bool {
        self.direct == 0 && self.suffix.is_empty()
    }

    /// Passes the answer on to its end, and the rest of the request too.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        request: &mut Outgoing<CallerSource<'_>>,
        alarm: &mut Alarm,
    ) -> Poll<Outcome> {
        if !request.is_sent()
            && let Poll::Ready(Err(_)) = request.poll_send(cx, connection.socket())
        {
            // A caller that breaks off its request does not wait for the answer either.
            return Poll::Ready(Outcome::Gone);
        }
        if let Poll::Ready(outcome) = self.poll_answer(cx, connection, request.source.conn) {
            return Poll::Ready(outcome);
        }
        if let Some((at, length)) = self.deadline
            && alarm.poll(cx, at).is_ready()
        {
            return Poll::Ready(Outcome::Cut(Cut::Exchange(ExchangeFailure::Timeout(length))));
        }
        match request.source.poll_interrupt(cx) {
            Poll::Ready(Interrupt::Gone) => Poll::Ready(Outcome::Gone),
            Poll::Ready(Interrupt::Revoked) => Poll::Ready(Outcome::Cut(Cut::Revoked)),
            Poll::Pending => self.poll_patience(cx, connection, request),
        }
    }

    /// Whether the container has paused for too long. While the caller is waited for, to read or to send, that is no fault
    /// of the container.
    fn poll_patience(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        request: &Outgoing<CallerSource<'_>>,
    ) -> Poll<Outcome> {
        let is_taken = self.is_flushed() && request.source.conn.out.is_empty();
        if !is_taken || !(request.is_sent() || request.waits_for_socket()) {
            self.patience.pause();
            return Poll::Pending;
        }
        let limit = ready!(self.patience.poll_waiting(cx, connection.received() + request.written()));
        Poll::Ready(Outcome::Cut(Cut::Exchange(ExchangeFailure::Paused(limit))))
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        conn: &mut CallerConn,
    ) -> Poll<Outcome> {
        loop {
            self.plan(connection, conn);
            if self.ended && self.cut.is_none() {
                // The connection to the container is free for the next request before the last byte is written.
                conn.out.extend_from_slice(&connection.inbox.bytes[..self.direct]);
                conn.out.extend_from_slice(self.suffix);
                connection.inbox.bytes.advance(self.direct);
                (self.direct, self.suffix) = (0, b"");
                return Poll::Ready(Outcome::Complete);
            }
            if ready!(self.poll_write(cx, connection, conn)).is_err() {
                return Poll::Ready(Outcome::Gone);
            }
            if let Some(cut) = self.cut.take() {
                return Poll::Ready(Outcome::Cut(cut));
            }
            if !connection.inbox.bytes.is_empty() && self.plan(connection, conn) {
                continue;
            }
            let began = *self.began.get_or_insert_with(Instant::now);
            match ready!(connection.poll_fill(cx)) {
                Ok(0) => self.end_of_stream(connection, conn),
                Ok(_) if began.elapsed() >= LONG_LIVED => connection.mark_long_lived(),
                Ok(_) => {}
                Err(error) => self.cut = Some(Cut::Exchange(connection.body_failure(&error))),
            }
        }
    }

    fn end_of_stream(&mut self, connection: &mut Connection, conn: &mut CallerConn) {
        if !matches!(connection.body, BodyReader::UntilClose) {
            self.cut = Some(Cut::Exchange(ExchangeFailure::Incomplete));
            return;
        }
        connection.body = BodyReader::Over;
        if self.mode == Mode::Chunked {
            conn.out.put_slice(b"0\r\n\r\n");
        }
        self.ended = true;
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        conn: &mut CallerConn,
    ) -> Poll<std::io::Result<()>> {
        loop {
            let count = ready!(conn.poll_write(cx, &connection.inbox.bytes[..self.direct], self.suffix))?;
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            let direct = count.min(self.direct);
            connection.inbox.bytes.advance(direct);
            self.direct -= direct;
            self.suffix = &self.suffix[count - direct..];
        }
    }

    /// Decides what of the container's bytes can be written now; says whether there is anything.
    fn plan(&mut self, connection: &mut Connection, conn: &mut CallerConn) -> bool {
        while !self.ended && self.cut.is_none() {
            if self.mode != Mode::AsIs && self.direct >= GAP_LIMIT || !self.suffix.is_empty() {
                break;
            }
            let input = &connection.inbox.bytes[self.direct..];
            match connection.body.next(input) {
                Ok(Piece::Data(count)) => {
                    self.direct += count;
                    if self.mode == Mode::Chunked {
                        write_chunk_size(&mut conn.out, count);
                        self.suffix = b"\r\n";
                    }
                }
                Ok(Piece::Framing(count)) if self.mode == Mode::AsIs => self.direct += count,
                Ok(Piece::Framing(count) | Piece::Extension(count)) => self.leave_out(connection, count),
                Ok(Piece::Trailers(count)) => self.pass_trailers(connection, count),
                Ok(Piece::NeedMore) => break,
                Ok(Piece::End) => self.ended = true,
                Err(fault) => self.cut = Some(Cut::Exchange(fault.into())),
            }
        }
        self.direct > 0 || self.ended || self.cut.is_some()
    }

    /// Takes bytes out behind those that are to be written.
    fn leave_out(&self, connection: &mut Connection, count: usize) {
        let bytes = &mut connection.inbox.bytes;
        bytes.copy_within(..self.direct, count);
        bytes.advance(count);
    }

    fn pass_trailers(&mut self, connection: &mut Connection, count: usize) {
        let section = connection.inbox.bytes[self.direct..self.direct + count].to_vec();
        self.ended = true;
        match connection.body.take_trailers(&section) {
            _ if self.mode == Mode::Bare => self.leave_out(connection, count),
            _ if count == 2 => self.direct += count,
            trailers => {
                let mut text = BytesMut::new();
                trailers.write(&mut text);
                let rest = connection.inbox.bytes.split_off(self.direct + count);
                connection.inbox.bytes.truncate(self.direct);
                connection.inbox.bytes.extend_from_slice(&text);
                connection.inbox.bytes.extend_from_slice(&rest);
                self.direct += text.len();
            }
        }
    }
}
