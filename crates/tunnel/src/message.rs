//! What an agent and the server tell each other on a session: one enum for each direction.
//!
//! Messages are JSON objects tagged by `type`. Unknown fields are ignored and new ones have defaults, so that an agent
//! of last year understands a server of this year. What should run is always sent whole ([`ServerMessage::Desired`]), and
//! so is what does run ([`AgentMessage::Report`]): a lost or repeated message changes nothing.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use towline_model::{
    AgentId, InstanceId, InstancePhase, Secret, ServiceId, SessionId,
    service::{AppProtocol, EnvVar, ProbeSpec, VolumeMount, place::HostPort},
};

/// The version of the session's messages and of the frames that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest message, in bytes of JSON.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// What [`Hello::capabilities`] says of an agent that takes instances at a [`Place::Attached`].
pub const CAN_ATTACH: &str = "attached";
/// What it says of one that takes instances at a [`Place::External`].
pub const CAN_REACH_OUT: &str = "external";

/// From the agent to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentMessage {
    /// The first message of a session.
    Hello(Hello),
    /// What runs on the machine; sent on each change and at least every ten seconds.
    Report(Report),
    /// The agent is about to end by wish. It takes no new streams; those that run are finished.
    Leaving,
}

/// From the server to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The answer to [`AgentMessage::Hello`].
    Welcome(Welcome),
    /// The session is refused; the server closes it.
    Refused(Refusal),
    /// Everything that should run on the machine.
    Desired(Desired),
    /// The gateway wants one more carrier for each ticket.
    DialCarriers {
        /// One-use tickets, each valid for 30 seconds, at most 64.
        tickets: Vec<String>,
    },
    /// The gateway is about to end. The agent connects anew, and keeps this session until the gateway ends it: what the
    /// gateway has taken may still need streams.
    GoAway {
        /// Milliseconds after which the gateway cuts what still runs.
        drain_millis: u64,
    },
}

impl AgentMessage {
    /// Whether this build knows messages of this type. One that it does not know is skipped, not an error.
    #[must_use]
    pub fn knows(kind: &str) -> bool {
        matches!(kind, "hello" | "report" | "leaving")
    }
}

impl ServerMessage {
    /// Whether this build knows messages of this type. One that it does not know is skipped, not an error.
    #[must_use]
    pub fn knows(kind: &str) -> bool {
        matches!(kind, "welcome" | "refused" | "desired" | "dial_carriers" | "go_away")
    }
}

/// Who the agent is and what its machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol versions that the agent speaks.
    pub protocol_versions: Vec<u32>,
    /// The agent's name, unique in its team: 1 to 100 characters.
    pub name: String,
    /// Something that stays the same for this machine. Two machines that use one name are told apart by it.
    pub machine_id: String,
    /// The version of the agent's program.
    pub agent_version: String,
    /// The agent's labels, at most 64.
    #[serde(default)]
    pub labels: Vec<String>,
    /// What the agent can do beyond running containers: [`CAN_ATTACH`], [`CAN_REACH_OUT`].
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// How many GPUs containers can be given.
    #[serde(default)]
    pub gpu_count: u32,
    /// Whether this session leads through a proxy (CONNECT).
    #[serde(default)]
    pub via_proxy: bool,
    /// The container engine.
    pub engine: EngineStatus,
}

/// Whether the machine can run containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EngineStatus {
    /// It can.
    Ready {
        /// The engine's name and version, such as `Docker 28.2.2`.
        version: String,
    },
    /// It cannot at the moment.
    Unavailable {
        /// Why, and how to get an engine.
        reason: String,
    },
}

/// The server accepts the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both speak from now on.
    pub protocol_version: u32,
    /// The agent's id, the same each time.
    pub agent_id: AgentId,
    /// This session's id.
    pub session_id: SessionId,
    /// The version of the server's program.
    pub server_version: String,
    /// The age at which something before the server cuts connections, in seconds, if the server knows of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_lifetime_seconds: Option<u64>,
}

/// Why a session is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason, and what to do.
    pub reason: String,
    /// Whether trying again later can help. If not, the agent keeps trying slowly and says so.
    pub retry: bool,
}

/// Everything that should run on a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Grows with each change; reports quote it.
    pub revision: u64,
    /// Every instance that should run as a container. A container of this agent that is not named is stopped and removed.
    pub instances: Vec<InstanceSpec>,
    /// Every instance that goes on as a container if it is there, and that none may be made for: each says why
    /// ([`InstanceSpec::withheld`]). A list of its own, so that an agent that does not know of it makes none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<InstanceSpec>,
    /// Every instance that is a place to connect to. A list of its own, so that an agent that knows of no places does not
    /// take one for a container.
    #[serde(default)]
    pub endpoints: Vec<EndpointSpec>,
}

