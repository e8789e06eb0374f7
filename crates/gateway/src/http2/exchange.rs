//! One request on an HTTP/2 connection, in the shape of a connection of its own.
//!
//! Dropping it before its end resets it (`RST_STREAM` with `CANCEL`), which is how the container learns that nobody waits
//! any more.

use std::{
    io,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Error, Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::{
    connection::Lease,
    websocket::{become_connect, become_switching},
};
use crate::{
    fields::{Fields, Headers as _, Value},
    grpc,
    h1::{
        chunked::{ChunkDecoder, Piece},
        framing::{BodyReader, content_length, request_body},
        head::{HeadFault, HeadParser, RequestHead, ResponseHead},
    },
    headers::take_request_hops,
    outgoing::{write_chunk, write_last_chunk},
    stream_io::StreamIo,
    upstream::FailureReason,
};

/// Bytes of a request that are taken before those before them are on their way.
const MAX_TAKEN: usize = 16 << 10;

/// One request and its answer. Two tasks may use its two directions.
pub(crate) struct Exchange(Mutex<State>);

struct State {
    lease: Lease,
    /// Bytes of the request as text that were not looked at yet.
    text: BytesMut,
    sending: Sending,
    answer: Answer,
    /// What it carries since it was answered that it is a WebSocket; then the rest of this is over.
    switched: Option<StreamIo>,
    /// Bytes of the answer's body, as HTTP/1.1 frames it, that were not read yet.
    read: BytesMut,
    /// Whether the container has provably not looked at the request.
    untouched: bool,
}

/// The request.
enum Sending {
    Head(HeadParser),
    Body {
        stream: SendStream<Bytes>,
        reader: BodyReader,
        /// Content that waits for the container to take it.
        data: Bytes,
    },
    /// It has asked for a WebSocket; the `Sec-WebSocket-Accept` is what its caller waits for.
    Opening {
        stream: SendStream<Bytes>,
        accept: HeaderValue,
    },
    Over,
    Broken,
}

/// The answer.
enum Answer {
    /// The request's head was not sent yet.
    NotAsked(Option<Waker>),
    Head(ResponseFuture),
    Body {
        stream: RecvStream,
        chunked: bool,
    },
    Over,
    Failed(Option<FailureReason>),
}

impl Exchange {
    pub(crate) fn new(lease: Lease) -> Self {
        Self(Mutex::new(State {
            lease,
            text: BytesMut::new(),
            sending: Sending::Head(HeadParser::written()),
            answer: Answer::NotAsked(None),
            switched: None,
            read: BytesMut::new(),
            untouched: false,
        }))
    }

    /// Resets it at once.
    pub(crate) fn abort(&self) {
        let mut state = self.state();
        match &mut state.sending {
            Sending::Body { stream, .. } | Sending::Opening { stream, .. } => stream.send_reset(Reason::CANCEL),
            Sending::Head(_) | Sending::Over | Sending::Broken => {}
        }
        if let Some(switched) = &state.switched {
            switched.sending().reset(Reason::CANCEL);
        }
        state.sending = Sending::Broken;
        state.answer = Answer::Over;
    }

    /// Whether the container has provably not looked at the request.
    pub(crate) fn is_untouched(&self) -> bool {
        self.state().untouched
    }

    /// Takes bytes of the request.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        if let Some(switched) = &mut state.switched {
            return Pin::new(switched).poll_write(cx, data);
        }
        ready!(state.poll_push(cx))?;
        let count = data.len().min(MAX_TAKEN);
        state.text.extend_from_slice(&data[..count]);
        // What cannot go yet goes with what comes next, or with a flush.
        match state.poll_push(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    /// Ready when everything that was taken is on its way.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().poll_push(cx)
    }

    /// Ends what is written, where it has no end of its own: a WebSocket. A request's end is part of what is written.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state().switched {
            Some(switched) => Pin::new(switched).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The head of the next answer, an interim one or the last, and the body that follows it.
    pub(crate) fn poll_head(
        &self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<(ResponseHead, BodyReader), FailureReason>> {
        let mut state = self.state();
        let response = match &mut state.answer {
            Answer::NotAsked(waker) => {
                *waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Answer::Head(future) => match ready!(future.poll_informational(cx)) {
                Some(Ok(interim)) => {
                    let head = response_head(interim.into_parts().0);
                    return Poll::Ready(Ok((head, BodyReader::Over)));
                }
                Some(Err(error)) => Err(error),
                None => ready!(Pin::new(future).poll(cx)),
            },
            Answer::Failed(reason) => {
                return Poll::Ready(Err(reason.take().unwrap_or(FailureReason::Closed)));
            }
            Answer::Body { .. } | Answer::Over => return Poll::Ready(Err(FailureReason::Closed)),
        };
        Poll::Ready(match response {
            Ok(response) => state.begin_body(response, method),
            Err(error) => Err(state.learn(&error)),
        })
    }

    /// Reads the answer's body as HTTP/1.1 frames it, or what a WebSocket carries.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if let Some(switched) = &mut state.switched {
            return Pin::new(switched).poll_read(cx, buf);
        }
        while state.read.is_empty() {
            if matches!(state.answer, Answer::Over) {
                return Poll::Ready(Ok(()));
            }
            ready!(state.poll_body(cx))?;
        }
        let count = state.read.len().min(buf.remaining());
        buf.put_slice(&state.read[..count]);
        state.read.advance(count);
        Poll::Ready(Ok(()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends what can be sent of what was taken. Pending only when the container does not take it.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.sending {
                Sending::Head(parser) => {
                    let Some(length) = parser.advance(&self.text).map_err(invalid)? else { return Poll::Ready(Ok(())) };
                    let head = parser.finish_request(&self.text, length).map_err(invalid)?;
                    self.text.advance(length);
                    self.ask(head)?;
                }
                Sending::Body { stream, reader, data } if !data.is_empty() => {
                    stream.reserve_capacity(data.len());
                    let room = match stream.capacity() {
                        0 => match ready!(stream.poll_capacity(cx)) {
                            Some(Ok(room)) => room,
                            // Why is told with the answer.
                            Some(Err(_)) | None => {
                                self.sending = Sending::Broken;
                                continue;
                            }
                        },
                        room => room,
                    };
                    let piece = data.split_to(room.min(data.len()));
                    let ends = data.is_empty() && reader.is_over();
                    let sent = stream.send_data(piece, ends);
                    self.sent(ends, sent);
                }
                Sending::Body { stream, reader, data } => {
                    match reader.next(&self.text).map_err(|fault| io::Error::other(fault.to_string()))? {
                        Piece::Data(count) => *data = self.text.split_to(count).freeze(),
                        Piece::Framing(count) | Piece::Extension(count) => self.text.advance(count),
                        Piece::Trailers(count) => {
                            let trailers = reader.take_trailers(&self.text[..count]);
                            self.text.advance(count);
                            let sent = match trailers.is_empty() {
                                true => stream.send_data(Bytes::new(), true),
                                false => stream.send_trailers(trailers.into_map()),
                            };
                            self.sent(true, sent);
                        }
                        Piece::End => {
                            let sent = stream.send_data(Bytes::new(), true);
                            self.sent(true, sent);
                        }
                        Piece::NeedMore => return Poll::Ready(Ok(())),
                    }
                }
                Sending::Opening { .. } | Sending::Over => return Poll::Ready(Ok(())),
                Sending::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn sent(&mut self, ends: bool, sent: Result<(), Error>) {
        match sent {
            Ok(()) if ends => self.sending = Sending::Over,
            Ok(()) => {}
            Err(_) => self.sending = Sending::Broken,
        }
    }

    /// Sends the request's head.
    fn ask(&mut self, head: RequestHead) -> io::Result<()> {
        let reader = request_body(&head).map_err(invalid)?;
        let (request, accept) = request(head)?;
        let ends = reader.is_over() && accept.is_none();
        let mut sender = self.lease.sender();
        let mut cx = Context::from_waker(Waker::noop());
        let ready = match sender.poll_ready(&mut cx) {
            Poll::Ready(ready) => ready,
            // Only a handle that has a request in waiting is not.
            Poll::Pending => Ok(()),
        };
        let asked = ready.and_then(|()| sender.send_request(request, ends));
        let answer = match asked {
            Ok((future, stream)) => {
                self.sending = match accept {
                    Some(accept) => Sending::Opening { stream, accept },
                    None if ends => Sending::Over,
                    None => Sending::Body { stream, reader, data: Bytes::new() },
                };
                Answer::Head(future)
            }
            Err(error) => {
                self.sending = Sending::Broken;
                let reason = self.learn(&error);
                // It has not even left.
                self.untouched = true;
                Answer::Failed(Some(reason))
            }
        };
        if let Answer::NotAsked(Some(waker)) = std::mem::replace(&mut self.answer, answer) {
            waker.wake();
        }
        Ok(())
    }

    /// Takes note of a failure.
    fn learn(&mut self, error: &Error) -> FailureReason {
        let (reason, untouched) = self.lease.judge(error);
        self.untouched |= untouched;
        reason
    }

    fn begin_body(
        &mut self,
        response: Response<RecvStream>,
        method: &Method,
    ) -> Result<(ResponseHead, BodyReader), FailureReason> {
        let (parts, stream) = response.into_parts();
        let mut head = response_head(parts);
        if let Sending::Opening { .. } = self.sending
            && let Sending::Opening { stream: mut send, accept } = std::mem::replace(&mut self.sending, Sending::Over)
        {
            if head.status.is_success() {
                become_switching(&mut head, accept);
                self.switched = Some(StreamIo::new(stream, send));
                return Ok((head, BodyReader::Over));
            }
            // Nothing will come on it. It fails only when the stream is over.
            let _ = send.send_data(Bytes::new(), true);
        }
        let length = content_length(&head.headers).map_err(|fault| FailureReason::BrokeHttp(fault.to_string()))?;
        let has_none =
            *method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let is_empty = has_none || stream.is_end_stream();
        let reader = match length {
            _ if has_none => BodyReader::Over,
            _ if is_empty => BodyReader::Length(0),
            // In HTTP/1.1 there would be no place for the trailers.
            Some(length) if !has_trailers(&head.headers) => BodyReader::Length(length),
            _ => BodyReader::Chunked(ChunkDecoder::default()),
        };
        self.answer = match is_empty {
            true => Answer::Over,
            false => Answer::Body { stream, chunked: reader.is_chunked() },
        };
        Ok((head, reader))
    }

    /// Reads the next piece of the answer's body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Answer::Body { stream, chunked } = &mut self.answer else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Only what is asked for is taken, so that a slow caller slows the container down.
                let _ = stream.flow_control().release_capacity(data.len());
                match chunked {
                    true => write_chunk(&mut self.read, &data),
                    false => self.read.extend_from_slice(&data),
                }
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => Poll::Ready(Err(self.cut(&error))),
            None => match ready!(stream.poll_trailers(cx)) {
                Ok(trailers) => {
                    if *chunked {
                        write_last_chunk(&mut self.read, &trailers.unwrap_or_default());
                    }
                    self.answer = Answer::Over;
                    Poll::Ready(Ok(()))
                }
                Err(error) => Poll::Ready(Err(self.cut(&error))),
            },
        }
    }

    fn cut(&mut self, error: &Error) -> io::Error {
        self.answer = Answer::Failed(None);
        self.learn(error);
        io::Error::other(error.to_string())
    }
}

/// Whether trailers have to be expected behind an answer whose length is known.
fn has_trailers(headers: &Fields) -> bool {
    headers.contains_key(header::TRAILER) || grpc::is_grpc(headers)
}

/// The request as HTTP/2 has it: `Host` is `:authority` (RFC 9113 §8.3.1), and of the fields of one connection only
/// `TE: trailers` stays (§8.2.2). A handshake, too, is that of HTTP/2; what answers to its key comes with it.
fn request(head: RequestHead) -> io::Result<(Request<()>, Option<HeaderValue>)> {
    let RequestHead { method, target, mut headers, .. } = head;
    let hops = take_request_hops(&mut headers);
    if hops.takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let authority = headers.get(header::HOST).map_or(&b"localhost"[..], Value::as_bytes);
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(&target[..]);
    headers.remove(header::HOST);
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.build().map_err(|_| io::ErrorKind::InvalidInput)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers.into_map();
    let accept = hops.upgrade.and_then(|_| become_connect(&mut request));
    Ok((request, accept))
}

/// The answer's head as the rest of the gateway has it. HTTP/2 has no reasons; callers of HTTP/1.1 get the usual ones.
fn response_head(parts: http::response::Parts) -> ResponseHead {
    ResponseHead {
        status: parts.status,
        reason: Bytes::from_static(parts.status.canonical_reason().unwrap_or_default().as_bytes()),
        version: Version::HTTP_11,
        headers: parts.headers.into(),
    }
}

fn invalid(fault: HeadFault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault.to_string())
}
