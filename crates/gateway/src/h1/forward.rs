//! A caller's HTTP/1.1 request on its way to a service, and the answer back.

use std::{future::poll_fn, task::Poll};

use http::{HeaderValue, StatusCode, Version, header};
use tokio::time::Instant;

use super::{
    conn::{CallerConn, CallerSource},
    framing::BodyReader,
    head::{ResponseHead, write_status_line, written_request},
    relay::{Mode, Outcome, Relay},
    respond::wants_to_last,
    spare,
};
use crate::{
    alarm::Alarm,
    body::{Cut, Terms},
    dispatch::{Answer, Outbound, dispatch},
    error::{ExchangeFailure, GatewayError},
    fields::Headers,
    headers::{header_has_token, put_switching_hops, take_response_hops},
    outgoing::Outgoing,
    pool,
    proxy::{Additions, Call, CallHead, broke_http},
    rewound::Rewound,
    switch::switch,
};

/// What the caller's connection is good for after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request.
    Keep,
    /// An orderly end.
    Close,
    /// Nothing: nobody is there, or it was cut.
    Drop,
}

/// Sends a request and passes the answer on. An error is still to be answered.
pub(super) async fn forward(
    call: &Call<'_>,
    conn: &mut CallerConn,
    mut head: CallHead,
    (body, alarm): (&mut BodyReader, &mut Alarm),
) -> Result<After, GatewayError> {
    let lasts = wants_to_last(head.version, &head.headers);
    let expects = header_has_token(&head.headers, &header::EXPECT, "100-continue") && !body.is_over();
    let prepared = call.prepare(&mut head, body.is_chunked())?;
    // This connection looks at its standing itself; nothing needs to wait for it.
    let (terms, standing) = (prepared.admitted.limits(), &prepared.admitted.standing);
    let CallHead { method, version, headers, .. } = head;
    let text = written_request(&method, prepared.target.as_bytes(), &headers, 0);
    spare::give_back(headers);
    let interims = version == Version::HTTP_11;
    let source = CallerSource { conn, body, interims, standing };
    let request = Outgoing::new(text, source);
    let (upgrade, preference) = (prepared.upgrade, prepared.preference);
    let outbound = Outbound { method: method.clone(), request, upgrade, preference };
    let answer = dispatch(call.shared, &prepared.admitted.service, outbound, &terms, alarm).await;
    let answer = answer.map_err(|error| prepared.additions.explain(error))?;
    let returning = Returning { call, additions: &prepared.additions, version };
    if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade {
            return Err(broke_http(&method, "it switches to another protocol without having been asked"));
        }
        return Ok(returning.switch(answer, Terms { standing: Some(standing.clone()), ..terms }).await);
    }
    // What was sent in the belief of speaking another protocol, or of being asked for it, is no next request.
    let is_asked = !expects || answer.request.is_sent();
    let lasts = lasts && !upgrade && is_asked;
    Ok(returning.answer(answer, (terms, alarm), lasts).await)
}

/// An answer on its way back.
struct Returning<'a> {
    call: &'a Call<'a>,
    additions: &'a Additions<'a>,
    /// The caller's.
    version: Version,
}

