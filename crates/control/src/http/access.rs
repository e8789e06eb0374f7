//! Who may use a route: the one place where requests are authenticated and authorised.
//!
//! A route names its [`Access`] when it is registered, there is no other way to register one. Its handler takes the
//! [`Caller`] or the [`SignedIn`] user that was found here.

use std::net::Ipv4Addr;

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{Method, request::Parts};
use towline_gateway::{AuthError, CallerAddr, RequestIdText, Standing};
use towline_model::{Action, ErrorCode, Principal, UserId};

use super::{extract::BodyLimit, idempotency, problem::ApiError};
use crate::app::{
    App,
    audit::{Origin, Sender, with_origin},
};

/// What a request needs to reach a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// Nothing; but if a credential is sent, it is an access token.
    Anybody,
    /// An access token; no team.
    SignedIn,
    /// A device's key.
    Device,
    /// A principal that may do this in its team.
    Team(Action),
}

/// As what the requests of a route are counted, so that there are not too many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// As requests of whoever makes them; where that is nobody known, of an address.
    Api,
    /// The same, and as attempts of an address to get in.
    SignIn,
    /// Not at all.
    None,
}

/// The principal of a request to a route of a team; it may do what the route needs.
#[derive(Debug, Clone)]
pub struct Caller(pub Principal);

/// The user of a request that is not about a team.
#[derive(Debug, Clone, Copy)]
pub struct SignedIn(pub UserId);

/// The user of a request that need not have one.
#[derive(Debug, Clone, Copy)]
pub struct MaybeSignedIn(pub Option<UserId>);

/// Lets a request through to its handler, or not. A request that changes something runs to its end even when its caller
/// goes away; one that only reads is dropped.
pub(super) async fn guard(
    State((app, access, limit)): State<(App, Access, Limit)>,
    mut request: Request,
    next: Next,
) -> Response {
    let sender = match admit_counted(&app, (access, limit), &mut request) {
        Ok(sender) => sender,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(BodyLimit(app.body_limit()));
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        let standing = request.extensions_mut().remove::<Standing>();
        // A sign-in that ends at an identity provider comes back as a GET, and is told like the others.
        let origin = origin(&request, sender);
        let mut response = with_origin(origin, next.run(request)).await;
        if let Some(standing) = standing {
            // An answer that goes on, such as a log that is followed, ends with what let its reader in.
            response.extensions_mut().insert(standing);
        }
        return response;
    }
    let scope = match &sender {
        Sender::Principal(principal) => Some(idempotency::scope_of(principal)),
        Sender::User(user_id) => Some(idempotency::scope_of_user(*user_id)),
        Sender::Unknown => None,
    };
    let origin = origin(&request, sender);
    let work = {
        let app = app.clone();
        async move {
            match scope.filter(|_| *request.method() == Method::POST) {
                Some(scope) => idempotency::once(app, scope, request, next).await,
                None => next.run(request).await,
            }
        }
    };
    match app.tasks().spawn(with_origin(origin, work)).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a handler did not end");
            ApiError::internal().into_response()
        }
    }
}

fn origin(request: &Request, sender: Sender) -> Origin {
    let extensions = request.extensions();
    Origin {
        sender,
        address: extensions.get::<CallerAddr>().map(|address| address.0),
        request_id: extensions.get::<RequestIdText>().map(|id| id.as_str().to_owned()),
    }
}

/// Looks who asks, and whether there is still room for one more request. A request that is refused counts as one of its
/// address, so that keys cannot be tried without end.
fn admit_counted(app: &App, (access, limit): (Access, Limit), request: &mut Request) -> Result<Sender, ApiError> {
    if limit == Limit::None {
        return admit(app, access, request);
    }
    let limits = app.rate_limits();
    let address = request.extensions().get::<CallerAddr>().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.0);
    if limit == Limit::SignIn {
        limits.sign_in_from(address)?;
    }
    let admitted = admit(app, access, request);
    match &admitted {
        Ok(Sender::Principal(principal)) => limits.api_of(principal)?,
        Ok(Sender::User(user_id)) => limits.api_of_user(*user_id)?,
        Ok(Sender::Unknown) | Err(_) => limits.api_from(address)?,
    }
    admitted
}

