//! The definition of a service: what a user wishes to run.
//!
//! [`ServiceSpec`] is at once the request body of "create", the stored document and the part of an answer that a user
//! wrote. A partial update is merged into it by [`ServiceSpec::merge`]; both ways end in the same [`validation`].

pub mod place;
mod protocol;
mod text;
mod validation;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroize;

use self::place::{ExternalUrl, HostPort};
pub use self::protocol::AppProtocol;
pub use self::text::{LABEL_RULE, OWN_LABEL_PREFIX, is_http_path, is_label, is_slug, own_label};
use crate::{
    SecretId,
    secret_use::{SecretUse, secret_uses},
    validate::{Checks, ValidationError, without_value},
};

/// What is answered in place of an environment value to those who may not see it. Never accepted as a value.
pub const MASKED: &str = "********";

/// The port inside a container unless another is given.
const DEFAULT_PORT: u16 = 8080;
/// Requests that wait for a service that has a limit, unless another number is given.
pub const DEFAULT_QUEUED_REQUESTS: u32 = 100;
/// The path of a container that is probed unless another is given.
const DEFAULT_HEALTH_PATH: &str = "/health";

/// The most bytes of a text that is stored: a description, an environment value, a secret.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
const MAX_ENTRIES: usize = 256;
/// The most bytes that what an agent is told about one service may have. Agents are told everything that they should run
/// in one message, so one definition must not take much of it.
pub const MAX_TOLD_BYTES: usize = 128 * 1024;

/// Where the process behind a service comes from. Cannot be changed after creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceType {
    /// Agents run `docker_image` as containers.
    #[default]
    Deployed,
    /// A server elsewhere, at `external_url`; agents connect to it.
    External,
    /// A process that runs already where an agent can reach it, at `attached_target`.
    Attached,
}

impl ServiceType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Deployed, Self::External, Self::Attached];

    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::External => "external",
            Self::Attached => "attached",
        }
    }
}

/// One environment variable of a definition: a value, or a secret that has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvEntry {
    /// The variable's name: `^[A-Za-z_][A-Za-z0-9_.-]*$`, at most 256 characters.
    #[schema(example = "MODEL", pattern = "^[A-Za-z_][A-Za-z0-9_.-]{0,255}$")]
    pub env_name: String,
    /// Its value, at most 64 KiB; not beside `secret_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "llama3", max_length = 65536)]
    pub env_value: Option<String>,
    /// The secret whose value it gets when a container is made; not beside `env_value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_id: Option<SecretId>,
}

impl fmt::Debug for EnvEntry {
    /// Values of environment variables are often secrets, so they are never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.secret_id {
            Some(secret) => write!(f, "{}=secret {secret}", self.env_name),
            None => write!(f, "{}=…", self.env_name),
        }
    }
}

/// One environment variable of a container, with its value, wherever that came from. Wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// The variable's name.
    pub env_name: String,
    /// Its value.
    pub env_value: String,
}

impl Drop for EnvVar {
    fn drop(&mut self) {
        self.env_value.zeroize();
    }
}

impl fmt::Debug for EnvVar {
    /// Values of environment variables are often secrets, so they are never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.env_name)
    }
}

/// A directory or file of the agent's machine that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// An absolute path on the agent's machine, without `..`.
    #[schema(example = "/srv/models", max_length = 4096)]
    pub host_path: String,
    /// An absolute path in the container, without `..`, not `/`.
    #[schema(example = "/models", max_length = 4096)]
    pub container_path: String,
    /// Whether the container may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// When and how often the agent asks the container for its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeSpec {
    /// Seconds between two probes, 1 to 300.
    #[schema(minimum = 1, maximum = 300)]
    pub interval_seconds: u32,
    /// Seconds that one probe may take, 1 to 60.
    #[schema(minimum = 1, maximum = 60)]
    pub timeout_seconds: u32,
    /// Failed probes in a row after which a ready instance takes no more requests, 1 to 20.
    #[schema(minimum = 1, maximum = 20)]
    pub failure_threshold: u32,
    /// Seconds from the container's start to its first passed probe, 1 to 3600, after which a deploy has failed.
    #[schema(minimum = 1, maximum = 3600)]
    pub start_deadline_seconds: u32,
}

impl Default for ProbeSpec {
    fn default() -> Self {
        Self { interval_seconds: 5, timeout_seconds: 3, failure_threshold: 3, start_deadline_seconds: 120 }
    }
}