/// One instance that runs already, and that the agent connects to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its service.
    pub service_id: ServiceId,
    /// Its service's slug, for logs.
    pub service_slug: String,
    /// The deploy that it belongs to.
    pub generation: i64,
    /// Where it is.
    pub place: Place,
    /// What it is probed with.
    #[serde(default)]
    pub app_protocol: AppProtocol,
    /// The HTTP path that is probed. Without one it is healthy while it takes connections.
    #[serde(default)]
    pub health_path: Option<String>,
    /// Probe timings.
    #[serde(deserialize_with = "later_probe")]
    pub probe: ProbeSpec,
}

/// Where an instance is that is no container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    /// A process near the agent, most often on its own machine. What is spoken is HTTP without TLS.
    Attached(HostPort),
    /// A server elsewhere. The gateway speaks TLS with it; the agent moves the bytes.
    External(HostPort),
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

/// One instance that should run.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its service.
    pub service_id: ServiceId,
    /// Its service's slug, for names and logs.
    pub service_slug: String,
    /// The deploy that it belongs to. A container of another generation is not this instance.
    pub generation: i64,
    /// The image to run.
    pub image: String,
    /// The login for the image's registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_auth: Option<RegistryAuth>,
    /// The port inside the container.
    pub exposed_port: u16,
    /// What it is probed with.
    #[serde(default)]
    pub app_protocol: AppProtocol,
    /// The HTTP path that is probed.
    pub health_path: String,
    /// Probe timings.
    #[serde(deserialize_with = "later_probe")]
    pub probe: ProbeSpec,
    /// Environment variables.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// The names of those variables whose values come from secrets. Such a value may be another one the next time that the
    /// instance is told; a container that was made with the old one is still the right one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_env: Vec<String>,
    /// Mounted paths.
    #[serde(default, deserialize_with = "later_volumes")]
    pub volumes: Vec<VolumeMount>,
    /// Replaces the image's entry point.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Replaces the image's arguments.
    #[serde(default)]
    pub args: Option<Vec<String>>,
    /// The most CPUs.
    #[serde(default)]
    pub cpu_limit: Option<f64>,
    /// The most memory.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// GPUs: −1 all, 0 none, N that many.
    #[serde(default)]
    pub gpu_count: i32,
    /// Seconds between SIGTERM and SIGKILL when it is stopped.
    #[serde(default = "default_stop_grace")]
    pub stop_grace_seconds: u32,
    /// Why no container may be made from this: it is not whole, such as when a secret cannot be opened. A container that was
    /// made before goes on, and is started again when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

/// A part of a definition, read as messages are: what a later server says beside what is known is passed over. In a definition
/// that somebody writes it is a fault.
fn later_probe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProbeSpec, D::Error> {
    #[derive(Deserialize)]
    struct Later {
        interval_seconds: Option<u32>,
        timeout_seconds: Option<u32>,
        failure_threshold: Option<u32>,
        start_deadline_seconds: Option<u32>,
    }
    let (later, default) = (Later::deserialize(deserializer)?, ProbeSpec::default());
    Ok(ProbeSpec {
        interval_seconds: later.interval_seconds.unwrap_or(default.interval_seconds),
        timeout_seconds: later.timeout_seconds.unwrap_or(default.timeout_seconds),
        failure_threshold: later.failure_threshold.unwrap_or(default.failure_threshold),
        start_deadline_seconds: later.start_deadline_seconds.unwrap_or(default.start_deadline_seconds),
    })
}

/// The same, for mounted paths.
fn later_volumes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<VolumeMount>, D::Error> {
    #[derive(Deserialize)]
    struct Later {
        host_path: String,
        container_path: String,
        #[serde(default)]
        read_only: bool,
    }
    let later = Vec::<Later>::deserialize(deserializer)?.into_iter();
    let mounts = later.map(|Later { host_path, container_path, read_only }| VolumeMount {
        host_path,
        container_path,
        read_only,
    });
    Ok(mounts.collect())
}

const fn default_stop_grace() -> u32 {
    10
}

/// A login for an image registry. It is for pulling and nothing else: no agent writes it anywhere.
#[derive(Clone, Serialize, Deserialize)]
pub struct RegistryAuth {
    /// The user's name.
    pub username: String,
    /// The password or token.
    #[serde(serialize_with = "expose")]
    pub password: Secret<String>,
}

fn expose<S: Serializer>(secret: &Secret<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

impl PartialEq for RegistryAuth {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username && self.password.expose() == other.password.expose()
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryAuth(…)")
    }
}

