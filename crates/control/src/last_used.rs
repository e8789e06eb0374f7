//! Writes down when keys were last used, behind the requests: what the gateway has noted goes to the database in one
//! transaction every so often, and once more at the end.

use std::{collections::HashMap, time::Duration};

use tokio_util::sync::CancellationToken;
use towline_gateway::Gateway;
use towline_model::{CredentialId, Timestamp};
use towline_store::{Store, StoreError};

/// How often it is written down when nothing else is wished.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);

/// The one who writes.
pub(crate) struct LastUsed {
    store: Store,
    gateway: Gateway,
    interval: Duration,
    /// What is in the database, as far as it came from here.
    written: HashMap<CredentialId, Timestamp>,
}

impl LastUsed {
    pub(crate) fn new(store: Store, gateway: Gateway, interval: Duration) -> Self {
        Self { store, gateway, interval, written: HashMap::new() }
    }

    /// Runs until `shutdown` is cancelled, and writes once more then.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let is_last = tokio::select! {
                () = shutdown.cancelled() => true,
                () = tokio::time::sleep(self.interval) => false,
            };
            if let Err(error) = self.flush().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "when keys were last used was not written down; the next time follows");
            }
            if is_last {
                return;
            }
        }
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let mut uses: HashMap<_, _> = self.gateway.last_uses().into_iter().collect();
        // Keys that are gone are not used any more.
        self.written.retain(|id, _| uses.contains_key(id));
        uses.retain(|id, at| self.written.get(id).is_none_or(|written| written < at));
        if uses.is_empty() {
            return Ok(());
        }
        let batch: Vec<_> = uses.iter().map(|(id, at)| (*id, *at)).collect();
        let mut tx = self.store.write().await?;
        tx.touch_last_used(&batch).await?;
        tx.commit().await?;
        self.written.extend(uses);
        Ok(())
    }
}
