//! What a definition may say: every rule of every field, each told by the field's name.

use std::collections::BTreeSet;

use super::{
    AppProtocol, LABEL_RULE, MASKED, MAX_ENTRIES, MAX_TOLD_BYTES, ProbeSpec, ServiceSpec, ServiceType, is_http_path,
    is_label, is_slug,
    place::{ExternalUrl, HostPort, TARGET_RULE},
    text::{is_absolute_path, is_env_name, is_storable},
};
use crate::{
    image::is_image_reference,
    validate::{Checks, ValidationError},
};

impl ServiceSpec {
    /// The bytes that count against [`MAX_TOLD_BYTES`], without the values of secrets.
    #[must_use]
    pub fn told_bytes(&self) -> usize {
        self.told_parts().iter().map(|(_, size)| size).sum()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names every field that is out of range.
    pub fn validate(&self) -> Result<(), ValidationError> {
        let mut checks = Checks::default();
        self.check_identity(&mut checks);
        self.check_type(&mut checks);
        self.check_process(&mut checks);
        self.check_calls(&mut checks);
        self.check_env(&mut checks);
        self.check_volumes(&mut checks);
        self.check_size(&mut checks);
        self.check_placement(&mut checks);
        self.check_probe(&mut checks);
        checks.finish()
    }

    fn check_identity(&self, checks: &mut Checks) {
        checks.require(
            is_slug(&self.service_slug),
            "service_slug",
            "must be 3 to 100 lower-case letters, digits and dashes, with a letter or digit at both ends",
        );
        let length = self.display_name.chars().count();
        checks.require((1..=255).contains(&length), "display_name", "must have 1 to 255 characters");
        checks.require(
            !self.display_name.contains(char::is_control),
            "display_name",
            "must not contain control characters",
        );
        checks.require(is_storable(&self.service_desc), "service_desc", "must have at most 64 KiB and no NUL");
        checks.require(
            self.usage_prompt.as_deref().is_none_or(is_storable),
            "usage_prompt",
            "must have at most 64 KiB and no NUL",
        );
        checks.require(
            self.openapi_url.as_deref().is_none_or(is_http_path),
            "openapi_url",
            "must be a path on the container that starts with one /, such as /openapi.json",
        );
    }

    /// What a definition of its type must have, and what it must not.
    fn check_type(&self, checks: &mut Checks) {
        let own = [
            (ServiceType::Deployed, "docker_image", self.docker_image.is_some()),
            (ServiceType::External, "external_url", self.external_url.is_some()),
            (ServiceType::Attached, "attached_target", self.attached_target.is_some()),
        ];
        for (owner, field, is_set) in own {
            let (own, name) = (owner == self.service_type, owner.as_str());
            checks.require_with(is_set || !own, || (field.to_owned(), format!("is required for service_type {name}")));
            checks.require_with(own || !is_set, || (field.to_owned(), only_for(name, self.service_type)));
        }
        let has_secret = self.external_auth_credential_id.is_some();
        checks.require_with(!has_secret || self.service_type == ServiceType::External, || {
            ("external_auth_credential_id".to_owned(), only_for("external", self.service_type))
        });
        if self.service_type == ServiceType::Deployed {
            return;
        }
        for (field, is_set) in [
            ("registry_auth_secret_id", self.registry_auth_secret_id.is_some()),
            ("exposed_port", self.exposed_port.is_some()),
            ("env_config", !self.env_config.is_empty()),
            ("volume_config", !self.volume_config.is_empty()),
            ("gpu_count", self.gpu_count != 0),
            ("command", self.command.is_some()),
            ("args", self.args.is_some()),
            ("cpu_limit", self.cpu_limit.is_some()),
            ("memory_limit_bytes", self.memory_limit_bytes.is_some()),
        ] {
            checks.require_with(!is_set, || (field.to_owned(), only_for("deployed", self.service_type)));
        }
        let is_external = self.service_type == ServiceType::External;
        let probes_path = is_external && self.health_path.is_some();
        checks.require(!probes_path, "health_path", "is not for service_type external; leave it out");
        checks.require(
            !is_external || self.app_protocol == AppProtocol::Http1,
            "app_protocol",
            "must be http1 for service_type external",
        );
        if let Some(rule) = self.external_url.as_deref().and_then(|url| ExternalUrl::parse(url).err()) {
            checks.require(false, "external_url", rule);
        }
        let target = self.attached_target.as_deref();
        checks.require(target.is_none_or(|target| HostPort::parse(target).is_some()), "attached_target", TARGET_RULE);
    }

    fn check_process(&self, checks: &mut Checks) {
        checks.require(
            self.docker_image.as_deref().is_none_or(is_image_reference),
            "docker_image",
            "must be an image reference such as nginx:1.27 or ghcr.io/org/app@sha256:…",
        );
        checks.require(self.exposed_port != Some(0), "exposed_port", "must be from 1 to 65535");
        for (field, words) in [("command", &self.command), ("args", &self.args)] {
            let fits = words
                .as_ref()
                .is_none_or(|words| words.len() <= MAX_ENTRIES && words.iter().all(|word| is_storable(word)));
            checks.require(fits, field, "must have at most 256 entries of at most 64 KiB without NUL");
        }
        checks.require(
            self.cpu_limit.is_none_or(|cpus| (0.01..=1024.0).contains(&cpus)),
            "cpu_limit",
            "must be from 0.01 to 1024",
        );
        // Docker refuses less than 6 MiB; a JSON number above i64 cannot be a limit of any machine.
        checks.require(
            self.memory_limit_bytes.is_none_or(|bytes| (6 << 20..=1 << 50).contains(&bytes)),
            "memory_limit_bytes",
            "must be from 6291456 (6 MiB) to 1125899906842624 (1 PiB)",
        );
    }

    fn check_calls(&self, checks: &mut Checks) {
        for (field, value, range) in [
            ("request_timeout_seconds", self.request_timeout_seconds, 1..=86_400),
            ("connect_timeout_seconds", self.connect_timeout_seconds, 1..=300),
            ("first_byte_timeout_seconds", self.first_byte_timeout_seconds, 1..=86_400),
            ("idle_timeout_seconds", self.idle_timeout_seconds, 1..=86_400),
            ("max_concurrent_requests", self.max_concurrent_requests, 1..=100_000),
            ("max_queued_requests", self.max_queued_requests, 0..=100_000),
        ] {
            checks.require_with(value.is_none_or(|value| range.contains(&value)), || {
                (field.to_owned(), format!("must be from {} to {}", range.start(), range.end()))
            });
        }
        checks.require(
            self.max_queued_requests.is_none() || self.max_concurrent_requests.is_some(),
            "max_queued_requests",
            "is only for a service with max_concurrent_requests; set that too, or leave it out",
        );
    }

    fn check_env(&self, checks: &mut Checks) {
        checks.require(self.env_config.len() <= MAX_ENTRIES, "env_config", "must have at most 256 entries");
        let mut names = BTreeSet::new();
        for (index, variable) in self.env_config.iter().enumerate() {
            let at = |field: &str| format!("env_config[{index}].{field}");
            checks.require_with(is_env_name(&variable.env_name), || {
                (at("env_name"), "must be a name such as MODEL_NAME, at most 256 characters".to_owned())
            });
            checks.require_with(names.insert(&variable.env_name), || {
                (at("env_name"), format!("{} is set twice; keep one", variable.env_name))
            });
            checks.require_with(variable.env_value.is_some() != variable.secret_id.is_some(), || {
                (at("env_value"), "exactly one of env_value and secret_id must be there".to_owned())
            });
            checks.require_with(variable.env_value.as_deref().is_none_or(is_storable), || {
                (at("env_value"), "must have at most 64 KiB and no NUL".to_owned())
            });
            checks.require_with(variable.env_value.as_deref() != Some(MASKED), || {
                (
                    at("env_value"),
                    "is the mask that stands for a hidden value; send the real value or leave env_config out"
                        .to_owned(),
                )
            });
        }
    }

    fn check_volumes(&self, checks: &mut Checks) {
        checks.require(self.volume_config.len() <= MAX_ENTRIES, "volume_config", "must have at most 256 entries");
        let mut targets = BTreeSet::new();
        for (index, mount) in self.volume_config.iter().enumerate() {
            let at = |field: &str| format!("volume_config[{index}].{field}");
            checks.require_with(is_absolute_path(&mount.host_path), || {
                (at("host_path"), "must be an absolute path without .. or : in it".to_owned())
            });
            let usable =
                is_absolute_path(&mount.container_path) && !mount.container_path.trim_end_matches('/').is_empty();
            checks.require_with(usable, || {
                (at("container_path"), "must be an absolute path without .. or : in it, and not /".to_owned())
            });
            checks.require_with(targets.insert(mount.container_path.trim_end_matches('/')), || {
                (at("container_path"), format!("{} is mounted twice; keep one", mount.container_path))
            });
        }
    }

    fn told_parts(&self) -> [(&'static str, usize); 4] {
        let words = |words: &Option<Vec<String>>| words.iter().flatten().map(String::len).sum::<usize>();
        let variables = self
            .env_config
            .iter()
            .map(|variable| variable.env_name.len() + variable.env_value.as_ref().map_or(0, String::len));
        let mounts = self.volume_config.iter().map(|mount| mount.host_path.len() + mount.container_path.len());
        [
            ("command", words(&self.command)),
            ("args", words(&self.args)),
            ("env_config", variables.sum()),
            ("volume_config", mounts.sum()),
        ]
    }

    fn check_size(&self, checks: &mut Checks) {
        let sizes = self.told_parts();
        let total: usize = sizes.iter().map(|(_, size)| size).sum();
        let (largest, _) = sizes.into_iter().max_by_key(|(_, size)| *size).unwrap_or_default();
        checks.require_with(total <= MAX_TOLD_BYTES, || {
            let rule = "command, args, env_config and volume_config must have at most 131072 bytes (128 KiB) together";
            (largest.to_owned(), format!("{rule}, not {total}; put large texts into a file or the image"))
        });
    }

    fn check_placement(&self, checks: &mut Checks) {
        checks.require((1..=10).contains(&self.replica_count), "replica_count", "must be from 1 to 10");
        checks.require(
            (-1..=64).contains(&self.gpu_count),
            "gpu_count",
            "must be -1 for all GPUs of the machine, or from 0 to 64",
        );
        checks.require(self.required_labels.len() <= MAX_ENTRIES, "required_labels", "must have at most 256 entries");
        for (index, label) in self.required_labels.iter().enumerate() {
            checks.require_with(is_label(label), || (format!("required_labels[{index}]"), LABEL_RULE.to_owned()));
        }
    }

    fn check_probe(&self, checks: &mut Checks) {
        checks.require(
            self.health_path.as_deref().is_none_or(is_http_path),
            "health_path",
            "must be a path that starts with one /, such as /health",
        );
        let ProbeSpec { interval_seconds, timeout_seconds, failure_threshold, start_deadline_seconds } = self.probe;
        checks.require((1..=300).contains(&interval_seconds), "probe.interval_seconds", "must be from 1 to 300");
        checks.require((1..=60).contains(&timeout_seconds), "probe.timeout_seconds", "must be from 1 to 60");
        checks.require((1..=20).contains(&failure_threshold), "probe.failure_threshold", "must be from 1 to 20");
        checks.require(
            (1..=3600).contains(&start_deadline_seconds),
            "probe.start_deadline_seconds",
            "must be from 1 to 3600",
        );
    }
}

fn only_for(owner: &str, given: ServiceType) -> String {
    format!("is only for service_type {owner}, and this one is {}; leave it out", given.as_str())
}
