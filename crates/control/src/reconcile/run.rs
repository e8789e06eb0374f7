//! The loop: one pass after another, woken by hints and by a period.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use towline_gateway::Gateway;
use towline_model::{Clock, Timestamp};
use towline_store::{Store, StoreError};

use super::{
    apply::apply,
    desired::{DesiredSets, Sources},
    limits::Limits,
    plan::plan,
    rest::Rest,
    sessions,
    team_end::{self, Ending},
    world::World,
};
use crate::{secrets::Vault, snapshot::Publisher};

/// How long the loop sleeps when nobody wakes it: deadlines, and what moves the store's revision, are noticed this late.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Wakes the reconciler. A hint: without it the same happens within the period, or after a rest.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Asks for a pass soon.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// What the loop knows of its last pass.
#[derive(Debug, Default)]
struct Before {
    /// The store's revision before it.
    revision: Option<i64>,
    /// The rest that it was followed by.
    rest: Option<Rest>,
}

/// Everything that the reconciler works with.
pub struct Reconciler {
    pub(crate) store: Store,
    pub(crate) gateway: Gateway,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) publisher: Publisher,
    pub(crate) vault: Vault,
    pub(crate) desired: Arc<DesiredSets>,
    pub(crate) limits: Limits,
    pub(crate) wake: Wake,
    pub(crate) up_since: Timestamp,
}

impl Reconciler {
    /// Runs until `shutdown` is cancelled; a pass that has begun is finished.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut before = Before::default();
        loop {
            before = self.go_on(before).await.unwrap_or_else(|error| {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a pass of the reconciler failed; the next one follows"
                );
                Before::default()
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.0.notified() => before.rest = None,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    /// A pass, unless a rest goes on.
    async fn go_on(&self, before: Before) -> Result<Before, StoreError> {
        // As they are before anything is read: what comes while a pass runs ends the rest behind it.
        let (revision, sessions) = (self.store.revision().await?, self.gateway.sessions());
        if before.rest.as_ref().is_some_and(|rest| rest.lasts(revision, &sessions, self.clock.now())) {
            return Ok(before);
        }
        let quiet = self.pass().await?;
        // While one thing after another is written, a rest would be over before it has paid for its beginning.
        let rest = quiet.filter(|_| before.revision == Some(revision)).and_then(|world| {
            let is_live = |session| self.gateway.has_session(session);
            Rest::of(&world, (revision, &sessions), is_live, self.clock.now(), &self.limits)
        });
        Ok(Before { revision: Some(revision), rest })
    }

    /// One pass. Gives the world if it has left nothing to do. When the database does not answer, what was done until then
    /// stands; what is left is for the next pass.
    async fn pass(&self) -> Result<Option<World>, StoreError> {
        let mut world = self.load().await?;
        if self.settle_sessions(&world).await? {
            world = self.load().await?;
        }
        let plans = plan(&world, self.clock.now(), &self.limits);
        for plan in &plans {
            tracing::debug!(service = %plan.service_id, changes = plan.changes.len(), "planned");
            match apply(&self.store, &world, plan, self.clock.now()).await {
                Ok(_) => {}
                // The others will fare no better.
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // One service that cannot be written must not keep the others from being so.
                Err(error) => {
                    tracing::error!(service = %plan.service_id, error = &error as &dyn std::error::Error, "a plan failed");
                }
            }
        }
        if !plans.is_empty() {
            world = self.load().await?;
        }
        // Callers are led away from what is about to stop before its agent hears of it.
        self.publisher.catch_up().await?;
        let sources = Sources { store: &self.store, vault: &self.vault, world: &world };
        let is_told = self.desired.sync(&self.gateway, sources, self.clock.now()).await?;
        let ending = team_end::end_teams(&self.store, &self.gateway, &self.desired, self.clock.now()).await?;
        if ending == Ending::Done {
            self.publisher.catch_up().await?;
        }
        let is_done = plans.is_empty() && is_told && ending == Ending::Nothing;
        Ok(is_done.then_some(world))
    }

    /// Makes the sessions that are written down those that there are. Tells whether a row has changed.
    async fn settle_sessions(&self, world: &World) -> Result<bool, StoreError> {
        let is_live = |session| self.gateway.has_session(session);
        let discord = sessions::compare(&world.agents, &self.gateway.sessions(), is_live, self.clock.now());
        for session in discord.unknown {
            tracing::warn!(%session, "a session that is not written down is ended, so that its agent comes again");
            self.gateway.end_session(session);
        }
        if discord.gone.is_empty() {
            return Ok(false);
        }
        let mut tx = self.store.write().await?;
        for (agent, session) in discord.gone {
            tracing::warn!(%agent, %session, "an agent is gone without a goodbye");
            tx.clear_session(agent, session).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    async fn load(&self) -> Result<World, StoreError> {
        World::load((&self.store, &self.vault), &self.gateway, self.up_since).await
    }
}
