//! The fingerprint of a definition, written on containers: by it a container is recognised that bears the right instance
//! and generation and was made from something else (a server restored from a backup).
//!
//! An agent of another version must come to the same fingerprint, or its upgrade would replace every container. So the
//! form is written out here and never changes; a field that is added later is only mixed in when it is set. Probe timings
//! are left out: they change nothing about the container. So are the login for the registry, and the values of variables
//! that come from secrets: a label is no place for anything of a secret, and a container goes on when one changes.

use std::fmt::Write as _;

use ring::digest;
use towline_tunnel::message::InstanceSpec;

/// Fingerprints of another form are not compared.
pub const FORM: &str = "1:";

/// The fingerprint of what a container is made from: `1:` and 32 hexadecimal characters.
#[must_use]
pub fn of(spec: &InstanceSpec) -> String {
    let mut hash = Hash(digest::Context::new(&digest::SHA256));
    hash.text("image", &spec.image);
    hash.text("port", &spec.exposed_port.to_string());
    for variable in &spec.env {
        hash.text("env", &variable.env_name);
        if spec.secret_env.contains(&variable.env_name) {
            hash.text("secret", "");
        } else {
            hash.text("=", &variable.env_value);
        }
    }
    for mount in &spec.volumes {
        hash.text("volume", &mount.host_path);
        hash.text(if mount.read_only { "read" } else { "write" }, &mount.container_path);
    }
    for (name, words) in [("command", &spec.command), ("args", &spec.args)] {
        if let Some(words) = words {
            hash.text(name, &words.len().to_string());
            words.iter().for_each(|word| hash.text(".", word));
        }
    }
    if let Some(cpus) = spec.cpu_limit {
        hash.text("cpus", &cpus.to_bits().to_string());
    }
    if let Some(bytes) = spec.memory_limit_bytes {
        hash.text("memory", &bytes.to_string());
    }
    if spec.gpu_count != 0 {
        hash.text("gpus", &spec.gpu_count.to_string());
    }
    hash.finish()
}

struct Hash(digest::Context);

impl Hash {
    /// Lengths go before texts, so that no two definitions can run together into one.
    fn text(&mut self, name: &str, value: &str) {
        self.0.update(format!("{}:{name}{}:", name.len(), value.len()).as_bytes());
        self.0.update(value.as_bytes());
    }

    fn finish(self) -> String {
        self.0.finish().as_ref()[..16].iter().fold(FORM.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{login, spec};

    #[test]
    fn what_makes_the_container_makes_the_fingerprint() {
        let plain = spec(1);
        let print = of(&plain);
        assert_eq!((print.len(), print.starts_with(FORM)), (34, true));
        let mut same = plain.clone();
        same.probe.interval_seconds += 1;
        same.generation += 1;
        same.stop_grace_seconds += 1;
        assert_eq!(of(&same), print);
        let changes: [fn(&mut InstanceSpec); 8] = [
            |s| s.image.push('x'),
            |s| s.exposed_port += 1,
            |s| s.env[0].env_value.push('x'),
            |s| s.volumes.clear(),
            |s| s.command = Some(vec![]),
            |s| s.args = Some(vec![]),
            |s| s.cpu_limit = Some(1.0),
            |s| s.gpu_count = -1,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = plain.clone();
            change(&mut changed);
            assert_ne!(of(&changed), print, "change {index}");
        }
    }

    #[test]
    fn nothing_of_a_secret_is_in_the_fingerprint() {
        let mut secret = spec(1);
        secret.secret_env = vec![secret.env[0].env_name.clone()];
        let print = of(&secret);
        assert_ne!(print, of(&spec(1)));
        secret.env[0].env_value = "another".to_owned();
        secret.registry_auth = Some(login("user", "password"));
        assert_eq!(of(&secret), print);
    }

    #[test]
    fn the_form_never_changes() {
        // If this fails, an upgrade of the agent would replace every container that runs.
        let mut fixed = spec(1);
        fixed.command = Some(vec!["a".to_owned(), "b".to_owned()]);
        fixed.memory_limit_bytes = Some(64 << 20);
        assert_eq!(of(&fixed), "1:ff847249bf5fdbb15b943dbaf2b52e87");
    }
}
