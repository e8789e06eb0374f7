//! Which instances of a service callers are served by: the one rule, for the gateway's routes and for what the API says.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use http::HeaderValue;
use towline_gateway::{
    InstanceRoute, ServiceRoute,
    snapshot::{Concurrency, ExternalRoute, Timeouts, Upstream},
};
use towline_model::{InstancePhase, SecretId, ServiceSpec, ServiceStatus, service::DEFAULT_QUEUED_REQUESTS};
use towline_store::{InstanceRow, ServiceRow};

use crate::rollout::{Deploys, Rollout, spec_of};

/// The generation that callers are served by: the serving one; while none of it is ready, the coming one if some of that
/// is. `None` when the service does not run.
#[must_use]
pub fn reachable_generation(row: &ServiceRow, rollout: Option<&Rollout>, instances: &[InstanceRow]) -> Option<i64> {
    if row.status != ServiceStatus::Running {
        return None;
    }
    let deploys = Deploys::of(row, rollout);
    let has_ready = |generation: i64| instances.iter().any(|instance| is_ready(instance, generation));
    let serving = deploys.serving.map(|deploy| deploy.generation)?;
    let coming = deploys.coming.map(|deploy| deploy.generation);
    match coming {
        Some(coming) if !has_ready(serving) && has_ready(coming) => Some(coming),
        _ => Some(serving),
    }
}

/// Whether an instance takes requests, as one of this generation.
#[must_use]
pub fn is_ready(instance: &InstanceRow, generation: i64) -> bool {
    instance.generation == generation
        && instance.phase == InstancePhase::Ready
        && instance.stop_requested_at.is_none()
        && instance.agent_id.is_some()
}

/// What the values of secrets are as `Authorization`, by the secret.
pub type Authorizations = HashMap<SecretId, HeaderValue>;

/// The secrets that calls of a service need, whichever of its deploys callers are served by.
#[must_use]
pub fn secrets_of_calls(row: &ServiceRow) -> BTreeSet<SecretId> {
    let rollout = Rollout::of(row);
    let previous = rollout.as_ref().and_then(|rollout| rollout.previous.as_ref()).map(|deploy| &deploy.spec);
    row.deployed_spec.as_ref().into_iter().chain(previous).filter_map(|spec| spec.external_auth_credential_id).collect()
}

fn upstream(spec: &ServiceSpec, secrets: &Authorizations) -> Upstream {
    match (spec.attached(), spec.external()) {
        (Some(at), _) => Upstream::Attached { authority: at.to_string() },
        (None, Some(url)) => Upstream::External(ExternalRoute {
            authority: url.authority(),
            host: url.at.host,
            path_prefix: url.path_prefix,
            authorization: spec.external_auth_credential_id.and_then(|id| secrets.get(&id).cloned()),
        }),
        (None, None) => Upstream::Container { exposed_port: spec.container_port() },
    }
}

fn timeouts(spec: &ServiceSpec) -> Timeouts {
    let seconds = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
    Timeouts {
        total: seconds(spec.request_timeout_seconds),
        connect: seconds(spec.connect_timeout_seconds),
        first_byte: seconds(spec.first_byte_timeout_seconds),
        idle: seconds(spec.idle_timeout_seconds),
    }
}

fn concurrency(spec: &ServiceSpec) -> Option<Concurrency> {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Some(Concurrency {
        running: count(spec.max_concurrent_requests?),
        waiting: count(spec.max_queued_requests.unwrap_or(DEFAULT_QUEUED_REQUESTS)),
    })
}

/// The service as the gateway knows it.
#[must_use]
pub fn service_route(row: &ServiceRow, instances: &[InstanceRow], secrets: &Authorizations) -> ServiceRoute {
    let rollout = Rollout::of(row);
    let generation = reachable_generation(row, rollout.as_ref(), instances);
    let spec = generation.and_then(|generation| spec_of(row, rollout.as_ref(), generation)).unwrap_or(&row.spec);
    // Without the secret that it is to be called with it is not called at all.
    let is_callable = spec.external_auth_credential_id.is_none_or(|id| secrets.contains_key(&id));
    let reachable = instances.iter().filter(|instance| Some(instance.generation) == generation && is_callable);
    let placed = reachable.filter_map(|instance| {
        Some(InstanceRoute {
            instance_id: instance.id,
            agent_id: instance.agent_id?,
            ready: is_ready(instance, instance.generation),
        })
    });
    ServiceRoute {
        service_id: row.id,
        team_id: row.team_id,
        slug: row.spec.service_slug.clone(),
        status: row.status,
        upstream: upstream(spec, secrets),
        protocol: spec.app_protocol,
        timeouts: timeouts(spec),
        concurrency: concurrency(spec),
        instances: placed.collect(),
    }
}
