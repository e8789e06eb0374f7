//! The process's environment as a value, so that tests have one of their own.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

/// The variables that a process was started with. An empty variable counts as absent, as in most container files.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The value of a variable that holds text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.to_str()
    }

    /// The value of a variable that holds a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Whether colours are unwanted (<https://no-color.org>), or the terminal has none.
    pub fn no_color(&self) -> bool {
        self.get("NO_COLOR").is_some() || self.text("TERM") == Some("dumb")
    }

    /// Where the user's configuration lives: `$XDG_CONFIG_HOME/towline`, else `~/.config/towline`.
    pub fn config_dir(&self) -> Option<PathBuf> {
        self.base("XDG_CONFIG_HOME", ".config")
    }

    /// Where a server keeps its state unless told otherwise: `$XDG_DATA_HOME/towline`, else `~/.local/share/towline`,
    /// else (a system service without a home) `/var/lib/towline`.
    pub fn data_dir(&self) -> PathBuf {
        self.base("XDG_DATA_HOME", ".local/share").unwrap_or_else(|| PathBuf::from("/var/lib/towline"))
    }

    /// A base directory by the XDG rules: relative paths in the variable are ignored.
    fn base(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let named = self.path(variable).filter(|path| path.is_absolute());
        let base = named.or_else(|| Some(self.path("HOME")?.join(below_home)))?;
        Some(base.join("towline"))
    }
}

impl<S: Into<OsString>> FromIterator<(S, S)> for Environment {
    fn from_iter<I: IntoIterator<Item = (S, S)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_follow_the_xdg_rules() {
        let home = Environment::from_iter([("HOME", "/home/ada")]);
        assert_eq!(home.data_dir(), PathBuf::from("/home/ada/.local/share/towline"));
        assert_eq!(home.config_dir(), Some(PathBuf::from("/home/ada/.config/towline")));
        let xdg = Environment::from_iter([
            ("HOME", "/home/ada"),
            ("XDG_DATA_HOME", "/data"),
            ("XDG_CONFIG_HOME", "relative"),
        ]);
        assert_eq!(xdg.data_dir(), PathBuf::from("/data/towline"));
        assert_eq!(xdg.config_dir(), Some(PathBuf::from("/home/ada/.config/towline")));
        assert_eq!(Environment::default().data_dir(), PathBuf::from("/var/lib/towline"));
    }

    #[test]
    fn an_empty_variable_is_absent() {
        let environment = Environment::from_iter([("NO_COLOR", ""), ("X", "")]);
        assert!(!environment.no_color());
        assert_eq!(environment.text("X"), None);
        assert!(Environment::from_iter([("NO_COLOR", "1")]).no_color());
    }
}
