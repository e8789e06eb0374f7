//! The words and rules of Towline.
//!
//! Everything here is a value or a pure function: typed ids, the service definition and its validation, the states and
//! their transitions, who may do what, the format of keys, the list of error codes. There is no I/O, no clock and no
//! randomness that is not passed in. All other crates speak in these types; this crate knows none of them.

pub mod access;
pub mod audit;
pub mod clock;
pub mod error_code;
pub mod id;
pub mod image;
pub mod instance;
pub mod key;
pub mod problem;
pub mod secret;
pub mod secret_use;
pub mod service;
pub mod status;
pub mod validate;

pub use access::{Action, Principal, Role, Scope};
pub use audit::AuditAction;
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error_code::ErrorCode;
pub use id::{
    AgentId, CredentialId, InstanceId, InvitationId, PairingId, RequestId, SecretId, ServiceId, SessionId, SignInId,
    TeamId, UserId,
};
pub use instance::InstancePhase;
pub use key::{KeyHash, KeyKind, RawKey};
pub use problem::Problem;
pub use secret::Secret;
pub use service::{ServiceSpec, ServiceType};
pub use status::{Command, ServiceStatus};
pub use validate::{FieldError, ValidationError};
