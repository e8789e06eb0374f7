//! From an instance's definition to what the engine is asked to make. Pure.

use std::collections::HashMap;

use bollard::auth::DockerCredentials;
use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use towline_model::service::VolumeMount;
use towline_tunnel::message::{InstanceSpec, RegistryAuth};

use crate::{fingerprint, runtime::Owner};

/// Whose the container is: the agent's id. It decides whether this agent may touch the container.
pub const LABEL_AGENT: &str = "towline.agent";
/// The instance that the container was made for.
pub const LABEL_INSTANCE: &str = "towline.instance";
/// The deploy that it was made for.
pub const LABEL_GENERATION: &str = "towline.generation";
/// The service.
pub const LABEL_SERVICE: &str = "towline.service";
/// The service's slug, for people.
pub(super) const LABEL_SLUG: &str = "towline.slug";
/// The server, for people.
pub(super) const LABEL_SERVER: &str = "towline.server";
/// What the container was made from.
pub(super) const LABEL_FINGERPRINT: &str = "towline.fingerprint";
/// Seconds between SIGTERM and SIGKILL.
pub(super) const LABEL_STOP_GRACE: &str = "towline.stop_grace_seconds";
/// The port inside the container.
pub(super) const LABEL_PORT: &str = "towline.port";

/// The container's name, for people: the slug and the random end of the instance's id.
pub(super) fn name(spec: &InstanceSpec) -> String {
    let id = spec.instance_id.as_uuid().simple().to_string();
    format!("towline-{}-{}", spec.service_slug, &id[20..])
}

/// The container's labels.
pub(super) fn labels(owner: &Owner, spec: &InstanceSpec) -> HashMap<String, String> {
    [
        (LABEL_AGENT, owner.agent_id.to_string()),
        (LABEL_INSTANCE, spec.instance_id.to_string()),
        (LABEL_GENERATION, spec.generation.to_string()),
        (LABEL_SERVICE, spec.service_id.to_string()),
        (LABEL_SLUG, spec.service_slug.clone()),
        (LABEL_SERVER, owner.server.clone()),
        (LABEL_FINGERPRINT, fingerprint::of(spec)),
        (LABEL_STOP_GRACE, spec.stop_grace_seconds.to_string()),
        (LABEL_PORT, spec.exposed_port.to_string()),
    ]
    .into_iter()
    .map(|(label, value)| (label.to_owned(), value))
    .collect()
}

/// The whole request, with the instance's volumes at the paths where links lead to.
pub(super) fn body(owner: &Owner, spec: &InstanceSpec, volumes: &[VolumeMount]) -> ContainerCreateBody {
    let env = spec.env.iter().map(|variable| format!("{}={}", variable.env_name, variable.env_value)).collect();
    ContainerCreateBody {
        image: Some(with_tag(&spec.image)),
        labels: Some(labels(owner, spec)),
        env: Some(env),
        entrypoint: spec.command.clone(),
        cmd: spec.args.clone(),
        exposed_ports: Some(vec![port_key(spec)]),
        stop_timeout: Some(i64::from(spec.stop_grace_seconds)),
        host_config: Some(host_config(spec, volumes)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &InstanceSpec, volumes: &[VolumeMount]) -> HostConfig {
    let memory = spec.memory_limit_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    HostConfig {
        port_bindings: Some(HashMap::from([(port_key(spec), Some(vec![loopback()]))])),
        publish_all_ports: Some(false),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        log_config: Some(log_config()),
        memory,
        // The same value: no swap on top of the limit.
        memory_swap: memory,
        nano_cpus: spec.cpu_limit.map(nano_cpus),
        mounts: Some(volumes.iter().map(mount).collect()),
        device_requests: (spec.gpu_count != 0).then(|| vec![gpus(spec.gpu_count)]),
        ..HostConfig::default()
    }
}

fn port_key(spec: &InstanceSpec) -> String {
    format!("{}/tcp", spec.exposed_port)
}

fn loopback() -> PortBinding {
    PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) }
}

fn log_config() -> HostConfigLogConfig {
    let options = [("max-size", "10m"), ("max-file", "3")];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 1024 CPUs")]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9) as i64
}

/// As a mount and not as a bind: engines make missing host directories for binds, which would hide a mistyped path.
fn mount(volume: &VolumeMount) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(volume.host_path.clone()),
        target: Some(volume.container_path.clone()),
        read_only: Some(volume.read_only),
        ..Mount::default()
    }
}

fn gpus(count: i32) -> DeviceRequest {
    DeviceRequest {
        count: Some(i64::from(count)),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }
}

