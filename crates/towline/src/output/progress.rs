//! That something takes a while: a spinner on a terminal, one plain line for each change elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Output, table::printable};

/// Shows what is being waited for, until it is dropped.
pub struct Progress {
    output: Output,
    spinner: Option<ProgressBar>,
    last: String,
}

impl Progress {
    pub(super) fn start(output: Output, text: String) -> Self {
        let spinner = output.is_interactive().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        let mut progress = Self { output, spinner, last: String::new() };
        progress.update(text);
        progress
    }

    /// Says how far it is. The same text twice is shown once.
    pub fn update(&mut self, text: impl Into<String>) {
        let text = printable(&text.into());
        if text == self.last {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.clone()),
            None => self.output.note(&text),
        }
        self.last = text;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, captured};

    #[test]
    fn without_a_terminal_each_change_is_one_line() {
        let (output, captured) = captured::output(Format::Text);
        let mut progress = output.progress("pulling");
        progress.update("pulling");
        progress.update("starting");
        drop(progress);
        assert_eq!(captured.messages(), "pulling\nstarting\n");
        assert_eq!(captured.data(), "");
    }
}
