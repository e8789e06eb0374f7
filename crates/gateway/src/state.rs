//! The gateway's current view: the snapshot, joined with what lives longer than a snapshot. Built on each swap, and
//! from then on only read.

use std::{
    hash::Hash,
    sync::{Arc, atomic::Ordering},
};

use towline_model::{Action, CredentialId, InstanceId, KeyKind, ServiceId, TeamId, Timestamp, UserId};

use crate::{
    agents::registry::Registry,
    lifetime::Lifetime,
    line::Line,
    pool::Pool,
    service::{Candidate, Carried, Instance, Service},
    snapshot::{InstanceRoute, Map, Snapshot},
    upstream::Connection,
};

/// What requests are decided by.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub snapshot: Arc<Snapshot>,
    teams: Map<TeamId, Map<Box<str>, Arc<Service>>>,
    instances: Map<InstanceId, Arc<Instance>>,
    /// Requests in flight and in line, also of services that have nothing left but requests.
    carried: Map<ServiceId, Carried>,
    /// For each key that can be used, how long it can.
    keys: Lifetimes<CredentialId>,
    /// For each member of each team, how long he or she may call its services.
    members: Lifetimes<(UserId, TeamId)>,
    /// Of keys that expire, the earliest first.
    expiring: Vec<(Timestamp, Lifetime)>,
}

type Lifetimes<K> = Map<K, Lifetime>;

/// What a new state has left behind.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Connections to instances that have no route any more.
    pub connections: Vec<Connection>,
    /// Of keys and members that may not go on with what they may have in flight.
    pub revoked: Vec<Lifetime>,
}

impl State {
    /// The state after this one.
    /// So many workers carry what it lets in.
    pub(crate) fn next(&self, mut snapshot: Snapshot, agents: &Registry, workers: usize) -> (Self, Leftovers) {
        snapshot.credentials.keep_uses(&self.snapshot.credentials);
        let mut next = Self { snapshot: Arc::new(snapshot), carried: self.still_in_flight(), ..Self::default() };
        let snapshot = Arc::clone(&next.snapshot);
        for route in snapshot.routes.iter() {
            let carried = next.carried.entry(route.service_id).or_default();
            carried.limit(route.concurrency);
            let Carried { in_flight, line } = carried.clone();
            let new = |route: &InstanceRoute| {
                let slot = agents.slot(route.agent_id);
                Instance::new(route.instance_id, slot, Pool::new(workers), Arc::clone(&in_flight))
            };
            let candidates = route.instances.iter().map(|instance| next.candidate(self, instance, new)).collect();
            let service = Service::new(Arc::clone(route), candidates, line);
            let slug = route.slug.clone().into_boxed_str();
            next.teams.entry(route.team_id).or_default().insert(slug, Arc::new(service));
        }
        let gone = || self.instances().filter(|old| !next.has(old));
        gone().for_each(|old| old.http2.close());
        let connections = gone().flat_map(|old| old.pool.close()).collect();
        let revoked = next.take_over_lifetimes(self);
        (next, Leftovers { connections, revoked })
    }

    /// Keeps the lifetimes of whoever may go on. Gives those of everybody else.
    fn take_over_lifetimes(&mut self, old: &Self) -> Vec<Lifetime> {
        let snapshot = Arc::clone(&self.snapshot);
        let may_call = |snapshot: &Snapshot, (user, team)| {
            snapshot.credentials.role(user, team).is_some_and(|role| role >= Action::InvokeServices.minimum_role())
        };
        let goes_on = |member| !may_call(&old.snapshot, member) || may_call(&snapshot, member);
        let keys = snapshot.credentials.usable_keys().map(|key| match (key.kind, key.user_id) {
            (KeyKind::Device, Some(user)) => (key.id, goes_on((user, key.team_id))),
            _ => (key.id, true),
        });
        let members = snapshot.credentials.members().map(|member| (member, goes_on(member)));
        let mut revoked = Vec::new();
        self.keys = take_over(&old.keys, keys, &mut revoked);
        self.members = take_over(&old.members, members, &mut revoked);
        let expiring = snapshot.credentials.usable_keys().filter_map(|key| Some((key.expires_at?, key.id)));
        self.expiring = expiring.filter_map(|(at, id)| Some((at, self.keys.get(&id)?.clone()))).collect();
        self.expiring.sort_unstable_by_key(|(at, _)| *at);
        revoked
    }

