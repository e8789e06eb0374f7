//! The one place that reads the environment and the configuration file.
//!
//! Every long option has a variable and a key in the file, by one rule (see [`settings`]), so nothing has to be wired
//! up by hand: what the environment and the file say is put into the command line as if it had been typed, before what
//! was really typed. So values are checked by the same parsers, and an option that was typed wins.

pub mod environment;
mod file;
mod layers;
pub mod settings;

use std::{ffi::OsString, path::Path};

use clap::{Command, CommandFactory, FromArgMatches, error::ErrorKind};

pub use self::environment::Environment;
use self::{file::ConfigFile, layers::Typed};
use crate::{
    cli::Cli,
    failure::Failure,
    output::{Format, Output},
};

/// The settings of a machine, below those of its users.
pub const SYSTEM_FILE: &str = "/etc/towline/towline.toml";

/// Why there is no command to run.
#[derive(Debug)]
pub enum ParseError {
    /// Help or version was asked for, or the command line is wrong. The notes tell which values were not typed.
    CommandLine(Box<clap::Error>, Vec<String>),
    /// The configuration file is wrong.
    File(Failure),
}

impl ParseError {
    /// Prints what has to be said and gives the exit code.
    pub fn report(self, no_color: bool) -> std::process::ExitCode {
        match self {
            Self::CommandLine(error, notes) => {
                // Nobody is left to be told that help could not be printed.
                let _ = error.print();
                let output = Output::to_process(Format::Text, no_color);
                notes.iter().for_each(|note| output.note(note));
                u8::try_from(error.exit_code()).map_or(std::process::ExitCode::FAILURE, Into::into)
            }
            Self::File(failure) => {
                Output::to_process(Format::Text, no_color).failure(&failure);
                failure.exit_code()
            }
        }
    }
}

/// The command line with its variables and keys named in the help: what a user sees.
pub fn command() -> Command {
    settings::describe(Cli::command().args_override_self(true))
}

/// Reads the command line, completed from the environment and the configuration files.
pub fn parse(arguments: &[OsString], environment: &Environment) -> Result<Cli, ParseError> {
    parse_with(arguments, environment, Path::new(SYSTEM_FILE))
}

fn parse_with(arguments: &[OsString], environment: &Environment, system_file: &Path) -> Result<Cli, ParseError> {
    let command = command();
    // A first look finds the command and what was typed; it asks for nothing, and answers only --help and --version.
    let typed = Typed::look(&command, arguments).map_err(|error| asked_for(&command, arguments, error))?;
    let layers = match &typed {
        Some(typed) => {
            let files = files(&command, typed, environment, system_file).map_err(ParseError::File)?;
            typed.complete(environment, &files).map_err(ParseError::File)?
        }
        None => layers::Completed::unchanged(arguments),
    };
    let matches = settings::with_valued_switches(command.clone()).try_get_matches_from(&layers.arguments);
    matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| {
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return asked_for(&command, arguments, error);
        }
        let notes = layers.notes_for(&error);
        ParseError::CommandLine(Box::new(error), notes)
    })
}

/// Help as the user knows the command line: switches without a value.
fn asked_for(command: &Command, arguments: &[OsString], error: clap::Error) -> ParseError {
    let error = match command.clone().try_get_matches_from(arguments) {
        Err(plain) if plain.kind() == error.kind() => plain,
        _ => error,
    };
    ParseError::CommandLine(Box::new(error), vec![])
}

