//! The one printer of the binary: data to stdout, everything else to stderr.
//!
//! Commands never print by themselves. So `-o json` is the same everywhere, a reader that goes away (`| head`) ends a
//! command quietly, and tests see exactly what a user sees.

mod ask;
mod progress;
mod table;

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};

use clap::ValueEnum;
use serde::Serialize;

pub use self::{
    progress::Progress,
    table::{Table, printable},
};
use crate::failure::{Failure, Kind};

/// How data is written to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document, or one a line where the answer is a stream.
    Json,
}

type Sink = Mutex<Box<dyn Write + Send>>;

struct Shared {
    format: Format,
    color: bool,
    interactive: bool,
    data: Sink,
    messages: Sink,
}

/// A handle to the printer.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

impl Output {
    /// A printer on the process's stdout and stderr. Colours are used on a terminal unless `no_color`.
    pub fn to_process(format: Format, no_color: bool) -> Self {
        let interactive = io::stderr().is_terminal();
        Self(Arc::new(Shared {
            format,
            color: interactive && !no_color,
            interactive,
            data: Mutex::new(Box::new(io::stdout())),
            messages: Mutex::new(Box::new(io::stderr())),
        }))
    }

    /// Whether data is to be JSON.
    pub fn is_json(&self) -> bool {
        self.0.format == Format::Json
    }

    /// Whether somebody watches: stderr is a terminal.
    pub fn is_interactive(&self) -> bool {
        self.0.interactive
    }

    /// Writes one line of data.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        self.bytes(line.as_bytes())
    }

    /// Writes data as it is and lets it go at once.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut data = self.0.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.write_all(bytes)
            .and_then(|()| data.flush())
            .map_err(|error| Failure::io("cannot write to the standard output", &error))
    }

    /// Writes a JSON document: indented for `-o json`.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(serde_json::to_string_pretty(value).unwrap_or_else(|_| unreachable!("answers have string keys")))
    }

    /// Writes a JSON document in one line: an element of a stream.
    pub fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(serde_json::to_string(value).unwrap_or_else(|_| unreachable!("answers have string keys")))
    }

    /// Writes `json` for programs or `text()` for people.
    pub fn show(&self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.is_json() { self.json(json) } else { self.line(text()) }
    }

    /// Writes a message to stderr. That it cannot be read by anybody is no reason to fail.
    pub fn note(&self, text: impl AsRef<str>) {
        self.message(&format!("{}\n", text.as_ref()));
    }

    fn message(&self, text: &str) {
        let mut messages = self.0.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = messages.write_all(text.as_bytes()).and_then(|()| messages.flush());
    }

    /// Writes something the user should look at.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.note(format!("{} {}", self.paint("warning:", "1;33"), text.as_ref()));
    }

    /// Says why the command failed and what to do next.
    pub fn failure(&self, failure: &Failure) {
        if failure.kind() == Kind::BrokenPipe {
            return;
        }
        self.note(format!("{} {}", self.paint("error:", "1;31"), failure.message()));
        if let Some(hint) = failure.hint_text() {
            self.note(format!("{} {hint}", self.paint("hint:", "1;36")));
        }
    }

    /// Starts showing that something takes a while.
    pub fn progress(&self, text: impl Into<String>) -> Progress {
        Progress::start(self.clone(), text.into())
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.0.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
pub mod captured {
    //! A printer into memory.

    use super::*;

    /// What was printed.
    #[derive(Clone, Default)]
    pub struct Captured {
        data: Arc<Mutex<Vec<u8>>>,
        messages: Arc<Mutex<Vec<u8>>>,
    }

    impl Captured {
        /// Everything on stdout.
        pub fn data(&self) -> String {
            String::from_utf8(self.data.lock().unwrap().clone()).unwrap()
        }

        /// Everything on stderr.
        pub fn messages(&self) -> String {
            String::from_utf8(self.messages.lock().unwrap().clone()).unwrap()
        }
    }

    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A printer that nobody watches, and what it printed.
    pub fn output(format: Format) -> (Output, Captured) {
        let captured = Captured::default();
        let shared = Shared {
            format,
            color: false,
            interactive: false,
            data: Mutex::new(Box::new(Pipe(Arc::clone(&captured.data)))),
            messages: Mutex::new(Box::new(Pipe(Arc::clone(&captured.messages)))),
        };
        (Output(Arc::new(shared)), captured)
    }

    /// A printer whose reader has gone.
    pub fn broken() -> Output {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let shared = Shared {
            format: Format::Text,
            color: false,
            interactive: false,
            data: Mutex::new(Box::new(Gone)),
            messages: Mutex::new(Box::new(Gone)),
        };
        Output(Arc::new(shared))
    }
}

#[cfg(test)]
mod tests {
    use super::{captured, *};

    #[test]
    fn data_and_messages_never_mix() {
        let (output, captured) = captured::output(Format::Text);
        output.line("data").unwrap();
        output.note("message");
        output.failure(&Failure::new("it broke").hint("mend it"));
        assert_eq!(captured.data(), "data\n");
        assert_eq!(captured.messages(), "message\nerror: it broke\nhint: mend it\n");
    }

    #[test]
    fn json_replaces_the_text_for_people() {
        let (output, captured) = captured::output(Format::Json);
        output.show(&serde_json::json!({"a": 1}), || "text".to_owned()).unwrap();
        assert_eq!(captured.data(), "{\n  \"a\": 1\n}\n");
    }

    #[test]
    fn a_reader_that_went_away_is_not_a_failure() {
        let output = captured::broken();
        let failure = output.line("data").unwrap_err();
        assert_eq!(failure.kind(), Kind::BrokenPipe);
        output.failure(&failure);
        output.note("nobody hears this");
    }
}
