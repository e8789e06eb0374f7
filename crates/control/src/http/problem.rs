//! Every error answer of the management API, and how the errors of the verbs become one.
//!
//! An [`ApiError`] travels as an extension of an empty response; the outermost layer, which knows the request's id, turns
//! it into the body. What is inside an error of the database is logged there and never told.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use towline_gateway::{AuthError, GatewayError};
use towline_model::{ErrorCode, Problem, ValidationError};
use towline_store::StoreError;

use crate::app::{
    credential::CredentialError,
    invitation::InvitationError,
    log::LogsError,
    oidc::OidcSignInError,
    pairing::PairingError,
    secret::SecretError,
    service::ServiceError,
    sign_in::{RefreshError, SignInError},
    team::TeamError,
    user::UserError,
};
use crate::{oidc::OidcError, rate_limit::TooMany};

/// An error answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    problem: Box<Problem>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// What a handler returns.
pub type ApiResult<T> = Result<T, ApiError>;

/// The body of an error answer, on its way to the outermost layer.
#[derive(Debug, Clone)]
pub(super) struct PendingProblem(pub(super) Problem);

impl ApiError {
    /// An error of this kind, in a sentence that says what to do next.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Problem::new(code, message).into()
    }

    /// A parameter of the path, the query or a header is wrong.
    pub fn invalid_parameter(name: &str, message: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::InvalidParameter, format!("{name}: {message}"))
    }

    /// Something is wrong inside. What it is goes to the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            ErrorCode::Internal,
            "something failed inside Towline; try again, and if it stays, tell whoever runs the server the request_id",
        )
    }

    /// Too many passwords are being checked at this moment.
    fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::RateLimited, message).with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Whoever asks is nobody (any more).
    fn unauthenticated(message: impl Into<String>) -> Self {
        Self::challenging(ErrorCode::Unauthenticated, message)
    }

    /// A 401, which always says what is expected (RFC 9110 §15.5.2).
    fn challenging(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(code, message)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"towline\""))
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(PendingProblem(*self.problem));
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), header: None }
    }
}

impl From<ValidationError> for ApiError {
    fn from(error: ValidationError) -> Self {
        Problem::from(error).into()
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let api_error = Self::from(error.problem());
        match error.challenge() {
            Some(challenge) => api_error.with_header(header::WWW_AUTHENTICATE, challenge),
            None => api_error,
        }
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let api_error = Self::from(error.problem());
        match error.retry_after() {
            Some(seconds) => api_error.with_header(header::RETRY_AFTER, seconds),
            None => api_error,
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Concurrent => Self::new(
                ErrorCode::ConcurrentChange,
                "somebody else changed this at the same moment; read it again and repeat your change",
            ),
            StoreError::Unavailable(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the database is not available");
                Self::new(ErrorCode::Unavailable, "the server's database does not answer; try again shortly")
                    .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
                Self::internal()
            }
        }
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::Invalid(error) => error.into(),
            ServiceError::SlugTaken { .. } => Self::new(ErrorCode::AlreadyExists, message),
            ServiceError::NotFound => Self::new(ErrorCode::NotFound, message),
            ServiceError::WrongStatus { .. } => Self::new(ErrorCode::InvalidState, message),
            ServiceError::Changed(_) => Self::new(ErrorCode::PreconditionFailed, message),
            ServiceError::NoEligibleAgent(_) => Self::new(ErrorCode::NoEligibleAgent, message),
            ServiceError::SecretClosed(_) => Self::new(ErrorCode::SecretUnreadable, message),
            ServiceError::Unreadable(_) => Self::new(ErrorCode::DefinitionUnreadable, message),
            ServiceError::Store(error) => error.into(),
        }
    }
}

impl From<CredentialError> for ApiError {
    fn from(error: CredentialError) -> Self {
        let message = error.to_string();
        match error {
            CredentialError::Invalid(error) => error.into(),
            CredentialError::NotFound => Self::new(ErrorCode::NotFound, message),
            CredentialError::Store(error) => error.into(),
        }
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        let message = error.to_string();
        match error {
            SecretError::Invalid(error) => error.into(),
            SecretError::NameTaken { .. } => Self::new(ErrorCode::AlreadyExists, message),
            SecretError::NotFound => Self::new(ErrorCode::NotFound, message),
            SecretError::Changed(_) => Self::new(ErrorCode::PreconditionFailed, message),
            SecretError::InUse(_) => Self::new(ErrorCode::SecretInUse, message),
            SecretError::Store(error) => error.into(),
        }
    }
}

impl From<TooMany> for ApiError {
    fn from(error: TooMany) -> Self {
        Self::new(ErrorCode::RateLimited, error.to_string())
            .with_header(header::RETRY_AFTER, HeaderValue::from(error.seconds()))
    }
}

