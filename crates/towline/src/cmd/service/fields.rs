//! The fields of a service as options. What is not given is left out, so that the server's default or the present value
//! stays.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use towline_model::service::AppProtocol;

use crate::{
    failure::Failure,
    units::{parse_duration, parse_size},
};

/// What a process is spoken to with, as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Http1,
    H2c,
}

impl From<Protocol> for AppProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1,
            Protocol::H2c => Self::H2c,
        }
    }
}

/// The fields of a service that can be changed, as options.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Fields of the service")]
pub struct FieldArgs {
    /// The image to run, by tag or digest.
    #[arg(long, value_name = "IMAGE", visible_alias = "docker-image")]
    image: Option<String>,
    /// The name for people, 1 to 255 characters [default: the slug].
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// What the service is, at most 64 KiB.
    #[arg(long, value_name = "TEXT")]
    desc: Option<String>,
    /// Where the process of an attached service listens, as its agent reaches it.
    #[arg(long, value_name = "HOST:PORT")]
    attached_target: Option<String>,
    /// The https:// URL of an external service; its path is put before the path of every request.
    #[arg(long, value_name = "URL")]
    external_url: Option<String>,
    /// The secret (by its name or id) whose value the server of an external service is sent as Authorization.
    #[arg(long, value_name = "SECRET")]
    external_auth: Option<String>,
    /// The port inside the container, 1 to 65535 [default: 8080].
    #[arg(long, value_name = "PORT", visible_alias = "exposed-port")]
    port: Option<u16>,
    /// What the process is spoken to with: h2c is HTTP/2 without TLS, as for gRPC [default: http1].
    #[arg(long, value_name = "PROTOCOL")]
    app_protocol: Option<Protocol>,
    /// The HTTP path that is probed; 200 to 399 is healthy [default: /health; for an attached service none, it is healthy
    /// while it takes connections].
    #[arg(long, value_name = "PATH")]
    health_path: Option<String>,
    /// An environment variable; repeat for several. The ones given replace all that the service has.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// An environment variable that gets the value of a secret, given by its name or id; repeat for several. With --env they
    /// replace all that the service has.
    #[arg(long, value_name = "NAME=SECRET")]
    env_secret: Vec<String>,
    /// The secret (by its name or id) with the login for the image's registry: username:password.
    #[arg(long, value_name = "SECRET")]
    registry_auth: Option<String>,
    /// A path of the agent's machine that the container sees; repeat for several. They replace all that the service
    /// has.
    #[arg(long, value_name = "HOST:CONTAINER[:ro]")]
    volume: Vec<String>,
    /// A label that an agent must have; repeat for several. They replace all that the service has.
    #[arg(long, value_name = "LABEL")]
    required_label: Vec<String>,
    /// GPUs for each instance: a number, or all [default: 0].
    #[arg(long, value_name = "N", value_parser = parse_gpus)]
    gpus: Option<i32>,
    /// How many instances, 1 to 10 [default: 1].
    #[arg(long, value_name = "N", visible_alias = "replica-count")]
    replicas: Option<u32>,
    /// How to use the service, for AI callers. Everybody who can list services reads it. At most 64 KiB.
    #[arg(long, value_name = "TEXT")]
    usage_prompt: Option<String>,
    /// The path on the container that serves its OpenAPI document.
    #[arg(long, value_name = "PATH")]
    openapi_url: Option<String>,
    /// A word of the command that replaces the image's entry point; repeat for each word.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    command: Vec<String>,
    /// A word that replaces the image's arguments; repeat for each word.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// The most CPUs that an instance may use, 0.01 to 1024 [default: no limit].
    #[arg(long, value_name = "CPUS")]
    cpus: Option<f64>,
    /// The most memory that an instance may use, at least 6MiB [default: no limit].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// The longest that a request may take as a whole, 1s to 24h [default: no limit].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    request_timeout: Option<Duration>,
    /// The longest that connecting to an instance may take, 1s to 5m [default: the agent's own limit].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    connect_timeout: Option<Duration>,
    /// The longest from the end of a request to the beginning of its answer, 1s to 24h [default: no limit].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    first_byte_timeout: Option<Duration>,
    /// The longest pause of a container that takes a request or sends an answer, 1s to 24h [default: no limit].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle_timeout: Option<Duration>,
    /// The most requests that the instances have at a time, all together; more wait [default: no limit].
    #[arg(long, value_name = "N")]
    max_concurrent_requests: Option<u32>,
    /// The most requests that wait when there are as many as may be [default: 100].
    #[arg(long, value_name = "N")]
    max_queued_requests: Option<u32>,
    /// The time between two probes, 1s to 5m [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    probe_interval: Option<Duration>,
    /// How long a probe may take, 1s to 1m [default: 3s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    probe_timeout: Option<Duration>,
    /// Failed probes in a row after which an instance takes no more requests, 1 to 20 [default: 3].
    #[arg(long, value_name = "N")]
    probe_failures: Option<u32>,
    /// The time from a container's start to its first passed probe after which a deploy has failed, 1s to 1h [default:
    /// 2m].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    start_deadline: Option<Duration>,
}

