//! Puts what the environment and the files say into the command line.
//!
//! The strongest source that says anything about an option decides it: typed, environment, the user's file, the
//! system's file. A source also displaces what cannot stand beside its option, so that a typed `--key-file` beats a
//! `TOWLINE_KEY`.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
};

use clap::{ArgMatches, Command, parser::ValueSource};

use super::{
    environment::Environment,
    file::ConfigFile,
    settings::{self, Kind, Setting},
};
use crate::failure::Failure;

/// What a first look at the command line found.
pub struct Typed {
    arguments: Vec<OsString>,
    /// Where values are put in: behind the last word of the command's name, before its own arguments.
    position: usize,
    settings: Vec<Setting>,
    ids: BTreeSet<String>,
    config_file: Option<std::path::PathBuf>,
}

/// A command line that says everything.
pub struct Completed {
    /// What to parse.
    pub arguments: Vec<OsString>,
    /// The options that were put in, and where each came from.
    origins: Vec<(String, String)>,
}

impl Completed {
    /// The command line as it was typed.
    pub fn unchanged(arguments: &[OsString]) -> Self {
        Self { arguments: arguments.to_vec(), origins: vec![] }
    }

    /// Which options of an error the user did not type, and where their values come from.
    pub fn notes_for(&self, error: &clap::Error) -> Vec<String> {
        let text = error.to_string();
        let named = |long: &str| {
            let option = format!("--{long}");
            text.match_indices(&option)
                .any(|(at, _)| !text[at + option.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-'))
        };
        let notes = self.origins.iter().filter(|(long, _)| named(long));
        notes.map(|(long, origin)| format!("note: --{long} was set by {origin}")).collect()
    }
}

impl Typed {
    /// Looks at the command line without asking for anything that is missing. `None`: it names no command.
    pub fn look(command: &Command, arguments: &[OsString]) -> Result<Option<Self>, clap::Error> {
        let lenient = settings::with_valued_switches(command.clone()).ignore_errors(true);
        let matches = lenient.try_get_matches_from(arguments)?;
        let Some((position, path)) = find_command(command, arguments) else { return Ok(None) };
        let settings = settings::of(command, &path);
        let mut ids = BTreeSet::new();
        let mut level = Some(&matches);
        let mut config_file = None;
        while let Some(matches) = level {
            ids.extend(typed_ids(matches, &settings));
            let named = matches.try_get_one::<std::path::PathBuf>("config");
            config_file = named.ok().flatten().cloned().or(config_file);
            level = matches.subcommand().map(|(_, inner)| inner);
        }
        Ok(Some(Self { arguments: arguments.to_vec(), position, settings, ids, config_file }))
    }

    /// The configuration file that was typed.
    pub fn config_file(&self) -> Option<std::path::PathBuf> {
        self.config_file.clone()
    }

    /// Adds what the environment and the files say, the strongest first.
    pub fn complete(&self, environment: &Environment, files: &[ConfigFile]) -> Result<Completed, Failure> {
        let mut decided = self.ids.clone();
        let mut tokens = vec![];
        let mut origins = vec![];
        for layer in 0..=files.len() {
            let mut found = vec![];
            for setting in &self.settings {
                let displaced = decided.contains(&setting.id) || setting.rivals.iter().any(|id| decided.contains(id));
                if displaced {
                    continue;
                }
                let (values, origin) = match layer.checked_sub(1).map(|index| &files[index]) {
                    None => (from_environment(environment, setting)?, setting.variable.clone()),
                    Some(file) => (file.values(setting)?, file.path().display().to_string()),
                };
                let Some(values) = values else { continue };
                found.push(setting.id.clone());
                tokens.extend(values.iter().map(|value| token(&setting.long, value)));
                origins.push((setting.long.clone(), origin));
            }
            decided.extend(found);
        }
        let mut arguments = self.arguments.clone();
        arguments.splice(self.position..self.position, tokens);
        Ok(Completed { arguments, origins })
    }
}

/// The options at one level of the command line that were typed.
fn typed_ids<'m>(matches: &'m ArgMatches, settings: &'m [Setting]) -> impl Iterator<Item = String> + 'm {
    let known = matches.ids().map(|id| id.as_str()).filter(|id| settings.iter().any(|setting| setting.id == *id));
    known.filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine)).map(str::to_owned)
}

/// Where the arguments of the innermost command begin, and the command's names.
fn find_command(root: &Command, arguments: &[OsString]) -> Option<(usize, Vec<String>)> {
    let (mut command, mut path, mut at) = (root, vec![], 1);
    while command.has_subcommands() {
        let word = arguments.get(at)?.to_str()?;
        at += 1;
        if let Some(option) = word.strip_prefix("--") {
            let takes_next = |long: &str| {
                let argument = root.get_arguments().find(|argument| argument.get_long() == Some(long));
                argument.is_some_and(|argument| argument.get_action().takes_values())
            };
            at += usize::from(!option.contains('=') && takes_next(option));
        } else if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            // In a cluster only the last one can take the next word; one before it takes the rest of the cluster.
            let takes = |short: char| {
                let argument = root.get_arguments().find(|argument| argument.get_short() == Some(short));
                argument.is_some_and(|argument| argument.get_action().takes_values())
            };
            let first = shorts.char_indices().find(|(_, short)| takes(*short));
            at += usize::from(first.is_some_and(|(index, short)| index + short.len_utf8() == shorts.len()));
        } else {
            command = command.find_subcommand(word)?;
            path.push(command.get_name().to_owned());
        }
    }
    Some((at.min(arguments.len()), path))
}

fn from_environment(environment: &Environment, setting: &Setting) -> Result<Option<Vec<OsString>>, Failure> {
    let Some(value) = environment.get(&setting.variable) else { return Ok(None) };
    if setting.kind != Kind::List {
        return Ok(Some(vec![value.to_owned()]));
    }
    let text = value.to_str().ok_or_else(|| Failure::usage(format!("{} is not UTF-8 text", setting.variable)))?;
    if text.trim_start().starts_with('[') {
        let list: Vec<String> = serde_json::from_str(text).map_err(|error| {
            Failure::usage(format!("{} starts with [ and is no JSON list of texts: {error}", setting.variable))
        })?;
        return Ok(Some(list.into_iter().map(Into::into).collect()));
    }
    Ok(Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Into::into).collect()))
}

fn token(long: &str, value: &OsStr) -> OsString {
    let mut token = OsString::from(format!("--{long}="));
    token.push(value);
    token
}
