//! What a stream is opened to. A target names an instance, never a host and a port, so that a gateway in wrong hands
//! cannot look around in the agent's network.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use towline_model::{InstanceId, Timestamp};
use uuid::Uuid;

use crate::end::ProtocolError;

const KIND_INSTANCE: u8 = 1;
const KIND_LOGS: u8 = 2;

/// What a stream is opened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenTarget {
    /// A connection to the instance's port.
    Instance(InstanceId),
    /// The instance's log lines, oldest first, ended by `\n` each. Only the agent sends.
    Logs(LogsRequest),
}

/// Which log lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// The instance.
    pub instance: InstanceId,
    /// Only the last so many lines of those that are there.
    #[serde(default)]
    pub tail: Option<u32>,
    /// Only lines written at or after this moment.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Whether to go on with new lines until the container ends.
    #[serde(default)]
    pub follow: bool,
}

impl OpenTarget {
    /// Appends the payload of an OPEN frame.
    pub(crate) fn encode(&self, payload: &mut BytesMut) {
        match self {
            Self::Instance(instance) => {
                payload.put_u8(KIND_INSTANCE);
                payload.put_slice(instance.as_uuid().as_bytes());
            }
            Self::Logs(request) => {
                payload.put_u8(KIND_LOGS);
                let text = serde_json::to_vec(request).expect("a struct of plain fields always serialises");
                payload.put_slice(&text);
            }
        }
    }

    /// Reads the payload of an OPEN frame. `Ok(None)` when the kind of target is not known here.
    pub(crate) fn decode(payload: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let malformed = ProtocolError::Malformed("OPEN");
        let (&kind, rest) = payload.split_first().ok_or(malformed)?;
        match kind {
            KIND_INSTANCE => {
                let id = rest.first_chunk::<16>().ok_or(malformed)?;
                Ok(Some(Self::Instance(InstanceId::from_uuid(Uuid::from_bytes(*id)))))
            }
            KIND_LOGS => serde_json::from_slice(rest).map(|request| Some(Self::Logs(request))).map_err(|_| malformed),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(target: &OpenTarget) {
        let mut payload = BytesMut::new();
        target.encode(&mut payload);
        assert_eq!(OpenTarget::decode(&payload), Ok(Some(target.clone())));
    }

    #[test]
    fn targets_survive_the_wire() {
        let instance = InstanceId::generate();
        round_trip(&OpenTarget::Instance(instance));
        round_trip(&OpenTarget::Logs(LogsRequest { instance, tail: None, since: None, follow: true }));
        let since = Timestamp::parse("2026-11-24T09:30:00Z");
        round_trip(&OpenTarget::Logs(LogsRequest { instance, tail: Some(10), since, follow: false }));
    }

    #[test]
    fn unknown_kinds_are_told_apart_from_broken_ones() {
        assert_eq!(OpenTarget::decode(&[9, 1, 2]), Ok(None));
        assert!(OpenTarget::decode(&[]).is_err());
        assert!(OpenTarget::decode(&[KIND_INSTANCE, 1, 2]).is_err());
        assert!(OpenTarget::decode(b"\x02{").is_err());
    }
}
