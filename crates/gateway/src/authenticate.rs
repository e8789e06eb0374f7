//! Who asks: the one place that turns headers into a [`Principal`], for the request path and the management API alike.
//!
//! Everything is decided from memory: keys by one hash and one look-up, tokens by their signature. The caller of
//! [`authenticate`] learns which header opened the door, because exactly that one is removed before a container sees
//! the request.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use towline_model::{
    ErrorCode, KeyHash, KeyKind, Principal, Problem, RawKey, TeamId, Timestamp, UserId, key::KeyError,
};

use crate::{
    access_token::{AccessTokens, TokenError},
    snapshot::{Credential, CredentialTable},
};

/// The header that names the team of a call with an access token.
pub const X_TEAM_ID: HeaderName = HeaderName::from_static("x-team-id");

/// What requests are judged by, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Authority<'a> {
    /// Keys and memberships.
    pub credentials: &'a CredentialTable,
    /// Access tokens.
    pub tokens: &'a AccessTokens,
    /// The time of day.
    pub now: Timestamp,
}

/// A request whose sender is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it is, in which team.
    pub principal: Principal,
    /// The header that said so.
    pub consumed: HeaderName,
}

/// Why a request's sender is not known, in words that say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// No credential was sent.
    #[error(
        "no credential was sent; send `Authorization: Bearer <key>` with a key that starts with sk- or dk-, or an access token"
    )]
    Missing,
    /// `Authorization` was sent more than once, or is not `Bearer` and one word.
    #[error("the Authorization header must be `Bearer <key>`, sent once")]
    Malformed,
    /// The text starts like a key and is not one.
    #[error("{0}")]
    Mistyped(KeyError),
    /// No such key.
    #[error("the key is unknown or was revoked; make a new one, or check that it belongs to this server")]
    UnknownKey,
    /// The key's time is over.
    #[error("the key has expired; make a new one")]
    ExpiredKey,
    /// An agent's key where a caller's is wanted.
    #[error("an agent's key (ak-) only connects agents; use a key that starts with sk- or dk-, or an access token")]
    AgentKey,
    /// Some other kind of credential where an agent's key is wanted.
    #[error("an agent connects with an agent's key, which starts with ak-")]
    NotAgentKey,
    /// A key where a signed-in user is wanted.
    #[error("this needs a signed-in user; send an access token from POST /api/v1/auth/login, not a key")]
    UserRequired,
    /// The access token is refused.
    #[error("{0}")]
    Token(TokenError),
    /// A call with an access token did not say which team it is about.
    #[error("send the team's id in the X-Team-ID header; an access token alone does not say which team is meant")]
    TeamRequired,
    /// `X-Team-ID` is not an id.
    #[error("the X-Team-ID header must hold one team id, a UUID such as 01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77")]
    InvalidTeam,
    /// The user is not in the team.
    #[error("you are not a member of this team; check the X-Team-ID header or ask to be invited")]
    NotInTeam,
}

impl AuthError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TeamRequired => ErrorCode::TeamRequired,
            Self::InvalidTeam => ErrorCode::InvalidParameter,
            Self::NotInTeam => ErrorCode::NotInTeam,
            _ => ErrorCode::Unauthenticated,
        }
    }

    /// The value of `WWW-Authenticate` that belongs to the answer (RFC 6750 §3); only a 401 has one.
    #[must_use]
    pub fn challenge(&self) -> Option<HeaderValue> {
        match (self.code(), self) {
            (ErrorCode::Unauthenticated, Self::Missing) => Some(HeaderValue::from_static("Bearer realm=\"towline\"")),
            (ErrorCode::Unauthenticated, Self::Malformed) => {
                Some(HeaderValue::from_static("Bearer realm=\"towline\", error=\"invalid_request\""))
            }
            (ErrorCode::Unauthenticated, _) => Some(Self::challenge_for_revoked()),
            _ => None,
        }
    }

    /// The challenge to a credential that was good and is not any more.
    pub(crate) const fn challenge_for_revoked() -> HeaderValue {
        HeaderValue::from_static("Bearer realm=\"towline\", error=\"invalid_token\"")
    }

    /// The body of the answer.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::new(self.code(), self.to_string())
    }
}

/// A credential as it was sent, and where.
struct Presented<'a> {
    text: &'a str,
    header: HeaderName,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Finds out who sent a request about a team's things.
