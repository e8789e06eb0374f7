//! Which instances of a service callers are served by: the one rule, for the gateway's routes and for what the API says.

use std::time::Duration;

use towline_gateway::{
    InstanceRoute, ServiceRoute,
    snapshot::{ExternalRoute, Upstream},
};
use towline_model::{InstancePhase, ServiceSpec, ServiceStatus};
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

fn upstream(spec: &ServiceSpec) -> Upstream {
    match (spec.attached(), spec.external()) {
        (Some(at), _) => Upstream::Attached { authority: at.to_string() },
        (None, Some(url)) => Upstream::External(ExternalRoute {
            authority: url.authority(),
            host: url.at.host,
            path_prefix: url.path_prefix,
            authorization: None,
        }),
        (None, None) => Upstream::Container { exposed_port: spec.container_port() },
    }
}

/// The service as the gateway knows it.
#[must_use]
pub fn service_route(row: &ServiceRow, instances: &[InstanceRow]) -> ServiceRoute {
    let rollout = Rollout::of(row);
    let generation = reachable_generation(row, rollout.as_ref(), instances);
    let spec = generation.and_then(|generation| spec_of(row, rollout.as_ref(), generation)).unwrap_or(&row.spec);
    let reachable = instances.iter().filter(|instance| Some(instance.generation) == generation);
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
        upstream: upstream(spec),
        request_timeout: spec.request_timeout_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        instances: placed.collect(),
    }
}