impl From<SignInError> for ApiError {
    fn from(error: SignInError) -> Self {
        let message = error.to_string();
        match error {
            SignInError::Wrong => Self::challenging(ErrorCode::InvalidLogin, message),
            SignInError::Busy(_) => Self::busy(message),
            SignInError::TooMany(error) => error.into(),
            SignInError::Store(error) => error.into(),
        }
    }
}

impl From<RefreshError> for ApiError {
    fn from(error: RefreshError) -> Self {
        let message = error.to_string();
        match error {
            RefreshError::Refused => Self::unauthenticated(message),
            RefreshError::Store(error) => error.into(),
        }
    }
}

impl From<TeamError> for ApiError {
    fn from(error: TeamError) -> Self {
        let message = error.to_string();
        match error {
            TeamError::Invalid(error) => error.into(),
            TeamError::NoSuchMember => Self::new(ErrorCode::NotFound, message),
            TeamError::NotAllowed(_) => Self::new(ErrorCode::Forbidden, message),
            TeamError::OneOwner(_) => Self::new(ErrorCode::InvalidState, message),
            TeamError::Changed(_) => Self::new(ErrorCode::PreconditionFailed, message),
            TeamError::NotInTeam => Self::new(ErrorCode::NotInTeam, message),
            TeamError::NoSuchUser => Self::unauthenticated(message),
            TeamError::Store(error) => error.into(),
        }
    }
}

impl From<InvitationError> for ApiError {
    fn from(error: InvitationError) -> Self {
        let message = error.to_string();
        match error {
            InvitationError::Invalid(error) => error.into(),
            InvitationError::AlreadyInvited | InvitationError::AlreadyMember | InvitationError::HasAccount => {
                Self::new(ErrorCode::AlreadyExists, message)
            }
            InvitationError::NotFound | InvitationError::BadToken => Self::new(ErrorCode::NotFound, message),
            InvitationError::OtherAddress => Self::new(ErrorCode::Forbidden, message),
            InvitationError::Busy(_) => Self::busy(message),
            InvitationError::Team(error) => error.into(),
            InvitationError::Store(error) => error.into(),
        }
    }
}

impl From<OidcSignInError> for ApiError {
    fn from(error: OidcSignInError) -> Self {
        let message = error.to_string();
        match error {
            OidcSignInError::NotConfigured => Self::new(ErrorCode::NotFound, message),
            OidcSignInError::NotInvited(_) | OidcSignInError::Oidc(OidcError::Unverified) => {
                Self::new(ErrorCode::Forbidden, message)
            }
            OidcSignInError::Oidc(error @ OidcError::NotConfirmed(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a sign-in was not confirmed");
                Self::unauthenticated(message)
            }
            OidcSignInError::Oidc(error @ OidcError::Provider(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the identity provider cannot be used");
                Self::new(ErrorCode::IdentityProviderFailed, message)
            }
            // The same person, twice at once for the first time.
            OidcSignInError::Store(StoreError::Conflict { .. }) => StoreError::Concurrent.into(),
            OidcSignInError::Store(error) => error.into(),
        }
    }
}

impl From<PairingError> for ApiError {
    fn from(error: PairingError) -> Self {
        let message = error.to_string();
        match error {
            PairingError::Invalid(error) => error.into(),
            PairingError::UnknownDeviceCode | PairingError::UnknownUserCode => Self::new(ErrorCode::NotFound, message),
            PairingError::Full(wait) | PairingError::TooManyWrongCodes(wait) => {
                Self::new(ErrorCode::RateLimited, message)
                    .with_header(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)))
            }
            PairingError::Team(error) => error.into(),
            PairingError::Store(error) => error.into(),
        }
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        let message = error.to_string();
        match error {
            UserError::Invalid(error) => error.into(),
            UserError::NoSuchUser => Self::unauthenticated(message),
            UserError::Changed(_) => Self::new(ErrorCode::PreconditionFailed, message),
            UserError::WrongPassword => Self::new(ErrorCode::Forbidden, message),
            UserError::Busy(_) => Self::busy(message),
            UserError::Store(error) => error.into(),
        }
    }
}

impl From<LogsError> for ApiError {
    fn from(error: LogsError) -> Self {
        let message = error.to_string();
        match error {
            LogsError::NotFound | LogsError::UnknownInstance => Self::new(ErrorCode::NotFound, message),
            LogsError::NoContainer(_) => Self::new(ErrorCode::InvalidState, message),
            LogsError::Unreachable(_) => Self::new(ErrorCode::AgentUnreachable, message)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            LogsError::Store(error) => error.into(),
        }
    }
}
