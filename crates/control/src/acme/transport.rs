//! The HTTPS with an ACME authority: bounded in time and size, by the proxies of the environment, and with an ear for how long
//! the authority wants to be left alone.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Collected};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::{Certificate, redirect::Policy};
use rustls::pki_types::CertificateDer;
use towline_model::{Clock, Timestamp};

/// How long one answer may take, from connecting to its last byte.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer.
const MAX_ANSWER: usize = 1 << 20;

/// An HTTPS client.
#[derive(Clone)]
pub(super) struct Transport {
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
    /// What the last refusal that said when to come back said of it.
    told: Arc<Mutex<Option<Duration>>>,
}

/// The request never got an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// The connection, TLS, or HTTP.
    #[error("{}", chain(.0))]
    Sent(#[from] reqwest::Error),
    /// More than an authority has to say.
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
}

impl Transport {
    pub(super) fn new(roots: &[CertificateDer<'static>], clock: Arc<dyn Clock>) -> Result<Self, reqwest::Error> {
        // The process's TLS; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let roots: Vec<_> = roots.iter().map(|root| Certificate::from_der(root)).collect::<Result<_, _>>()?;
        let builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(Policy::none()).https_only(true);
        // Merging needs a verifier that can be added to, which none of the platforms' own has to be.
        let builder = if roots.is_empty() { builder } else { builder.tls_certs_merge(roots) };
        Ok(Self { http: builder.build()?, clock, told: Arc::default() })
    }

    /// What the authority has said, since this was last asked, of when to come back.
    pub(super) fn take_told(&self) -> Option<Duration> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await.map(Collected::to_bytes);
        let (head, body) = self.exchange(Request::from_parts(parts, body)).await.map_err(|e| Error::Other(e.into()))?;
        Ok(BytesResponse { parts: head, body: Box::new(body) })
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<(http::response::Parts, Bytes), Unanswered> {
        let mut answer = self.http.execute(request.try_into()?).await?;
        let mut body = BytesMut::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(Unanswered::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (answer.status(), answer.headers().clone());
        self.hear(&head);
        Ok((head, body.freeze()))
    }

    /// Notes when the authority wants to be asked again. One that refuses something else afterwards has not taken it back.
    fn hear(&self, head: &http::response::Parts) {
        if !head.status.is_client_error() && !head.status.is_server_error() {
            return;
        }
        if let Some(told) = retry_after(&head.headers, self.clock.now()) {
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        }
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let since_epoch = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((Timestamp::from_micros(0) + since_epoch).since(now))
}

/// An error and what it came from, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use towline_model::SystemClock;

    use super::*;

    #[test]
    fn what_was_said_of_when_to_come_back_outlasts_refusals_that_say_nothing_of_it() {
        let transport = Transport::new(&[], Arc::new(SystemClock)).unwrap();
        let hear = |status: u16, says: Option<&str>| {
            let (mut head, ()) = Response::builder().status(status).body(()).unwrap().into_parts();
            head.headers.extend(says.map(|says| (RETRY_AFTER, says.parse().unwrap())));
            transport.hear(&head);
        };
        let seconds = || transport.take_told().map(|told| told.as_secs());
        for (heard, told) in [
            (&[(429, Some("120"))][..], Some(120)),
            (&[(429, Some("120")), (400, None), (200, None)], Some(120)),
            (&[(503, Some("120")), (429, Some("60"))], Some(60)),
            (&[(503, Some("soon"))], None),
            // That of an answer which is none yet is for whoever waits for that one.
            (&[(200, Some("3")), (403, None)], None),
        ] {
            heard.iter().for_each(|(status, says)| hear(*status, *says));
            assert_eq!(seconds(), told, "{heard:?}");
            assert_eq!(seconds(), None, "it is for one order");
        }
    }

    #[test]
    fn when_to_come_back_is_read_in_both_forms() {
        let now = Timestamp::parse("2026-11-26T12:00:00Z").unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            ("Thu, 26 Nov 2026 13:00:00 GMT", Some(3600)),
            ("Thu, 26 Nov 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now).map(|told| told.as_secs()), seconds, "{value}");
        }
    }
}
