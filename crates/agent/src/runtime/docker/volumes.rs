//! Which paths of the machine containers may see.
//!
//! A service's definition comes from anybody in the team who may deploy. By default it cannot name what would hand over the
//! machine: the system's own directories and the engine's socket. Whoever runs the agent can narrow that to a few roots, and
//! can allow a system path by naming it as one.

use std::path::{Path, PathBuf};

use towline_model::service::VolumeMount;

use crate::runtime::RuntimeError;

/// Directories that are never mounted, nor anything in them, nor what contains them, unless an allowed root says otherwise.
const SYSTEM: [&str; 20] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/snap",
    "/sys",
    "/usr",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/log",
    "/var/run",
];

/// What containers may see of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeRules {
    /// If there are any, only paths in these directories may be mounted, and these may be system directories. Without any,
    /// everything but system directories.
    pub allowed_roots: Vec<PathBuf>,
}

impl VolumeRules {
    /// Checks every mount of an instance. Links are followed first, so that none leads around the rules.
    ///
    /// # Errors
    /// What is wrong with the first mount that is not allowed, in words for the service's owner.
    pub fn check(&self, mounts: &[VolumeMount]) -> Result<(), RuntimeError> {
        mounts.iter().try_for_each(|mount| self.check_one(&mount.host_path).map_err(RuntimeError::Rejected))
    }

    fn check_one(&self, host_path: &str) -> Result<(), String> {
        let path = Path::new(host_path).canonicalize().map_err(|error| {
            format!(
                "the volume's host_path {host_path} cannot be used on this machine: {error}; nothing is created there"
            )
        })?;
        if self.allowed_roots.is_empty() {
            return if is_system(&path) {
                Err(format!(
                    "the volume's host_path {host_path} belongs to the system of the agent's machine; mount a directory \
                     of your own, or let the agent be started with it as an allowed volume root"
                ))
            } else {
                Ok(())
            };
        }
        let roots = self.allowed_roots.iter().map(|root| root.canonicalize().unwrap_or_else(|_| root.clone()));
        if roots.into_iter().any(|root| path.starts_with(root)) {
            return Ok(());
        }
        let roots: Vec<_> = self.allowed_roots.iter().map(|root| root.display().to_string()).collect();
        Err(format!("the volume's host_path {host_path} is outside of what this agent allows: {}", roots.join(", ")))
    }
}

fn is_system(path: &Path) -> bool {
    SYSTEM.iter().map(Path::new).any(|system| path.starts_with(system) || system.starts_with(path))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn check(rules: &VolumeRules, host_path: &str) -> Result<(), String> {
        let mount =
            VolumeMount { host_path: host_path.to_owned(), container_path: "/data".to_owned(), read_only: true };
        rules.check(&[mount]).map_err(|error| error.to_string())
    }

    #[test]
    fn the_system_is_out_of_reach() {
        let rules = VolumeRules::default();
        for path in ["/", "/proc", "/sys", "/etc", "/etc/passwd", "/var", "/dev/null", "/usr/bin", "/proc/self/root"] {
            assert!(check(&rules, path).unwrap_err().contains("belongs to the system"), "{path}");
        }
        let directory = tempfile::tempdir().unwrap();
        check(&rules, directory.path().to_str().unwrap()).unwrap();
    }

    #[test]
    fn links_do_not_lead_around_the_rules() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("innocent");
        symlink("/etc", &link).unwrap();
        assert!(check(&VolumeRules::default(), link.to_str().unwrap()).is_err());
        let rules = VolumeRules { allowed_roots: vec![directory.path().to_owned()] };
        assert!(check(&rules, link.to_str().unwrap()).unwrap_err().contains("outside"));
    }

    #[test]
    fn a_path_that_is_not_there_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let text = check(&VolumeRules::default(), missing.to_str().unwrap()).unwrap_err();
        assert!(text.contains("missing") && text.contains("nothing is created"), "{text}");
        assert!(!missing.exists());
    }

    #[test]
    fn roots_narrow_and_allow() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let rules = VolumeRules { allowed_roots: vec![inside.clone(), "/etc".into()] };
        check(&rules, inside.to_str().unwrap()).unwrap();
        check(&rules, "/etc/hostname").unwrap();
        assert!(check(&rules, directory.path().to_str().unwrap()).unwrap_err().contains("outside"));
    }
}
