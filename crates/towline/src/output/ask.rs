//! Questions to the person at the terminal. Without a terminal nothing is asked, and the caller says what to do instead.

use std::io::{self, IsTerminal};

use towline_model::Secret;

use super::Output;
use crate::failure::Failure;

impl Output {
    /// Whether there is somebody to ask.
    pub fn can_ask(&self) -> bool {
        self.is_interactive() && io::stdin().is_terminal()
    }

    /// Asks a question whose answer is no unless somebody says yes.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn confirm(&self, question: &str) -> Result<bool, Failure> {
        self.message(&format!("{question} [y/N] "));
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|error| Failure::io("cannot ask", &error))?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
    }

    /// Asks for something that is not shown while it is typed.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn ask_secret(&self, prompt: &str) -> Result<Secret<String>, Failure> {
        self.message(&format!("{prompt}: "));
        let answer = console::Term::stderr().read_secure_line();
        answer.map(Secret::new).map_err(|error| Failure::io("cannot ask", &error))
    }
}
