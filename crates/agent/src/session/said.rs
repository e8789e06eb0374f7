//! Failures to connect, in the log: not every one of many.

use std::time::Duration;

/// The same failure is said aloud again after so many repetitions.
const REPEAT_EVERY: u32 = 20;

/// Says a failure aloud once, and then now and again.
#[derive(Default)]
pub(super) struct Said {
    text: String,
    times: u32,
}

impl Said {
    pub(super) fn say(&mut self, text: &str, wait: Duration) {
        if self.text == text {
            self.times += 1;
        } else {
            *self = Self { text: text.to_owned(), times: 0 };
        }
        let wait = format!("{:.1} s", wait.as_secs_f64());
        if self.times.is_multiple_of(REPEAT_EVERY) {
            tracing::warn!(next_try_in = wait, "not connected: {text}");
        } else {
            tracing::debug!(next_try_in = wait, "not connected: {text}");
        }
    }
}
