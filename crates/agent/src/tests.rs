//! What the tests of several modules share.

mod docker_engine;
pub mod server;

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use towline_model::{
    InstanceId, Secret, ServiceId,
    service::{AppProtocol, EnvVar, ProbeSpec, VolumeMount},
};
use towline_tunnel::message::{InstanceSpec, RegistryAuth};

/// A definition that is the same each time but for its generation.
pub fn spec(generation: i64) -> InstanceSpec {
    InstanceSpec {
        instance_id: instance(1),
        service_id: ServiceId::from_uuid(uuid::Uuid::from_u128(2)),
        service_slug: "hello".to_owned(),
        generation,
        image: "towline-demo:latest".to_owned(),
        registry_auth: None,
        exposed_port: 8080,
        app_protocol: AppProtocol::default(),
        health_path: "/health".to_owned(),
        probe: ProbeSpec::default(),
        env: vec![EnvVar { env_name: "MODEL".to_owned(), env_value: "small".to_owned() }],
        secret_env: Vec::new(),
        volumes: vec![VolumeMount {
            host_path: "/srv/models".to_owned(),
            container_path: "/models".to_owned(),
            read_only: true,
        }],
        command: None,
        args: None,
        cpu_limit: None,
        memory_limit_bytes: None,
        gpu_count: 0,
        stop_grace_seconds: 10,
        withheld: None,
    }
}

/// A port of loopback on which nobody listens, and nobody else can while the socket is there: one that was only free a moment
/// ago may be another test's by now. Whoever shares it ([`listen_on`]) may listen.
pub fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = shared_port(([127, 0, 0, 1], 0).into());
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Listens on a port that [`closed_port`] holds.
pub fn listen_on(address: SocketAddr) -> TcpListener {
    shared_port(address).listen(16).unwrap()
}

fn shared_port(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// A login for a registry.
pub fn login(username: &str, password: &str) -> RegistryAuth {
    RegistryAuth { username: username.to_owned(), password: Secret::new(password.to_owned()) }
}

/// An instance's id that is the same each time.
pub fn instance(number: u128) -> InstanceId {
    InstanceId::from_uuid(uuid::Uuid::from_u128(number))
}
