//! What the agent remembers of an instance from one pass to the next. Lost with the process, and never needed to be right:
//! it only says how long to wait and what to tell people.

use std::time::Duration;

use tokio::time::Instant;
use towline_tunnel::message::{Reason, ReasonKind};

use crate::{
    backoff::restart_delay,
    runtime::{ContainerId, Exit, PullError, RuntimeError},
};

/// An instance that was healthy for so long starts over with short waits when it fails.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The wait after a failure of the engine, which says nothing of the instance.
const ENGINE_PAUSE: Duration = Duration::from_secs(2);
/// A registry that cannot be reached is only blamed after so many attempts: networks have hiccups.
const PATIENCE_WITH_REGISTRIES: u32 = 3;

/// What is remembered of one instance.
#[derive(Debug, Clone, Default)]
pub struct InstanceMemory {
    /// The deploy that this is about. Another one starts afresh.
    pub generation: i64,
    /// How often its container ended by itself and was started again, in this process's life.
    pub restart_count: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Nothing is started before.
    pub not_before: Option<Instant>,
    /// The container whose end was looked into. Cleared when it runs again.
    pub ended: Option<ContainerId>,
    /// Why it is not ready, when its container does not say.
    pub reason: Option<Reason>,
    /// Since when it passes its probe without a break.
    pub healthy_since: Option<Instant>,
}

impl InstanceMemory {
    /// A fresh memory for that deploy.
    #[must_use]
    pub fn of(generation: i64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Whether something may be started now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// Its container's program has ended.
    pub fn note_end(&mut self, container: ContainerId, exit: &Exit, now: Instant) {
        if self.healthy_since.take().is_some_and(|since| now >= since + HEALTHY_AFTER) {
            self.failures = 0;
        }
        let wait = self.fail(now);
        self.ended = Some(container);
        self.reason = Some(exit_reason(exit, self.restart_count, wait));
    }

    /// Its container could not be made or started.
    pub fn note_refusal(&mut self, error: &RuntimeError, now: Instant) {
        let kind = match error {
            RuntimeError::Unavailable(_) | RuntimeError::Failed(_) => {
                self.not_before = Some(now + ENGINE_PAUSE);
                ReasonKind::EngineUnavailable
            }
            // Somebody removed it a moment ago: it is fetched again.
            RuntimeError::ImageMissing | RuntimeError::Gone => {
                self.fail(now);
                return;
            }
            RuntimeError::Rejected(_) => {
                self.fail(now);
                ReasonKind::StartFailed
            }
        };
        self.reason = Some(Reason { kind, message: error.to_string() });
    }

    /// Its container was started.
    pub fn note_start(&mut self) {
        if self.ended.take().is_some() {
            self.restart_count = self.restart_count.saturating_add(1);
        } else {
            // A start after refused ones: what was refused is no news any more.
            self.reason = None;
        }
        self.not_before = None;
    }

    /// It passes its probe.
    pub fn note_health(&mut self, passes: bool, now: Instant) {
        if passes {
            self.healthy_since.get_or_insert(now);
            self.reason = None;
        } else {
            self.healthy_since = None;
        }
    }

    fn fail(&mut self, now: Instant) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = restart_delay(self.failures);
        self.not_before = Some(now + wait);
        wait
    }
}

fn exit_reason(exit: &Exit, restarts: u32, wait: Duration) -> Reason {
    let what = match (exit.out_of_memory, exit.code) {
        (true, _) => "the program was killed because it used more memory than it may".to_owned(),
        (false, Some(137)) => "the program was killed (SIGKILL)".to_owned(),
        (false, Some(code)) => format!("the program ended with exit code {code}"),
        (false, None) => "the program ended".to_owned(),
    };
    let mut message = format!("{what}; restarts so far: {restarts}, next try in {} s", wait.as_secs());
    if !exit.error.is_empty() {
        message.push_str(&format!("; the engine says: {}", exit.error));
    }
    if !exit.last_lines.is_empty() {
        message.push_str(&format!("; it last wrote: {}", exit.last_lines.join(" | ")));
    }
    Reason { kind: ReasonKind::Exited, message }
}

/// What is known of an image. One that is not mentioned anywhere was not looked for yet.
#[derive(Debug, Clone)]
pub enum ImageState {
    /// It is on this machine.
    Present,
    /// It could not be had.
    Missing {
        /// Attempts in a row.
        failures: u32,
        /// When to try again.
        not_before: Instant,
        /// Why; `None` as long as it is too early to complain.
        reason: Option<Reason>,
    },
}

