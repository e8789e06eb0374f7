//! The agents' side: sessions and carriers, and what they tell the control plane.
//!
//! * `accept` answers the two upgrade requests; `handshake` is a session's task.
//! * `session` is one session with its carriers and tickets; `link` one carrier with the work that is on it.
//! * `registry` holds them all; `slot` is an agent's place in it, where the newest session wins.

pub(crate) mod accept;
pub(crate) mod handshake;
pub(crate) mod link;
pub(crate) mod registry;
pub(crate) mod session;
pub(crate) mod slot;

use tokio::sync::oneshot;
use towline_model::{AgentId, CredentialId, SessionId, TeamId, Timestamp};
use towline_tunnel::{
    message::{Hello, Refusal, Report},
    upgrade::Framing,
};

/// Something that happened on a session; the control plane takes these from one bounded queue.
#[derive(Debug)]
pub enum AgentEvent {
    /// An agent says hello. Until it is answered, or ten seconds have passed, it waits.
    Hello {
        /// The new session.
        session_id: SessionId,
        /// The team of the key that it came with.
        team_id: TeamId,
        /// That key.
        credential_id: CredentialId,
        /// What its frames are wrapped in.
        framing: Framing,
        /// What it says of itself.
        hello: Hello,
        /// Takes the agent's id, or why it is refused.
        reply: oneshot::Sender<Result<AgentId, Refusal>>,
    },
    /// The session of an accepted hello is registered: from now on the agent can be sent what it should run.
    Joined {
        /// The session.
        session_id: SessionId,
        /// Its agent.
        agent_id: AgentId,
    },
    /// An agent tells what runs. Only the newest report of a session is kept while the queue is full.
    Report {
        /// The session.
        session_id: SessionId,
        /// Its agent.
        agent_id: AgentId,
        /// Everything that runs.
        report: Report,
    },
    /// An accepted session ended. The agent may have a newer one by now; compare the ids.
    Gone {
        /// The session that ended.
        session_id: SessionId,
        /// Its agent.
        agent_id: AgentId,
    },
}

/// An agent's session with this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSession {
    /// The agent.
    pub agent_id: AgentId,
    /// The session.
    pub session_id: SessionId,
    /// When it was accepted.
    pub since: Timestamp,
    /// Carriers that it has at the moment.
    pub carriers: usize,
}
