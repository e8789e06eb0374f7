//! What is to be thought of one placed instance: it is ready, it needs time, or it will not become ready.

use std::time::Duration;

use towline_model::{InstancePhase, ServiceSpec, ServiceType, Timestamp};
use towline_store::InstanceRow;
use towline_tunnel::message::ReasonKind;

use super::{limits::Limits, placement::Fleet};

/// The state of an instance, with the sentence for users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Callers can be served.
    Ready,
    /// Not yet.
    Waiting(String),
    /// Not before somebody changes something.
    Doomed(String),
}

/// The name under which a kind of failure is stored.
#[must_use]
pub(crate) const fn reason_name(kind: ReasonKind) -> &'static str {
    match kind {
        ReasonKind::ImageUnavailable => "image_unavailable",
        ReasonKind::StartFailed => "start_failed",
        ReasonKind::Exited => "exited",
        ReasonKind::ProbeFailed => "probe_failed",
        ReasonKind::EngineUnavailable => "engine_unavailable",
        ReasonKind::Denied => "denied",
        ReasonKind::Unknown => "unknown",
    }
}

/// Judges an instance that is placed on an agent.
pub(super) fn judge(
    instance: &InstanceRow,
    spec: &ServiceSpec,
    fleet: &Fleet<'_>,
    now: Timestamp,
    limits: &Limits,
) -> Verdict {
    let Some(agent_id) = instance.agent_id else { return Verdict::Waiting("not placed yet".to_owned()) };
    let agent = fleet.name(agent_id);
    if !fleet.is_online(agent_id) {
        let text = format!("the agent {agent} is offline");
        return if fleet.is_lost(agent_id) { Verdict::Doomed(text) } else { Verdict::Waiting(text) };
    }
    if let Some(text) = fleet.inability(agent_id, spec.service_type) {
        return Verdict::Doomed(format!("{agent} {text}"));
    }
    if instance.phase == InstancePhase::Ready {
        return Verdict::Ready;
    }
    let placed_at = instance.placed_at.unwrap_or(instance.created_at);
    let reason = instance.reason.as_deref().unwrap_or("no reason was given");
    if let Some(text) = hopeless(instance, spec, agent, reason).filter(|_| now >= placed_at + limits.failure_grace) {
        return Verdict::Doomed(text);
    }
    if instance.restart_count >= limits.crash_restarts {
        let count = instance.restart_count;
        return Verdict::Doomed(format!("the container ended {count} times on {agent}, the last time: {reason}"));
    }
    if let Some(text) = overdue(instance, spec, fleet, now, limits) {
        return Verdict::Doomed(text);
    }
    Verdict::Waiting(describe(instance, spec, agent, fleet))
}

/// A failure that time does not heal.
fn hopeless(instance: &InstanceRow, spec: &ServiceSpec, agent: &str, reason: &str) -> Option<String> {
    let kind = instance.reason_kind.as_deref()?;
    if kind == reason_name(ReasonKind::ImageUnavailable) {
        let image = spec.docker_image.as_deref().unwrap_or_default();
        return Some(format!("the image {image} cannot be had on {agent}: {reason}"));
    }
    if kind == reason_name(ReasonKind::Denied) {
        return Some(format!("{agent} may not connect to {}: {reason}", noun(spec)));
    }
    let refused = kind == reason_name(ReasonKind::StartFailed);
    refused.then(|| format!("the container cannot be started on {agent}: {reason}"))
}

/// What an agent connects to that is no container.
fn noun(spec: &ServiceSpec) -> &str {
    spec.attached_target.as_deref().or(spec.external_url.as_deref()).unwrap_or("it")
}

/// A deadline that has passed.
fn overdue(
    instance: &InstanceRow,
    spec: &ServiceSpec,
    fleet: &Fleet<'_>,
    now: Timestamp,
    limits: &Limits,
) -> Option<String> {
    let agent_id = instance.agent_id?;
    let agent = fleet.name(agent_id);
    let placed_at = fleet.counted_from(instance.placed_at.unwrap_or(instance.created_at));
    let seconds = spec.probe.start_deadline_seconds;
    let start = Duration::from_secs(u64::from(seconds));
    if spec.service_type != ServiceType::Deployed {
        let last = instance.reason.as_deref().unwrap_or("it has not told why");
        let text = || format!("{agent} has not reached {} within {seconds} seconds: {last}", noun(spec));
        return (now >= placed_at + limits.placement.max(start)).then(text);
    }
    if let Some(started_at) = instance.started_at {
        let (path, port) = (spec.health_path.as_deref().unwrap_or("/"), spec.container_port());
        let last = instance.reason.as_deref().unwrap_or("no probe was answered");
        return (now >= fleet.counted_from(started_at) + start).then(|| {
            format!("no healthy answer to GET {path} on port {port} within {seconds} seconds of its start on {agent}: {last}")
        });
    }
    if instance.phase == InstancePhase::Pulling {
        let minutes = limits.pull.as_secs() / 60;
        let text = || format!("{agent} has not finished pulling the image within {minutes} minutes");
        return (now >= placed_at + limits.pull).then(text);
    }
    (now >= placed_at + limits.placement + start).then(|| {
        let problem = fleet.engine_problem(agent_id).or_else(|| instance.reason.clone());
        format!("{agent} has not started it: {}", problem.unwrap_or_else(|| "no reason was given".to_owned()))
    })
}

/// What the instance is at, while there is time.
fn describe(instance: &InstanceRow, spec: &ServiceSpec, agent: &str, fleet: &Fleet<'_>) -> String {
    let image = spec.docker_image.as_deref().unwrap_or_default();
    let because = instance.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match instance.phase {
        InstancePhase::Starting if spec.service_type != ServiceType::Deployed => {
            format!("{agent} does not reach {} yet{because}", noun(spec))
        }
        InstancePhase::Unhealthy if spec.service_type != ServiceType::Deployed => {
            format!("{agent} does not reach {} any more{because}", noun(spec))
        }
        InstancePhase::Pending if spec.service_type != ServiceType::Deployed => {
            format!("{agent} has not taken it up yet{because}")
        }
        InstancePhase::Pending => match instance.agent_id.and_then(|agent| fleet.engine_problem(agent)) {
            Some(problem) => format!("{agent} has no working container engine: {problem}"),
            None => format!("{agent} has not taken it up yet{because}"),
        },
        InstancePhase::Pulling => format!("{agent} is pulling {image}{because}"),
        InstancePhase::Starting => format!("the container has started on {agent} and is not healthy yet{because}"),
        InstancePhase::Ready => format!("ready on {agent}"),
        InstancePhase::Unhealthy => format!("the container on {agent} fails its health probe{because}"),
        InstancePhase::BackingOff => format!("{agent} will try again shortly{because}"),
        InstancePhase::Stopping => format!("{agent} is stopping the container{because}"),
    }
}
