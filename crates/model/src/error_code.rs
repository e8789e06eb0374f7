//! The one list of error codes: what clients may match on.

use serde::{Deserialize, Serialize, Serializer};

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $status:literal;)*) => {
        /// A stable, machine-readable reason for an error answer. Codes are added, never renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the printed list.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as clients see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status that it is answered with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// One sentence about the code, for lists and titles.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

error_codes! {
    /// The request's body is not the JSON that was expected.
    MalformedBody = "malformed_body", 400;
    /// A field has a value that is not allowed.
    ValidationFailed = "validation_failed", 400;
    /// A parameter of the query or a header is wrong.
    InvalidParameter = "invalid_parameter", 400;
    /// The request breaks HTTP or names no target.
    MalformedRequest = "malformed_request", 400;
    /// A call with a user's token did not say which team it is about.
    TeamRequired = "team_required", 400;
    /// The service is not running, so it cannot be called.
    ServiceNotRunning = "service_not_running", 400;
    /// No credential was sent, or it is unknown, revoked or expired.
    Unauthenticated = "unauthenticated", 401;
    /// The e-mail address or the password is wrong.
    InvalidLogin = "invalid_login", 401;
    /// The credential is valid but may not do this.
    Forbidden = "forbidden", 403;
    /// The user is not in the team.
    NotInTeam = "not_in_team", 403;
    /// There is no such thing in this team.
    NotFound = "not_found", 404;
    /// The path exists, but not for this method.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The thing's current status does not allow this.
    InvalidState = "invalid_state", 409;
    /// No agent that is online can take an instance of the service.
    NoEligibleAgent = "no_eligible_agent", 409;
    /// The name is already taken in this team.
    AlreadyExists = "already_exists", 409;
    /// A secret that the service needs cannot be opened.
    SecretUnreadable = "secret_unreadable", 409;
    /// The stored definition of the service cannot be read by this version of Towline.
    DefinitionUnreadable = "definition_unreadable", 409;
    /// The secret is referred to by a service, so it cannot be deleted.
    SecretInUse = "secret_in_use", 409;
    /// Somebody else changed the thing at the same moment.
    ConcurrentChange = "concurrent_change", 409;
    /// A request with this Idempotency-Key is under way, or was cut off.
    IdempotencyKeyInUse = "idempotency_key_in_use", 409;
    /// The request with this Idempotency-Key was carried out, and its answer is shown only once.
    IdempotencyKeyUsed = "idempotency_key_used", 409;
    /// The thing was changed since it was read.
    PreconditionFailed = "precondition_failed", 412;
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413;
    /// The body's content type is not the expected one.
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// This Idempotency-Key was used for another request.
    IdempotencyKeyReused = "idempotency_key_reused", 422;
    /// The agent speaks no protocol version that this server speaks.
    UpgradeRequired = "upgrade_required", 426;
    /// Too many requests; wait before the next one.
    RateLimited = "rate_limited", 429;
    /// The request's headers are larger than the limit.
    HeadersTooLarge = "headers_too_large", 431;
    /// Something failed inside Towline.
    Internal = "internal", 500;
    /// The protocol that was asked for inside HTTP/2 is not passed on, or not taken by the container.
    ProtocolNotSupported = "protocol_not_supported", 501;
    /// The identity provider cannot be reached or does not answer as it should.
    IdentityProviderFailed = "identity_provider_failed", 502;
    /// The agent or the tunnel failed while talking to the container.
    TunnelFailed = "tunnel_failed", 502;
    /// The container closed or reset the connection, or refused it.
    UpstreamFailed = "upstream_failed", 502;
    /// The agent may not connect to where the service is.
    EgressDenied = "egress_denied", 502;
    /// The external server's certificate does not prove who it is.
    TlsCertificateError = "tls_certificate_error", 502;
    /// The external server does not speak TLS that is understood here.
    TlsProtocolError = "tls_protocol_error", 502;
    /// The container broke HTTP.
    UpstreamProtocolError = "upstream_protocol_error", 502;
    /// The container did not answer in time.
    UpstreamTimeout = "upstream_timeout", 502;
    /// The container's answer is larger than an invoke may carry.
    ResponseTooLarge = "response_too_large", 502;
    /// The service is running, but none of its instances is ready.
    NoReadyInstance = "no_ready_instance", 503;
    /// The service has as many requests as it takes at a time, and as many wait for it as may.
    ServiceBusy = "service_busy", 503;
    /// The service is running, but no online agent can reach a ready instance.
    AgentUnreachable = "agent_unreachable", 503;
    /// The server holds as much for calls of this kind as it may at a time.
    ServerBusy = "server_busy", 503;
    /// The server is starting or stopping, or its database does not answer.
    Unavailable = "unavailable", 503;
    /// The request's version of HTTP is not spoken here.
    VersionNotSupported = "http_version_not_supported", 505;
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == name)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown error code {name}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ErrorCode;

    #[test]
    fn codes_are_unique_snake_case_and_explained() {
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code:?}");
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(code.title().ends_with('.') && !code.title().starts_with(' '), "{:?}", code.title());
        }
    }
}