impl Returning<'_> {
    /// Passes an answer on.
    async fn answer(
        &self,
        answer: Answer<CallerSource<'_>>,
        (terms, alarm): (Terms, &mut Alarm),
        lasts: bool,
    ) -> After {
        let Answer { mut head, mut connection, in_flight, mut request } = answer;
        let conn = &mut *request.source.conn;
        let mode = mode(&connection.body, self.version);
        let lasts = lasts && mode != Mode::Bare && !conn.caller.is_draining();
        let hops = take_response_hops(&mut head.headers);
        connection.keep_for = pool::keep_for(hops.keep_alive_seconds);
        self.finish_head(&mut head, &connection.body, mode, lasts);
        self.additions.put(&mut head.headers, in_flight.instance().id);
        write_status_line(&mut conn.out, head.status, &head.reason);
        head.headers.write(&mut conn.out);
        spare::give_back(head.headers);

        let mut relay = Relay::new(mode, &terms);
        let outcome = poll_fn(|cx| relay.poll(cx, &mut connection, &mut request, alarm)).await;
        let is_sent = request.is_sent();
        match outcome {
            Outcome::Complete => {
                if connection.rest(is_sent) {
                    in_flight.instance().pool.put(connection, Instant::now());
                }
                drop(in_flight);
                let CallerSource { conn, body, .. } = request.source;
                let flushed = poll_fn(|cx| match conn.poll_flush(cx) {
                    Poll::Ready(flushed) => Poll::Ready(flushed.is_ok()),
                    Poll::Pending => conn.poll_gone(cx, body.is_over()).map(|()| false),
                });
                // What the container did not wait for is read over, if it is here.
                match flushed.await {
                    true if lasts && (is_sent || conn.skip(body)) => After::Keep,
                    true => After::Close,
                    false => After::Drop,
                }
            }
            Outcome::Cut(cut) => {
                tracing::debug!(instance = %in_flight.instance().id, reason = %cut, "an answer was cut off");
                // What the container did send is for the caller to have, but nobody waits for one that does not read.
                // Behind an answer without a length, only a reset shows that it was cut.
                let is_ours = matches!(cut, Cut::Revoked | Cut::Exchange(ExchangeFailure::Timeout(_)));
                if !is_ours && mode != Mode::Bare && request.source.conn.out.is_empty() && relay.is_flushed() {
                    return After::Close;
                }
                self.call.active.caller().abort_on_close();
                After::Drop
            }
            Outcome::Gone => {
                // It may also be the drain that waits no longer.
                self.call.active.caller().abort_on_close();
                After::Drop
            }
        }
    }

    /// Makes the head that the caller gets.
    fn finish_head(&self, head: &mut ResponseHead, body: &BodyReader, mode: Mode, lasts: bool) {
        let headers = &mut head.headers;
        if mode == Mode::Chunked || (mode == Mode::AsIs && body.is_chunked()) {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            // One of HTTP/2 may have had both a length and trailers.
            headers.remove(header::CONTENT_LENGTH);
        }
        if matches!(body, BodyReader::Length(0)) && !headers.contains_key(header::CONTENT_LENGTH) {
            // In HTTP/2 the end is part of the head.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        }
        if head.status == StatusCode::NO_CONTENT {
            // RFC 9110 §8.6: it has no length.
            headers.remove(header::CONTENT_LENGTH);
        }
        match (lasts, self.version) {
            (false, _) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            (true, Version::HTTP_10) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            }
            (true, _) => {}
        }
    }

    /// Passes a `101` on, and bytes from then on.
    async fn switch(&self, answer: Answer<CallerSource<'_>>, terms: Terms) -> After {
        let Answer { mut head, mut connection, in_flight, request } = answer;
        let conn = request.source.conn;
        connection.mark_long_lived();
        conn.caller.note_upgrade();
        let protocol = take_response_hops(&mut head.headers).upgrade;
        put_switching_hops(&mut head.headers, protocol.unwrap_or_else(|| HeaderValue::from_static("unknown")));
        // A 101 has no body, whatever its head says (RFC 9110 §8.6).
        head.headers.remove(header::CONTENT_LENGTH);
        self.additions.put_switching(&mut head.headers, in_flight.instance().id);
        write_status_line(&mut conn.out, head.status, &head.reason);
        head.headers.write(&mut conn.out);
        if poll_fn(|cx| conn.poll_flush(cx)).await.is_err() {
            return After::Drop;
        }
        let caller_side = Rewound::new(std::mem::take(&mut conn.inbox.bytes), &mut conn.io);
        // Boxed, so that every connection does not keep room for it.
        if !Box::pin(switch(self.call.shared, caller_side, &mut connection, terms)).await {
            conn.caller.abort_on_close();
        }
        drop(in_flight);
        After::Drop
    }
}

fn mode(body: &BodyReader, version: Version) -> Mode {
    match body {
        BodyReader::Length(_) | BodyReader::Over => Mode::AsIs,
        BodyReader::Chunked(_) if version == Version::HTTP_11 => Mode::AsIs,
        BodyReader::UntilClose if version == Version::HTTP_11 => Mode::Chunked,
        BodyReader::Chunked(_) | BodyReader::UntilClose => Mode::Bare,
    }
}
