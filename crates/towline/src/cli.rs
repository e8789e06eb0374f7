//! The command line: which commands there are, and the options that several of them share.
//!
//! The arguments of each command stand beside it in `cmd/`. How an option can also be set by a variable or in the file
//! is derived in `config`, not written here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use towline_model::Secret;
use url::Url;

use crate::{cmd, logs::LogFormat, output::Format};

const ROOT_HELP: &str = "\
Example:
  towline up                               # everything on this machine, on 127.0.0.1:7070
  towline service create hello --image towline-demo:latest
  towline service deploy hello
  towline call hello /echo

Every --option can also be set by a variable and in a TOML file; --help of each command names both. What is typed wins \
over the variable, the variable over the file (--config, else ~/.config/towline/config.toml, then \
/etc/towline/towline.toml). In a variable, a list is separated by commas, or is a JSON list. A switch that is on by such \
a setting is off with --switch=false.

Exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage.";

/// Run containers on machines you own and reach them from anywhere, through one outbound connection.
#[derive(Debug, Parser)]
#[command(name = "towline", version, after_help = ROOT_HELP, max_term_width = 120)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The TOML file with settings, instead of the default ones.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// How data is written to stdout.
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
    /// What is logged to stderr: off, error, warn, info, debug, trace, or directives such as info,towline_gateway=debug
    /// [default: info for up, server and agent, warn otherwise].
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How logs are written: lines for people, or one JSON object a line.
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Also say on stderr what is being done and with which sign-in.
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// Options of every command that talks to a server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server and sign-in")]
pub struct ClientArgs {
    /// The server's URL [default: the one signed in to, else the one that runs on this machine].
    #[arg(long, value_name = "URL", value_parser = parse_server_url, value_hint = ValueHint::Url)]
    pub server: Option<Url>,
    /// A key of the team (sk-…) or of a device (dk-…), instead of the sign-in of `towline login`.
    #[arg(long, value_name = "KEY", conflicts_with = "key_file")]
    pub key: Option<Secret<String>>,
    /// A file that holds only the key.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,
    /// Where `towline up` on this machine keeps its state; its bootstrap.json is used when nobody has signed in
    /// [default: ~/.local/share/towline].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine in one process: server, gateway and an agent.
    Up(Box<cmd::up::UpArgs>),
    /// Run the server: control plane and gateway.
    Server(Box<cmd::server::ServerArgs>),
    /// Run an agent: it dials the server and runs containers on this machine. It listens on no port.
    Agent(Box<cmd::agent::AgentArgs>),
    /// Sign in to a server: somebody lets this machine in at a page of the server.
    Login(cmd::login::LoginArgs),
    /// Forget a sign-in, here and at the server.
    Logout(cmd::login::LogoutArgs),
    /// Define, run and watch services.
    Service(cmd::service::ServiceArgs),
    /// Make the services what a YAML or JSON file says: create, update and deploy.
    Apply(cmd::apply::ApplyArgs),
    /// Make a process that runs on this machine a service, in one command.
    Expose(Box<cmd::expose::ExposeArgs>),
    /// Call a service through the proxy, like curl.
    Call(cmd::call::CallArgs),
    /// Make, list and revoke keys of the team.
    Key(cmd::key::KeyArgs),
    /// Store, list and change secrets that services refer to.
    Secret(cmd::secret::SecretArgs),
    /// Show, make, hand over, leave or delete a team.
    Team(cmd::team::TeamArgs),
    /// List, invite, change or remove the team's members.
    Member(cmd::member::MemberArgs),
    /// List the team's agents.
    Agents(cmd::agents::AgentsArgs),
    /// Show or export who did what in the team.
    Audit(cmd::audit::AuditArgs),
    /// Print a completion script for a shell.
    Completion(cmd::completion::CompletionArgs),
}

/// Reads the base URL of a server: `http://` or `https://`, a host, no query.
pub fn parse_server_url(text: &str) -> Result<Url, String> {
    let mut url =
        Url::parse(text).map_err(|error| format!("{error}; a URL such as http://127.0.0.1:7070 is needed"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("it must start with http:// or https:// and name a host".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("it must have no user, query or fragment".to_owned());
    }
    // People paste the API's base path; both mean the same server.
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/api/v1").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use clap::Command as ClapCommand;

    use super::*;
    use crate::config;

    #[test]
    fn the_command_line_is_well_formed() {
        config::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(mut command: ClapCommand, path: &str) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example:\n"), "{path} --help has no example");
            for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
                let path = format!("{path} {}", child.get_name());
                assert!(child.get_about().is_some(), "{path} does not say what it does");
                check(child.clone(), &path);
            }
        }
        check(config::command(), "towline");
    }

    #[test]
    fn every_option_says_what_it_is() {
        fn check(command: &ClapCommand, path: &str) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
            }
            command.get_subcommands().for_each(|child| check(child, &format!("{path} {}", child.get_name())));
        }
        check(&config::command(), "towline");
    }

    #[test]
    fn a_server_url_is_checked_and_shortened() {
        let read = |text| parse_server_url(text).map(|url| url.to_string());
        assert_eq!(read("http://127.0.0.1:7070").unwrap(), "http://127.0.0.1:7070/");
        assert_eq!(read("https://example.com/api/v1/").unwrap(), "https://example.com/");
        assert_eq!(read("https://example.com/towline/").unwrap(), "https://example.com/towline");
        for wrong in ["example.com", "localhost:7070", "ftp://x", "http://", "http://a?b", "http://me:pw@a"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
