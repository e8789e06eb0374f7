//! Who asks: the one place that turns headers into a [`Principal`], for the request path and the management API alike.
//!
//! Everything is decided from memory: keys by one hash and one look-up, tokens by their signature. The caller of
//! [`authenticate`] learns which header opened the door, because exactly that one is removed before a container sees
//! the request.

use http::{HeaderName, HeaderValue};
use towline_model::{ErrorCode, KeyKind, Principal, Problem, RawKey, TeamId, Timestamp, UserId, key::KeyError};

use crate::{
    access_token::{AccessTokens, TokenError, TokenHolder},
    fields::Headers,
    presented::{self, Doors},
    seen_keys,
    snapshot::{Credential, CredentialTable},
    tickets::{Holder, Permit},
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
    /// `Authorization` was sent more than once, or is not `Bearer` and one word, nor `Basic` with a key.
    #[error("the Authorization header must be `Bearer <key>`, or for calls `Basic` with a key as password, sent once")]
    Malformed,
    /// `X-Towline-Key` was sent more than once, or is not one word.
    #[error("the X-Towline-Key header must hold one key or access token and nothing else, and be sent once")]
    MalformedKeyHeader,
    /// A vendor's header with a key has several lines.
    #[error("the {} header holds a key and is sent more than once; send it once", presented::shown(header))]
    Repeated {
        /// The header.
        header: HeaderName,
    },
    /// A key of this server would be passed on.
    #[error(
        "there is a second key of this server in the {} header, which would reach the container; send one key, or send \
         it as X-Towline-Key to have all other headers passed on as they are",
        presented::shown(header)
    )]
    Ambiguous {
        /// The header that would be passed on.
        header: HeaderName,
    },
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
    /// A ticket that opens nothing (any more).
    #[error(
        "the ticket was used already, is older than 30 seconds, is for another service, or its holder may not use it \
        any more; get a new one with POST /api/v1/r/containers/{{slug}}/ticket for each WebSocket"
    )]
    UnknownTicket,
    /// A ticket where no WebSocket is opened.
    #[error("a ticket opens a WebSocket and nothing else; send a key or an access token with this request")]
    TicketElsewhere,
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
            Self::Ambiguous { .. } => ErrorCode::MalformedRequest,
            _ => ErrorCode::Unauthenticated,
        }
    }

    /// The value of `WWW-Authenticate` that belongs to the answer (RFC 6750 §3); only a 401 has one.
    #[must_use]
    pub fn challenge(&self) -> Option<HeaderValue> {
        match (self.code(), self) {
            (ErrorCode::Unauthenticated, Self::Missing) => Some(HeaderValue::from_static("Bearer realm=\"towline\"")),
            (ErrorCode::Unauthenticated, Self::Malformed | Self::MalformedKeyHeader | Self::Repeated { .. }) => {
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

/// Finds out who sent a request about a team's things.
///
/// # Errors
/// When no valid credential was sent, or none for the team that the request names.
pub(crate) fn authenticate(
    headers: &impl Headers,
    doors: Doors,
    authority: Authority<'_>,
) -> Result<Authenticated, AuthError> {
    let presented = presented::find(headers, doors, authority)?;
    let text = presented.text();
    let principal = match KeyKind::of(text) {
        Some(KeyKind::Agent) => return Err(AuthError::AgentKey),
        Some(kind) => use_key(find_key(text, kind, authority)?, authority)?,
        None => principal_of_token(text, headers, authority)?,
    };
    Ok(Authenticated { principal, consumed: presented.header })
}

/// Finds out which user sent a request that is not about a team; only an access token says that.
///
/// # Errors
/// When no valid access token was sent.
pub(crate) fn authenticate_user(headers: &impl Headers, authority: Authority<'_>) -> Result<UserId, AuthError> {
    let presented = presented::find(headers, Doors::Api, authority)?;
    if KeyKind::of(presented.text()).is_some() {
        return Err(AuthError::UserRequired);
    }
    Ok(holder_of_token(presented.text(), authority)?.user_id)
}

/// Finds the agent's key that a session is opened with.
///
/// # Errors
/// When no valid agent's key was sent.
pub(crate) fn authenticate_agent<'a>(
    headers: &impl Headers,
    authority: Authority<'a>,
) -> Result<&'a Credential, AuthError> {
    let text = presented::bearer(headers)?;
    match KeyKind::of(text) {
        Some(KeyKind::Agent) => {
            find_key(text, KeyKind::Agent, authority).inspect(|key| key.last_use.note(authority.now))
        }
        _ => Err(AuthError::NotAgentKey),
    }
}

fn find_key<'a>(text: &str, kind: KeyKind, authority: Authority<'a>) -> Result<&'a Credential, AuthError> {
    let Some(credential) = seen_keys::look_up(text, |hash| authority.credentials.key(hash)) else {
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

/// Who comes with a key; notes that it was used.
fn use_key(credential: &Credential, authority: Authority<'_>) -> Result<Principal, AuthError> {
    principal_of_key(credential, authority).inspect(|_| credential.last_use.note(authority.now))
}

fn principal_of_key(credential: &Credential, authority: Authority<'_>) -> Result<Principal, AuthError> {
    let team_id = credential.team_id;
    match (credential.kind, credential.user_id) {
        (KeyKind::Integration, _) => {
            let (scopes, services) = (credential.scopes.clone(), credential.services.clone());
            Ok(Principal::Integration { credential_id: credential.id, team_id, scopes, services })
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

/// Who holds a ticket, as things are now.
pub(crate) fn principal_of_permit(permit: &Permit, authority: Authority<'_>) -> Result<Principal, AuthError> {
    let team_id = permit.team_id;
    match permit.holder {
        Holder::User(TokenHolder { user_id, sign_in }) => {
            let role = authority.credentials.role(user_id, team_id);
            let role = role.filter(|_| !authority.credentials.has_ended(sign_in)).ok_or(AuthError::UnknownTicket)?;
            Ok(Principal::User { user_id, team_id, role, sign_in })
        }
        Holder::Key(id) => {
            let key = authority.credentials.key_of(id).filter(|key| !key.is_expired(authority.now));
            use_key(key.ok_or(AuthError::UnknownTicket)?, authority)
        }
    }
}

fn principal_of_token(text: &str, headers: &impl Headers, authority: Authority<'_>) -> Result<Principal, AuthError> {
    let TokenHolder { user_id, sign_in } = holder_of_token(text, authority)?;
    let team_id = team_of(headers)?;
    let role = authority.credentials.role(user_id, team_id).ok_or(AuthError::NotInTeam)?;
    Ok(Principal::User { user_id, team_id, role, sign_in })
}

fn holder_of_token(text: &str, authority: Authority<'_>) -> Result<TokenHolder, AuthError> {
    let holder = authority.tokens.verify(text, authority.now).map_err(AuthError::Token)?;
    if authority.credentials.has_ended(holder.sign_in) { Err(AuthError::Token(TokenError::Ended)) } else { Ok(holder) }
}

fn team_of(headers: &impl Headers) -> Result<TeamId, AuthError> {
    let mut values = headers.get_all(X_TEAM_ID);
    let value = values.next().ok_or(AuthError::TeamRequired)?;
    if values.next().is_some() {
        return Err(AuthError::InvalidTeam);
    }
    value.to_str().and_then(|text| text.trim().parse().ok()).ok_or(AuthError::InvalidTeam)
}