impl fmt::Debug for InstanceSpec {
    /// Arguments and environment may hold secrets, so they are never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceSpec")
            .field("instance_id", &self.instance_id)
            .field("service_slug", &self.service_slug)
            .field("generation", &self.generation)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// What runs on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The newest [`Desired::revision`] that the agent has seen and compared with its containers; 0 before the first, and
    /// as long as the engine has not told which there are.
    pub revision: u64,
    /// The newest [`Desired::revision`] that all of [`Desired::endpoints`] were taken up from. It needs no engine.
    #[serde(default)]
    pub endpoints_revision: u64,
    /// The container engine.
    pub engine: EngineStatus,
    /// Every instance that the agent has a container for, connects to or is working on, wished or not.
    pub instances: Vec<InstanceReport>,
}

/// How far one instance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// The instance.
    pub instance_id: InstanceId,
    /// The deploy that its container was made for.
    pub generation: i64,
    /// How far it is.
    pub phase: InstancePhase,
    /// Why it is not ready, in words that a user can act on.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// How often its container ended by itself and was started again.
    #[serde(default)]
    pub restart_count: u32,
    /// The engine's id of its container.
    #[serde(default)]
    pub container_id: Option<String>,
}

/// Why an instance is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of failure it is.
    pub kind: ReasonKind,
    /// The sentence for the user.
    pub message: String,
}