impl FieldArgs {
    /// The fields that were given, as the API takes them, but with names of secrets where ids belong. `present` is the service as it is, for fields that are parts
    /// of one.
    ///
    /// # Errors
    /// When an entry of a list cannot be read.
    pub fn to_json(&self, present: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        set("docker_image", self.image.as_ref().map(|text| json!(text)));
        set("attached_target", self.attached_target.as_ref().map(|text| json!(text)));
        set("external_auth_credential_id", self.external_auth.as_ref().map(|text| json!(text)));
        set("external_url", self.external_url.as_ref().map(|text| json!(text)));
        set("display_name", self.display_name.as_ref().map(|text| json!(text)));
        set("service_desc", self.desc.as_ref().map(|text| json!(text)));
        set("exposed_port", self.port.map(|port| json!(port)));
        set("app_protocol", self.app_protocol.map(|protocol| json!(AppProtocol::from(protocol))));
        set("health_path", self.health_path.as_ref().map(|text| json!(text)));
        set("env_config", self.environment()?);
        set("registry_auth_secret_id", self.registry_auth.as_ref().map(|text| json!(text)));
        set("volume_config", list(&self.volume, parse_volume)?);
        set("required_labels", list(&self.required_label, |label| Ok(json!(label)))?);
        set("gpu_count", self.gpus.map(|count| json!(count)));
        set("replica_count", self.replicas.map(|count| json!(count)));
        set("usage_prompt", self.usage_prompt.as_ref().map(|text| json!(text)));
        set("openapi_url", self.openapi_url.as_ref().map(|text| json!(text)));
        set("command", list(&self.command, |word| Ok(json!(word)))?);
        set("args", list(&self.arg, |word| Ok(json!(word)))?);
        set("cpu_limit", self.cpus.map(|cpus| json!(cpus)));
        set("memory_limit_bytes", self.memory.map(|bytes| json!(bytes)));
        set("request_timeout_seconds", whole_seconds("request-timeout", self.request_timeout)?);
        for (field, option, value) in [
            ("connect_timeout_seconds", "connect-timeout", self.connect_timeout),
            ("first_byte_timeout_seconds", "first-byte-timeout", self.first_byte_timeout),
            ("idle_timeout_seconds", "idle-timeout", self.idle_timeout),
        ] {
            set(field, whole_seconds(option, value)?);
        }
        set("max_concurrent_requests", self.max_concurrent_requests.map(|count| json!(count)));
        set("max_queued_requests", self.max_queued_requests.map(|count| json!(count)));
        set("probe", self.probe(present)?);
        Ok(fields)
    }

    /// Values and secrets are one field of the API.
    fn environment(&self) -> Result<Option<Value>, Failure> {
        let entries = [list(&self.env, parse_env)?, list(&self.env_secret, parse_env_secret)?];
        let entries: Vec<_> =
            entries.into_iter().flatten().filter_map(|list| list.as_array().cloned()).flatten().collect();
        Ok((!entries.is_empty()).then_some(Value::Array(entries)))
    }

    /// The probe's timings are one field of the API: what is not given keeps its present value.
    fn probe(&self, present: &Map<String, Value>) -> Result<Option<Value>, Failure> {
        let given = [
            ("interval_seconds", whole_seconds("probe-interval", self.probe_interval)?),
            ("timeout_seconds", whole_seconds("probe-timeout", self.probe_timeout)?),
            ("failure_threshold", self.probe_failures.map(|count| json!(count))),
            ("start_deadline_seconds", whole_seconds("start-deadline", self.start_deadline)?),
        ];
        if given.iter().all(|(_, value)| value.is_none()) {
            return Ok(None);
        }
        let mut probe = present.get("probe").and_then(Value::as_object).cloned().unwrap_or_default();
        probe.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(Some(Value::Object(probe)))
    }
}

fn list(entries: &[String], parse: impl Fn(&str) -> Result<Value, Failure>) -> Result<Option<Value>, Failure> {
    if entries.is_empty() {
        return Ok(None);
    }
    let entries: Result<Vec<_>, _> = entries.iter().map(|entry| parse(entry)).collect();
    entries.map(|entries| Some(Value::Array(entries)))
}

fn whole_seconds(option: &str, duration: Option<Duration>) -> Result<Option<Value>, Failure> {
    match duration {
        Some(duration) if duration.subsec_nanos() != 0 => {
            Err(Failure::usage(format!("--{option} takes whole seconds")))
        }
        duration => Ok(duration.map(|duration| json!(duration.as_secs()))),
    }
}

