//! The gateway's current view: the snapshot, joined with what lives longer than a snapshot. Built on each swap, and
//! from then on only read.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;
use towline_model::{CredentialId, InstanceId, ServiceId, TeamId};

use crate::{
    agents::registry::Registry,
    service::{Candidate, Instance, Service},
    snapshot::{InstanceRoute, Snapshot},
    upstream::Connection,
};

/// What requests are decided by.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub snapshot: Arc<Snapshot>,
    teams: HashMap<TeamId, HashMap<Box<str>, Arc<Service>>>,
    instances: HashMap<InstanceId, Arc<Instance>>,
    /// Counts of requests in flight, also of services that have none left but requests.
    in_flight: HashMap<ServiceId, Arc<AtomicUsize>>,
    /// For each key that can be used, what is cancelled when it cannot be used any more.
    revocations: HashMap<CredentialId, CancellationToken>,
}

/// What a new state has left behind.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Connections to instances that have no route any more.
    pub connections: Vec<Connection>,
    /// Keys that cannot be used any more.
    pub revoked: Vec<CancellationToken>,
}

impl State {
    /// The state after this one.
    pub(crate) fn next(&self, snapshot: Snapshot, agents: &Registry) -> (Self, Leftovers) {
        let mut next = Self { snapshot: Arc::new(snapshot), in_flight: self.still_in_flight(), ..Self::default() };
        let snapshot = Arc::clone(&next.snapshot);
        for route in snapshot.routes.iter() {
            let candidates = route.instances.iter().map(|instance| next.candidate(self, instance, agents)).collect();
            let in_flight = next.in_flight.entry(route.service_id).or_default();
            let service = Service::new(Arc::clone(route), candidates, Arc::clone(in_flight));
            let slug = route.slug.clone().into_boxed_str();
            next.teams.entry(route.team_id).or_default().insert(slug, Arc::new(service));
        }
        for key in snapshot.credentials.usable_keys() {
            let token = self.revocations.get(&key.id).cloned().unwrap_or_default();
            next.revocations.insert(key.id, token);
        }
        let leftovers = Leftovers {
            connections: self.instances().filter(|old| !next.has(old)).flat_map(|old| old.pool.close()).collect(),
            revoked: self
                .revocations
                .iter()
                .filter(|(id, _)| !next.revocations.contains_key(*id))
                .map(|(_, token)| token.clone())
                .collect(),
        };
        (next, leftovers)
    }

    /// The team's service of that slug.
    pub(crate) fn service(&self, team: TeamId, slug: &str) -> Option<&Arc<Service>> {
        self.teams.get(&team)?.get(slug)
    }

    /// Requests of the service that are in flight.
    pub(crate) fn in_flight(&self, service: ServiceId) -> usize {
        self.in_flight.get(&service).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// What is cancelled when the key cannot be used any more.
    pub(crate) fn revocation(&self, credential: CredentialId) -> CancellationToken {
        self.revocations.get(&credential).cloned().unwrap_or_else(|| {
            let gone = CancellationToken::new();
            gone.cancel();
            gone
        })
    }

    /// Every instance that has a route.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    fn has(&self, instance: &Arc<Instance>) -> bool {
        self.instances.get(&instance.id).is_some_and(|known| Arc::ptr_eq(known, instance))
    }

    fn still_in_flight(&self) -> HashMap<ServiceId, Arc<AtomicUsize>> {
        let busy = self.in_flight.iter().filter(|(_, count)| Arc::strong_count(count) > 1);
        busy.map(|(id, count)| (*id, Arc::clone(count))).collect()
    }

    /// The instance as it was known before, unless it has moved to another agent.
    fn candidate(&mut self, old: &Self, route: &InstanceRoute, agents: &Registry) -> Candidate {
        let known = old.instances.get(&route.instance_id).filter(|known| known.slot.id == route.agent_id);
        let instance =
            known.cloned().unwrap_or_else(|| Arc::new(Instance::new(route.instance_id, agents.slot(route.agent_id))));
        self.instances.insert(route.instance_id, Arc::clone(&instance));
        Candidate { ready: route.ready, instance }
    }
}
