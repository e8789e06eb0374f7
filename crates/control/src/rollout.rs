//! Which deploys of a service there are at one time, and how the newest one goes.
//!
//! A deploy is a generation and the definition that it runs. Besides the newest one there may be the one before, which
//! callers are served by until the newest is ready, and which is drained afterwards. Both are kept with their
//! definitions, because an agent is told the definition of everything that it should run each time anew.
//!
//! Not here: any decision. The planner decides; this says what is what.

use serde::{Deserialize, Serialize};
use towline_model::{ServiceSpec, ServiceStatus, Timestamp};
use towline_store::ServiceRow;

/// How a deploy ended, or that it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// On its way.
    Progressing,
    /// It serves callers now.
    Succeeded,
    /// It was given up; whatever ran before goes on.
    Failed,
}

/// The newest deploy of a service, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its generation.
    pub generation: i64,
    /// How it goes.
    pub state: RolloutState,
    /// Why it has failed, in words that a user can act on.
    #[serde(default)]
    pub message: Option<String>,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it succeeded or failed.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// What ran before, as long as something of it is needed.
    #[serde(default)]
    pub previous: Option<Deploy>,
    /// Until when requests to `previous` may finish, once this one has succeeded.
    #[serde(default)]
    pub drain_until: Option<Timestamp>,
}

/// A generation with its definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// The generation.
    pub generation: i64,
    /// What it runs.
    pub spec: ServiceSpec,
}

/// A generation with its definition, borrowed from its service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeployRef<'a> {
    /// The generation.
    pub generation: i64,
    /// What it runs.
    pub spec: &'a ServiceSpec,
}

impl DeployRef<'_> {
    /// A copy to keep.
    #[must_use]
    pub fn to_owned(self) -> Deploy {
        Deploy { generation: self.generation, spec: self.spec.clone() }
    }
}

impl Rollout {
    /// A deploy that was just asked for, beside what serves callers now.
    #[must_use]
    pub const fn begin(generation: i64, previous: Option<Deploy>, now: Timestamp) -> Self {
        Self {
            generation,
            state: RolloutState::Progressing,
            message: None,
            started_at: now,
            ended_at: None,
            previous,
            drain_until: None,
        }
    }

    /// What is stored of a service. `None` before the first deploy.
    #[must_use]
    pub fn of(row: &ServiceRow) -> Option<Self> {
        row.rollout.as_ref().and_then(|document| Self::deserialize(document).ok())
    }

    /// The form in which it is stored.
    #[must_use]
    pub fn to_stored(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a struct of plain fields with string keys always serialises")
    }
}

/// The deploys of a service that matter in its present state.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Deploys<'a> {
    /// The one that callers are served by.
    pub serving: Option<DeployRef<'a>>,
    /// The one that shall take over when it is ready.
    pub coming: Option<DeployRef<'a>>,
    /// The one whose requests in flight are still being finished.
    pub retiring: Option<DeployRef<'a>>,
}

impl<'a> Deploys<'a> {
    /// Sorts out the deploys of a service.
    #[must_use]
    pub fn of(row: &'a ServiceRow, rollout: Option<&'a Rollout>) -> Self {
        let newest = row.deployed_spec.as_ref().map(|spec| DeployRef { generation: row.generation, spec });
        let previous = rollout.and_then(|rollout| rollout.previous.as_ref());
        let previous = previous.map(|deploy| DeployRef { generation: deploy.generation, spec: &deploy.spec });
        let state = rollout.map(|rollout| rollout.state);
        match (row.status, state, previous) {
            (ServiceStatus::Deploying, ..) => Self { coming: newest, ..Self::default() },
            (ServiceStatus::Running, Some(RolloutState::Progressing), Some(_)) => {
                Self { serving: previous, coming: newest, retiring: None }
            }
            (ServiceStatus::Running, Some(RolloutState::Failed), Some(_)) => {
                Self { serving: previous, ..Self::default() }
            }
            (ServiceStatus::Running, _, previous) => Self { serving: newest, coming: None, retiring: previous },
            _ => Self::default(),
        }
    }
}

/// The definition of one generation, if it is still kept.
#[must_use]
pub fn spec_of<'a>(row: &'a ServiceRow, rollout: Option<&'a Rollout>, generation: i64) -> Option<&'a ServiceSpec> {
    if generation == row.generation {
        return row.deployed_spec.as_ref();
    }
    let previous = rollout.and_then(|rollout| rollout.previous.as_ref())?;
    (previous.generation == generation).then_some(&previous.spec)
}
