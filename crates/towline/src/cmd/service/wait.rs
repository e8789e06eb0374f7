//! Waits until a service is where it was sent, and shows how far it is.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    client::{Client, ClientError, Service, types::InstanceView},
    failure::Failure,
    output::{Output, Progress},
};

/// How often the server is asked.
const POLL: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 500 });
const NO_REASON: &str = "the server gives no reason";
/// For how long a server that cannot be reached is asked again: as long as a restart takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// For how long a deploy is asked for again that no agent can take: as long as one that was just started takes to join.
const JOIN_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 1_000 } else { 20_000 });

/// Asks for a deploy, and gives the answer. A service that runs elsewhere is refused while no agent that is connected can
/// take it, so that one that was started a moment ago is waited for.
///
/// # Errors
/// When the server cannot be reached or refuses; when there is no agent in time.
pub async fn deploy(client: &Client, id: &str, slug: &str, output: &Output) -> Result<Value, Failure> {
    let path = format!("/containers/{id}/deploy");
    let start = Instant::now();
    let mut progress = None;
    loop {
        let error = match client.post::<Value>(&path, None).await {
            Ok(done) => return Ok(done),
            Err(error) if error.code() == "no_eligible_agent" => error,
            Err(error) => return Err(error.into()),
        };
        if start.elapsed() >= JOIN_PATIENCE {
            return Err(Failure::new(format!("no agent has come within {JOIN_PATIENCE:?} that can take it: {error}"))
                .hint("`towline agents` shows which there are; `towline agent` on a machine adds it"));
        }
        let text = format!("{slug}: waiting for an agent: {error}");
        progress.get_or_insert_with(|| output.progress(format!("{slug}: waiting for an agent"))).update(text);
        sleep(POLL).await;
    }
}

/// Waits until every wished instance of the newest deploy is ready.
///
/// # Errors
/// When the service failed, with the reason; when the time is over.
pub async fn until_running(
    client: &Client,
    service: &Service,
    time: Duration,
    output: &Output,
) -> Result<Service, Failure> {
    watch(client, service, time, output, |service, instances| {
        let slug = &service.view.service_slug;
        match service.view.service_status.as_str() {
            "failed" => Err(failed(service)),
            "stopped" | "stopping" => Err(Failure::new(format!("{slug} was undeployed meanwhile"))),
            "running" => match service.view.rollout.as_ref() {
                Some(rollout) if rollout.state == "failed" => Err(Failure::new(format!(
                    "{slug} goes on as it was before, since this deploy failed: {}",
                    rollout.reason.as_deref().unwrap_or(NO_REASON)
                ))),
                Some(rollout) if rollout.state == "progressing" => Ok(false),
                _ => Ok(is_all_ready(service, instances)),
            },
            _ => Ok(false),
        }
    })
    .await
}

/// Waits until the service has no instance any more.
///
/// # Errors
/// When the time is over, or it was deployed again.
pub async fn until_stopped(
    client: &Client,
    service: &Service,
    time: Duration,
    output: &Output,
) -> Result<Service, Failure> {
    watch(client, service, time, output, |service, _| match service.view.service_status.as_str() {
        "stopped" | "created" => Ok(true),
        "deploying" | "running" => {
            Err(Failure::new(format!("{} was deployed again meanwhile", service.view.service_slug)))
        }
        _ => Ok(false),
    })
    .await
}

async fn watch(
    client: &Client,
    service: &Service,
    time: Duration,
    output: &Output,
    is_done: impl Fn(&Service, &[InstanceView]) -> Result<bool, Failure>,
) -> Result<Service, Failure> {
    let slug = &service.view.service_slug;
    let mut progress = output.progress(format!("{slug}: waiting"));
    let start = Instant::now();
    let mut last_seen = start;
    loop {
        match look(client, service).await {
            Ok((service, instances)) => {
                last_seen = Instant::now();
                progress.update(summary(&service, &instances));
                if is_done(&service, &instances)? {
                    return Ok(service);
                }
            }
            Err(error) if is_passing(&error) && last_seen.elapsed() < PATIENCE => {
                progress.update(format!("{slug}: {error}; trying again"));
            }
            Err(error) => return Err(error.into()),
        }
        if start.elapsed() >= time {
            return Err(timed_out(slug, time, progress));
        }
        sleep(POLL).await;
    }
}

