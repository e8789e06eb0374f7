//! What tests of the gateway stand on: a whole gateway in this process, a simulated agent that speaks the real protocol
//! over loopback TCP, containers made of a few lines, and callers that see every byte.
//!
//! Nothing here sleeps in order to wait for something; everything has a deadline of its own ([`within`]).
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a step that fails is how a test fails")]

mod caller;
mod container;
pub mod fuzz;
mod sim_agent;
mod world;

use std::{future::Future, time::Duration};

use socket2::SockRef;

pub use caller::{Answer, RawCaller};
pub use container::{Container, Exchange};
pub use sim_agent::{AgentKind, SimAgent};
pub use world::{TeamSetup, World, mistyped};

/// How long a step of a test may take at most. Nothing waits so long unless it fails.
pub const DEADLINE: Duration = Duration::from_secs(45);

/// A limit that comes after something has begun, or that is not to be met: longer than anything takes on a busy machine.
pub const BEGUN: Duration = Duration::from_secs(2);

/// Waits for a step.
///
/// # Panics
/// When it takes longer than [`DEADLINE`].
pub async fn within<F: Future>(what: &str, step: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, step).await {
        Ok(output) => output,
        Err(_) => panic!("this did not happen in time: {what}"),
    }
}

/// Lets as little wait in a socket, in both directions, as the system allows: a few KiB.
///
/// # Errors
/// When the socket is closed.
pub fn narrow(socket: &SockRef<'_>) -> std::io::Result<()> {
    socket.set_send_buffer_size(1)?;
    socket.set_recv_buffer_size(1)
}

/// Waits until a condition holds, looking again every few milliseconds.
///
/// # Panics
/// When it does not hold within [`DEADLINE`].
pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
