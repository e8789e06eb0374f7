//! One request of a caller, and its answer as frames.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, ext::Protocol};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use tower::Service;

use super::{reply::Reply, websocket};
use crate::{
    body::ResponseBody,
    caller::Active,
    caller_body::CallerBody,
    gateway::{BoxError, Shared},
    headers::take_response_hops,
    route::{Means, handle},
};

/// Answers a request. A caller that resets it has cancelled everything behind it.
pub(super) async fn respond<S, B>(
    shared: Arc<Shared>,
    active: Active,
    (request, reply): (Request<RecvStream>, Reply),
    api: S,
) where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let is_head = *request.method() == Method::HEAD;
    let (mut parts, stream) = request.into_parts();
    if let Some(protocol) = parts.extensions.remove::<Protocol>() {
        return Box::pin(websocket::serve(&shared, active, (protocol, parts, stream), &reply)).await;
    }
    let body = CallerBody::http2(stream, &parts.headers);
    let request = Request::from_parts(parts, body);
    let handler = handle(shared, active, request, (api, Means::Interims(reply.clone())));
    if let Some(answer) = unless_reset(&reply, handler).await {
        send(answer, &reply, is_head).await;
    }
}

/// Waits for something, unless the caller resets its request before.
pub(super) async fn unless_reset<T>(reply: &Reply, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => reply.poll_reset(cx).map(|()| None),
    })
    .await
}

/// Sends an answer to its end, or to where it breaks off.
pub(super) async fn send(answer: Response<ResponseBody>, reply: &Reply, is_head: bool) {
    let (mut parts, body) = answer.into_parts();
    // RFC 9113 §8.2.2: there are none in HTTP/2.
    take_response_hops(&mut parts.headers);
    let has_none = is_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let ends = has_none || body.is_end_stream();
    if let Some(length) = body.size_hint().exact()
        && !body.is_end_stream()
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
    {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let Some(stream) = reply.send(Response::from_parts(parts, ()), ends) else { return };
    if !ends {
        let mut pipe = Pipe { stream, body, data: Bytes::new() };
        poll_fn(|cx| pipe.poll(cx)).await;
    }
}

/// The body of an answer on its way to the caller.
struct Pipe {
    stream: SendStream<Bytes>,
    body: ResponseBody,
    /// What waits for the caller to take it.
    data: Bytes,
}

impl Pipe {
    /// Ready when there is nothing more to send, or nobody to send it to.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            let sent = if self.data.is_empty() { ready!(self.poll_frame(cx)) } else { ready!(self.poll_send(cx)) };
            match sent {
                Ok(Sent::Some) => {}
                Ok(Sent::End) => return Poll::Ready(()),
                Err(Broken) => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Takes the next frame of the body.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, Broken>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
            return Poll::Ready(self.stream.send_data(Bytes::new(), true).map(|()| Sent::End).map_err(|_| Broken));
        };
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "an answer broke off");
            Broken
        })?;
        match frame.into_data() {
            Ok(data) if data.is_empty() && self.body.is_end_stream() => self.send(data),
            Ok(data) => {
                self.data = data;
                Poll::Ready(Ok(Sent::Some))
            }
            Err(frame) => {
                let sent = self.stream.send_trailers(frame.into_trailers().unwrap_or_default());
                Poll::Ready(sent.map(|()| Sent::End).map_err(|_| Broken))
            }
        }
    }

    /// Sends as much of what waits as the caller takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, Broken>> {
        self.stream.reserve_capacity(self.data.len());
        let room = match self.stream.capacity() {
            0 if self.body.is_cut() => return Poll::Ready(Err(Broken)),
            0 => match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Poll::Ready(Err(Broken)),
            },
            room => room,
        };
        let piece = self.data.split_to(room.min(self.data.len()));
        self.send(piece)
    }

    fn send(&mut self, data: Bytes) -> Poll<Result<Sent, Broken>> {
        let ends = self.data.is_empty() && self.body.is_end_stream();
        let sent = self.stream.send_data(data, ends);
        Poll::Ready(sent.map(|()| if ends { Sent::End } else { Sent::Some }).map_err(|_| Broken))
    }
}

/// How far the sending of a body has come.
enum Sent {
    Some,
    End,
}

/// The body broke off, or its stream did.
struct Broken;