/// The configuration files that count, the strongest first.
fn files(
    command: &Command,
    typed: &Typed,
    environment: &Environment,
    system_file: &Path,
) -> Result<Vec<ConfigFile>, Failure> {
    let named = typed.config_file().or_else(|| environment.path("TOWLINE_CONFIG"));
    let keys = settings::keys(command);
    if let Some(path) = named {
        let file = ConfigFile::read(&path, &keys)?;
        return file.map_or_else(
            || {
                Err(Failure::usage(format!("there is no configuration file {}", path.display()))
                    .hint("check --config and TOWLINE_CONFIG"))
            },
            |file| Ok(vec![file]),
        );
    }
    let mut files = vec![];
    let users = environment.config_dir().map(|dir| dir.join("config.toml"));
    for path in users.into_iter().chain([system_file.to_owned()]) {
        files.extend(ConfigFile::read(&path, &keys)?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::{cli, cmd};

    /// A user's machine: variables, the user's file, the system's file.
    struct Machine {
        dir: tempfile::TempDir,
        variables: Vec<(String, String)>,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().display().to_string();
            fs::create_dir_all(dir.path().join(".config/towline")).unwrap();
            Self { dir, variables: vec![("HOME".to_owned(), home)] }
        }

        fn set(mut self, name: &str, value: &str) -> Self {
            self.variables.push((name.to_owned(), value.to_owned()));
            self
        }

        fn users_file(self, text: &str) -> Self {
            fs::write(self.dir.path().join(".config/towline/config.toml"), text).unwrap();
            self
        }

        fn system_file(self, text: &str) -> Self {
            fs::write(self.dir.path().join("system.toml"), text).unwrap();
            self
        }

        fn parse(&self, line: &str) -> Result<Cli, ParseError> {
            let arguments: Vec<_> =
                ["towline"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
            let environment = Environment::from_iter(self.variables.clone());
            parse_with(&arguments, &environment, &self.dir.path().join("system.toml"))
        }

        fn error(&self, line: &str) -> (String, Vec<String>) {
            match self.parse(line) {
                Ok(cli) => panic!("{line} was taken: {cli:?}"),
                Err(ParseError::CommandLine(error, notes)) => (error.to_string(), notes),
                Err(ParseError::File(failure)) => (failure.message().to_owned(), vec![]),
            }
        }
    }

    fn serve(cli: Cli) -> cmd::serve::ServeArgs {
        match cli.command {
            cli::Command::Server(args) => args.serve,
            cli::Command::Up(args) => args.serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn typed_beats_variable_beats_users_file_beats_systems_file_beats_default() {
        let drain = |machine: &Machine, line: &str| serve(machine.parse(line).unwrap()).drain_timeout.as_secs();
        let machine = Machine::new();
        assert_eq!(drain(&machine, "server"), 30);
        let machine = machine.system_file("drain_timeout = \"1s\"");
        assert_eq!(drain(&machine, "server"), 1);
        let machine = machine.users_file("drain_timeout = 2");
        assert_eq!(drain(&machine, "server"), 2);
        let machine = machine.set("TOWLINE_DRAIN_TIMEOUT", "3s");
        assert_eq!(drain(&machine, "server"), 3);
        assert_eq!(drain(&machine, "up"), 3);
        assert_eq!(drain(&machine, "server --drain-timeout 4s"), 4);
        assert_eq!(drain(&machine, "--log-level debug server --drain-timeout=5s"), 5);
    }

    #[test]
    fn a_named_file_stands_alone() {
        let machine = Machine::new().users_file("listen = \"127.0.0.1:1\"\ndrain_timeout = \"2s\"");
        let other = machine.dir.path().join("other.toml");
        fs::write(&other, "listen = \"127.0.0.1:2\"").unwrap();
        for line in [format!("--config {} up", other.display()), format!("up --config={}", other.display())] {
            let args = serve(machine.parse(&line).unwrap());
            assert_eq!((args.listen.port(), args.drain_timeout), (2, Duration::from_secs(30)));
        }
        let by_variable = machine.set("TOWLINE_CONFIG", &other.display().to_string());
        assert_eq!(serve(by_variable.parse("up").unwrap()).listen.port(), 2);
        let (error, _) = by_variable.error("up --config /nonexistent.toml");
        assert_eq!(error, "there is no configuration file /nonexistent.toml");
    }

    #[test]
    fn a_stronger_source_displaces_what_cannot_stand_beside_it() {
        let client = |machine: &Machine, line: &str| match machine.parse(line).unwrap().command {
            cli::Command::Agents(args) => args.client,
            other => panic!("{other:?}"),
        };
        let machine = Machine::new().set("TOWLINE_KEY", "from-variable").users_file("api_key_file = \"/from/file\"");
        let args = client(&machine, "agents");
        assert!(args.key.is_some() && args.key_file.is_none(), "{args:?}");
        let args = client(&machine, "agents --key-file typed");
        assert!(args.key.is_none() && args.key_file == Some("typed".into()), "{args:?}");
        let both = Machine::new().set("TOWLINE_KEY", "a").set("TOWLINE_KEY_FILE", "b");
        let (error, notes) = both.error("agents");
        assert!(error.contains("cannot be used with"), "{error}");
        assert_eq!(notes, ["note: --key was set by TOWLINE_KEY", "note: --key-file was set by TOWLINE_KEY_FILE"]);
    }

    #[test]
    fn switches_and_lists() {
        let follow = |machine: &Machine, line: &str| {
            format!("{:?}", machine.parse(line).unwrap().command).contains("follow: true")
        };
        let machine = Machine::new().users_file("[service.logs]\nfollow = true");
        assert!(!follow(&Machine::new(), "service logs x") && follow(&Machine::new(), "service logs x -f"));
        assert!(follow(&machine, "service logs x"));
        assert!(!follow(&machine, "service logs x --follow=false"));
        assert!(!follow(&machine.set("TOWLINE_SERVICE_LOGS_FOLLOW", "0"), "service logs x"));

        let labels = |machine: &Machine, line: &str| match machine.parse(line).unwrap().command {
            cli::Command::Up(args) => args.identity.label,
            other => panic!("{other:?}"),
        };
        let machine = Machine::new().users_file("agent.label = [\"a\", \"b\"]");
        assert_eq!(labels(&machine, "up"), ["a", "b"]);
        assert_eq!(labels(&machine, "up --label c --label d"), ["c", "d"]);
        let machine = machine.set("TOWLINE_AGENT_LABEL", "e, f,");
        assert_eq!(labels(&machine, "up"), ["e", "f"]);
        let machine = machine.set("TOWLINE_AGENT_LABEL", r#"["g,h", "i"]"#);
        assert_eq!(labels(&machine, "up"), ["g,h", "i"]);
        let (error, _) = machine.set("TOWLINE_AGENT_LABEL", "[").error("up");
        assert!(error.starts_with("TOWLINE_AGENT_LABEL starts with ["), "{error}");
    }

    #[test]
    fn what_is_required_may_come_from_elsewhere() {
        let (error, _) = Machine::new().error("agent");
        assert!(error.contains("--server") && error.contains("--key"), "{error}");
        let machine = Machine::new().set("TOWLINE_SERVER", "http://h:1").set("TOWLINE_AGENT_KEY", "ak-x");
        machine.parse("agent").unwrap();
    }

    #[test]
    fn an_error_names_the_source_of_a_value_that_was_not_typed() {
        let machine = Machine::new().set("TOWLINE_LISTEN", "nowhere");
        let (error, notes) = machine.error("up");
        assert!(error.contains("invalid value 'nowhere' for '--listen"), "{error}");
        assert_eq!(notes, ["note: --listen was set by TOWLINE_LISTEN"]);
        let (_, notes) = machine.error("up --listen here");
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn an_unknown_key_is_an_error_in_every_command() {
        let machine = Machine::new().users_file("lisen = 1");
        let (error, _) = machine.error("agents");
        assert!(error.ends_with("unknown key: lisen"), "{error}");
        // What is only help needs no file.
        let Err(ParseError::CommandLine(error, _)) = machine.parse("agents --help") else { panic!("help is shown") };
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
        assert!(error.to_string().contains("-v, --verbose\n"), "{error}");
    }

    #[test]
    fn wrong_usage_is_told_as_clap_tells_it() {
        for line in ["", "nonsense", "service", "service nonsense", "up --nonsense", "call", "--config x"] {
            let (error, _) = Machine::new().error(line);
            assert!(error.contains("Usage:"), "{line}: {error}");
        }
    }

    #[test]
    fn help_names_the_variable_and_the_key() {
        let help = command().find_subcommand_mut("agent").unwrap().render_long_help().to_string();
        assert!(help.contains("[env: TOWLINE_AGENT_KEY_FILE] [file: agent.key_file]"), "{help}");
    }
}