async fn look(client: &Client, service: &Service) -> Result<(Service, Vec<InstanceView>), ClientError> {
    let id = service.view.id;
    let service: Service = client.get::<Value>(&format!("/containers/{id}"), &[]).await?.try_into()?;
    let list = client.list(&format!("/containers/{id}/instances"), "instance_list", &[]).await?;
    Ok((service, views(&list)?))
}

/// What is shown of instances.
///
/// # Errors
/// When one of them is not as expected.
pub fn views(instances: &[Value]) -> Result<Vec<InstanceView>, ClientError> {
    let views = instances.iter().map(InstanceView::deserialize).collect::<Result<_, _>>();
    views.map_err(|error| ClientError::Shape(format!("an instance: {error}")))
}

fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. } | ClientError::Broken { .. }) || error.code() == "unavailable"
}

fn failed(service: &Service) -> Failure {
    let view = &service.view;
    let reason = view.status_reason.as_deref().unwrap_or(NO_REASON);
    Failure::new(format!("{} failed: {reason}", view.service_slug))
        .hint(format!("`towline service events {0}` and `towline service logs {0}` tell more", view.service_slug))
}

/// Whether every wished instance of the newest deploy takes requests.
fn is_all_ready(service: &Service, instances: &[InstanceView]) -> bool {
    let newest = instances.iter().map(|instance| instance.generation).max();
    let is_current = |instance: &&InstanceView| Some(instance.generation) == newest && instance.phase == "ready";
    instances.iter().filter(is_current).count() >= service.view.wished() as usize
}

fn timed_out(slug: &str, time: Duration, progress: Progress) -> Failure {
    drop(progress);
    Failure::new(format!("{slug} is not there after {time:?}"))
        .hint(format!("it goes on; towline service show {slug} tells how far it is, --timeout waits longer"))
}

/// How far the service is, in one line.
fn summary(service: &Service, instances: &[InstanceView]) -> String {
    let view = &service.view;
    let mut phases = BTreeMap::new();
    for instance in instances {
        *phases.entry(instance.phase.replace('_', " ")).or_insert(0) += 1;
    }
    let phases: Vec<_> = phases.into_iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    let mut text = format!("{}: {}", view.service_slug, view.service_status);
    if !phases.is_empty() {
        text = format!("{text} ({})", phases.join(", "));
    }
    let mut reasons = instances.iter().filter_map(|instance| instance.reason.as_deref());
    match view.status_reason.as_deref().or_else(|| reasons.next_back()) {
        Some(reason) => format!("{text}: {reason}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(more: &Value) -> Service {
        let mut json = json!({
            "id": "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77", "service_slug": "hello", "service_status": "deploying",
            "replica_count": 2,
        });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json.try_into().unwrap()
    }

    #[test]
    fn progress_is_one_line() {
        let instances = views(&[
            json!({"id": "1", "phase": "pulling"}),
            json!({"id": "2", "phase": "backing_off", "reason": "exited with 1"}),
            json!({"id": "3", "phase": "pulling"}),
        ])
        .unwrap();
        assert_eq!(
            summary(&service(&json!({})), &instances),
            "hello: deploying (1 backing off, 2 pulling): exited with 1"
        );
        let waiting = service(&json!({"status_reason": "no agent is online"}));
        assert_eq!(summary(&waiting, &[]), "hello: deploying: no agent is online");
    }

    #[test]
    fn a_failure_carries_the_servers_reason() {
        let failure = failed(&service(&json!({"status_reason": "no such image"})));
        assert_eq!(failure.message(), "hello failed: no such image");
    }
}
