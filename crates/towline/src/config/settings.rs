//! The names of every option outside the command line: one variable and one key in the file each.
//!
//! The rule: option `--x-y` of `towline a b` is `TOWLINE_A_B_X_Y` and, in the file, `x_y` in the table `[a.b]`. Options
//! that mean the same in every command that has them are named once, in [`SHARED`]. An argument whose clap id holds a
//! dot names its key itself, so that two commands can share a table (`up` and `agent` do).

use clap::{
    Arg, ArgAction, Command,
    builder::{BoolishValueParser, StyledStr},
};

/// Options with one meaning everywhere: the clap id, the variable, the key. No key: it cannot be in the file.
const SHARED: &[(&str, &str, Option<&str>)] = &[
    ("config", "TOWLINE_CONFIG", None),
    ("output", "TOWLINE_OUTPUT", Some("output")),
    ("log_level", "TOWLINE_LOG", Some("log_level")),
    ("log_format", "TOWLINE_LOG_FORMAT", Some("log_format")),
    ("verbose", "TOWLINE_VERBOSE", Some("verbose")),
    ("server", "TOWLINE_SERVER", Some("server")),
    ("key", "TOWLINE_KEY", Some("api_key")),
    ("key_file", "TOWLINE_KEY_FILE", Some("api_key_file")),
    ("data_dir", "TOWLINE_DATA_DIR", Some("data_dir")),
    ("listen", "TOWLINE_LISTEN", Some("listen")),
    ("metrics_listen", "TOWLINE_METRICS_LISTEN", Some("metrics_listen")),
    ("public_url", "TOWLINE_PUBLIC_URL", Some("public_url")),
    ("busy_poll", "TOWLINE_BUSY_POLL", Some("busy_poll")),
    ("drain_timeout", "TOWLINE_DRAIN_TIMEOUT", Some("drain_timeout")),
    ("database_url", "TOWLINE_DATABASE_URL", Some("database_url")),
    ("database_url_file", "TOWLINE_DATABASE_URL_FILE", Some("database_url_file")),
    ("secrets_key", "TOWLINE_SECRETS_KEY", Some("secrets_key")),
    ("secrets_key_file", "TOWLINE_SECRETS_KEY_FILE", Some("secrets_key_file")),
    ("bootstrap", "TOWLINE_BOOTSTRAP", Some("bootstrap")),
];

/// How the value of an option is written in a variable or in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On or off.
    Switch,
    /// One value.
    Value,
    /// Any number of values.
    List,
}

/// One long option, as the environment and the file know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The id that clap knows it by.
    pub id: String,
    /// Its name on the command line, without dashes.
    pub long: String,
    /// Its variable.
    pub variable: String,
    /// Its key in the file, with dots between tables.
    pub key: Option<String>,
    /// How its value is written.
    pub kind: Kind,
    /// The ids of options that it cannot stand beside: a stronger source displaces them.
    pub rivals: Vec<String>,
}

/// The settings of one command, given by its names from the root on.
pub fn of(root: &Command, path: &[String]) -> Vec<Setting> {
    let mut settings = of_arguments(root, &[]);
    let mut command = root;
    for (depth, name) in path.iter().enumerate() {
        let Some(next) = command.find_subcommand(name) else { break };
        command = next;
        settings.extend(of_arguments(command, &path[..=depth]));
    }
    settings
}

/// The settings of every command, each with the command's names.
pub fn every(root: &Command) -> Vec<(Vec<String>, Setting)> {
    fn walk(command: &Command, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Setting)>) {
        found.extend(of_arguments(command, path).into_iter().map(|setting| (path.clone(), setting)));
        for child in command.get_subcommands() {
            path.push(child.get_name().to_owned());
            walk(child, path, found);
            path.pop();
        }
    }
    let mut found = vec![];
    walk(root, &mut vec![], &mut found);
    found
}

/// Every key that the file may hold.
pub fn keys(root: &Command) -> Vec<String> {
    let mut keys: Vec<_> = every(root).into_iter().filter_map(|(_, setting)| setting.key).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Adds its variable and its key to the long help of every option.
pub fn describe(root: Command) -> Command {
    fn walk(command: Command, path: &[String]) -> Command {
        let command = command.mut_args(|argument| match setting(&argument, path) {
            Some(setting) => {
                let long = long_help(&argument, &setting);
                argument.long_help(long)
            }
            None => argument,
        });
        let path = path.to_vec();
        command.mut_subcommands(move |child| {
            let mut path = path.clone();
            path.push(child.get_name().to_owned());
            walk(child, &path)
        })
    }
    walk(root, &[])
}

/// Lets every switch take `=true` or `=false`, so that one that the environment or the file turned on can be turned
/// off.
pub fn with_valued_switches(root: Command) -> Command {
    root.mut_args(|argument| {
        if !matches!(argument.get_action(), ArgAction::SetTrue) {
            return argument;
        }
        argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(BoolishValueParser::new())
    })
    .mut_subcommands(with_valued_switches)
}

fn of_arguments(command: &Command, path: &[String]) -> Vec<Setting> {
    let mut settings: Vec<_> = command.get_arguments().filter_map(|argument| setting(argument, path)).collect();
    for setting in &mut settings {
        let rivals = command.get_arguments().filter(|other| {
            let conflicts =
                |one: &Arg, id: &str| command.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == id);
            other.get_id() != setting.id.as_str()
                && (conflicts(other, &setting.id)
                    || command
                        .get_arguments()
                        .find(|own| own.get_id() == setting.id.as_str())
                        .is_some_and(|own| conflicts(own, other.get_id().as_str())))
        });
        setting.rivals = rivals.map(|other| other.get_id().to_string()).collect();
    }
    settings
}

