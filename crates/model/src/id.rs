//! Typed ids. Each kind of thing has an id type of its own, so that a team's id cannot be passed for a user's.
//!
//! Ids are UUIDv7 (RFC 9562 §5.7): they sort by creation time, which keeps database indexes dense and lists stable.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that was expected to be an id is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid id; ids are UUIDs such as 01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77")]
pub struct InvalidId(String);

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid, example = "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77")]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a new id from the current time and the process's random source.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps a UUID that is known to be an id of this kind.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The id as a UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId(text.chars().take(64).collect()))
            }
        }
    )*};
}

ids! {
    /// A team, the tenant.
    TeamId;
    /// A person.
    UserId;
    /// A service definition.
    ServiceId;
    /// One running copy of a service, placed on one agent.
    InstanceId;
    /// The process on a team's machine that runs containers.
    AgentId;
    /// A key of a team, a device or an agent.
    CredentialId;
    /// A sealed value that definitions refer to.
    SecretId;
    /// A person's invitation to a team.
    InvitationId;
    /// One sign-in of one user, from the password to its sign-out, through all tokens in between.
    SignInId;
    /// A device that waits to be let in.
    PairingId;
    /// One control connection of one agent to one gateway.
    SessionId;
    /// One request, as answered in `X-Request-Id`.
    RequestId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_sort_by_time() {
        let first = TeamId::generate();
        let second = TeamId::generate();
        assert!(first < second);
        assert_eq!(first.to_string().parse(), Ok(first));
    }

    #[test]
    fn a_wrong_id_says_what_an_id_is() {
        let error = "nonsense".parse::<ServiceId>().unwrap_err();
        assert!(error.to_string().contains("UUID"), "{error}");
    }
}
