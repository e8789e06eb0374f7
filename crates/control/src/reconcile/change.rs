//! What a plan is made of.

use towline_model::{AgentId, InstanceId, ServiceId, ServiceStatus};

use crate::rollout::Rollout;

/// One step for one service.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// One more instance is wished, on this agent if there is an eligible one.
    Create {
        /// The deploy that it belongs to.
        generation: i64,
        /// Where it goes.
        agent: Option<AgentId>,
    },
    /// An instance that waited for an agent gets one.
    Place {
        /// The instance.
        instance: InstanceId,
        /// Where it goes.
        agent: AgentId,
    },
    /// An instance is wished no more: its agent is told so.
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Why, in words.
        why: &'static str,
    },
    /// An instance is gone, or is waited for no longer.
    Forget {
        /// The instance.
        instance: InstanceId,
    },
    /// The service moves on in its life.
    Status(ServiceStatus),
    /// Why the service is where it is.
    Reason(Option<String>),
    /// How the newest deploy goes.
    Rollout(Box<Rollout>),
}

/// The changes of one service, to be made together or not at all.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePlan {
    /// The service.
    pub service_id: ServiceId,
    /// What to change.
    pub changes: Vec<Change>,
}
