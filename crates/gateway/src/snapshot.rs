//! What the gateway knows of services and credentials: immutable tables, built by the control plane and swapped whole.
//!
//! A request loads the current snapshot once and asks it with plain hash look-ups; nothing here is ever locked.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use towline_model::{
    AgentId, CredentialId, InstanceId, KeyHash, KeyKind, Role, Scope, ServiceId, ServiceStatus, SignInId, TeamId,
    Timestamp, UserId, service::AppProtocol,
};

use crate::last_use::LastUse;

/// A map for what is asked several times for each request. Its hash is quick, and little defence against somebody who chooses
/// thousands of a map's keys. Ids and hashes are made by the server; slugs are chosen, but nobody finds other teams' slower.
pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Everything that requests are decided by.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The services and where their instances are.
    pub routes: RouteTable,
    /// The keys, and who is in which team.
    pub credentials: CredentialTable,
}

/// One service, as far as calling it goes.
#[derive(Debug, Clone)]
pub struct ServiceRoute {
    /// The service.
    pub service_id: ServiceId,
    /// Its team; only this team's callers find it.
    pub team_id: TeamId,
    /// Its slug, unique in the team.
    pub slug: String,
    /// Its status; only a running service is called.
    pub status: ServiceStatus,
    /// What is behind it.
    pub upstream: Upstream,
    /// What is spoken with it.
    pub protocol: AppProtocol,
    /// How long its calls may take.
    pub timeouts: Timeouts,
    /// How many it takes at a time; `None` for no such limit.
    pub concurrency: Option<Concurrency>,
    /// Its instances that have a place.
    pub instances: Vec<InstanceRoute>,
}

/// How long a call may take in its parts; `None` for no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// The whole of it, with the time in the line.
    pub total: Option<Duration>,
    /// From asking the agent to the connection of the instance.
    pub connect: Option<Duration>,
    /// From the end of the request to the head of the answer.
    pub first_byte: Option<Duration>,
    /// A pause of the container while it is waited for to take the request or to send the answer; of both sides after
    /// another protocol was agreed on.
    pub idle: Option<Duration>,
}

/// How many calls a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// At a time, all instances together. At least 1.
    pub running: usize,
    /// That wait for their turn.
    pub waiting: usize,
}

/// What is behind a service, as far as speaking with it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// Containers, which are told `Host: localhost:<port>`.
    Container {
        /// The port inside the container.
        exposed_port: u16,
    },
    /// A process that the agent connects to.
    Attached {
        /// What it is told as `Host`: the place as the service's owner wrote it.
        authority: String,
    },
    /// A server elsewhere, over TLS.
    External(ExternalRoute),
}

/// How a server elsewhere is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalRoute {
    /// The name or address that its certificate must be for.
    pub host: String,
    /// What it is told as `Host`.
    pub authority: String,
    /// What is put before the path of every request.
    pub path_prefix: String,
    /// What it is sent as `Authorization`, in place of anything that a caller sends. Marked as sensitive.
    pub authorization: Option<HeaderValue>,
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRoute {
    /// The instance.
    pub instance_id: InstanceId,
    /// The agent that runs it.
    pub agent_id: AgentId,
    /// Whether it takes requests: it passes its probe and is not being drained.
    pub ready: bool,
}

/// The services of all teams, found by team and slug.
#[derive(Debug, Default)]
pub struct RouteTable {
    teams: Map<TeamId, Map<Box<str>, Arc<ServiceRoute>>>,
}

impl RouteTable {
    /// Builds the table. When two services of a team have the same slug, the later one counts.
    #[must_use]
    pub fn from_services(services: impl IntoIterator<Item = ServiceRoute>) -> Self {
        let mut table = Self::default();
        for service in services {
            let slug = service.slug.clone().into_boxed_str();
            table.teams.entry(service.team_id).or_default().insert(slug, Arc::new(service));
        }
        table
    }

