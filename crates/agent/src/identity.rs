//! Who this machine is: its name, and something that stays the same when the name changes.

use std::{fmt::Write as _, fs};

use ring::digest;

/// The machine's host name, or a name made from its id when it has none.
#[must_use]
pub fn default_name() -> String {
    let name = ["/proc/sys/kernel/hostname", "/etc/hostname"].into_iter().find_map(first_line);
    let name: Option<String> = name.map(|name| name.chars().filter(|c| !c.is_control()).take(100).collect());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("agent-{}", &machine_id()[..8]))
}

/// 32 hexadecimal characters that stay the same for this machine.
///
/// The machine's own id is hashed, as machine-id(5) asks: it is not to be shown to others. Machines without one (minimal
/// containers) are told apart by their hardware or, failing that, by their boot.
#[must_use]
pub fn machine_id() -> String {
    let sources = [
        "/etc/machine-id",
        "/var/lib/dbus/machine-id",
        "/sys/class/dmi/id/product_uuid",
        "/proc/sys/kernel/random/boot_id",
        "/proc/sys/kernel/hostname",
    ];
    machine_id_of(&sources.into_iter().find_map(first_line).unwrap_or_default())
}

fn machine_id_of(source: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("towline machine id\0{source}").as_bytes());
    hash.as_ref()[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    // A machine-id that is not set up yet says "uninitialized".
    (!line.is_empty() && line != "uninitialized").then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_stable_and_does_not_show_its_source() {
        assert_eq!(machine_id(), machine_id());
        let source = "0123456789abcdef0123456789abcdef";
        let id = machine_id_of(source);
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(id, source);
        assert_ne!(id, machine_id_of("another"));
    }

    #[test]
    fn a_name_is_always_found() {
        let name = default_name();
        assert!((1..=100).contains(&name.chars().count()), "{name:?}");
    }
}
