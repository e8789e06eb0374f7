//! From the engine's list to containers of ours. What does not bear our labels, all of them and well-formed, is not ours.

use std::{net::SocketAddr, time::Duration};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum, PortSummary, PortSummaryTypeEnum};
use towline_model::AgentId;

use super::definition::{
    LABEL_AGENT, LABEL_FINGERPRINT, LABEL_GENERATION, LABEL_INSTANCE, LABEL_PORT, LABEL_STOP_GRACE,
};
use crate::{
    fingerprint,
    runtime::{Container, ContainerId, ContainerState},
};

/// Reads one entry of the list.
pub(super) fn container(agent: AgentId, summary: &ContainerSummary) -> Option<Container> {
    let labels = summary.labels.as_ref()?;
    let label = |name: &str| labels.get(name).map(String::as_str);
    // The engine has filtered by this label already. It is what decides over stopping and removing, so it is checked here too.
    if label(LABEL_AGENT)? != agent.to_string() {
        return None;
    }
    let grace = label(LABEL_STOP_GRACE).and_then(|seconds| seconds.parse().ok()).unwrap_or(10);
    let fingerprint = label(LABEL_FINGERPRINT).filter(|print| print.starts_with(fingerprint::FORM));
    Some(Container {
        id: ContainerId::new(summary.id.clone()?),
        instance_id: label(LABEL_INSTANCE)?.parse().ok()?,
        generation: label(LABEL_GENERATION)?.parse().ok()?,
        fingerprint: fingerprint.map(str::to_owned),
        stop_grace: Duration::from_secs(grace),
        created_at: summary.created.unwrap_or_default(),
        state: state(summary, label(LABEL_PORT).and_then(|port| port.parse().ok())),
    })
}

fn state(summary: &ContainerSummary, exposed_port: Option<u16>) -> ContainerState {
    use ContainerSummaryStateEnum as Engine;
    match summary.state.unwrap_or(Engine::EMPTY) {
        Engine::CREATED => ContainerState::Created,
        Engine::RUNNING | Engine::PAUSED | Engine::STOPPING => {
            ContainerState::Running { endpoint: endpoint(summary, exposed_port) }
        }
        Engine::REMOVING => ContainerState::Removing,
        Engine::DEAD => ContainerState::Dead,
        // A container that restarts by itself is not one that this agent made so; it will be in another state shortly.
        Engine::EXITED | Engine::RESTARTING | Engine::EMPTY => ContainerState::Exited,
    }
}

/// Where the port is published. Only loopback counts: an engine that publishes elsewhere is not used, so that the mistake
/// is seen.
fn endpoint(summary: &ContainerSummary, exposed_port: Option<u16>) -> Option<SocketAddr> {
    let ports = summary.ports.as_deref()?;
    let is_ours = |port: &&PortSummary| {
        port.typ == Some(PortSummaryTypeEnum::TCP) && exposed_port.is_none_or(|exposed| exposed == port.private_port)
    };
    ports.iter().filter(is_ours).find_map(|port| {
        let address: std::net::IpAddr = port.ip.as_deref()?.parse().ok()?;
        address.is_loopback().then_some(SocketAddr::new(address, port.public_port?))
    })
}

#[cfg(test)]
mod tests {
    use towline_model::InstanceId;

    use super::*;
    use crate::runtime::docker::definition::labels;

    fn summary(agent: AgentId) -> ContainerSummary {
        let owner = crate::runtime::Owner { agent_id: agent, server: "http://x".to_owned() };
        ContainerSummary {
            id: Some("0123456789abcdef".to_owned()),
            labels: Some(labels(&owner, &crate::tests::spec(3))),
            created: Some(1_700_000_000),
            state: Some(ContainerSummaryStateEnum::RUNNING),
            ports: Some(vec![
                PortSummary {
                    ip: Some("0.0.0.0".to_owned()),
                    private_port: 8080,
                    public_port: Some(1),
                    typ: Some(PortSummaryTypeEnum::TCP),
                },
                PortSummary { ip: None, private_port: 9000, public_port: None, typ: Some(PortSummaryTypeEnum::TCP) },
                PortSummary {
                    ip: Some("127.0.0.1".to_owned()),
                    private_port: 8080,
                    public_port: Some(49153),
                    typ: Some(PortSummaryTypeEnum::TCP),
                },
            ]),
            ..ContainerSummary::default()
        }
    }

    #[test]
    fn what_was_written_on_a_container_is_read_back() {
        let agent = AgentId::generate();
        let read = container(agent, &summary(agent)).unwrap();
        let spec = crate::tests::spec(3);
        assert_eq!((read.instance_id, read.generation), (spec.instance_id, 3));
        assert_eq!(read.fingerprint, Some(fingerprint::of(&spec)));
        assert_eq!(read.stop_grace, Duration::from_secs(u64::from(spec.stop_grace_seconds)));
        assert_eq!(read.state, ContainerState::Running { endpoint: Some(([127, 0, 0, 1], 49153).into()) });
    }

    #[test]
    fn what_is_not_ours_is_not_seen() {
        let agent = AgentId::generate();
        let check = |change: &dyn Fn(&mut ContainerSummary)| {
            let mut other = summary(agent);
            change(&mut other);
            assert_eq!(container(agent, &other), None);
        };
        check(&|s| s.labels = None);
        check(&|s| drop(s.labels.as_mut().unwrap().insert(LABEL_AGENT.to_owned(), AgentId::generate().to_string())));
        check(&|s| drop(s.labels.as_mut().unwrap().remove(LABEL_INSTANCE)));
        check(&|s| drop(s.labels.as_mut().unwrap().insert(LABEL_GENERATION.to_owned(), "one".to_owned())));
        assert_eq!(container(AgentId::generate(), &summary(agent)), None);
        let _ = InstanceId::generate();
    }

    #[test]
    fn a_fingerprint_of_another_form_is_not_compared() {
        let agent = AgentId::generate();
        let mut other = summary(agent);
        other.labels.as_mut().unwrap().insert(LABEL_FINGERPRINT.to_owned(), "2:abc".to_owned());
        assert_eq!(container(agent, &other).unwrap().fingerprint, None);
    }
}
