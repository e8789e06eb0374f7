//! Which paths of the machine containers may see.
//!
//! A service's definition comes from anybody in the team who may deploy. By default it cannot name what would hand over the
//! machine: the system's own directories. Whoever runs the agent can narrow that to a few roots, and can allow a system
//! path by naming it as one. What belongs to the engine and to the agent itself (its socket, keys and data) is never mounted,
//! nor what contains it, whatever is allowed.
//!
//! Links are followed before a path is looked at, and the engine is given the path that was found. Since what is on a disk
//! changes, the same is done again right before each start. That narrows the time in which somebody who may write to a
//! mounted directory could put a link in the way to the moment between the look and the engine's own; it does not close it.

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
    /// Files and directories that are never mounted, nor what is in them, nor what contains them. Those that are not there
    /// do not matter.
    pub protected: Vec<PathBuf>,
}

impl VolumeRules {
    /// Follows the links in every mount of an instance and checks where they lead. Gives the mounts with those paths.
    ///
    /// # Errors
    /// What is wrong with the first mount that is not allowed, in words for the service's owner.
    pub fn resolve(&self, mounts: &[VolumeMount]) -> Result<Vec<VolumeMount>, RuntimeError> {
        let resolve = |mount: &VolumeMount| {
            let host_path = self.check(&mount.host_path)?;
            Ok(VolumeMount { host_path, ..mount.clone() })
        };
        mounts.iter().map(resolve).collect()
    }

    /// Checks where a host path leads now, and gives that.
    ///
    /// # Errors
    /// What is wrong with it, in words for the service's owner.
    pub fn check(&self, host_path: &str) -> Result<String, RuntimeError> {
        let path = self.find(host_path).map_err(RuntimeError::Rejected)?;
        path.into_os_string().into_string().map_err(|_| {
            let text = format!("the volume's host_path {host_path} leads to a path that is not UTF-8; rename it");
            RuntimeError::Rejected(text)
        })
    }

    fn find(&self, host_path: &str) -> Result<PathBuf, String> {
        let path = Path::new(host_path).canonicalize().map_err(|error| {
            format!(
                "the volume's host_path {host_path} cannot be used on this machine: {error}; nothing is created there"
            )
        })?;
        if self.is_protected(&path) {
            return Err(format!(
                "the volume's host_path {host_path} holds what belongs to the agent itself or to its container engine, which \
                 no container may see; mount a directory that holds neither"
            ));
        }
        if self.allowed_roots.is_empty() {
            return if is_system(&path) {
                Err(format!(
                    "the volume's host_path {host_path} belongs to the system of the agent's machine; mount a directory \
                     of your own, or let the agent be started with it as an allowed volume root"
                ))
            } else {
                Ok(path)
            };
        }
        let roots = self.allowed_roots.iter().map(|root| root.canonicalize().unwrap_or_else(|_| root.clone()));
        if roots.into_iter().any(|root| path.starts_with(root)) {
            return Ok(path);
        }
        let roots: Vec<_> = self.allowed_roots.iter().map(|root| root.display().to_string()).collect();
        Err(format!("the volume's host_path {host_path} is outside of what this agent allows: {}", roots.join(", ")))
    }

    fn is_protected(&self, path: &Path) -> bool {
        let protected = self.protected.iter().filter_map(|protected| protected.canonicalize().ok());
        protected.into_iter().any(|protected| path.starts_with(&protected) || protected.starts_with(path))
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
        rules.resolve(&[mount]).map(drop).map_err(|error| error.to_string())
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
        let rules = VolumeRules { allowed_roots: vec![directory.path().to_owned()], ..VolumeRules::default() };
        assert!(check(&rules, link.to_str().unwrap()).unwrap_err().contains("outside"));
    }

    #[test]
    fn the_engine_is_given_where_a_link_leads() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();
        let mount = VolumeMount {
            host_path: format!("{}/", link.display()),
            container_path: "/data".to_owned(),
            read_only: true,
        };
        let resolved = VolumeRules::default().resolve(std::slice::from_ref(&mount)).unwrap();
        let host_path = target.canonicalize().unwrap().to_str().unwrap().to_owned();
        assert_eq!(resolved, [VolumeMount { host_path, ..mount }]);
    }

    #[test]
    fn what_is_the_agents_own_is_never_mounted() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        let (data, key, socket) = (home.join("data"), home.join("keys/agent.key"), directory.path().join("run/e.sock"));
        for parent in [&data, &home.join("keys"), &directory.path().join("run"), &home.join("models")] {
            fs::create_dir_all(parent).unwrap();
        }
        fs::write(&key, "ak-x").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = home.join("models/innocent");
        symlink(&data, &link).unwrap();
        let protected = vec![data.clone(), key.clone(), socket.clone(), directory.path().join("not-there")];
        for allowed_roots in [vec![], vec![PathBuf::from("/")], vec![data.clone(), key.clone(), socket.clone()]] {
            let rules = VolumeRules { allowed_roots, protected: protected.clone() };
            let inside = data.join(".");
            for path in [&data, &inside, &key, &home, &home.join("keys"), &socket, &directory.path().join("run"), &link]
            {
                let text = check(&rules, path.to_str().unwrap()).unwrap_err();
                assert!(text.contains("belongs to the agent"), "{}: {text}", path.display());
            }
            assert!(check(&rules, "/").is_err());
        }
        let rules = VolumeRules { protected, ..VolumeRules::default() };
        check(&rules, home.join("models").to_str().unwrap()).unwrap();
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
        let rules = VolumeRules { allowed_roots: vec![inside.clone(), "/etc".into()], ..VolumeRules::default() };
        check(&rules, inside.to_str().unwrap()).unwrap();
        check(&rules, "/etc/hostname").unwrap();
        assert!(check(&rules, directory.path().to_str().unwrap()).unwrap_err().contains("outside"));
    }
}
