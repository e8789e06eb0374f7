//! The configuration file: TOML, whose keys are all known.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::settings::{Kind, Setting};
use crate::failure::Failure;

/// A configuration file that was read.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    table: Table,
}

impl ConfigFile {
    /// Reads a file whose keys are among `keys`. `None` when there is no such file.
    pub fn read(path: &Path, keys: &[String]) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => {
                return Err(Failure::usage(format!("cannot read the configuration file {}: {error}", path.display())));
            }
        };
        Self::from_text(path, &text, keys).map(Some)
    }

    /// A file of that content.
    pub fn from_text(path: &Path, text: &str, keys: &[String]) -> Result<Self, Failure> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            Failure::usage(format!("{} is not valid TOML: {}", path.display(), error.to_string().trim_end()))
        })?;
        check_keys(path, &table, "", keys)?;
        Ok(Self { path: path.to_owned(), table })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The values that it gives to a setting.
    pub fn values(&self, setting: &Setting) -> Result<Option<Vec<OsString>>, Failure> {
        let Some(key) = &setting.key else { return Ok(None) };
        let Some(value) = look_up(&self.table, key) else { return Ok(None) };
        let values = match value {
            Value::Array(items) if setting.kind == Kind::List => items.iter().map(scalar).collect(),
            value => scalar(value).map(|text| vec![text]),
        };
        let expected = match setting.kind {
            Kind::Switch => "true or false",
            Kind::Value => "one value",
            Kind::List => "a list of values",
        };
        values.map(Some).ok_or_else(|| Failure::usage(format!("{}: {key} must be {expected}", self.path.display())))
    }
}

fn look_up<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((first, rest)) => look_up(table.get(first)?.as_table()?, rest),
    }
}

fn scalar(value: &Value) -> Option<OsString> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => Some(value.to_string().into()),
        Value::Array(_) | Value::Table(_) => None,
    }
}

fn check_keys(path: &Path, table: &Table, prefix: &str, keys: &[String]) -> Result<(), Failure> {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let inside = format!("{key}.");
        match value {
            _ if keys.contains(&key) => {}
            Value::Table(inner) if keys.iter().any(|known| known.starts_with(&inside)) => {
                check_keys(path, inner, &inside, keys)?;
            }
            _ => return Err(unknown_key(path, &key, prefix, keys)),
        }
    }
    Ok(())
}

fn unknown_key(path: &Path, key: &str, prefix: &str, keys: &[String]) -> Failure {
    let mut known: Vec<_> = keys
        .iter()
        .filter_map(|known| known.strip_prefix(prefix))
        .map(|rest| rest.split('.').next().unwrap_or(rest))
        .collect();
    known.dedup();
    let place =
        if prefix.is_empty() { "at the top".to_owned() } else { format!("in [{}]", prefix.trim_end_matches('.')) };
    Failure::usage(format!("{} has an unknown key: {key}", path.display()))
        .hint(format!("known {place}: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<String> {
        ["agent.label", "agent.name", "listen"].map(str::to_owned).to_vec()
    }

    fn read(text: &str) -> Result<ConfigFile, Failure> {
        ConfigFile::from_text(Path::new("towline.toml"), text, &keys())
    }

    fn setting(key: &str, kind: Kind) -> Setting {
        let text = key.to_owned();
        Setting { id: text.clone(), long: text.clone(), variable: text.clone(), key: Some(text), kind, rivals: vec![] }
    }

    #[test]
    fn an_unknown_key_is_named() {
        for (text, named) in
            [("lisen = 1", "lisen"), ("[agent]\nlabels = []", "agent.labels"), ("[listen]\nx = 1\n[foo]", "foo")]
        {
            let failure = read(text).unwrap_err();
            assert!(failure.message().ends_with(&format!("unknown key: {named}")), "{failure}");
        }
        let failure = read("[agent]\nlabels = []").unwrap_err();
        assert_eq!(failure.hint_text(), Some("known in [agent]: label, name"));
    }

    #[test]
    fn values_are_read_as_they_would_be_typed() {
        let file = read("listen = \"a:1\"\n[agent]\nlabel = [\"gpu\", 7]\nname = true").unwrap();
        let values = |key, kind| file.values(&setting(key, kind)).unwrap();
        assert_eq!(values("listen", Kind::Value), Some(vec!["a:1".into()]));
        assert_eq!(values("agent.label", Kind::List), Some(vec!["gpu".into(), "7".into()]));
        assert_eq!(values("agent.name", Kind::Switch), Some(vec!["true".into()]));
        assert_eq!(values("agent.other", Kind::Value), None);
        let failure = file.values(&setting("agent.label", Kind::Value)).unwrap_err();
        assert_eq!(failure.message(), "towline.toml: agent.label must be one value");
    }

    #[test]
    fn broken_toml_says_where() {
        let failure = read("listen = ").unwrap_err();
        assert!(failure.message().contains("line 1"), "{failure}");
    }

    #[test]
    fn no_file_is_no_error() {
        assert!(ConfigFile::read(Path::new("/nonexistent/towline.toml"), &keys()).unwrap().is_none());
    }
}
