//! The ladder: the ways to the server, from the one that costs least to the one that passes nearly everywhere.
//!
//! Each dial tries the way that worked last, and then the others from the top. A way is left only for a failure that another
//! one can mend: an answer of the server itself, such as a refused key, is final on every way. Whoever is not at the top
//! looks now and again whether the ways above pass by now ([`retest`]).

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use towline_tunnel::upgrade::Framing;

use super::ConnectError;

/// How often the ways above the present one are tried.
pub(crate) const RETEST_INTERVAL: Duration = Duration::from_secs(600);

/// One way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rung {
    /// Whether it leads through a proxy (CONNECT).
    pub via_proxy: bool,
    /// What the frames are wrapped in.
    pub framing: Framing,
}

impl Rung {
    /// The two framings without or through a proxy.
    pub(super) const fn pair(via_proxy: bool) -> [Self; 2] {
        [Self { via_proxy, framing: Framing::Bare }, Self { via_proxy, framing: Framing::WebSocket }]
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = if self.via_proxy { " through the proxy" } else { "" };
        write!(f, "{}{proxy}", self.framing)
    }
}

/// How far a failure reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This way does not pass; another framing on the same route may.
    Rung,
    /// Nothing gets through with or without the proxy, whatever it is wrapped in.
    Route,
    /// The server itself has answered: no other way would lead anywhere else.
    Everywhere,
}

/// The ways in order, and the one to try first.
#[derive(Debug)]
pub(crate) struct Ladder(Mutex<State>);

#[derive(Debug)]
struct State {
    /// From the top; never empty.
    rungs: Vec<Rung>,
    /// The index of the one that worked last.
    guess: usize,
    /// Whether a connection has ever been opened.
    is_known: bool,
}

impl Ladder {
    /// Begins at the top. There must be one rung at least.
    pub(super) fn new(rungs: Vec<Rung>) -> Self {
        assert!(!rungs.is_empty(), "a ladder has rungs");
        Self(Mutex::new(State { rungs, guess: 0, is_known: false }))
    }

    /// The way that worked last, then the others from the top.
    fn order(&self) -> Vec<Rung> {
        let state = self.state();
        let first = state.rungs[state.guess];
        std::iter::once(first).chain(state.rungs.iter().copied().filter(|&rung| rung != first)).collect()
    }

    /// The ways above the present one, from the top.
    fn better(&self) -> Vec<Rung> {
        let state = self.state();
        state.rungs[..state.guess].to_vec()
    }

    /// Notes that a way has worked. Whether that is news.
    fn holds(&self, rung: Rung) -> bool {
        let mut state = self.state();
        let Some(index) = state.rungs.iter().position(|&other| other == rung) else { return false };
        let is_news = state.guess != index || !state.is_known;
        state.guess = index;
        state.is_known = true;
        is_news
    }

    /// Notes that a connection was opened this way and that nothing passed on it: the next dial begins one lower, and at the
    /// top again below the last.
    pub(crate) fn broke(&self, rung: Rung) {
        let mut state = self.state();
        if state.rungs[state.guess] == rung && state.rungs.len() > 1 {
            state.guess = (state.guess + 1) % state.rungs.len();
            tracing::info!(way = %rung, next = %state.rungs[state.guess], "nothing passes this way to the server; trying another");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a connection the first way that works. The others' failures are told when that is another way than before.
///
/// # Errors
/// When no way works: of the failures, the first that may pass by itself, else the first.
pub(super) async fn choose<T, F>(ladder: &Ladder, mut dial: impl FnMut(Rung) -> F) -> Result<(T, Rung), ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut failures: Vec<(Rung, ConnectError)> = Vec::new();
    for rung in ladder.order() {
        let is_cut_off = |(failed, error): &(Rung, ConnectError)| {
            failed.via_proxy == rung.via_proxy && error.reach() == Reach::Route
        };
        if failures.iter().any(is_cut_off) {
            continue;
        }
        match dial(rung).await {
            Ok(opened) => {
                if ladder.holds(rung) {
                    let because: Vec<_> = failures.iter().map(|(rung, error)| format!("{rung}: {error}")).collect();
                    tracing::info!(way = %rung, because = because.join("; "), "a way to the server works");
                }
                return Ok((opened, rung));
            }
            Err(error) if error.reach() == Reach::Everywhere => return Err(error),
            Err(error) => failures.push((rung, error)),
        }
    }
    let index = failures.iter().position(|(_, error)| !error.is_lasting()).unwrap_or(0);
    Err(failures.swap_remove(index).1)
}

/// Tries the ways above the present one now and again, for ever. What opens connections next takes the first that works.
pub(super) async fn retest<F>(ladder: &Ladder, probe: impl Fn(Rung) -> F)
where
    F: Future<Output = Result<(), ConnectError>>,
{
    loop {
        sleep(RETEST_INTERVAL).await;
        for rung in ladder.better() {
            match probe(rung).await {
                Ok(()) => {
                    ladder.holds(rung);
                    tracing::info!(way = %rung, "a better way to the server works again; new connections take it");
                    break;
                }
                Err(error) => tracing::debug!(way = %rung, "not yet a way to the server: {error}"),
            }
        }
    }
}

#[cfg(test)]
#[path = "ladder_tests.rs"]
mod tests;
