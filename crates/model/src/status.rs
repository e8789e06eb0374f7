//! The lifecycle of a service: `created → deploying → running → stopping → stopped`, and `failed`.

use serde::{Deserialize, Serialize};

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStatus {
    /// Defined, never deployed.
    Created,
    /// On its way to a first ready instance.
    Deploying,
    /// Wished to run, and has had a ready instance since the deploy. The only status in which it can be called.
    Running,
    /// Draining requests in flight and ending its instances.
    Stopping,
    /// Has no instance, by wish.
    Stopped,
    /// The last deploy reached no ready instance.
    Failed,
}

impl ServiceStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Deploying, Self::Running, Self::Stopping, Self::Stopped, Self::Failed];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Deploying => "deploying",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether a user's command is accepted in this status.
    #[must_use]
    pub const fn accepts(self, command: Command) -> bool {
        use ServiceStatus::{Created, Deploying, Failed, Running, Stopped, Stopping};
        match command {
            Command::Deploy => matches!(self, Created | Stopped | Failed | Running),
            Command::Undeploy => matches!(self, Deploying | Running | Failed),
            Command::Restart => matches!(self, Running),
            Command::Update => !matches!(self, Deploying | Stopping),
            Command::Delete => matches!(self, Created | Stopped | Failed),
        }
    }
}

/// What a user can ask of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Run the current definition.
    Deploy,
    /// Stop running.
    Undeploy,
    /// Replace every instance by a fresh one of the same definition.
    Restart,
    /// Change the definition; it takes effect at the next deploy.
    Update,
    /// Forget the service.
    Delete,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 5] = [Self::Deploy, Self::Undeploy, Self::Restart, Self::Update, Self::Delete];

    /// The verb, as told to users.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Undeploy => "undeploy",
            Self::Restart => "restart",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_table() {
        // created, deploying, running, stopping, stopped, failed
        let rows = [
            (Command::Deploy, [true, false, true, false, true, true]),
            (Command::Undeploy, [false, true, true, false, false, true]),
            (Command::Restart, [false, false, true, false, false, false]),
            (Command::Update, [true, false, true, false, true, true]),
            (Command::Delete, [true, false, false, false, true, true]),
        ];
        assert_eq!(rows.len(), Command::ALL.len());
        for (command, accepted) in rows {
            assert_eq!(ServiceStatus::ALL.map(|status| status.accepts(command)), accepted, "{command:?}");
        }
    }

    #[test]
    fn names_round_trip() {
        for status in ServiceStatus::ALL {
            assert_eq!(ServiceStatus::from_name(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
