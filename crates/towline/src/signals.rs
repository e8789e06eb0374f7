//! SIGTERM and SIGINT: the first asks for a graceful end, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// The exit code after a second signal: the shell's convention for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Watches for the signals until it is dropped.
pub struct SignalWatch {
    _task: tokio::task::JoinSet<()>,
    shutdown: CancellationToken,
}

impl SignalWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn start() -> Result<Self, Failure> {
        let failed = |error| Failure::io("cannot listen for signals", &error);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::info!("{name}: finishing what runs; a second signal ends at once");
            token.cancel();
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::warn!("{name} again: ending at once");
            std::process::exit(INTERRUPTED);
        });
        Ok(Self { _task: task, shutdown })
    }

    /// Cancelled by the first signal.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