    /// Ends what keys have in flight that have expired by now. Tells whether there was anything to end.
    pub(crate) fn end_expired(&self, now: Timestamp) -> bool {
        let expired = self.expiring.iter().take_while(|(at, _)| *at <= now).map(|(_, lifetime)| lifetime);
        let mut any = false;
        for lifetime in expired.filter(|lifetime| !lifetime.has_ended()) {
            lifetime.end();
            any = true;
        }
        any
    }

    /// The team's service of that slug.
    pub(crate) fn service(&self, team: TeamId, slug: &str) -> Option<&Arc<Service>> {
        self.teams.get(&team)?.get(slug)
    }

    /// All services, in no order.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.teams.values().flat_map(Map::values)
    }

    /// Requests of the service that are in flight.
    pub(crate) fn in_flight(&self, service: ServiceId) -> usize {
        self.carried.get(&service).map_or(0, |carried| carried.in_flight.load(Ordering::Relaxed))
    }

    /// The service's line; `None` when it takes as many requests as come.
    pub(crate) fn line(&self, service: ServiceId) -> Option<&Arc<Line>> {
        self.carried.get(&service)?.line.as_ref()
    }

    /// How long the key can be used.
    pub(crate) fn key(&self, credential: CredentialId) -> Lifetime {
        self.keys.get(&credential).cloned().unwrap_or_else(Lifetime::over)
    }

    /// How long the user may call the team's services.
    pub(crate) fn member(&self, user: UserId, team: TeamId) -> Lifetime {
        self.members.get(&(user, team)).cloned().unwrap_or_else(Lifetime::over)
    }

    /// Every instance that has a route.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    fn has(&self, instance: &Arc<Instance>) -> bool {
        self.instances.get(&instance.id).is_some_and(|known| Arc::ptr_eq(known, instance))
    }

    fn still_in_flight(&self) -> Map<ServiceId, Carried> {
        let is_held = |carried: &Carried| {
            Arc::strong_count(&carried.in_flight) > 1
                || carried.line.as_ref().is_some_and(|line| Arc::strong_count(line) > 1)
        };
        let busy = self.carried.iter().filter(|(_, carried)| is_held(carried));
        busy.map(|(id, carried)| (*id, carried.clone())).collect()
    }

    /// The instance as it was known before, unless it has moved to another agent.
    fn candidate(
        &mut self,
        old: &Self,
        route: &InstanceRoute,
        new: impl FnOnce(&InstanceRoute) -> Instance,
    ) -> Candidate {
        let known = old.instances.get(&route.instance_id).filter(|known| known.slot.id == route.agent_id);
        let instance = known.cloned().unwrap_or_else(|| Arc::new(new(route)));
        self.instances.insert(route.instance_id, Arc::clone(&instance));
        Candidate { ready: route.ready, instance }
    }
}

/// A lifetime for everyone who is there now: the old one for those who go on. Those of all others are added to `ended`.
fn take_over<K: Copy + Eq + Hash>(
    old: &Lifetimes<K>,
    present: impl Iterator<Item = (K, bool)>,
    ended: &mut Vec<Lifetime>,
) -> Lifetimes<K> {
    let kept = |key: &K| old.get(key).filter(|lifetime| !lifetime.has_ended()).cloned();
    let present: Map<K, Option<Lifetime>> =
        present.map(|(key, goes_on)| (key, if goes_on { kept(&key) } else { None })).collect();
    let is_over = |key: &K| present.get(key).is_none_or(Option::is_none);
    ended.extend(old.iter().filter(|(key, _)| is_over(key)).map(|(_, lifetime)| lifetime.clone()));
    present.into_iter().map(|(key, lifetime)| (key, lifetime.unwrap_or_default())).collect()
}
