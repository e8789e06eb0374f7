//! How a request is answered: with interim answers (RFC 9110 §15.2) by whoever looks after it, and then by its own task.
//!
//! Heads are under no flow control in HTTP/2, so a container that sends interim answers without an end, to a caller that
//! reads nothing, could fill this machine's memory. So many of them wait at most until the connection has had its turn, and
//! while its socket takes nothing the rest is left out: nobody is there to read it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, Response, StatusCode, header};

use super::signs::Signs;
use crate::{
    caller_body::CallerBody,
    h1::head::ResponseHead,
    headers::take_response_hops,
    outgoing::{BodySource, Framed, Interrupt, More, Source, SourceFault},
};

/// Bytes of a request's interim answers that wait for the connection.
const MAX_WAITING: usize = 16 << 10;

/// The way back to a request's caller.
#[derive(Clone)]
pub(crate) struct Reply {
    response: Arc<Mutex<SendResponse<Bytes>>>,
    signs: Arc<Signs>,
}

impl Reply {
    pub(super) fn new(response: SendResponse<Bytes>, signs: Arc<Signs>) -> Self {
        Self { response: Arc::new(Mutex::new(response)), signs }
    }

    /// Sends an interim answer.
    pub(crate) fn interim(&self, status: StatusCode, mut headers: HeaderMap) {
        take_response_hops(&mut headers);
        // RFC 9110 §8.6: it has no length.
        headers.remove(header::CONTENT_LENGTH);
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if let Err(error) = self.response().send_informational(response) {
            tracing::debug!(%error, %status, "an interim answer could not be sent");
        }
    }

    /// Ready when the caller has reset the request, or its connection is over.
    pub(super) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.response().poll_reset(cx).map(drop)
    }

    /// Sends the answer's head. `None` when that is not possible any more.
    pub(super) fn send(&self, head: Response<()>, ends: bool) -> Option<SendStream<Bytes>> {
        let mut response = self.response();
        match response.send_response(head, ends) {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                response.send_reset(Reason::INTERNAL_ERROR);
                None
            }
        }
    }

    fn response(&self) -> MutexGuard<'_, SendResponse<Bytes>> {
        self.response.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// A caller's request on its way to a container. That the caller has reset it is seen to elsewhere: the whole task is
/// dropped.
#[derive(Debug)]
pub(crate) struct ReplySource {
    body: BodySource<CallerBody>,
    reply: Option<Reply>,
    /// Bytes of interim answers since the connection's turn with this number.
    waiting: usize,
    turn: u64,
    /// Whether no interim answer is to be taken before the connection's next turn.
    full: bool,
}

impl ReplySource {
    /// Without `reply` there are no interim answers.
    pub(crate) const fn new(body: CallerBody, framed: Framed, reply: Option<Reply>) -> Self {
        Self { body: BodySource::new(body, framed), reply, waiting: 0, turn: 0, full: false }
    }
}

impl Source for ReplySource {
    fn poll_more(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<More, SourceFault>> {
        self.body.poll_more(cx, out)
    }

    fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if self.waiting >= MAX_WAITING
            && let Some(reply) = &self.reply
        {
            let turn = reply.signs.turn();
            if turn != self.turn && !reply.signs.is_stuck() {
                (self.turn, self.waiting) = (turn, 0);
            }
            self.full = self.waiting >= MAX_WAITING && !reply.signs.is_stuck();
            if self.full {
                // The connection has something to write, so that it will have its turn soon.
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn takes_interim(&self) -> bool {
        !self.full
    }

    fn interim(&mut self, head: ResponseHead) {
        let Some(reply) = &self.reply else { return };
        if self.waiting >= MAX_WAITING {
            return;
        }
        // As RFC 9113 §10.5.1 counts.
        let size = |(name, value): (&[u8], &[u8])| name.len() + value.len() + 32;
        self.waiting += 42 + head.headers.iter().map(size).sum::<usize>();
        reply.interim(head.status, head.headers.into_map());
    }
}
