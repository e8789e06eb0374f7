//! What is told to users as a service's events: the kinds, and how one is written down.

use serde::{Deserialize, Serialize};
use towline_model::{InstanceId, ServiceId, TeamId, Timestamp};
use towline_store::EventRow;
use uuid::Uuid;

/// The longest message, in bytes; agents' words are cut to it.
const MAX_MESSAGE_BYTES: usize = 2000;

/// What kind of event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The service was defined.
    Created,
    /// Its definition was changed.
    Updated,
    /// A deploy was asked for.
    DeployRequested,
    /// A restart was asked for.
    RestartRequested,
    /// An undeploy was asked for.
    UndeployRequested,
    /// An instance got its place.
    Placed,
    /// An agent gets the image of an instance.
    Pulling,
    /// An instance's container has started.
    Starting,
    /// An instance takes requests.
    Ready,
    /// An instance fails its health probe.
    Unhealthy,
    /// An instance's container ended or could not be started; the agent will try again.
    BackingOff,
    /// An instance is asked to stop.
    Stopping,
    /// An instance is gone.
    Gone,
    /// A deploy serves callers.
    Running,
    /// A deploy has failed.
    Failed,
    /// The service has stopped.
    Stopped,
}

impl EventKind {
    /// The name in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::DeployRequested => "deploy_requested",
            Self::RestartRequested => "restart_requested",
            Self::UndeployRequested => "undeploy_requested",
            Self::Placed => "placed",
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::BackingOff => "backing_off",
            Self::Stopping => "stopping",
            Self::Gone => "gone",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// The service that an event is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) team_id: TeamId,
    pub(crate) service_id: ServiceId,
}

impl Subject {
    /// An event about the service, or about one instance of it.
    pub(crate) fn event(
        self,
        kind: EventKind,
        message: impl Into<String>,
        instance_id: Option<InstanceId>,
        at: Timestamp,
    ) -> EventRow {
        EventRow {
            id: Uuid::now_v7(),
            team_id: self.team_id,
            service_id: self.service_id,
            at,
            kind: kind.as_str().to_owned(),
            message: cut(message.into(), MAX_MESSAGE_BYTES),
            instance_id,
        }
    }
}

/// Cuts a text to so many bytes, between characters, and takes out NUL, which PostgreSQL does not store.
pub(crate) fn cut(mut text: String, max_bytes: usize) -> String {
    text.retain(|c| c != '\0');
    if text.len() > max_bytes {
        let end = (0..=max_bytes).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