/// A service as its owner defines it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// The name in URLs: `^[a-z0-9][a-z0-9-]{1,98}[a-z0-9]$`, unique in the team, cannot be changed.
    #[schema(example = "hello", pattern = "^[a-z0-9][a-z0-9-]{1,98}[a-z0-9]$")]
    pub service_slug: String,
    /// The name for people, 1 to 255 characters.
    #[schema(example = "Hello", min_length = 1, max_length = 255)]
    pub display_name: String,
    /// What it is, at most 64 KiB.
    #[serde(default)]
    #[schema(max_length = 65536)]
    pub service_desc: String,
    /// Where its process comes from, cannot be changed.
    #[serde(default)]
    pub service_type: ServiceType,
    /// The image to run, by tag or digest. Required for, and only for, `deployed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "towline-demo:latest", max_length = 512)]
    pub docker_image: Option<String>,
    /// The secret with the login for the image's registry, as `username:password`. Only `deployed` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_auth_secret_id: Option<SecretId>,
    /// The port inside the container, 1 to 65535; 8080 unless given. Only `deployed` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 8080, minimum = 1, maximum = 65535)]
    pub exposed_port: Option<u16>,
    /// What the process is spoken to with. Not for `external`, which is spoken to with HTTP/1.1.
    #[serde(default)]
    pub app_protocol: AppProtocol,
    /// The HTTP path that is probed; an answer of 200 to 399 is healthy. For `deployed` it is `/health` unless given. An
    /// `attached` service without one is healthy while its process takes connections. `external` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/health", max_length = 8192)]
    pub health_path: Option<String>,
    /// Environment variables; names are unique. At most 256.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub env_config: Vec<EnvEntry>,
    /// Mounted paths; container paths are unique. At most 256.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub volume_config: Vec<VolumeMount>,
    /// Only agents that have all of these labels are eligible. At most 256.
    #[serde(default)]
    #[schema(example = json!(["gpu"]), max_items = 256)]
    pub required_labels: Vec<String>,
    /// GPUs for each instance: −1 all of the machine, 0 none, N that many.
    #[serde(default)]
    #[schema(minimum = -1, maximum = 64, default = 0)]
    pub gpu_count: i32,
    /// How many instances to run, 1 to 10.
    #[serde(default = "default_replicas")]
    #[schema(default = 1, minimum = 1, maximum = 10)]
    pub replica_count: u32,
    /// How to use the service, for AI callers. Readable by everybody who can list, so it must hold no secrets. At most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 65536)]
    pub usage_prompt: Option<String>,
    /// The path on the container that serves its OpenAPI document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/openapi.json", max_length = 8192)]
    pub openapi_url: Option<String>,
    /// Where the process listens, as its agent reaches it: `host:port`. Required for, and only for, `attached`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "127.0.0.1:11434")]
    pub attached_target: Option<String>,
    /// Where the server is: an absolute `https://` URL without user, query and fragment, at most 2048 characters. Its path
    /// is put before the path of every request. Required for, and only for, `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://api.example.com/v1", max_length = 2048)]
    pub external_url: Option<String>,
    /// The secret whose value the server is sent as `Authorization`, such as `Bearer abc`, in place of anything that a caller
    /// sends there. Only for `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_auth_credential_id: Option<SecretId>,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub command: Option<Vec<String>>,
    /// Replaces the image's arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub args: Option<Vec<String>>,
    /// The most CPUs that an instance may use, 0.01 to 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 1024)]
    pub cpu_limit: Option<f64>,
    /// The most memory that an instance may use, at least 6 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 6_291_456, maximum = 1_125_899_906_842_624i64)]
    pub memory_limit_bytes: Option<u64>,
    /// The longest that a request may take as a whole, 1 to 86400 seconds; without it there is no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub request_timeout_seconds: Option<u32>,
    /// The longest that connecting to an instance may take, 1 to 300 seconds; without it the agent's own limit holds. With
    /// it, a request leaves only when the connection stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 300)]
    pub connect_timeout_seconds: Option<u32>,
    /// The longest from the end of a request to the beginning of its answer, 1 to 86400 seconds; without it there is no such
    /// limit. Interim answers (1xx) are no beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub first_byte_timeout_seconds: Option<u32>,
    /// The longest pause of a container that takes a request or sends an answer, 1 to 86400 seconds, and of both sides of a
    /// WebSocket; without it there is no such limit. While the caller is waited for, it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub idle_timeout_seconds: Option<u32>,
    /// The most requests that the instances have at a time, all together, 1 to 100000; more wait in a line. Without it there
    /// is no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub max_concurrent_requests: Option<u32>,
    /// The most requests that wait in that line, 0 to 100000; 100 unless given. One more is a 503. Only beside
    /// `max_concurrent_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100_000)]
    pub max_queued_requests: Option<u32>,
    /// Probe timings.
    #[serde(default)]
    pub probe: ProbeSpec,
}

const fn default_replicas() -> u32 {
    1
}

