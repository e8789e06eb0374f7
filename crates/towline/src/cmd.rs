//! The commands: one file each, with its arguments. A command asks the client, and tells the output.

pub mod agent;
pub mod agents;
pub mod apply;
pub mod audit;
pub mod call;
pub mod completion;
pub mod expose;
pub mod key;
pub mod login;
pub mod member;
pub mod secret;
pub mod serve;
pub mod server;
pub mod service;
pub mod team;
#[cfg(test)]
mod tests;
pub mod up;

use std::path::PathBuf;

use crate::{
    cli::{ClientArgs, Command},
    client::{Client, connect},
    config::Environment,
    failure::Failure,
    output::Output,
};

/// What every command works with.
pub struct Context {
    /// The printer.
    pub output: Output,
    /// The process's environment.
    pub environment: Environment,
    /// The configuration file that was named, if one was: it can hold keys.
    pub config_file: Option<PathBuf>,
    /// Whether to say more on stderr.
    pub verbose: bool,
}

impl Context {
    /// Says what is being done, to those who asked for it.
    pub fn verbose(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            self.output.note(text());
        }
    }

    /// The client that these options mean.
    ///
    /// # Errors
    /// When a key is mistyped, or nobody has signed in.
    pub fn client(&self, args: &ClientArgs) -> Result<Client, Failure> {
        Ok(self.told_of_waits(connect::connect(args, self)?))
    }

    /// A client whose waits the user is told of.
    pub fn told_of_waits(&self, client: Client) -> Client {
        let output = self.output.clone();
        client.with_notice(move |text| output.note(text))
    }
}

/// Does what was asked.
///
/// # Errors
/// When it cannot be done; the failure says why and what to do.
pub async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Up(args) => up::run(*args, context).await,
        Command::Server(args) => server::run(*args, context).await,
        Command::Agent(args) => agent::run(*args, context).await,
        Command::Login(args) => login::login(args, context).await,
        Command::Logout(args) => login::logout(args, context).await,
        Command::Service(args) => service::run(args, context).await,
        Command::Apply(args) => apply::run(args, context).await,
        Command::Expose(args) => Box::pin(expose::run(*args, context)).await,
        Command::Call(args) => call::run(args, context).await,
        Command::Key(args) => key::run(args, context).await,
        Command::Secret(args) => secret::run(args, context).await,
        Command::Team(args) => team::run(args, context).await,
        Command::Member(args) => member::run(args, context).await,
        Command::Agents(args) => agents::run(args, context).await,
        Command::Audit(args) => audit::run(args, context).await,
        Command::Completion(args) => completion::run(&args, context),
    }
}
