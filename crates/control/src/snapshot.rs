//! Keeps the gateway's snapshot true: builds it from the store and swaps it in.
//!
//! Whoever has committed a change of routes or credentials calls [`Publisher::refresh`] before answering; it returns when
//! a snapshot is in place whose reading began after the call. Several calls share one build, but never one that began
//! before them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use tokio::sync::Mutex;
use towline_gateway::{Credential, CredentialTable, Gateway, LastUse, RouteTable, Snapshot};
use towline_model::{Clock, SecretId, ServiceId, TeamId};
use towline_store::{CredentialRow, InstanceRow, ServiceRow, Store, StoreError, Tx};

use crate::{
    app::sign_in::ACCESS_LIFETIME,
    routes::{Authorizations, secrets_of_calls, service_route},
    secrets::Vault,
};

/// How far the clocks of several servers may be apart: for so much longer than an access token lives, gateways remember a
/// sign-in that was ended.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(15 * 60);

/// The way to a fresh snapshot. Clones share the work.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    vault: Vault,
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    /// How many refreshes have been asked for.
    asked: AtomicU64,
    published: Mutex<Published>,
}

#[derive(Default)]
struct Published {
    /// Every refresh up to this one is covered by what is published.
    covers: u64,
    /// The store's revision that is published.
    revision: Option<i64>,
}

impl Publisher {
    /// A publisher that has not published anything yet.
    #[must_use]
    pub fn new(store: Store, vault: Vault, gateway: Gateway, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared { store, vault, gateway, clock, asked: AtomicU64::new(0), published: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Returns when everything that was committed before the call is in the gateway's snapshot.
    ///
    /// # Errors
    /// When the database does not answer. The reconciler tries again within its period.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let ticket = self.shared.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut published = self.shared.published.lock().await;
        if published.covers >= ticket {
            return Ok(());
        }
        self.publish(&mut published).await
    }

    /// Publishes if the store has moved on since, whoever moved it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        let revision = self.shared.store.revision().await?;
        let mut published = self.shared.published.lock().await;
        if published.revision.is_some_and(|known| known >= revision) {
            return Ok(());
        }
        self.publish(&mut published).await
    }

    async fn publish(&self, published: &mut Published) -> Result<(), StoreError> {
        let covers = self.shared.asked.load(Ordering::SeqCst);
        let (snapshot, revision) = self.build().await?;
        self.shared.gateway.swap(snapshot);
        *published = Published { covers, revision: Some(revision) };
        Ok(())
    }

    /// The secrets that external services are called with, opened.
    async fn authorizations(&self, tx: &mut Tx, services: &[ServiceRow]) -> Result<Authorizations, StoreError> {
        let mut needed: BTreeMap<TeamId, BTreeSet<SecretId>> = BTreeMap::new();
        for service in services {
            let ids = secrets_of_calls(service);
            if !ids.is_empty() {
                needed.entry(service.team_id).or_default().extend(ids);
            }
        }
        let mut authorizations = Authorizations::new();
        for (team_id, ids) in needed {
            for (id, value) in self.shared.vault.open_all(tx, team_id, &ids).await? {
                match HeaderValue::from_str(value.expose()) {
                    Ok(mut header) => {
                        header.set_sensitive(true);
                        authorizations.insert(id, header);
                    }
                    Err(_) => tracing::error!(team = %team_id, secret = %id, "a secret is no Authorization"),
                }
            }
        }
        Ok(authorizations)
    }

    async fn build(&self) -> Result<(Snapshot, i64), StoreError> {
        let now = self.shared.clock.now();
        let mut tx = self.shared.store.read().await?;
        let revision = tx.revision().await?;
        let services = tx.all_services().await?;
        let instances = tx.all_instances().await?;
        let authorizations = self.authorizations(&mut tx, &services).await?;
        let credentials = tx.active_credentials(now).await?;
        let memberships = tx.all_memberships().await?;
        let ended_sign_ins = tx.sign_ins_revoked_since(now - (ACCESS_LIFETIME + CLOCK_TOLERANCE)).await?;
        drop(tx);
        let mut by_service: HashMap<ServiceId, Vec<InstanceRow>> = HashMap::new();
        for instance in instances {
            by_service.entry(instance.service_id).or_default().push(instance);
        }
        let routes = RouteTable::from_services(services.iter().map(|service| {
            let instances = by_service.get(&service.id).map_or(&[][..], Vec::as_slice);
            service_route(service, instances, &authorizations)
        }));
        let credentials = CredentialTable::new(
            credentials.into_iter().map(|row| (row.key_hash, credential(row))),
            memberships.into_iter().map(|row| (row.user_id, row.team_id, row.role)),
        )
        .with_ended_sign_ins(ended_sign_ins);
        Ok((Snapshot { routes, credentials }, revision))
    }
}

fn credential(row: CredentialRow) -> Credential {
    Credential {
        id: row.id,
        kind: row.kind,
        team_id: row.team_id,
        user_id: row.user_id,
        scopes: row.scopes.into(),
        services: row.services.map(Into::into),
        expires_at: row.expires_at,
        last_use: LastUse::default(),
    }
}