impl ServiceSpec {
    /// Reads a definition from a JSON object, fills in defaults and validates it.
    ///
    /// # Errors
    /// Names every field that is missing, unknown, of the wrong type or out of range.
    pub fn from_json(mut object: Map<String, Value>) -> Result<Self, ValidationError> {
        // `null` is how clients write "none": it is the same as leaving the field out.
        object.retain(|field, value| !(value.is_null() && is_field(field)));
        settle_defaults(&mut object);
        let spec: Self = serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
            let path = error.path().to_string();
            ValidationError::one(
                if path == "." { String::new() } else { path },
                without_value(&error.inner().to_string()),
            )
        })?;
        spec.validate()?;
        Ok(spec)
    }

    /// The definition after a partial update: a field that is absent keeps its value, `null` returns an optional one to
    /// its default, anything else replaces it whole.
    ///
    /// # Errors
    /// As [`ServiceSpec::from_json`], and when a field that cannot be changed would change.
    pub fn merge(&self, changes: Map<String, Value>) -> Result<Self, ValidationError> {
        let Ok(Value::Object(mut merged)) = serde_json::to_value(self) else {
            unreachable!("a definition is a JSON object with string keys")
        };
        self.check_unchangeable(&changes)?;
        merged.extend(changes);
        Self::from_json(merged)
    }

    /// Comes before all other rules: by those, a definition of another type would be told of its fields one by one.
    fn check_unchangeable(&self, changes: &Map<String, Value>) -> Result<(), ValidationError> {
        let keeps_slug = changes.get("service_slug").is_none_or(|slug| *slug == self.service_slug);
        let keeps_type = changes.get("service_type").is_none_or(|wished| {
            Option::<ServiceType>::deserialize(wished).is_ok_and(|it| it.unwrap_or_default() == self.service_type)
        });
        let mut checks = Checks::default();
        for (keeps, field, is) in [
            (keeps_slug, "service_slug", self.service_slug.as_str()),
            (keeps_type, "service_type", self.service_type.as_str()),
        ] {
            checks.require_with(keeps, || {
                let told = format!(
                    "cannot be changed after creation, and is {is}; leave it out, or create another service and delete this one"
                );
                (field.to_owned(), told)
            });
        }
        checks.finish()
    }

    /// The port inside the container.
    #[must_use]
    pub fn container_port(&self) -> u16 {
        self.exposed_port.unwrap_or(DEFAULT_PORT)
    }

    /// Where the server of an `external` service is.
    #[must_use]
    pub fn external(&self) -> Option<ExternalUrl> {
        self.external_url.as_deref().and_then(|url| ExternalUrl::parse(url).ok())
    }

    /// Where the process of an `attached` service is.
    #[must_use]
    pub fn attached(&self) -> Option<HostPort> {
        self.attached_target.as_deref().and_then(HostPort::parse)
    }

    /// The definition as somebody sees it who may not see environment values.
    #[must_use]
    pub fn masked(mut self) -> Self {
        for value in self.env_config.iter_mut().filter_map(|variable| variable.env_value.as_mut()) {
            MASKED.clone_into(value);
        }
        self
    }

    /// The secrets that the definition refers to. Cheaper than [`ServiceSpec::secret_uses`].
    pub fn secret_ids(&self) -> impl Iterator<Item = SecretId> + '_ {
        let variables = self.env_config.iter().filter_map(|variable| variable.secret_id);
        variables.chain(self.registry_auth_secret_id).chain(self.external_auth_credential_id)
    }

    /// Every place where the definition refers to a secret.
    #[must_use]
    pub fn secret_uses(&self) -> Vec<SecretUse> {
        serde_json::to_value(self).map(|definition| secret_uses(&definition)).unwrap_or_default()
    }
}

/// Fills in what a container has unless it is given. Clients that send every field send these defaults for the other
/// types, too, where they mean nothing.
fn settle_defaults(object: &mut Map<String, Value>) {
    let defaults = [("exposed_port", Value::from(DEFAULT_PORT)), ("health_path", Value::from(DEFAULT_HEALTH_PATH))];
    let kind = object.get("service_type").and_then(Value::as_str).unwrap_or("deployed").to_owned();
    for (field, default) in defaults {
        match kind.as_str() {
            "deployed" => {
                object.entry(field).or_insert(default);
            }
            // An attached process is asked for its health only where its owner says so.
            "attached" if field == "health_path" => {}
            _ => {
                if object.get(field) == Some(&default) {
                    object.remove(field);
                }
            }
        }
    }
}

fn is_field(name: &str) -> bool {
    const FIELDS: [&str; 30] = [
        "service_slug",
        "display_name",
        "service_desc",
        "service_type",
        "docker_image",
        "registry_auth_secret_id",
        "exposed_port",
        "app_protocol",
        "health_path",
        "env_config",
        "volume_config",
        "required_labels",
        "gpu_count",
        "replica_count",
        "usage_prompt",
        "openapi_url",
        "attached_target",
        "external_url",
        "external_auth_credential_id",
        "command",
        "args",
        "cpu_limit",
        "memory_limit_bytes",
        "request_timeout_seconds",
        "connect_timeout_seconds",
        "first_byte_timeout_seconds",
        "idle_timeout_seconds",
        "max_concurrent_requests",
        "max_queued_requests",
        "probe",
    ];
    FIELDS.contains(&name)
}

#[cfg(test)]
mod tests;