    /// The team's service of that slug.
    #[must_use]
    pub fn get(&self, team: TeamId, slug: &str) -> Option<&Arc<ServiceRoute>> {
        self.teams.get(&team)?.get(slug)
    }

    /// Every service, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServiceRoute>> {
        self.teams.values().flat_map(Map::values)
    }
}

/// One key that is neither revoked nor deleted.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The key's id.
    pub id: CredentialId,
    /// What it is for.
    pub kind: KeyKind,
    /// The team that it belongs to.
    pub team_id: TeamId,
    /// The user that a device key acts as.
    pub user_id: Option<UserId>,
    /// What an integration key may do.
    pub scopes: Arc<[Scope]>,
    /// The only services that there are for an integration key, in order; `None` for all of its team.
    pub services: Option<Arc<[ServiceId]>>,
    /// The moment from which it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was last used here. What a new snapshot brings is replaced by what is known.
    pub last_use: LastUse,
}

impl Credential {
    /// Whether it is past its expiry.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= now)
    }
}

/// The keys of all teams, found by their hash, and the members of all teams.
#[derive(Debug, Default)]
pub struct CredentialTable {
    keys: Map<KeyHash, Credential>,
    hashes: Map<CredentialId, KeyHash>,
    roles: Map<(UserId, TeamId), Role>,
    ended_sign_ins: HashSet<SignInId>,
}

impl CredentialTable {
    /// Builds the table.
    #[must_use]
    pub fn new(
        keys: impl IntoIterator<Item = (KeyHash, Credential)>,
        memberships: impl IntoIterator<Item = (UserId, TeamId, Role)>,
    ) -> Self {
        let keys: Map<_, _> = keys.into_iter().collect();
        Self {
            hashes: keys.iter().map(|(hash, key)| (key.id, *hash)).collect(),
            keys,
            roles: memberships.into_iter().map(|(user, team, role)| ((user, team), role)).collect(),
            ended_sign_ins: HashSet::new(),
        }
    }

    /// The same with sign-ins that were ended while access tokens of them may still be about.
    #[must_use]
    pub fn with_ended_sign_ins(mut self, ended: impl IntoIterator<Item = SignInId>) -> Self {
        self.ended_sign_ins = ended.into_iter().collect();
        self
    }

    /// Whether the sign-in was ended, as far as tokens of it that have not expired are concerned.
    #[must_use]
    pub fn has_ended(&self, sign_in: SignInId) -> bool {
        self.ended_sign_ins.contains(&sign_in)
    }

    /// Who is in which team, in no order.
    pub fn members(&self) -> impl Iterator<Item = (UserId, TeamId)> {
        self.roles.keys().copied()
    }

    /// The key of that hash, expired or not.
    #[must_use]
    pub fn key(&self, hash: &KeyHash) -> Option<&Credential> {
        self.keys.get(hash)
    }

    /// The key of that id, expired or not.
    #[must_use]
    pub fn key_of(&self, id: CredentialId) -> Option<&Credential> {
        self.keys.get(self.hashes.get(&id)?)
    }

    /// The user's role in the team; `None` when the user is not in it.
    #[must_use]
    pub fn role(&self, user: UserId, team: TeamId) -> Option<Role> {
        self.roles.get(&(user, team)).copied()
    }

    /// Every key, in no order, expired or not.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Credential> {
        self.keys.values()
    }

    /// Goes on noting uses where the table before this one did.
    pub(crate) fn keep_uses(&mut self, before: &Self) {
        for key in self.keys.values_mut() {
            if let Some(known) = before.key_of(key.id) {
                key.last_use = known.last_use.clone();
            }
        }
    }

    /// Every key that can be used: a device key only while its user is in its team.
    pub fn usable_keys(&self) -> impl Iterator<Item = &Credential> {
        self.keys.values().filter(|key| match (key.kind, key.user_id) {
            (KeyKind::Device, Some(user)) => self.role(user, key.team_id).is_some(),
            (KeyKind::Device, None) => false,
            (KeyKind::Integration | KeyKind::Agent, _) => true,
        })
    }
}