///
/// # Errors
/// When no valid credential was sent, or none for the team that the request names.
pub fn authenticate(headers: &HeaderMap, authority: Authority<'_>) -> Result<Authenticated, AuthError> {
    let presented = presented(headers)?;
    let principal = match KeyKind::of(presented.text) {
        Some(KeyKind::Agent) => return Err(AuthError::AgentKey),
        Some(kind) => principal_of_key(find_key(presented.text, kind, authority)?, authority)?,
        None => principal_of_token(presented.text, headers, authority)?,
    };
    Ok(Authenticated { principal, consumed: presented.header })
}

/// Finds out which user sent a request that is not about a team; only an access token says that.
///
/// # Errors
/// When no valid access token was sent.
pub fn authenticate_user(headers: &HeaderMap, authority: Authority<'_>) -> Result<UserId, AuthError> {
    let presented = presented(headers)?;
    if KeyKind::of(presented.text).is_some() {
        return Err(AuthError::UserRequired);
    }
    authority.tokens.verify(presented.text, authority.now).map_err(AuthError::Token)
}

/// Finds the agent's key that a session is opened with.
///
/// # Errors
/// When no valid agent's key was sent.
pub fn authenticate_agent<'a>(headers: &HeaderMap, authority: Authority<'a>) -> Result<&'a Credential, AuthError> {
    let presented = presented(headers)?;
    match KeyKind::of(presented.text) {
        Some(KeyKind::Agent) => find_key(presented.text, KeyKind::Agent, authority),
        _ => Err(AuthError::NotAgentKey),
    }
}

/// The credential in the headers. Other headers that may carry one are looked at here, in the order of contract §6.
fn presented(headers: &HeaderMap) -> Result<Presented<'_>, AuthError> {
    let text = bearer(headers)?;
    Ok(Presented { text, header: header::AUTHORIZATION })
}

/// The word after `Bearer` in the only `Authorization` header (RFC 6750 §2.1).
///
/// # Errors
/// When there is none, more than one, or one of another form.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::Malformed);
    }
    let text = value.to_str().map_err(|_| AuthError::Malformed)?;
    let (scheme, rest) = text.split_once(' ').ok_or(AuthError::Malformed)?;
    let word = rest.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || word.is_empty() || word.contains([' ', '\t', ',']) {
        return Err(AuthError::Malformed);
    }
    Ok(word)
}

fn find_key<'a>(text: &str, kind: KeyKind, authority: Authority<'a>) -> Result<&'a Credential, AuthError> {
    let Some(credential) = authority.credentials.key(&KeyHash::of(text)) else {
        // Only now is it worth knowing whether the text could be a key at all.
        return Err(RawKey::parse(text).map_or_else(AuthError::Mistyped, |_| AuthError::UnknownKey));
    };
    if credential.kind != kind {
        return Err(AuthError::UnknownKey);
    }
    if credential.is_expired(authority.now) {
        return Err(AuthError::ExpiredKey);
    }
    Ok(credential)
}

fn principal_of_key(credential: &Credential, authority: Authority<'_>) -> Result<Principal, AuthError> {
    let team_id = credential.team_id;
    match (credential.kind, credential.user_id) {
        (KeyKind::Integration, _) => {
            Ok(Principal::Integration { credential_id: credential.id, team_id, scopes: credential.scopes.clone() })
        }
        (KeyKind::Device, Some(user_id)) => {
            // A removed member's device keys die with the membership.
            let role = authority.credentials.role(user_id, team_id).ok_or(AuthError::UnknownKey)?;
            Ok(Principal::Device { credential_id: credential.id, user_id, team_id, role })
        }
        (KeyKind::Device, None) => Err(AuthError::UnknownKey),
        (KeyKind::Agent, _) => Err(AuthError::AgentKey),
    }
}

fn principal_of_token(text: &str, headers: &HeaderMap, authority: Authority<'_>) -> Result<Principal, AuthError> {
    let user_id = authority.tokens.verify(text, authority.now).map_err(AuthError::Token)?;
    let team_id = team_of(headers)?;
    let role = authority.credentials.role(user_id, team_id).ok_or(AuthError::NotInTeam)?;
    Ok(Principal::User { user_id, team_id, role })
}

fn team_of(headers: &HeaderMap) -> Result<TeamId, AuthError> {
    let mut values = headers.get_all(X_TEAM_ID).iter();
    let value = values.next().ok_or(AuthError::TeamRequired)?;
    if values.next().is_some() {
        return Err(AuthError::InvalidTeam);
    }
    value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or(AuthError::InvalidTeam)
}
