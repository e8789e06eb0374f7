//! What it means when the server, or somebody on the way to it, does not switch protocols.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::ladder::Reach;

/// The most of a refusal's body that is read, in bytes.
const REFUSAL_LIMIT: usize = 16 << 10;
/// How long a refusal's body may take.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);
/// The most of a foreign answer's words that is repeated, in characters.
const QUOTE_LIMIT: usize = 300;

/// The server's answer when it does not switch protocols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.advice())]
pub struct Rejection {
    status: StatusCode,
    /// What the server said in its problem body; empty when it is not one of ours.
    said: String,
    /// Whether a Towline server said it, and nobody on the way.
    is_ours: bool,
    location: Option<String>,
}

impl Rejection {
    /// Reads the answer's body, as far as it comes in time.
    pub(super) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = timeout(REFUSAL_DEADLINE, Limited::new(body, REFUSAL_LIMIT).collect()).await;
        let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Self::new(head.status, &head.headers, &body)
    }

    fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let field = |name| problem.as_ref().and_then(|problem| problem.get(name)?.as_str());
        let is_ours = field("error_message").is_some() && field("error_code").is_some();
        let said = field("error_message").unwrap_or_default();
        let said = said.chars().filter(|c| !c.is_control()).take(QUOTE_LIMIT).collect();
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        Self { status, said, is_ours, location: location.map(|text| text.chars().take(QUOTE_LIMIT).collect()) }
    }

    #[cfg(test)]
    pub(super) fn for_test(status: StatusCode, body: &str) -> Self {
        Self::new(status, &HeaderMap::new(), body.as_bytes())
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether another way to the server could lead to another answer. The server's own answers are the same everywhere, but
    /// for the one that says that no upgrade has arrived.
    pub(super) fn reach(&self) -> Reach {
        if self.is_ours && self.status != StatusCode::UPGRADE_REQUIRED { Reach::Everywhere } else { Reach::Rung }
    }

    /// Whether somebody has to change something before trying again can help. Rate limits and failures pass.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        !self.status.is_server_error() && self.status != StatusCode::TOO_MANY_REQUESTS
    }

    fn advice(&self) -> String {
        let said = if self.said.is_empty() { String::new() } else { format!(" (it says: {})", self.said) };
        let status = self.status.as_u16();
        match status {
            401 => format!(
                "the server does not accept the key: it is unknown, revoked or expired; make a new one with \
                 `towline key create --kind agent` and start the agent with it{said}"
            ),
            403 => format!("the key may not be used by an agent; an agent key starts with ak-{said}"),
            404 if self.said.is_empty() => {
                "there is no Towline server at this URL (404 Not Found); check the server's URL".to_owned()
            }
            426 => format!(
                "the server speaks another version of the agents' protocol, or a proxy before it passes neither `Upgrade` nor \
                 WebSockets on; install an agent of its version, or have the proxy pass them{said}"
            ),
            300..=399 => {
                let location = self.location.as_deref().unwrap_or("another URL");
                format!("the server's URL redirects to {location}; use the URL at its end")
            }
            429 | 500..=599 => format!("the server is not available at the moment (status {status}){said}"),
            _ => format!(
                "the server answered {status} instead of switching protocols; is there a Towline server at this URL, \
                 and does every proxy before it pass `Upgrade`?{said}"
            ),
        }
    }
}