/// Splits a reference for a pull. A digest stays with the name. Without a tag it is `latest`: an engine that is given none
/// pulls every tag there is.
pub(super) fn split_reference(image: &str) -> (&str, Option<&str>) {
    if image.contains('@') {
        return (image, None);
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, Some("latest")),
    }
}

/// The registry of a reference, as engines tell it: the first part, if that can be a host.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "https://index.docker.io/v1/",
    }
}

/// A login as the engine takes it.
pub(super) fn credentials(image: &str, login: &RegistryAuth) -> DockerCredentials {
    DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.expose().clone()),
        serveraddress: Some(registry(image).to_owned()),
        ..DockerCredentials::default()
    }
}

fn with_tag(image: &str) -> String {
    match split_reference(image) {
        (name, Some(tag)) => format!("{name}:{tag}"),
        (name, None) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use towline_model::AgentId;

    use super::*;
    use crate::tests::{login, spec};

    fn owner() -> Owner {
        Owner { agent_id: AgentId::generate(), server: "https://example.com".to_owned() }
    }

    #[test]
    fn the_port_is_published_on_loopback_only_at_a_number_that_the_engine_chooses() {
        let host = body(&owner(), &spec(1), &spec(1).volumes).host_config.unwrap();
        let bindings = host.port_bindings.unwrap();
        assert_eq!(bindings.len(), 1);
        assert_eq!(bindings["8080/tcp"].as_deref(), Some(&[loopback()][..]));
        assert_eq!(loopback().host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(host.publish_all_ports, Some(false));
        assert_eq!(host.network_mode, None);
    }

    #[test]
    fn limits_and_devices_are_set_only_when_wished() {
        let plain = host_config(&spec(1), &[]);
        assert_eq!((plain.memory, plain.nano_cpus, plain.device_requests), (None, None, None));
        let mut limited = spec(1);
        limited.cpu_limit = Some(1.5);
        limited.memory_limit_bytes = Some(64 << 20);
        limited.gpu_count = -1;
        let host = host_config(&limited, &[]);
        assert_eq!(
            (host.nano_cpus, host.memory, host.memory_swap),
            (Some(1_500_000_000), Some(64 << 20), Some(64 << 20))
        );
        assert_eq!(host.device_requests.unwrap()[0].count, Some(-1));
        assert_eq!(host.privileged, Some(false));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
    }

    #[test]
    fn the_images_own_command_is_kept_unless_replaced() {
        let plain = body(&owner(), &spec(1), &[]);
        assert_eq!((plain.entrypoint, plain.cmd), (None, None));
        let mut replaced = spec(1);
        replaced.command = Some(vec!["sh".to_owned()]);
        replaced.args = Some(vec!["-c".to_owned()]);
        let body = body(&owner(), &replaced, &[]);
        assert_eq!((body.entrypoint.unwrap(), body.cmd.unwrap()), (vec!["sh".to_owned()], vec!["-c".to_owned()]));
    }

    #[test]
    fn references_without_a_tag_mean_latest() {
        for (image, name, tag) in [
            ("nginx", "nginx", Some("latest")),
            ("nginx:1.27", "nginx", Some("1.27")),
            ("localhost:5000/a", "localhost:5000/a", Some("latest")),
            ("localhost:5000/a:b", "localhost:5000/a", Some("b")),
            ("a@sha256:00", "a@sha256:00", None),
            ("a:b@sha256:00", "a:b@sha256:00", None),
        ] {
            assert_eq!(split_reference(image), (name, tag), "{image}");
        }
        assert_eq!(with_tag("nginx"), "nginx:latest");
    }

    #[test]
    fn a_login_is_for_the_registry_of_the_image_and_on_no_container() {
        for (image, server) in [
            ("nginx", "https://index.docker.io/v1/"),
            ("org/app:1", "https://index.docker.io/v1/"),
            ("ghcr.io/org/app", "ghcr.io"),
            ("localhost/a", "localhost"),
            ("127.0.0.1:5000/a:b", "127.0.0.1:5000"),
        ] {
            let credentials = credentials(image, &login("me", "hunter2"));
            assert_eq!(credentials.serveraddress.as_deref(), Some(server), "{image}");
            assert_eq!(
                (credentials.username.as_deref(), credentials.password.as_deref()),
                (Some("me"), Some("hunter2"))
            );
        }
        let mut spec = spec(1);
        spec.registry_auth = Some(login("me", "hunter2"));
        assert!(!format!("{:?}", body(&owner(), &spec, &[])).contains("hunter2"));
    }

    #[test]
    fn names_tell_slug_and_instance() {
        let spec = spec(1);
        let name = name(&spec);
        let id = spec.instance_id.to_string();
        assert!(name.starts_with("towline-hello-") && id.ends_with(name.rsplit_once('-').unwrap().1), "{name} {id}");
    }
}