fn admit(app: &App, access: Access, request: &mut Request) -> Result<Sender, ApiError> {
    Ok(match access {
        Access::Public => Sender::Unknown,
        Access::Anybody => match app.gateway().authenticate_user(request.headers()) {
            Ok(user_id) => {
                request.extensions_mut().insert(MaybeSignedIn(Some(user_id)));
                Sender::User(user_id)
            }
            Err(AuthError::Missing) => {
                request.extensions_mut().insert(MaybeSignedIn(None));
                Sender::Unknown
            }
            Err(error) => return Err(error.into()),
        },
        Access::SignedIn => {
            let user_id = app.gateway().authenticate_user(request.headers())?;
            request.extensions_mut().insert(SignedIn(user_id));
            Sender::User(user_id)
        }
        Access::Device => {
            let principal = app.gateway().authenticate(request.headers())?.principal;
            if !matches!(principal, Principal::Device { .. }) {
                let advice = "this is for devices, about their own key; send the device's key, which starts with dk-";
                return Err(ApiError::new(ErrorCode::Forbidden, advice));
            }
            request.extensions_mut().insert(Caller(principal.clone()));
            Sender::Principal(principal)
        }
        Access::Team(action) => {
            let (principal, standing) = app.gateway().admit(request.headers())?;
            request.extensions_mut().insert(standing);
            authorize(&principal, action)?;
            request.extensions_mut().insert(Caller(principal.clone()));
            Sender::Principal(principal)
        }
    })
}

fn authorize(principal: &Principal, action: Action) -> Result<(), ApiError> {
    if principal.may(action) { Ok(()) } else { Err(ApiError::new(ErrorCode::Forbidden, advice(principal, action))) }
}

/// What somebody who may not do it can do about that.
fn advice(principal: &Principal, action: Action) -> String {
    let doing = in_words(action);
    match principal {
        Principal::User { role, .. } => {
            format!("your role in this team is {}, which does not allow {doing}", role.as_str())
        }
        Principal::Device { .. } => format!("a device's key does not allow {doing}; sign in"),
        Principal::Integration { services: Some(_), .. } if action == Action::CreateServices => {
            "this key is for the services on its list only and creates none; use another key, or sign in".to_owned()
        }
        Principal::Integration { .. } => {
            format!("this key's scopes do not allow {doing}; use another key, or sign in")
        }
    }
}

pub(super) const fn in_words(action: Action) -> &'static str {
    match action {
        Action::ReadServices => "looking at services",
        Action::ReadEnvValues => "seeing environment values",
        Action::CreateServices => "creating services",
        Action::ManageServices => "changing services",
        Action::InvokeServices => "calling services",
        Action::ReadAgents => "looking at agents",
        Action::ReadCredentials => "looking at keys",
        Action::ManageCredentials => "making or revoking keys",
        Action::PairDevices => "letting devices in",
        Action::ReadAudit => "reading the audit log",
        Action::ReadSecrets => "looking at secrets",
        Action::ManageSecrets => "storing, changing or deleting secrets",
        Action::ReadTeam => "looking at the team",
        Action::ReadMembers => "looking at the team's members",
        Action::ManageMembers => "changing or removing members",
        Action::ManageInvitations => "inviting people",
        Action::ManageTeam => "changing the team",
        Action::LeaveTeam => "leaving the team",
        Action::TransferTeam => "handing the team over, which only its owner can do",
        Action::DeleteTeam => "deleting the team, which only its owner can do",
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(misrouted)
    }
}

impl<S: Sync> FromRequestParts<S> for SignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().copied().ok_or_else(misrouted)
    }
}

impl<S: Sync> FromRequestParts<S> for MaybeSignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().copied().ok_or_else(misrouted)
    }
}

/// A handler wants somebody whom its route's [`Access`] does not look for.
fn misrouted() -> ApiError {
    tracing::error!("a route's access does not fit its handler");
    ApiError::internal()
}
