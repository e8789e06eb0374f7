//! What is known of one running copy of a service.

use serde::{Deserialize, Serialize};

/// How far an instance is, as its agent last reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstancePhase {
    /// Wished, but not yet taken up by an agent.
    Pending,
    /// The agent is getting the image.
    Pulling,
    /// The container is being made or has started, and has not yet passed its health probe.
    Starting,
    /// The container passes its health probe and takes requests.
    Ready,
    /// The container was ready and now fails its health probe; it takes no requests.
    Unhealthy,
    /// The container ended by itself or could not be started; the agent waits before it tries again.
    BackingOff,
    /// The container is being stopped.
    Stopping,
}

impl InstancePhase {
    /// Every phase.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Pulling, Self::Starting, Self::Ready, Self::Unhealthy, Self::BackingOff, Self::Stopping];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::BackingOff => "backing_off",
            Self::Stopping => "stopping",
        }
    }

    /// The phase of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}