fn parse_env(entry: &str) -> Result<Value, Failure> {
    let (name, value) =
        entry.split_once('=').ok_or_else(|| Failure::usage(format!("--env {entry:?} has no =; write NAME=VALUE")))?;
    Ok(json!({"env_name": name, "env_value": value}))
}

fn parse_env_secret(entry: &str) -> Result<Value, Failure> {
    let (name, secret) = entry
        .split_once('=')
        .ok_or_else(|| Failure::usage(format!("--env-secret {entry:?} has no =; write NAME=SECRET")))?;
    Ok(json!({"env_name": name, "secret_id": secret}))
}

fn parse_volume(entry: &str) -> Result<Value, Failure> {
    let wrong = || Failure::usage(format!("--volume {entry:?} is not HOST:CONTAINER or HOST:CONTAINER:ro"));
    let (entry, read_only) = match entry.rsplit_once(':') {
        Some((rest, "ro")) => (rest, true),
        Some((rest, "rw")) => (rest, false),
        _ => (entry, false),
    };
    let (host, container) = entry.split_once(':').ok_or_else(wrong)?;
    if host.is_empty() || container.is_empty() || container.contains(':') {
        return Err(wrong());
    }
    Ok(json!({"host_path": host, "container_path": container, "read_only": read_only}))
}

fn parse_gpus(text: &str) -> Result<i32, String> {
    match text {
        "all" | "-1" => Ok(-1),
        number => number.parse::<u16>().map(i32::from).map_err(|_| "expected a number of GPUs, or all".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        fields: FieldArgs,
    }

    fn fields(line: &[&str]) -> Result<Value, Failure> {
        let line = Line::try_parse_from([&["x"], line].concat()).unwrap();
        let present = json!({"probe": {"interval_seconds": 9, "timeout_seconds": 8}});
        line.fields.to_json(present.as_object().unwrap()).map(Value::Object)
    }

    #[test]
    fn only_what_was_given_is_sent() {
        assert_eq!(fields(&[]).unwrap(), json!({}));
        let line = ["--image", "demo", "--replicas", "2", "--env", "A=1=2", "--env", "B=", "--gpus", "all"];
        assert_eq!(
            fields(&line).unwrap(),
            json!({
                "docker_image": "demo", "replica_count": 2, "gpu_count": -1,
                "env_config": [{"env_name": "A", "env_value": "1=2"}, {"env_name": "B", "env_value": ""}],
            })
        );
    }

    #[test]
    fn units_become_the_fields_units() {
        let line = ["--memory", "512MiB", "--request-timeout", "5m", "--command", "sh", "--arg", "-c", "--arg", "true"];
        assert_eq!(
            fields(&line).unwrap(),
            json!({
                "memory_limit_bytes": 536_870_912, "request_timeout_seconds": 300, "command": ["sh"], "args": ["-c", "true"],
            })
        );
        assert_eq!(fields(&["--app-protocol", "h2c"]).unwrap(), json!({"app_protocol": "h2c"}));
        let line = ["--connect-timeout", "5s", "--first-byte-timeout", "2m", "--idle-timeout", "1h"];
        let line = [&line[..], &["--max-concurrent-requests", "4", "--max-queued-requests", "0"]].concat();
        assert_eq!(
            fields(&line).unwrap(),
            json!({
                "connect_timeout_seconds": 5, "first_byte_timeout_seconds": 120, "idle_timeout_seconds": 3600,
                "max_concurrent_requests": 4, "max_queued_requests": 0,
            })
        );
        assert!(fields(&["--request-timeout", "1500ms"]).unwrap_err().message().contains("whole seconds"));
    }

    #[test]
    fn one_probe_timing_keeps_the_others() {
        assert_eq!(
            fields(&["--probe-interval", "2s"]).unwrap(),
            json!({"probe": {"interval_seconds": 2, "timeout_seconds": 8}})
        );
    }

    #[test]
    fn volumes_are_read_as_engines_write_them() {
        let volume = |text: &str| fields(&["--volume", text]).map(|fields| fields["volume_config"][0].clone());
        let expected = |read_only| json!({"host_path": "/a", "container_path": "/b", "read_only": read_only});
        assert_eq!(volume("/a:/b").unwrap(), expected(false));
        assert_eq!(volume("/a:/b:ro").unwrap(), expected(true));
        assert_eq!(volume("/a:/b:rw").unwrap(), expected(false));
        for wrong in ["/a", "/a:", ":/b", "/a:/b:/c", "ro"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
        assert!(fields(&["--env", "A"]).is_err() && fields(&["--env-secret", "A"]).is_err());
    }

    #[test]
    fn values_and_secrets_are_one_list() {
        let line = ["--env-secret", "B=key", "--env", "A=1", "--registry-auth", "login"];
        assert_eq!(
            fields(&line).unwrap(),
            json!({
                "env_config": [{"env_name": "A", "env_value": "1"}, {"env_name": "B", "secret_id": "key"}],
                "registry_auth_secret_id": "login",
            })
        );
    }
}
