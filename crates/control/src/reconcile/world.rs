//! Everything that a pass looks at, read in one consistent snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use towline_gateway::Gateway;
use towline_model::{SecretId, ServiceId, TeamId, Timestamp};
use towline_store::{AgentRow, InstanceRow, ServiceRow, Store, StoreError};

use crate::{
    rollout::Rollout,
    secrets::{ClosedSecrets, Vault},
};

/// The state that a pass decides by.
#[derive(Debug, Clone)]
pub struct World {
    /// The services that are wished to run, are on their way, or have instances left.
    pub services: Vec<ServiceState>,
    /// Every agent.
    pub agents: Vec<AgentRow>,
    /// How many bytes the value of each secret takes in a message to an agent.
    pub secret_bytes: HashMap<SecretId, usize>,
    /// The secrets that services need and that do not open.
    pub closed_secrets: ClosedSecrets,
    /// Since when this server can be talked to. An agent is not taken for lost because it was not.
    pub up_since: Timestamp,
}

/// A service with everything that belongs to it.
#[derive(Debug, Clone)]
pub struct ServiceState {
    /// The service.
    pub row: ServiceRow,
    /// Its newest deploy.
    pub rollout: Option<Rollout>,
    /// Its instances, of all generations, the oldest first.
    pub instances: Vec<InstanceRow>,
    /// Requests of callers that are in flight.
    pub in_flight: usize,
}

impl World {
    /// Reads the state.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn load(
        (store, vault): (&Store, &Vault),
        gateway: &Gateway,
        up_since: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut tx = store.read().await?;
        let services = tx.services_to_reconcile().await?;
        let instances = tx.all_instances().await?;
        let agents = tx.all_agents().await?;
        let secret_sizes = tx.secret_sizes(None).await?;
        let services: Vec<_> = services.into_iter().map(|row| (Rollout::of(&row), row)).collect();
        let closed_secrets = vault.closed(&mut tx, &needed_secrets(&services)).await?;
        drop(tx);
        let mut by_service: HashMap<ServiceId, Vec<InstanceRow>> = HashMap::new();
        for instance in instances {
            by_service.entry(instance.service_id).or_default().push(instance);
        }
        let services = services.into_iter().map(|(rollout, row)| ServiceState {
            rollout,
            instances: by_service.remove(&row.id).unwrap_or_default(),
            in_flight: gateway.in_flight(row.id),
            row,
        });
        let bytes = |size: i64| usize::try_from(size).unwrap_or(usize::MAX);
        let secret_bytes = secret_sizes.into_iter().map(|(id, size)| (id, bytes(size))).collect();
        Ok(Self { services: services.collect(), agents, secret_bytes, closed_secrets, up_since })
    }
}

/// The secrets that the deploys of these services need.
fn needed_secrets(services: &[(Option<Rollout>, ServiceRow)]) -> BTreeMap<TeamId, BTreeSet<SecretId>> {
    let mut needed: BTreeMap<TeamId, BTreeSet<SecretId>> = BTreeMap::new();
    for (rollout, row) in services {
        let previous = rollout.as_ref().and_then(|rollout| rollout.previous.as_ref()).map(|deploy| &deploy.spec);
        for id in row.deployed_spec.iter().chain(previous).flat_map(|spec| spec.secret_ids()) {
            needed.entry(row.team_id).or_default().insert(id);
        }
    }
    needed
}
