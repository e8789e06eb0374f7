//! Everything that the gateway itself answers with an error.

use towline_model::{ErrorCode, ServiceStatus};

use crate::authenticate::AuthError;

/// Why the gateway, and not the container, answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// Nobody that the gateway knows.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Known, and not allowed.
    #[error("calling services needs the role member or above, or a key with the scope `invoke`")]
    Forbidden,
    /// No such service in the caller's team.
    #[error("there is no service {slug:?} in this team; GET /api/v1/r/containers lists those that there are")]
    ServiceNotFound {
        /// What was asked for.
        slug: String,
    },
    /// The service cannot be called in its status.
    #[error("the service {slug:?} is {}, not running; deploy it first", status.as_str())]
    ServiceNotRunning {
        /// The service.
        slug: String,
        /// Its status.
        status: ServiceStatus,
    },
    /// No agent has a session here, or none of its carriers takes a stream.
    #[error("no online agent can reach a ready instance of {slug:?}; try again shortly")]
    AgentUnreachable {
        /// The service.
        slug: String,
    },
}

impl GatewayError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Auth(error) => error.code(),
            Self::Forbidden => ErrorCode::Forbidden,
            Self::ServiceNotFound { .. } => ErrorCode::NotFound,
            Self::ServiceNotRunning { .. } => ErrorCode::ServiceNotRunning,
            Self::AgentUnreachable { .. } => ErrorCode::AgentUnreachable,
        }
    }
}
