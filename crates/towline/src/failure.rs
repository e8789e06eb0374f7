//! How a command ends when it does not end well: a sentence, a hint, an exit code.
//!
//! Everything below the command line returns its own small error; this is where they become something a person reads.

use std::{fmt, io, process::ExitCode};

/// What kind of end it is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command was understood and did not succeed: exit code 1.
    Failed,
    /// The command line, a variable or the configuration file is wrong: exit code 2.
    Usage,
    /// Whoever read our output has gone. Nothing is wrong and nobody is there to be told: exit code 0.
    BrokenPipe,
}

/// Why a command ended without doing what it was asked, and what to do next.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// The command did not succeed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, message: message.into(), hint: None }
    }

    /// The command was called wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what was being done when an operation of the system failed.
    pub fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { kind: Kind::BrokenPipe, message: String::new(), hint: None };
        }
        Self::new(format!("{doing}: {error}"))
    }

    /// What kind of end it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code: 0 done, 1 failed, 2 wrong usage.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::BrokenPipe => ExitCode::SUCCESS,
            Kind::Failed => ExitCode::from(1),
            Kind::Usage => ExitCode::from(2),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
