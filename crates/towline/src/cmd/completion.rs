//! `towline completion`: scripts that complete commands and options in a shell.

use clap::{Args, ValueEnum};

use crate::{cmd::Context, config, failure::Failure};

const EXAMPLE: &str = "\
Example:
  towline completion bash > /etc/bash_completion.d/towline
  towline completion zsh > ~/.zfunc/_towline
  towline completion fish > ~/.config/fish/completions/towline.fish";

/// Arguments of `towline completion`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
///
/// # Errors
/// When stdout cannot be written to.
pub fn run(args: &CompletionArgs, context: &Context) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = vec![];
    clap_complete::generate(shell, &mut config::command(), "towline", &mut script);
    context.output.bytes(&script)
}
