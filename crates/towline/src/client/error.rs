//! Why a call of the API did not succeed, and what a person can do about it.

use std::{error::Error, fmt::Write as _};

use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::failure::Failure;

/// The most that is read of an error's body.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made.
    #[error("cannot set up TLS: {0}")]
    Setup(String),
    /// No connection.
    #[error("cannot reach the server at {server}: {reason}")]
    Unreachable {
        /// The server's URL.
        server: String,
        /// What the system said.
        reason: String,
    },
    /// A connection that broke before the answer was there as a whole.
    #[error("the connection to {server} broke before there was a whole answer: {reason}")]
    Broken {
        /// The server's URL.
        server: String,
        /// What the system said.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{}", .0.error_message)]
    Refused(Box<ProblemAnswer>),
    /// Something answered that is not this API.
    #[error("the server answered {status}, which is not an answer of Towline{excerpt}")]
    NotTowline {
        /// The status.
        status: StatusCode,
        /// The beginning of the body, with a colon before it.
        excerpt: String,
    },
    /// An answer does not have the expected shape.
    #[error("cannot understand the server's answer: {0}")]
    Shape(String),
    /// No service has that slug.
    #[error("there is no service {0:?} in this team")]
    NoSuchService(String),
    /// The stored sign-in is no longer accepted.
    #[error("your sign-in to {0} has ended")]
    SignInEnded(String),
    /// The stored sign-in cannot be read or kept.
    #[error("{0}")]
    SignInStore(String),
}

/// The body of an error, as far as it is used here. Unlike the server's own type it takes codes of a newer server.
#[derive(Debug, Clone, Deserialize)]
pub struct ProblemAnswer {
    /// The status, from the status line.
    #[serde(skip)]
    pub http_status: u16,
    /// What is wrong, for people.
    pub error_message: String,
    /// What is wrong, for programs.
    #[serde(default)]
    pub error_code: String,
    /// The request, for whoever runs the server.
    #[serde(default)]
    pub request_id: Option<String>,
}

impl ClientError {
    /// A connection that could not be made or broke.
    pub fn transport(server: &Url, error: &reqwest::Error) -> Self {
        let server = super::shown(server).to_owned();
        match (error.is_timeout(), error.is_connect()) {
            (true, _) => Self::Unreachable { server, reason: "it did not answer in time".to_owned() },
            (false, true) => Self::Unreachable { server, reason: root_cause(error) },
            (false, false) => Self::Broken { server, reason: root_cause(error) },
        }
    }

    /// The error that an answer stands for.
    pub async fn from_answer(mut response: Response) -> Self {
        let status = response.status();
        let mut body = vec![];
        while body.len() < MAX_PROBLEM_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) | Err(_) => break,
            }
        }
        Self::from_body(status, &body)
    }

    /// The error that a status and a body stand for.
    pub fn from_body(status: StatusCode, body: &[u8]) -> Self {
        match serde_json::from_slice::<ProblemAnswer>(body) {
            Ok(problem) => Self::Refused(Box::new(ProblemAnswer { http_status: status.as_u16(), ..problem })),
            Err(_) => {
                let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
                let excerpt = if text.is_empty() { String::new() } else { format!(": {text}") };
                Self::NotTowline { status, excerpt }
            }
        }
    }

    /// The code of the server's answer; empty when there was none.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(problem) => &problem.error_code,
            _ => "",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => Some(
                "is it running, and is the URL right? `towline up` starts one on this machine; --server names another"
                    .to_owned(),
            ),
            Self::NotTowline { .. } => Some("check the URL in --server, TOWLINE_SERVER or the sign-in".to_owned()),
            Self::NoSuchService(_) => Some("`towline service list` shows all of them".to_owned()),
            Self::SignInEnded(server) => Some(format!("sign in again: towline login --server {server}")),
            Self::Refused(problem) => problem.hint(),
            Self::Broken { .. } | Self::Setup(_) | Self::Shape(_) | Self::SignInStore(_) => None,
        }
    }
}

impl ProblemAnswer {
    fn hint(&self) -> Option<String> {
        let advice = match self.error_code.as_str() {
            "unauthenticated" => {
                Some("give a valid key with --key or TOWLINE_KEY, or sign in with `towline login`".to_owned())
            }
            "forbidden" => Some(
                "a key can do what its scopes allow (`towline key create --scope manage` makes one that changes services); \
                 keys themselves are made by people: `towline login --email ADDRESS`"
                    .to_owned(),
            ),
            "already_exists" if self.error_message.contains("sign in and accept") => {
                Some("`towline login --email ADDRESS`, then the same command with --signed-in".to_owned())
            }
            _ => None,
        };
        let server_side = self.http_status >= 500;
        match (&self.request_id, advice) {
            (Some(id), None) if server_side => Some(format!("the request was {id}; the server's log tells more")),
            (_, advice) => advice,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, body: &str) -> Failure {
        ClientError::from_body(StatusCode::from_u16(status).unwrap(), body.as_bytes()).into()
    }

    #[test]
    fn a_problem_is_told_in_its_own_words() {
        let failure = failure(409, r#"{"error_message":"hello is deploying; wait","error_code":"invalid_state"}"#);
        assert_eq!(failure.message(), "hello is deploying; wait");
        assert_eq!(failure.hint_text(), None);
    }

    #[test]
    fn a_code_of_next_year_is_no_obstacle() {
        let failure = failure(418, r#"{"error_message":"I am a teapot","error_code":"from_next_year"}"#);
        assert_eq!(failure.message(), "I am a teapot");
    }

    #[test]
    fn what_helps_is_said() {
        let hint = |status, body| failure(status, body).hint_text().map(str::to_owned).unwrap_or_default();
        assert!(hint(401, r#"{"error_message":"x","error_code":"unauthenticated"}"#).contains("towline login"));
        assert!(hint(403, r#"{"error_message":"x","error_code":"forbidden"}"#).contains("--scope manage"));
        assert!(hint(500, r#"{"error_message":"x","error_code":"internal","request_id":"r-1"}"#).contains("r-1"));
        assert!(hint(200, "<html>").contains("--server"));
    }

    #[test]
    fn a_strangers_answer_is_recognised() {
        let failure = failure(502, "<html>Bad Gateway</html>");
        assert_eq!(
            failure.message(),
            "the server answered 502 Bad Gateway, which is not an answer of Towline: <html>Bad Gateway</html>"
        );
    }
}