impl ImageState {
    /// The state after another failed attempt.
    #[must_use]
    pub fn after_failure(previous: Option<&Self>, error: &PullError, now: Instant) -> Self {
        let failures = match previous {
            Some(Self::Missing { failures, .. }) => failures.saturating_add(1),
            _ => 1,
        };
        let kind = match error {
            PullError::NotFound { .. } | PullError::Denied { .. } | PullError::LoginRefused { .. } => {
                Some(ReasonKind::ImageUnavailable)
            }
            PullError::Unreachable { .. } => {
                (failures >= PATIENCE_WITH_REGISTRIES).then_some(ReasonKind::ImageUnavailable)
            }
            PullError::Engine(_) => Some(ReasonKind::EngineUnavailable),
        };
        let reason = kind.map(|kind| Reason { kind, message: error.to_string() });
        Self::Missing { failures, not_before: now + restart_delay(failures), reason }
    }
}

/// A step that failed and is tried again later.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Attempts in a row.
    pub failures: u32,
    /// When to try again.
    pub not_before: Instant,
}

impl Retry {
    /// The state after another failed attempt.
    #[must_use]
    pub fn after(previous: Option<&Self>, now: Instant) -> Self {
        let failures = previous.map_or(1, |previous| previous.failures.saturating_add(1));
        Self { failures, not_before: now + restart_delay(failures) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i64) -> Exit {
        Exit { code: Some(code), last_lines: vec!["boom".to_owned()], ..Exit::default() }
    }

    fn id() -> ContainerId {
        ContainerId::new("c1")
    }

    #[tokio::test(start_paused = true)]
    async fn crashes_wait_longer_each_time_until_a_minute_of_health() {
        let mut memory = InstanceMemory::of(1);
        for expected in [1, 2, 4, 8] {
            let now = Instant::now();
            memory.note_end(id(), &exit(1), now);
            assert_eq!(memory.not_before, Some(now + Duration::from_secs(expected)));
            assert!(!memory.is_due(now));
            memory.note_start();
            assert!(memory.is_due(now));
            memory.note_health(true, now);
            tokio::time::advance(Duration::from_secs(59)).await;
        }
        assert_eq!(memory.restart_count, 4);
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = Instant::now();
        memory.note_end(id(), &exit(1), now);
        assert_eq!(memory.not_before, Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn the_end_is_told_in_words() {
        let check = |exit: Exit, expected: &[&str]| {
            let reason = exit_reason(&exit, 2, Duration::from_secs(4));
            assert_eq!(reason.kind, ReasonKind::Exited);
            for part in expected {
                assert!(reason.message.contains(part), "{:?} does not say {part:?}", reason.message);
            }
        };
        check(exit(3), &["exit code 3", "restarts so far: 2", "in 4 s", "it last wrote: boom"]);
        check(Exit { out_of_memory: true, ..exit(137) }, &["more memory"]);
        check(exit(137), &["SIGKILL"]);
        check(Exit { error: "no such file".to_owned(), ..exit(127) }, &["the engine says: no such file"]);
        check(Exit::default(), &["the program ended;"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_is_away_is_blamed_only_after_three_attempts() {
        let now = Instant::now();
        let error = PullError::Unreachable { image: "a".to_owned(), said: "timeout".to_owned() };
        let mut state = None;
        let mut blamed = Vec::new();
        for _ in 0..4 {
            let next = ImageState::after_failure(state.as_ref(), &error, now);
            let ImageState::Missing { reason, .. } = &next else { panic!("{next:?}") };
            blamed.push(reason.is_some());
            state = Some(next);
        }
        assert_eq!(blamed, [false, false, true, true]);
        let error = PullError::NotFound { image: "a".to_owned(), said: "no".to_owned() };
        let ImageState::Missing { reason, .. } = ImageState::after_failure(None, &error, now) else { panic!() };
        assert_eq!(reason.unwrap().kind, ReasonKind::ImageUnavailable);
    }

    #[test]
    fn a_failing_engine_is_not_the_instances_fault() {
        let now = Instant::now();
        let mut memory = InstanceMemory::of(1);
        memory.note_refusal(&RuntimeError::Unavailable("away".to_owned()), now);
        assert_eq!((memory.failures, memory.reason.as_ref().unwrap().kind), (0, ReasonKind::EngineUnavailable));
        memory.note_refusal(&RuntimeError::Rejected("no such device".to_owned()), now);
        assert_eq!((memory.failures, memory.reason.as_ref().unwrap().kind), (1, ReasonKind::StartFailed));
        memory.note_start();
        assert_eq!((memory.restart_count, memory.reason), (0, None));
    }
}