fn setting(argument: &Arg, path: &[String]) -> Option<Setting> {
    let kind = match argument.get_action() {
        ArgAction::SetTrue => Kind::Switch,
        ArgAction::Set => Kind::Value,
        ArgAction::Append => Kind::List,
        _ => return None,
    };
    let (id, long) = (argument.get_id().to_string(), argument.get_long()?.to_owned());
    let (variable, key) = if let Some((_, variable, key)) = SHARED.iter().find(|(shared, ..)| *shared == id) {
        ((*variable).to_owned(), key.map(str::to_owned))
    } else {
        let key = if id.contains('.') { id.clone() } else { [path, std::slice::from_ref(&long)].concat().join(".") };
        let key = key.replace('-', "_");
        (format!("TOWLINE_{}", key.replace('.', "_").to_uppercase()), Some(key))
    };
    Some(Setting { id, long, variable, key, kind, rivals: vec![] })
}

fn long_help(argument: &Arg, setting: &Setting) -> StyledStr {
    let text = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let file = setting.key.as_ref().map(|key| format!(" [file: {key}]")).unwrap_or_default();
    format!("{text}\n\n[env: {}]{file}", setting.variable).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::command;

    #[test]
    fn every_long_option_has_a_variable_and_a_key() {
        fn longs(command: &Command, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, String)>) {
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long() {
                    found.push((path.clone(), long.to_owned()));
                }
            }
            for child in command.get_subcommands() {
                path.push(child.get_name().to_owned());
                longs(child, path, found);
                path.pop();
            }
        }
        let command = command();
        let mut found = vec![];
        longs(&command, &mut vec![], &mut found);
        assert!(found.len() > 60, "{}", found.len());
        let settings = every(&command);
        for (path, long) in found {
            let setting = settings.iter().find(|(at, setting)| *at == path && setting.long == long);
            let (_, setting) = setting.unwrap_or_else(|| panic!("{path:?} --{long} has no variable"));
            assert!(setting.variable.starts_with("TOWLINE_"), "{setting:?}");
            assert!(setting.key.is_some() || setting.id == "config", "{setting:?}");
        }
    }

    #[test]
    fn one_name_never_means_two_things() {
        let mut by_variable = BTreeMap::new();
        let mut by_key = BTreeMap::new();
        for (path, setting) in every(&command()) {
            let meaning = (setting.id.clone(), setting.kind);
            let known = by_variable.entry(setting.variable.clone()).or_insert_with(|| meaning.clone());
            assert_eq!(*known, meaning, "{path:?} {}", setting.variable);
            if let Some(key) = setting.key {
                let known = by_key.entry(key.clone()).or_insert_with(|| meaning.clone());
                assert_eq!(*known, meaning, "{path:?} {key}");
            }
        }
        for key in by_key.keys() {
            let table = format!("{key}.");
            assert!(!by_key.keys().any(|other| other.starts_with(&table)), "{key} is a value and a table");
        }
    }

    #[test]
    fn names_follow_the_rule() {
        let settings = every(&command());
        let name = |path: &[&str], long: &str| {
            let (_, setting) = settings.iter().find(|(at, setting)| at == path && setting.long == long).unwrap();
            (setting.variable.as_str(), setting.key.as_deref())
        };
        assert_eq!(name(&["agent"], "key"), ("TOWLINE_AGENT_KEY", Some("agent.key")));
        assert_eq!(name(&["up"], "label"), ("TOWLINE_AGENT_LABEL", Some("agent.label")));
        assert_eq!(name(&["server"], "database-url"), ("TOWLINE_DATABASE_URL", Some("database_url")));
        assert_eq!(name(&["service", "list"], "key"), ("TOWLINE_KEY", Some("api_key")));
        assert_eq!(name(&["service", "logs"], "follow"), ("TOWLINE_SERVICE_LOGS_FOLLOW", Some("service.logs.follow")));
        assert_eq!(name(&[], "log-level"), ("TOWLINE_LOG", Some("log_level")));
    }
}