/// The kinds of failure that the control plane tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// The image is neither here nor can it be pulled, and trying again will not help soon (no such image, no access).
    ImageUnavailable,
    /// The container cannot be made or started with this definition.
    StartFailed,
    /// The container ended by itself.
    Exited,
    /// The container runs and does not pass its health probe.
    ProbeFailed,
    /// The container engine is not there or failed.
    EngineUnavailable,
    /// The agent may not connect to that place.
    Denied,
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_tagged_and_ignore_what_they_do_not_know() {
        let text = r#"{"type":"dial_carriers","tickets":["a"],"from_next_year":1}"#;
        let message: ServerMessage = serde_json::from_str(text).unwrap();
        assert_eq!(message, ServerMessage::DialCarriers { tickets: vec!["a".to_owned()] });
        let reason: ReasonKind = serde_json::from_str(r#""moon_phase""#).unwrap();
        assert_eq!(reason, ReasonKind::Unknown);
    }

    /// Puts a field that nobody knows into every object.
    fn add_later_fields(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.values_mut().for_each(add_later_fields);
                fields.insert("from_next_year".to_owned(), serde_json::json!({"x": [1]}));
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(add_later_fields),
            _ => {}
        }
    }

    #[test]
    fn nothing_that_is_new_in_any_part_of_a_message_is_in_the_way() {
        let instance = InstanceSpec {
            instance_id: InstanceId::generate(),
            service_id: ServiceId::generate(),
            service_slug: "hello".to_owned(),
            generation: 1,
            image: "hello:1".to_owned(),
            registry_auth: Some(RegistryAuth { username: "robot".to_owned(), password: Secret::new("p".to_owned()) }),
            exposed_port: 8080,
            app_protocol: AppProtocol::default(),
            health_path: "/health".to_owned(),
            probe: ProbeSpec { interval_seconds: 7, ..ProbeSpec::default() },
            env: vec![EnvVar { env_name: "A".to_owned(), env_value: "1".to_owned() }],
            secret_env: vec!["A".to_owned()],
            volumes: vec![VolumeMount { host_path: "/a".to_owned(), container_path: "/b".to_owned(), read_only: true }],
            command: None,
            args: None,
            cpu_limit: Some(0.5),
            memory_limit_bytes: None,
            gpu_count: 0,
            stop_grace_seconds: 10,
            withheld: None,
        };
        let endpoint = EndpointSpec {
            instance_id: InstanceId::generate(),
            service_id: ServiceId::generate(),
            service_slug: "ollama".to_owned(),
            generation: 1,
            place: Place::Attached(HostPort { host: "127.0.0.1".to_owned(), port: 11434 }),
            app_protocol: AppProtocol::default(),
            health_path: None,
            probe: ProbeSpec::default(),
        };
        let desired = ServerMessage::Desired(Desired {
            revision: 1,
            instances: vec![instance.clone()],
            withheld: vec![instance],
            endpoints: vec![endpoint],
        });
        let mut later = serde_json::to_value(&desired).unwrap();
        add_later_fields(&mut later);
        assert_eq!(serde_json::from_value::<ServerMessage>(later).unwrap(), desired);

        let reason = Reason { kind: ReasonKind::Exited, message: "exit code 1".to_owned() };
        let report = AgentMessage::Report(Report {
            revision: 1,
            endpoints_revision: 1,
            engine: EngineStatus::Ready { version: "Podman 9".to_owned() },
            instances: vec![InstanceReport {
                instance_id: InstanceId::generate(),
                generation: 1,
                phase: InstancePhase::Ready,
                reason: Some(reason),
                restart_count: 0,
                container_id: None,
            }],
        });
        let mut later = serde_json::to_value(&report).unwrap();
        add_later_fields(&mut later);
        assert_eq!(serde_json::from_value::<AgentMessage>(later).unwrap(), report);
    }

    #[test]
    fn the_known_types_are_those_that_can_be_read() {
        let reads = |kind: &str, agent: bool| {
            let text = serde_json::json!({ "type": kind }).to_string();
            let error = if agent {
                serde_json::from_str::<AgentMessage>(&text).err()
            } else {
                serde_json::from_str::<ServerMessage>(&text).err()
            };
            !error.is_some_and(|error| error.to_string().contains("unknown variant"))
        };
        for kind in ["hello", "report", "leaving", "welcome", "refused", "desired", "dial_carriers", "go_away", "else"]
        {
            assert_eq!(AgentMessage::knows(kind), reads(kind, true), "{kind}");
            assert_eq!(ServerMessage::knows(kind), reads(kind, false), "{kind}");
        }
    }

    #[test]
    fn an_agent_that_knows_no_places_sees_none() {
        #[derive(Deserialize)]
        struct Earlier {
            instances: Vec<InstanceSpec>,
        }
        let spec = EndpointSpec {
            instance_id: InstanceId::generate(),
            service_id: ServiceId::generate(),
            service_slug: "ollama".to_owned(),
            generation: 1,
            place: Place::Attached(HostPort { host: "127.0.0.1".to_owned(), port: 11434 }),
            app_protocol: AppProtocol::default(),
            health_path: None,
            probe: ProbeSpec::default(),
        };
        let desired = Desired { revision: 1, instances: Vec::new(), withheld: Vec::new(), endpoints: vec![spec] };
        let text = serde_json::to_string(&desired).unwrap();
        assert!(serde_json::from_str::<Earlier>(&text).unwrap().instances.is_empty());
        assert_eq!(serde_json::from_str::<Desired>(&text).unwrap(), desired);
        let later = text.replace("\"kind\":\"attached\"", "\"kind\":\"tunnelled\"");
        assert_eq!(serde_json::from_str::<Desired>(&later).unwrap().endpoints[0].place, Place::Unknown);
        let earlier = r#"{"revision":1,"instances":[]}"#;
        assert!(serde_json::from_str::<Desired>(earlier).unwrap().endpoints.is_empty());
    }

    #[test]
    fn an_agent_that_knows_of_nothing_withheld_makes_nothing_of_it() {
        #[derive(Deserialize)]
        struct Earlier {
            instances: Vec<serde_json::Value>,
        }
        let spec = serde_json::json!({
            "instance_id": InstanceId::generate(), "service_id": ServiceId::generate(), "service_slug": "hello",
            "generation": 1, "image": "demo", "exposed_port": 8080, "health_path": "/health", "probe": {},
            "withheld": "the secret db cannot be opened",
        });
        let spec: InstanceSpec = serde_json::from_value(spec).unwrap();
        let desired = Desired { revision: 1, instances: Vec::new(), withheld: vec![spec], endpoints: Vec::new() };
        let text = serde_json::to_string(&desired).unwrap();
        assert!(serde_json::from_str::<Earlier>(&text).unwrap().instances.is_empty());
        assert_eq!(serde_json::from_str::<Desired>(&text).unwrap(), desired);
    }

    #[test]
    fn an_instance_never_logs_its_environment() {
        let text = serde_json::json!({
            "instance_id": InstanceId::generate(), "service_id": ServiceId::generate(), "service_slug": "hello",
            "generation": 1, "image": "demo", "exposed_port": 8080, "health_path": "/health", "probe": {},
            "env": [{"env_name": "TOKEN", "env_value": "hunter2"}], "args": ["--key=hunter2"],
            "registry_auth": {"username": "hunter2", "password": "hunter2"},
        });
        let spec: InstanceSpec = serde_json::from_value(text).unwrap();
        assert!(!format!("{spec:?} {:?}", spec.registry_auth).contains("hunter2"));
        assert!(serde_json::to_string(&spec).unwrap().contains(r#""password":"hunter2""#), "the agent gets it");
        assert_eq!(spec.stop_grace_seconds, 10);
    }
}
